"""Operators whose results depend on the order of values or of positions along an axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.harness import assert_close, lowered_for, random, run
from ops.reference import onnx_run
from streamrt.errors import FormatError


@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 1, 5), (3, 1, 1)])
def test_accumulated(op: str, axis: int, exclusive: int, reverse: int, shape: tuple[int, ...]) -> None:
    x = random(*shape)
    wide = np.moveaxis(x.astype(np.float64), axis, 0)
    wide = wide[::-1] if reverse else wide
    if exclusive:
        first = np.full((1, *wide.shape[1:]), 0.0 if op == "CumSum" else 1.0)
        wide = np.concatenate([first, wide[:-1]])
    total = (np.cumsum if op == "CumSum" else np.cumprod)(wide, axis=0)
    expected = np.moveaxis(total[::-1] if reverse else total, 0, axis)
    assert_close(run(op, [x], attrs={"axis": axis, "exclusive": exclusive, "reverse": reverse})[0], expected)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("share", ["one", "some", "all"])
@pytest.mark.parametrize("shape", [(40, 6, 7), (2, 3, 1), (5, 1200, 2)])
def test_top_k(axis: int, largest: int, share: str, shape: tuple[int, ...]) -> None:
    """With many equal values: of these the first comes first."""
    x = np.round(3 * random(*shape))
    k = {"one": 1, "some": max(1, shape[axis] // 2), "all": shape[axis]}[share]
    order = np.argsort(-x if largest else x, axis=axis, kind="stable")
    indices = np.take(order, range(k), axis=axis)
    values, found = run("TopK", [x], attrs={"axis": axis, "k": k, "largest": largest}, outputs=2)
    np.testing.assert_array_equal(values, np.take_along_axis(x, indices, axis))
    np.testing.assert_array_equal(found, indices.astype(np.float32))
    (values,) = run("TopK", [x], attrs={"axis": axis, "k": k, "largest": largest})
    np.testing.assert_array_equal(values, np.take_along_axis(x, indices, axis))


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_of_extreme_values(largest: int) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 3e38, -3e38, 1, -1], np.float32)
    order = np.argsort(-x if largest else x, kind="stable")
    values, indices = run("TopK", [x], attrs={"k": 10, "largest": largest}, outputs=2)
    np.testing.assert_array_equal(values, x[order])
    np.testing.assert_array_equal(indices, order)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 5, 1), (2000, 2, 2)])
def test_hardmax(axis: int, shape: tuple[int, ...]) -> None:
    x = np.round(random(*shape))
    np.testing.assert_array_equal(
        run("Hardmax", [x], attrs={"axis": axis})[0], onnx_run("Hardmax", [x], {"axis": axis})[0]
    )


def test_hardmax_of_several_axes_as_one() -> None:
    x = random(2, 3, 4)
    wanted = (x == x.max(axis=(1, 2), keepdims=True)).astype(np.float32)
    np.testing.assert_array_equal(run("Hardmax", [x], attrs={"axis": 1, "coerce": 1})[0], wanted)


@pytest.mark.parametrize(("batch", "time"), [(1, 0), (0, 1), (0, 2), (-1, 0)])
def test_reverse_sequence(batch: int, time: int) -> None:
    x = random(3, 3, 3)
    lengths = np.array([0, 2, 3], np.int64)
    expected = np.moveaxis(x, (batch, time), (0, 1)).copy()
    for row, length in zip(expected, lengths, strict=True):
        row[:length] = row[:length][::-1].copy()
    attrs = {"batch_axis": batch, "time_axis": time, "sequence_lens": tuple(map(int, lengths))}
    found = run("ReverseSequence", [x], attrs=attrs)[0]
    np.testing.assert_array_equal(found, np.moveaxis(expected, (0, 1), (batch, time)))


@pytest.mark.parametrize(
    ("op", "shape", "attrs"),
    [
        ("CumSum", (2, 3), {}),
        ("CumSum", (2, 3), {"axis": 2}),
        ("CumSum", (2, 3), {"axis": 0, "reverse": 2}),
        ("TopK", (2, 3), {}),
        ("TopK", (2, 3), {"k": 0}),
        ("TopK", (2, 3), {"k": 4}),
        ("TopK", (), {"k": 1}),
        ("TopK", (1, 2**31), {"k": 1}),  # a key has 32 bits for the index
        ("Hardmax", (), {}),
        ("ReverseSequence", (2, 3), {"sequence_lens": (1, 2)}),
        ("ReverseSequence", (2, 3), {"sequence_lens": (1, 2, 3)}),
        ("ReverseSequence", (2, 3), {"sequence_lens": (1, 2, -1)}),
        ("ReverseSequence", (2, 3), {"sequence_lens": (1, 2), "batch_axis": 0}),
        ("ReverseSequence", (3,), {"sequence_lens": (1,)}),
    ],
)
def test_nodes_that_do_not_fit(op: str, shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for(op, [shape], attrs=attrs)
