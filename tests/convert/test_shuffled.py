"""Shuffles of channels that a model spells out as Reshape, Transpose and Reshape become a Gather along channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.support import Array, check, expected, integers, make_model, onnx, ops, random, run_nodes, run_packed
from streamrt.convert.fold import shuffled

node = onnx.helper.make_node
THREE = ["Reshape", "Transpose", "Reshape"]


def shuffle(
    apart: tuple[int, ...] = (), result: tuple[int, ...] = (), perm: tuple[int, ...] = (0, 2, 1, 3, 4), **attrs: int
) -> tuple[list[Any], dict[str, Array]]:
    """The nodes from ``x`` to ``y``, and the shapes of both Reshapes, which have these attributes."""
    nodes = [
        node("Reshape", ["x", "apart"], ["a"], **attrs),
        node("Transpose", ["a"], ["b"], perm=list(perm)),
        node("Reshape", ["b", "result"], ["y"], **attrs),
    ]
    return nodes, {"apart": integers(*apart), "result": integers(*result)} if apart else {}


def computed(rows: tuple[str, ...], columns: tuple[str, ...], **attrs: int) -> Any:
    """A shuffle of 4 groups of 3 channels. Its result has rows and columns of computed extents.

    They are those of a convolution, which are not known when a model is packed. For each there is an operator and the
    names of its inputs.
    """
    measuring = [node("Conv", ["image", "w"], ["x"], strides=[2, 2]), node("Shape", ["x"], ["s"])]
    for name, axis in (("n", 0), ("h", 2), ("w1", 3)):
        measuring.append(node("Slice", ["s", f"axis {axis}", f"axis {axis + 1}"], [name]))
    measuring += [node(op, inputs, [name]) for name, (op, *inputs) in (("rows", rows), ("columns", columns))]
    measuring.append(node("Concat", ["n", "four", "three", "h", "w1"], ["apart"], axis=0))
    measuring.append(node("Concat", ["n", "twelve", "rows", "columns"], ["result"], axis=0))
    numbers = {"three": 3, "four": 4, "twelve": 12, "rest": -1} | {f"axis {axis}": axis for axis in range(5)}
    constants: dict[str, Array] = {name: integers(number) for name, number in numbers.items()}
    constants["w"] = random(12, 2, 1, 1)
    nodes = measuring + shuffle(**attrs)[0]
    return make_model(nodes, constants, inputs={"image": ("N", 2, "H", "W")})


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5, 15, 60])
@pytest.mark.parametrize("samples", [1, 2, "N"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_a_shuffle_becomes_a_gather(tmp_path: Path, groups: int, samples: int | str, dtype: str) -> None:
    first = samples if isinstance(samples, int) else -1
    nodes, constants = shuffle((first, groups, 60 // groups, 5, 3), (first, 60, 5, 3))
    model = make_model(nodes, constants, inputs={"x": (samples, 60, 5, 3)}, types={"x": dtype})
    shape = (3 if samples == "N" else samples, 60, 5, 3)
    graph = check(model, tmp_path, {"x": np.arange(np.prod(shape)).reshape(shape).astype(dtype)})
    assert ops(graph) == ["Gather"]
    indices = np.arange(60).reshape(groups, -1).T
    assert run_nodes(graph)[0].attrs == {"axis": 1, "indices": tuple(indices.flat)}


def test_positions_may_be_one_axis_in_between(tmp_path: Path) -> None:
    nodes, constants = shuffle((0, 3, 4, -1), (0, 12, 5, 3), perm=(0, 2, 1, 3))
    assert ops(check(make_model(nodes, constants, inputs={"x": (2, 12, 5, 3)}), tmp_path)) == ["Gather"]


@pytest.mark.parametrize("result", [(2, 12, 3, 5), (2, 12, 15), (-1, 6, 5, 3), (0, 6, -1, 3)])
def test_the_result_may_have_another_shape(tmp_path: Path, result: tuple[int, ...]) -> None:
    nodes, constants = shuffle((2, 3, 4, 5, 3), result)
    graph = check(make_model(nodes, constants, inputs={"x": (2, 12, 5, 3)}), tmp_path)
    assert ops(graph) == (["Gather", "Reshape"] if len(result) == 4 else THREE)


@pytest.mark.parametrize(
    ("rows", "columns", "attrs"),
    [
        (("Identity", "h"), ("Identity", "w1"), {}),  # as torch's older exporter
        (("Sub", "h", "axis 0"), ("Mul", "w1", "axis 1"), {"allowzero": 1}),  # as the newer one
        (("Identity", "w1"), ("Identity", "h"), {}),  # another shape
        (("Slice", "axis 0", "axis 0", "axis 1"), ("Identity", "rest"), {}),  # a 0 that is known
    ],
)
def test_extents_may_be_free(
    tmp_path: Path, rows: tuple[str, ...], columns: tuple[str, ...], attrs: dict[str, int]
) -> None:
    model = computed(rows, columns, **attrs)
    graph = check(model, tmp_path, {"image": random(3, 2, 9, 7)})
    assert ops(graph) == ["Conv", "Gather", "Reshape"]
    feeds = {"image": random(1, 2, 12, 15)}
    np.testing.assert_allclose(run_packed(tmp_path / "model.safetensors", feeds)[0], expected(model, feeds)[0], 1e-5)


@pytest.mark.parametrize("zero", [("Sub", "h", "h"), ("Mul", "h", "axis 0")])
def test_an_extent_of_the_channels_in_groups_is_taken(tmp_path: Path, zero: tuple[str, ...]) -> None:
    """A 0 for an axis of the result keeps the extent that the last Reshape reads: of the 4 groups."""
    model = computed(zero, ("Identity", "rest"))
    assert ops(check(model, tmp_path, {"image": random(2, 2, 8, 7)})) == ["Conv", *THREE]


@pytest.mark.parametrize(
    ("x", "apart", "result", "perm"),
    [
        ((2, 12, 5, 3), (2, 3, 4, 5, 3), (2, 12, 5, 3), (0, 2, 1, 4, 3)),  # positions are exchanged
        ((2, 12, 4, 3), (2, 12, 4, 1, 3), (2, 12, 4, 3), (0, 2, 1, 3, 4)),  # channels and rows
        ((2, 12, 5, 3), (2, 3, 4, 5, 3), (2, 12, 5, 3), (0, 1, 3, 2, 4)),  # channels of a group, and rows
        ((2, 12, 5, 3), (1, 6, 4, 5, 3), (2, 12, 5, 3), (0, 2, 1, 3, 4)),  # channels of both samples
        ((2, 12, 5, 3), (1, 3, 4, 10, 3), (2, 12, 5, 3), (0, 2, 1, 3, 4)),  # and of positions
        (("N", 12, 5, 3), (1, -1, 4, 5, 3), (-1, 12, 5, 3), (0, 2, 1, 3, 4)),  # of all samples
        (("N", 12, 5, 3), (2, -1, 12, 5, 3), (-1, 12, 5, 3), (0, 2, 1, 3, 4)),  # samples and their halves
        ((2, 12, 5, 3), (2, 3, 4, 5, 3), (0, 12, 0, 0), (0, 2, 1, 3, 4)),  # groups and rows are the result's positions
        ((2, 12, 15), (2, 3, 4, 15), (2, 12, 15), (0, 2, 1, 3)),  # a signal
        ((1, 4098, 1, 2), (1, 2, 2049, 1, 2), (1, 4098, 1, 2), (0, 2, 1, 3, 4)),  # more than an attribute can have
    ],
)
def test_others_stay(
    tmp_path: Path, x: tuple[Any, ...], apart: tuple[int, ...], result: tuple[int, ...], perm: tuple[int, ...]
) -> None:
    nodes, constants = shuffle(apart, result, perm)
    shape = tuple(2 if extent == "N" else extent for extent in x)
    assert ops(check(make_model(nodes, constants, inputs={"x": x}), tmp_path, {"x": random(*shape)})) == THREE


@pytest.mark.parametrize("more", ["an output", "a reader", "a node between"])
def test_what_is_read_in_the_middle_stays(tmp_path: Path, more: str) -> None:
    nodes, constants = shuffle((2, 3, 4, 5, 3), (2, 12, 5, 3))
    outputs = {"an output": ("y", "b"), "a reader": ("y", "z"), "a node between": ("y",)}[more]
    if more == "a reader":
        nodes.append(node("Exp", ["a"], ["z"]))
    if more == "a node between":
        nodes[2].input[0] = "c"
        nodes.insert(2, node("Exp", ["b"], ["c"]))
    graph = check(make_model(nodes, constants, inputs={"x": (2, 12, 5, 3)}, outputs=outputs), tmp_path)
    assert ops(graph) == [each.op_type for each in nodes]


def test_an_extent_in_the_middle_is_measured(tmp_path: Path) -> None:
    """A size node reads the shape of what the Transpose makes: 3 channels are its axis 1."""
    model = computed(("Identity", "w1"), ("Identity", "h"))
    last = model.graph.node.pop()
    model.graph.node.append(node("Shape", ["b"], ["of b"]))
    model.graph.node.append(node("Slice", ["of b", "axis 0", "axis 1"], ["m"]))
    model.graph.node.append(node("Concat", ["m", "twelve", "rows", "columns"], ["to"], axis=0))
    last.input[1] = "to"
    model.graph.node.append(last)
    assert ops(check(model, tmp_path, {"image": random(2, 2, 9, 5)})) == ["Conv", *THREE]


def test_a_header_has_room_for_the_indices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffled, "_MOST_OF_ALL", 30)
    nodes: list[Any] = []
    for x, y in zip("xabc", "abcy", strict=True):
        three, constants = shuffle((2, 3, 4, 5, 3), (2, 12, 5, 3))
        for each in three:
            each.input[0] = x if each.input[0] == "x" else f"{y}.{each.input[0]}"
            each.output[0] = y if each.output[0] == "y" else f"{y}.{each.output[0]}"
        nodes += three
    model = make_model(nodes, constants, inputs={"x": (2, 12, 5, 3)})
    assert ops(check(model, tmp_path)) == ["Gather", "Gather", *THREE[:2], *THREE]
