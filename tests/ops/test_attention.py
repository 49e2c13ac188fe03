"""Attention and rotary embedding, against float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ops.harness import assert_close, lowered_for, random, run
from streamrt.errors import FormatError
from streamrt.ops import attention as module


def reference(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    is_causal: int = 0,
    offset: int = 0,
    left_window_size: int = -1,
    right_window_size: int = -1,
    truth: int = 0,
    nan: int = 0,
) -> np.ndarray:
    """Attention of (N, heads, rows, columns) in float64, with all scores at once."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    repeats = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, repeats, axis=1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    bias = np.zeros(scores.shape)
    if mask is not None:
        added = np.where(mask != 0, 0.0, -np.inf) if truth else mask.astype(np.float64)
        if 1 < mask.shape[-1] < scores.shape[-1]:
            added = np.concatenate([added, np.full((*mask.shape[:-1], scores.shape[-1] - mask.shape[-1]), -np.inf)], -1)
        bias = bias + added
    if is_causal:
        bias = np.where(np.tri(*scores.shape[-2:], offset, dtype=bool), bias, -np.inf)
    places, keys = np.arange(scores.shape[-2])[:, None] + offset, np.arange(scores.shape[-1])
    if left_window_size >= 0:
        bias = np.where(keys >= places - left_window_size, bias, -np.inf)
    if right_window_size >= 0:
        bias = np.where(keys <= places + right_window_size, bias, -np.inf)
    scores = scores + bias
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
    dead = np.isneginf(bias.max(-1, keepdims=True))
    return (weights if nan else np.where(dead, 0.0, weights)) @ v


#: Shapes of q, k and v.
SHAPES = [
    ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 6)),
    ((2, 6, 5, 8), (2, 3, 7, 8), (2, 3, 7, 6)),
    ((2, 6, 5, 8), (2, 1, 5, 8), (2, 1, 5, 8)),
    ((1, 2, 65, 64), (1, 2, 65, 64), (1, 2, 65, 64)),
    ((3, 2, 9, 33), (3, 2, 70, 33), (3, 2, 70, 17)),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"scale": 1.0},
    {"scale": 0.3},
    {"is_causal": 1},
    {"is_causal": 1, "offset": 2},
    {"softcap": 0.5},
    {"left_window_size": 2, "right_window_size": 1},
    {"left_window_size": 0, "offset": 1},
    {"left_window_size": 1, "offset": 4},
    {"right_window_size": 0, "softcap": 1.0},
    {"scale": 1.0, "softcap": 2.0, "is_causal": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_attention(isa: str, shapes: tuple[tuple[int, ...], ...], options: dict[str, Any]) -> None:
    q, k, v = (random(*shape, seed=i) for i, shape in enumerate(shapes))
    q /= 4  # differences of large scores would have the rounding of the scores
    assert_close(run("Attention", [q, k, v], attrs=options)[0], reference(q, k, v, **options))


@pytest.mark.parametrize("room", [1, 16, 40, 100, 7 * 30, 10**6])
@pytest.mark.parametrize("is_causal", [0, 1])
def test_blocks_of_queries(monkeypatch: pytest.MonkeyPatch, room: int, is_causal: int) -> None:
    """Some rows of a head, all rows of a head, some heads, and everything at once give the same."""
    monkeypatch.setattr(module, "_SCORES", room)
    q, k, v = random(2, 6, 5, 8), random(2, 3, 7, 8, seed=1), random(2, 3, 7, 6, seed=2)
    mask = random(2, 1, 5, 7, seed=3)
    (y,) = run("Attention", [q, k, v, mask], attrs={"is_causal": is_causal})
    assert_close(y, reference(q, k, v, mask, is_causal=is_causal))


def test_the_memory_is_bounded() -> None:
    """Beside a row of scores, scratch memory does not grow with the number of queries, keys and heads."""
    wide = lowered_for("Attention", [(4, 16, 4096, 64)] * 3)
    assert wide.scratch < 4 << 20
    assert lowered_for("Attention", [(4, 16, 8192, 64)] * 3).scratch <= wide.scratch


MASKS = [
    (5, 7),
    (1, 7),
    (5, 1),
    (7,),
    (6, 5, 7),
    (6, 1, 1),
    (2, 1, 1, 7),
    (2, 6, 5, 7),
    (1, 1, 5, 7),
    (5, 4),
    (2, 1, 5, 3),
]


@pytest.mark.parametrize("shape", MASKS, ids=str)
@pytest.mark.parametrize("truth", [0, 1], ids=["added", "truth"])
@pytest.mark.parametrize("parameter", [False, True], ids=["computed", "parameter"])
@pytest.mark.parametrize("options", [{}, {"is_causal": 1}, {"left_window_size": 1, "right_window_size": 2}], ids=str)
def test_masks(shape: tuple[int, ...], truth: int, parameter: bool, options: dict[str, Any]) -> None:
    q, k, v = random(2, 6, 5, 8), random(2, 3, 7, 8, seed=1), random(2, 3, 7, 6, seed=2)
    mask = random(*shape, seed=3)
    if truth:
        mask = (mask > -0.5).astype(np.float32)
    options = {**options, "truth": truth}
    (y,) = run("Attention", [q, k, v, mask], [3] if parameter else [], attrs=options)
    assert_close(y, reference(q, k, v, mask, **options))


@pytest.mark.parametrize("nan", [0, 1])
@pytest.mark.parametrize("truth", [0, 1])
def test_queries_that_may_use_no_key(truth: int, nan: int) -> None:
    q, k, v = random(2, 3, 5, 8), random(2, 3, 7, 8, seed=1), random(2, 3, 7, 6, seed=2)
    mask = np.ones((5, 7), np.float32)
    mask[2] = 0.0 if truth else -np.inf
    mask[4, 1:] = 0.0 if truth else -np.inf
    (y,) = run("Attention", [q, k, v, mask], attrs={"truth": truth, "nan": nan})
    assert_close(y, reference(q, k, v, mask, truth=truth, nan=nan))
    assert np.isnan(y[:, :, 2]).all() if nan else (y[:, :, 2] == 0).all()


def test_without_an_axis_of_heads() -> None:
    q, k, v, mask = random(3, 5, 8), random(3, 7, 8, seed=1), random(3, 7, 6, seed=2), random(3, 5, 7, seed=3)
    exact = reference(q[:, None], k[:, None], v[:, None], mask[:, None])[:, 0]
    assert_close(run("Attention", [q, k, v, mask])[0], exact)


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 3, 1, 7), (2, 4, 1, 5, 7), (2, 4, 3, 5, 7), (5, 7)], ids=str)
def test_more_axes_before_the_heads(shape: tuple[int, ...]) -> None:
    q, k, v, mask = (
        random(*s, seed=i) for i, s in enumerate([(2, 4, 3, 5, 8), (2, 4, 3, 7, 8), (2, 4, 3, 7, 6), shape])
    )
    flat = [x.reshape(8, *x.shape[2:]) for x in (q, k, v)]
    exact = reference(*flat, np.broadcast_to(mask, (2, 4, 3, 5, 7)).reshape(8, 3, 5, 7)).reshape(2, 4, 3, 5, 6)
    assert_close(run("Attention", [q, k, v, mask])[0], exact)


@pytest.mark.parametrize(
    ("shapes", "attrs", "reason"),
    [
        ([(2, 3), (2, 3), (2, 3)], {}, "at least 3 axes"),
        ([(2, 3, 2, 4, 5), (3, 2, 2, 4, 5), (2, 3, 2, 4, 5)], {}, "expected .N, heads"),
        ([(2, 3, 2, 4, 5)] * 3 + [(2, 1, 1, 4, 4)], {}, "does not broadcast"),
        ([(2, 3, 4, 5), (2, 3, 4), (2, 3, 4)], {}, "expected .N, heads"),
        ([(2, 3, 4, 5), (2, 2, 4, 5), (2, 2, 4, 5)], {}, "expected .N, heads"),
        ([(2, 3, 4, 5), (2, 3, 4, 6), (2, 3, 4, 5)], {}, "expected .N, heads"),
        ([(2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 4, 5)], {}, "expected .N, heads"),
        ([(2, 3, 4, 5), (1, 3, 4, 5), (1, 3, 4, 5)], {}, "expected .N, heads"),
        ([(2, 3, 4, 5), (2, 3, 4, 5), (1, 3, 4, 5)], {}, "expected .N, heads"),
        ([(2, 3, 4, 5)] * 3 + [(4, 6)], {}, "does not broadcast"),
        ([(2, 3, 4, 5)] * 3 + [(2, 4, 4)], {}, "does not broadcast"),
        ([(2, 3, 4, 5)] * 3 + [(1, 2, 3, 4, 4)], {}, "does not broadcast"),
        ([(2, 3, 4, 5)] * 3, {"scale": math.inf}, "finite"),
        ([(2, 3, 4, 5)] * 3, {"softcap": -1.0}, "finite"),
        ([(2, 3, 4, 5)] * 3, {"left_window_size": -2}, "left_window_size"),
        ([(2, 3, 4, 5)] * 3, {"offset": -1}, "offset"),
        ([(1, 1, 1, 1), (1, 1, 2**30, 1), (1, 1, 2**30, 1)], {}, r"fewer than 2\*\*30"),
    ],
)
def test_shapes_and_attributes_that_do_not_fit(
    shapes: list[tuple[int, ...]], attrs: dict[str, Any], reason: str
) -> None:
    with pytest.raises(FormatError, match=reason):
        lowered_for("Attention", shapes, attrs=attrs)


def rotated(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, interleaved: bool) -> np.ndarray:
    """x (N, heads, positions, size) turned by complex numbers."""
    pairs = cos.shape[-1]
    part = x[..., : 2 * pairs].astype(np.float64)
    real, imaginary = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(pairs), slice(pairs, None))
    numbers = part[..., real] + 1j * part[..., imaginary]
    numbers = numbers * (cos.astype(np.float64) + 1j * sin)[..., None, :, :]
    turned = np.stack([numbers.real, numbers.imag], -1 if interleaved else -2).reshape(part.shape)
    return np.concatenate([turned, x[..., 2 * pairs :]], -1)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("angles", [(2, 5, 4), (1, 5, 3), (5, 4)], ids=str)
@pytest.mark.parametrize("flat", [False, True], ids=["heads", "flat"])
def test_rotary_embedding(interleaved: int, angles: tuple[int, ...], flat: bool) -> None:
    x, cos, sin = random(2, 3, 5, 8), random(*angles, seed=1), random(*angles, seed=2)
    exact = rotated(x, cos, sin, bool(interleaved))
    params = [1, 2] if angles[0] != 2 else []
    if flat:
        x, exact = (np.ascontiguousarray(a.transpose(0, 2, 1, 3)).reshape(2, 5, 24) for a in (x, exact))
    attrs = {"interleaved": interleaved, **({"num_heads": 3} if flat else {})}
    assert_close(run("RotaryEmbedding", [x, cos, sin], params, attrs=attrs)[0], exact)


@pytest.mark.parametrize(
    ("shapes", "attrs", "reason"),
    [
        ([(2, 5), (5, 1), (5, 1)], {}, "expected 4 axes"),
        ([(2, 5, 24), (5, 4), (5, 4)], {}, "'num_heads'"),
        ([(2, 5, 24), (5, 4), (5, 4)], {"num_heads": 5}, "'num_heads'"),
        ([(2, 3, 5, 8), (4, 4), (4, 4)], {}, "expected .N, positions, pairs"),
        ([(2, 3, 5, 8), (5, 5), (5, 5)], {}, "expected .N, positions, pairs"),
        ([(2, 3, 5, 8), (5, 4), (5, 3)], {}, "expected .N, positions, pairs"),
        ([(2, 3, 5, 8), (3, 5, 4), (3, 5, 4)], {}, "expected .N, positions, pairs"),
        ([(2, 3, 5, 8), (1, 1, 5, 4), (5, 4)], {}, "expected .N, positions, pairs"),
    ],
)
def test_angles_that_do_not_fit(shapes: list[tuple[int, ...]], attrs: dict[str, Any], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        lowered_for("RotaryEmbedding", shapes, attrs=attrs)
