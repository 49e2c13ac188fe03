"""Operators that read or write at constant indices, and those that repeat values or keep a part of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.harness import lowered_for, random, run
from ops.reference import onnx_run
from streamrt.errors import FormatError


def given(indices: Any) -> dict[str, Any]:
    array = np.asarray(indices)
    return {"indices": tuple(int(i) for i in array.reshape(-1)), "indices_shape": array.shape}


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("params", [(), (0,)])
def test_tile(shape: tuple[int, ...], params: tuple[int, ...]) -> None:
    x, repeats = random(*shape), tuple(range(1, len(shape) + 1))
    for times in (repeats, repeats[::-1], (1,) * len(shape)):
        np.testing.assert_array_equal(run("Tile", [x], params, attrs={"repeats": times})[0], np.tile(x, times))


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 5), (5, 2), (2, 2, 1, 3)])
@pytest.mark.parametrize("k", [-9, -2, -1, 0, 1, 2, 9])
@pytest.mark.parametrize("upper", [0, 1])
def test_triangle(shape: tuple[int, ...], k: int, upper: int) -> None:
    x = random(*shape)
    x[..., 0, 0] = np.inf
    expected = np.triu(x, k) if upper else np.tril(x, k)
    for inplace in (None, 0):
        np.testing.assert_array_equal(run("Trilu", [x], attrs={"k": k, "upper": upper}, inplace=inplace)[0], expected)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("depth", [1, 4])
def test_one_hot(axis: int, depth: int) -> None:
    """Indices from the front and from the end, out of range, and between integers."""
    x = np.array([[0, 3, -1], [-4, 4, -5], [0.5, 2, 1]], np.float32)
    positions = np.arange(depth).reshape(-1, 1, 1)
    marked = np.moveaxis((x == positions) | (x + depth == positions) & (x < 0), 0, axis)
    attrs = {"axis": axis, "depth": depth, "on_value": 2.5, "off_value": -1e-3}
    expected = np.where(marked, np.float32(2.5), np.float32(-1e-3))
    np.testing.assert_array_equal(run("OneHot", [x], attrs=attrs)[0], expected)


def test_one_hot_of_a_number() -> None:
    np.testing.assert_array_equal(run("OneHot", [np.array(1, np.float32)], attrs={"depth": 3})[0], [0, 1, 0])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements(axis: int) -> None:
    x = random(3, 4, 5)
    shape = [2, 3, 4]
    shape[axis] = 6
    indices = np.random.default_rng(0).integers(-x.shape[axis], x.shape[axis], shape)
    wanted = np.empty(shape, np.float32)
    for at in np.ndindex(*shape):
        place = list(at)
        place[axis] = int(indices[at])
        wanted[at] = x[tuple(place)]
    np.testing.assert_array_equal(run("GatherElements", [x], attrs=given(indices) | {"axis": axis})[0], wanted)


@pytest.mark.parametrize(
    ("batch", "count", "between"), [(0, 1, ()), (0, 2, (3,)), (0, 4, (2, 2)), (1, 1, ()), (2, 2, (3,))]
)
def test_gather_nd(batch: int, count: int, between: tuple[int, ...]) -> None:
    x = random(2, 3, 4, 5)
    extents = x.shape[batch : batch + count]
    shape = (*x.shape[:batch], *between, count)
    indices = np.random.default_rng(0).integers([-e for e in extents], extents, shape)
    wanted = onnx_run("GatherND", [x, indices], {"batch_dims": batch})[0]
    found = run("GatherND", [x], attrs=given(indices) | {"batch_dims": batch})[0]
    np.testing.assert_array_equal(found, wanted)


REDUCTIONS = {"none": None, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("params", [(), (0,), (1,)])
def test_scatter_elements(reduction: str, axis: int, params: tuple[int, ...]) -> None:
    """With equal positions, unless updates replace each other."""
    x = random(3, 4, 5)
    shape = [2, 3, 4]
    rng = np.random.default_rng(0)
    indices = rng.integers(-x.shape[axis], x.shape[axis], shape)
    if reduction == "none":
        shape[axis] = x.shape[axis]
        indices = np.argsort(rng.random(shape), axis=axis)
    updates, expected = random(*shape, seed=1), x.copy()
    for at in np.ndindex(*shape):
        place = list(at)
        place[axis] = int(indices[at])
        function = REDUCTIONS[reduction]
        expected[tuple(place)] = updates[at] if function is None else function(expected[tuple(place)], updates[at])
    attrs = given(indices) | {"axis": axis, "reduction": reduction}
    np.testing.assert_array_equal(run("ScatterElements", [x, updates], params, attrs=attrs)[0], expected)
    if 0 not in params:
        found = run("ScatterElements", [x, updates], params, attrs=attrs, inplace=0)[0]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_scatter_nd(reduction: str, count: int) -> None:
    x = random(3, 4, 5)
    indices = np.array([[2, 3, 4], [0, -1, -5], [-2, 0, 2], [2, 3, 4]])[: 3 if reduction == "none" else 4, :count]
    updates, expected = random(len(indices), *x.shape[count:], seed=1), x.copy()
    for place, update in zip(map(tuple, indices), updates, strict=True):
        function = REDUCTIONS[reduction]
        expected[place] = update if function is None else function(expected[place], update)
    attrs = given(indices) | {"reduction": reduction}
    np.testing.assert_array_equal(run("ScatterND", [x, updates], attrs=attrs)[0], expected)


@pytest.mark.parametrize(
    ("op", "shapes", "attrs"),
    [
        ("Tile", [(2, 3)], {"repeats": (1,)}),
        ("Tile", [(2, 3)], {"repeats": (1, 0)}),
        ("Tile", [(2, 3)], {"repeats": (2**39, 2**39)}),
        ("Trilu", [(3,)], {}),
        ("Trilu", [(3, 3)], {"upper": 2}),
        ("OneHot", [(3,)], {}),
        ("OneHot", [(3,)], {"depth": 0}),
        ("OneHot", [(2**20,)], {"depth": 2**24}),
        ("OneHot", [(1,) * 8], {"depth": 2}),
        ("GatherElements", [(2, 3)], given([[3]]) | {"axis": 1}),
        ("GatherElements", [(2, 3)], given([[-3]]) | {"axis": 0}),
        ("GatherElements", [(2, 3)], given([0])),
        ("GatherElements", [(2, 3)], given([[0, 0, 0, 0]])),
        ("GatherElements", [(2, 3)], {"indices": (0, 0), "indices_shape": (3, 1)}),
        ("GatherND", [(2, 3)], given([[0, 3]])),
        ("GatherND", [(2, 3)], given([[0, 0, 0]])),
        ("GatherND", [(2, 3)], given([[0]]) | {"batch_dims": 1}),
        ("GatherND", [(2, 3)], given([[0], [0]]) | {"batch_dims": 2}),
        ("GatherND", [(2, 3)], {"indices": (0, 0), "indices_shape": (2**39, 2**39)}),
        ("ScatterElements", [(2, 3), (1, 2)], given([[0]])),
        ("ScatterElements", [(2, 3), (1, 1)], given([[0]]) | {"reduction": "sub"}),
        ("ScatterND", [(2, 3), (2,)], given([[0]])),
        ("ScatterND", [(2, 3), (1, 3)], given([[2]])),
    ],
)
def test_nodes_that_do_not_fit(op: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for(op, shapes, attrs=attrs)
