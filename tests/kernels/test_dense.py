"""Dense and Gemm, the products with few samples and with any number, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.calls import dense, dense_wide
from streamrt._core import (
    ACTIVATIONS,
    CONV_COLUMNS,
    CONV_DEPTH,
    DENSE_BATCH,
    DENSE_CHUNK,
    DENSE_GROUP,
    DENSE_WIDE,
    Copies,
    Dense,
    Gemm,
)

NONE = (ACTIVATIONS["Identity"], 0.0, 0.0)


def pack(x: np.ndarray) -> np.ndarray:
    """Samples (batch, inner) in the order in which the kernel takes them."""
    batch, inner = x.shape
    chunks = -(-inner // DENSE_CHUNK)
    filled = np.zeros((batch, chunks * DENSE_CHUNK), np.float32)
    filled[:, :inner] = x
    groups = [filled[i : i + DENSE_GROUP] for i in range(0, batch, DENSE_GROUP)]
    flat = [group.reshape(len(group), chunks, DENSE_CHUNK).transpose(1, 0, 2).ravel() for group in groups]
    return np.concatenate([np.empty(0, np.float32), *flat]).reshape(filled.shape)


def columns(x: np.ndarray) -> np.ndarray:
    """Samples (batch, inner) in the order in which a wide `Dense` takes them."""
    filled = np.zeros((x.shape[1], DENSE_WIDE), np.float32)
    filled[:, : len(x)] = x.T
    return filled


def close(actual: np.ndarray, x: np.ndarray, w: np.ndarray, bias: np.ndarray | float = 0.0) -> None:
    """Check that errors are no larger than rounding makes them in sums of products of this size."""
    exact = x.astype(np.float64) @ w.T.astype(np.float64) + bias
    size = np.abs(x).astype(np.float64) @ np.abs(w).T.astype(np.float64) + np.abs(bias)
    assert (np.abs(actual - exact) <= 1e-6 * size + 1e-30).all()


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5, 6, 7, 12, 13, 31, 100])
@pytest.mark.parametrize("inner", [0, 1, 3, 15, 16, 17, 31, 33, 1023, 1040, 2500])
def test_dense(rng: np.random.Generator, rows: int, inner: int) -> None:
    w, bias = rng.normal(size=(rows, inner)).astype(np.float32), rng.normal(size=rows).astype(np.float32)
    for batch in (0, 1, 2, 3, 4, 5, 7, DENSE_BATCH):
        x = rng.normal(size=(batch, inner)).astype(np.float32)
        whole = rng.normal(size=(batch, rows + 3)).astype(np.float32)
        before = whole.copy()
        y = whole[:, 1 : 1 + rows]
        dense(w, pack(x), y, None, *NONE)
        close(y, x, w)
        dense(w, pack(x), y, bias, *NONE)
        close(y, x, w, bias)
        np.testing.assert_array_equal(whole[:, :1], before[:, :1])
        np.testing.assert_array_equal(whole[:, 1 + rows :], before[:, 1 + rows :])


@pytest.mark.parametrize("rows", [0, 1, 2, 4, 7, 8, 9, 12, 13, 16, 31, 100])
@pytest.mark.parametrize("inner", [0, 1, 15, 16, 17, 127, 128, 129, 255, 256, 257, 385, 2500])
def test_dense_wide(rng: np.random.Generator, rows: int, inner: int) -> None:
    w, bias = rng.normal(size=(rows, inner)).astype(np.float32), rng.normal(size=rows).astype(np.float32)
    for batch in (0, 1, 7, 9, 15, DENSE_WIDE):
        x = rng.normal(size=(batch, inner)).astype(np.float32)
        whole = np.full((batch, rows + 3), 7, np.float32)
        y = whole[:, 1 : 1 + rows]
        dense_wide(w, columns(x), y, None, *NONE)
        close(y, x, w)
        dense_wide(w, columns(x), y, bias, ACTIVATIONS["Clip"], -1, 2)
        exact = x.astype(np.float64) @ w.T.astype(np.float64) + bias
        np.testing.assert_allclose(y, np.clip(exact, -1, 2), rtol=0, atol=1e-5 * (1 + np.abs(exact).max(initial=0)))
        assert (whole[:, :1] == 7).all()
        assert (whole[:, 1 + rows :] == 7).all()


@pytest.mark.parametrize("act", [("Relu", 0, 0), ("Clip", -1, 2), ("LeakyRelu", 0.1, 0), ("Tanh", 0, 0)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_activation(rng: np.random.Generator, act: tuple[str, float, float], with_bias: bool) -> None:
    x, w = rng.normal(size=(5, 40)).astype(np.float32), rng.normal(size=(70, 40)).astype(np.float32)
    bias = rng.normal(size=70).astype(np.float32) if with_bias else None
    plain, y = np.empty((5, 70), np.float32), np.empty((5, 70), np.float32)
    dense(w, pack(x), plain, bias, *NONE)
    dense(w, pack(x), y, bias, ACTIVATIONS[act[0]], *act[1:])
    exact = {
        "Relu": lambda v: np.maximum(v, 0),
        "Clip": lambda v: np.clip(v, -1, 2),
        "LeakyRelu": lambda v: np.where(v < 0, v * np.float32(0.1), v),
        "Tanh": np.tanh,
    }[act[0]](plain)
    np.testing.assert_allclose(y, exact, rtol=2e-6, atol=3e-7)


def test_a_sum_does_not_depend_on_its_neighbours(rng: np.random.Generator) -> None:
    x, w = rng.normal(size=(7, 1100)).astype(np.float32), rng.normal(size=(40, 1100)).astype(np.float32)
    whole = np.empty((7, 40), np.float32)
    dense(w, pack(x), whole, None, *NONE)
    for first, last in ((0, 1), (3, 8), (7, 40)):
        for batch in (1, 2, 6):
            part = np.empty((batch, last - first), np.float32)
            dense(w[first:last], pack(x[:batch]), part, None, *NONE)
            np.testing.assert_array_equal(part, whole[:batch, first:last])


def test_a_sum_of_many_samples_does_not_depend_on_its_neighbours(rng: np.random.Generator) -> None:
    x, w = rng.normal(size=(16, 1100)).astype(np.float32), rng.normal(size=(40, 1100)).astype(np.float32)
    whole = np.empty((16, 40), np.float32)
    dense_wide(w, columns(x), whole, None, *NONE)
    for first, last in ((0, 1), (3, 8), (7, 40)):
        for batch in (1, 9, 15):
            part = np.empty((batch, last - first), np.float32)
            dense_wide(w[first:last], columns(x[:batch]), part, None, *NONE)
            np.testing.assert_array_equal(part, whole[:batch, first:last])


@pytest.mark.parametrize("wide", [False, True])
def test_some_columns_of_the_result(rng: np.random.Generator, wide: bool) -> None:
    x, w = rng.normal(size=(5, 70)).astype(np.float32), rng.normal(size=(40, 70)).astype(np.float32)
    bias, whole = rng.normal(size=40).astype(np.float32), np.full((5, 43), 7, np.float32)
    y, laid_out = whole[:, 1:41], columns(x) if wide else pack(x)
    kernel = Dense(w, laid_out, y, bias, *NONE, wide=wide)
    kernel(13, 40)
    assert (y[:, :13] == 7).all()
    kernel(0, 13)
    close(y, x, w, bias)
    for first, last in ((0, 41), (-1, 3), (5, 4), (41, 41)):
        with pytest.raises(ValueError, match="range"):
            kernel(first, last)
    assert (whole[:, 0] == 7).all()
    assert (whole[:, 41:] == 7).all()


@pytest.mark.parametrize("wide", [False, True])
def test_samples_are_laid_out_by_the_first_call(rng: np.random.Generator, wide: bool) -> None:
    x, w = rng.normal(size=(5, 70)).astype(np.float32), rng.normal(size=(40, 70)).astype(np.float32)
    laid_out, y = columns(x) if wide else pack(x), np.empty((5, 40), np.float32)
    source, target = laid_out.copy(), np.zeros_like(laid_out)
    kernel = Dense(w, target, y, None, *NONE, wide=wide, packing=Copies([(target, source)]))
    kernel(3, 40)
    assert (target == 0).all()
    kernel(0, 3)
    kernel(3, 40)
    close(y, x, w)
    source[:] *= 2
    kernel(0, 40)
    close(y, 2 * x, w)


@pytest.mark.parametrize("at", [0, 5, 16, 40])
def test_nan_and_infinity_stay_where_they_belong(at: int) -> None:
    x, w = np.ones((3, 41), np.float32), np.ones((8, 41), np.float32)
    w[2, at], w[4, at] = np.nan, np.inf
    x[1, at] = 0
    y = np.empty((3, 8), np.float32)
    for product, order in ((dense, pack), (dense_wide, columns)):
        product(w, order(x), y, None, *NONE)
        assert np.isnan(y[:, 2]).all()
        assert np.isnan(y[1, 4])
        assert np.isinf(y[[0, 2], 4]).all()
        assert np.isfinite(np.delete(y, [2, 4], axis=1)).all()


def test_too_many_samples() -> None:
    x = np.ones((DENSE_BATCH + 1, DENSE_CHUNK), np.float32)
    with pytest.raises(ValueError, match=f"at most {DENSE_BATCH}"):
        dense(np.ones((4, 9), np.float32), x, np.ones((DENSE_BATCH + 1, 4), np.float32), None, *NONE)
    x, y = np.ones((9, DENSE_WIDE), np.float32), np.ones((DENSE_WIDE + 1, 4), np.float32)
    with pytest.raises(ValueError, match=f"at most {DENSE_WIDE}"):
        dense_wide(np.ones((4, 9), np.float32), x, y, None, *NONE)


@pytest.mark.parametrize("batch", [1, 3, 4, 9, 16, 17, 31, 33, 50, 129])
@pytest.mark.parametrize(("inner", "rows"), [(1, 1), (7, 5), (16, 30), (40, 17), (600, 14), (1300, 70), (2048, 45)])
@pytest.mark.parametrize("columns", [1, 3])
def test_any_number_of_samples(rng: np.random.Generator, batch: int, inner: int, rows: int, columns: int) -> None:
    x, w = rng.normal(size=(batch, inner)).astype(np.float32), rng.normal(size=(rows, inner)).astype(np.float32)
    bias, whole = rng.normal(size=rows).astype(np.float32), np.full((batch, rows + 3), 7, np.float32)
    y = whole[:, 1 : 1 + rows]
    panels = np.full((3, columns * CONV_COLUMNS * min(inner, CONV_DEPTH)), np.nan, np.float32)
    for block in (np.empty(batch, np.float32), np.empty(5 * batch + 1, np.float32), np.empty(9999, np.float32)):
        y[:] = 7
        Gemm(x, w, None, y, block, panels, *NONE)(0, rows)
        close(y, x, w)
        kernel = Gemm(x, w, bias, y, block, panels, *NONE)
        y[:] = 7
        kernel(rows // 3, rows)
        assert (y[:, : rows // 3] == 7).all()
        kernel(0, rows // 3)
        close(y, x, w, bias)
    assert (whole[:, 0] == 7).all()
    assert (whole[:, 1 + rows :] == 7).all()


def test_no_samples_and_no_terms() -> None:
    y, panels = np.full((0, 5), 7, np.float32), np.ones((1, CONV_COLUMNS), np.float32)
    w, bias = np.ones((5, 1), np.float32), np.arange(5, dtype=np.float32)
    Gemm(np.ones((0, 1), np.float32), w, bias, y, np.ones(1, np.float32), panels, *NONE)(0, 5)
    y = np.full((9, 5), 7, np.float32)
    Gemm(np.ones((9, 0), np.float32), w[:, :0], bias, y, np.ones(9, np.float32), panels, *NONE)(0, 5)
    assert (y == bias).all()
