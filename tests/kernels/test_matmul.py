"""Products of computed matrices, and attention, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from streamrt._core import ACTIVATIONS, CONV_COLUMNS, CONV_DEPTH, Attention, Matrices, attention_rows

NONE = (ACTIVATIONS["Identity"], 0.0, 0.0)


def panels(inner: int, threads: int = 2) -> np.ndarray:
    return np.full((threads, CONV_COLUMNS * max(1, min(inner, CONV_DEPTH))), np.nan, np.float32)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("inner", [1, 7, 33, 600, 1300])
def test_products(rng: np.random.Generator, groups: int, inner: int, transposed: bool) -> None:
    for rows, columns in ((1, 1), (2, 31), (13, 16), (5, 66), (40, 33), (15, 2)):
        a = rng.normal(size=(groups, rows, inner)).astype(np.float32)
        b = rng.normal(size=(2, groups, inner, columns)).astype(np.float32)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        size = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)
        if transposed:
            b = np.ascontiguousarray(b.swapaxes(-1, -2))
        y = np.full(exact.shape, np.nan, np.float32)
        Matrices(a, b, y, transposed, panels(inner), *NONE)(0, 1)
        assert (np.abs(y - exact) <= 1e-6 * size).all()
        Matrices(a, b, y, transposed, panels(inner), ACTIVATIONS["Relu"], 0, 0)(0, 1)
        assert (np.abs(y - np.maximum(exact, 0)) <= 1e-6 * size).all()


@pytest.mark.parametrize("shape", [(0, 2, 3, 4, 5), (2, 0, 3, 4, 5), (2, 2, 0, 4, 5), (2, 2, 3, 4, 0)], ids=str)
def test_products_without_elements(shape: tuple[int, ...]) -> None:
    n, groups, rows, inner, columns = shape
    a, b, y = (
        np.ones(s, np.float32) for s in ((groups, rows, inner), (n, groups, inner, columns), (n, groups, rows, columns))
    )
    Matrices(a, b, y, False, panels(inner), *NONE)(0, 1)
    Matrices(
        np.ones((2, 3, 0), np.float32),
        np.ones((1, 2, 0, 4), np.float32),
        y := np.ones((1, 2, 3, 4), np.float32),
        False,
        panels(1),
        *NONE,
    )(0, 1)
    assert (y == 0).all()


@pytest.mark.parametrize("room", [50, 120, 50 * 9, 50 * 18 + 7, 10**5])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("cap", [0.0, 3.0])
def test_attention(rng: np.random.Generator, room: int, causal: bool, cap: float) -> None:
    """Three heads of queries share one of two heads of keys."""
    q = rng.normal(size=(2, 2, 3, 3, 20)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, 50, 20)).astype(np.float32), rng.normal(size=(2, 2, 50, 33)).astype(np.float32)
    mask = rng.normal(size=(2, 6, 3, 50)).astype(np.float32)
    scores = 0.25 * q.astype(np.float64) @ k[:, :, None].swapaxes(-1, -2)
    scores = (cap * np.tanh(scores / cap) if cap else scores) + mask.reshape(2, 2, 3, 3, 50)
    if causal:
        scores = np.where(np.tri(3, 50, 4, dtype=bool), scores, -np.inf)
    weights = np.exp(scores)
    exact = weights / weights.sum(-1, keepdims=True) @ v[:, :, None].astype(np.float64)
    rows = attention_rows(4, 9, 50, room)
    assert rows * 50 <= room or rows == 1
    y, memory = (
        np.full(exact.shape, np.nan, np.float32),
        [np.full(n, np.nan, np.float32) for n in (room, rows * 20, rows)],
    )
    Attention(
        q,
        k,
        v,
        mask,
        y,
        *memory,
        panels(50),
        scale=0.25,
        cap=cap,
        truth=False,
        causal=causal,
        offset=4,
        left=-1,
        right=-1,
        zeros=True,
    )(0, 1)
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=3e-6)
