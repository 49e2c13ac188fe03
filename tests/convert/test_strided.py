"""A Gather from a flat tensor: when its indices are those of a transposition, and when not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import streamrt
from convert.support import Array, check, integers, make_model, onnx, ops, random
from streamrt.convert.onnx.strided import before, permutation_of
from streamrt.format import read_header

node = onnx.helper.make_node
FLAT = node("Reshape", ["x", "minus"], ["flat"])


@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ((5,), (0,)),
        ((2, 3), (1, 0)),
        ((2, 3, 4), (2, 0, 1)),
        ((2, 1, 4), (1, 2, 0)),
        ((1, 1), (0, 1)),
        ((2, 2), (1, 0)),
    ],
)
def test_a_permutation_is_found(shape: tuple[int, ...], perm: tuple[int, ...]) -> None:
    indices = np.arange(np.prod(shape)).reshape(shape).transpose(perm)
    for written in (indices, indices - indices.size):
        found = permutation_of(written, indices.size)
        assert found is not None
        flat = np.arange(indices.size).reshape(before(indices.shape, found))
        np.testing.assert_array_equal(flat.transpose(found), indices)


@pytest.mark.parametrize(
    "indices",
    [
        [0, 1, 2, 4, 3, 5],  # a permutation, but no transposition
        [0, 1, 2, 3, 4],  # an index is missing
        [0, 1, 2, 3, 4, 4],
        [[0, 0, 0], [3, 4, 5]],
        [[1, 2, 3], [4, 5, 6]],
        [[0, 1, 2], [4, 5, 3]],
        [],
    ],
)
def test_indices_that_are_no_transposition(indices: list[int]) -> None:
    assert permutation_of(np.array(indices, np.int64), 6) is None


def strided(channels: int = 3, pixels: int = 4) -> tuple[list[object], dict[str, Array]]:
    """Nodes that flatten x (N, C, P), and gather (N, P, C), at indices computed from N."""
    nodes = [
        FLAT,
        node("Shape", ["x"], ["n"], start=0, end=1),
        node("Squeeze", ["n"], ["count"]),
        node("Range", ["zero", "count", "one"], ["samples"]),
        node("Mul", ["samples", "size"], ["begins"]),
        node("Reshape", ["begins", "column"], ["column_of"]),
        node("Add", ["column_of", "inside"], ["indices"]),
        node("Gather", ["flat", "indices"], ["g"], axis=0),
        node("Relu", ["g"], ["y"]),
    ]
    inside = np.arange(channels * pixels).reshape(channels, pixels).T
    constants = {
        "minus": integers(-1),
        "zero": np.array(0),
        "one": np.array(1),
        "size": integers(channels * pixels),
        "column": integers(-1, 1, 1),
        "inside": inside,
    }
    return nodes, constants


@pytest.mark.parametrize("transposed", [True, False])
def test_indices_that_follow_the_batch(transposed: bool, tmp_path: Path) -> None:
    nodes, constants = strided()
    if not transposed:
        constants["inside"] = constants["inside"] // 2
    model = make_model(nodes, constants, inputs={"x": ("N", 3, 4)})
    for batch in (1, 2, 5):
        graph = check(model, tmp_path, {"x": random(batch, 3, 4)})
    assert ops(graph) == ["Reshape", "Transpose" if transposed else "Gather", "Relu"]
    if transposed:
        assert graph.nodes[0].attrs["shape"] == (-1, 3, 4)  # a Reshape of x, so that the batch can be divided
    path = streamrt.pack(model, tmp_path / "fixed", inputs=(2, 3, 4))
    assert ops(read_header(path).graph) == ops(graph)


def test_more_indices_than_a_graph_holds(tmp_path: Path) -> None:
    nodes, constants = strided(64, 70)
    assert ops(check(make_model(nodes, constants, inputs={"x": (2, 64, 70)}), tmp_path)) == [
        "Reshape",
        "Transpose",
        "Relu",
    ]


def test_indices_of_no_transposition_stay_a_gather(tmp_path: Path) -> None:
    indices = np.array([[0, 4], [1, 5], [23, -2]])
    model = make_model(
        [FLAT, node("Gather", ["flat", "indices"], ["y"])],
        {"minus": integers(-1), "indices": indices},
        inputs={"x": (2, 3, 4)},
    )
    assert ops(check(model, tmp_path)) == ["Reshape", "Gather"]


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ((-1,), (2, 3, -1), [(2, 3, -1)]),
        ((0, 12), (0, 3, 4), [(0, 3, 4)]),
        ((2, 12), (0, 0, 1), [(2, 12, 1)]),
        ((-1, 4), (0, 2, 2), [(-1, 4), (0, 2, 2)]),
    ],
)
def test_a_reshape_of_a_reshape(
    first: tuple[int, ...], second: tuple[int, ...], joined: list[tuple[int, ...]], tmp_path: Path
) -> None:
    nodes = [node("Reshape", ["x", "first"], ["a"]), node("Reshape", ["a", "second"], ["y"])]
    constants = {"first": integers(*first), "second": integers(*second)}
    graph = check(make_model(nodes, constants, inputs={"x": (2, 3, 4)}), tmp_path)
    assert [n.attrs["shape"] for n in graph.nodes] == joined
