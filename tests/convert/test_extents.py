"""Models for inputs of any size: extents that they compute are computed again in each run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import check, integers, make_model, onnx, ops, random, run_nodes
from streamrt.graph import Graph

node = onnx.helper.make_node
ANY = {"x": ("N", 4, "H", "W")}
SIZES = ((1, 4, 12, 9), (2, 4, 7, 13), (3, 4, 5, 5))
W = {"w": random(4, 4, 3, 3)}
HALVED = node("Conv", ["x", "w"], ["half"], strides=[2, 2], pads=[1, 1, 1, 1])


def check_sizes(model: Any, folder: Path) -> Graph:
    for shape in SIZES:
        graph = check(model, folder, {"x": random(*shape)}, tolerance=1e-4)
    with streamrt.Model(folder / "model.safetensors") as packed:
        packed(random(*SIZES[1]))
        assert packed._engine.session.prepared.program.batchwise
    return graph


def extents_of(name: str, out: str, first: int = 0) -> list[Any]:
    """Nodes that read the extents of a tensor one by one into ``<out>0``, ``<out>1`` ..., as exporters write them."""
    return [
        node("Shape", [name], [f"{out}_shape"]),
        *(node("Gather", [f"{out}_shape", f"i{i}"], [f"{out}{i}"]) for i in range(first, 4)),
    ]


INDICES = {f"i{i}": integers(i) for i in range(4)}


@pytest.mark.parametrize("rows_first", [False, True])
def test_channel_shuffle(tmp_path: Path, rows_first: bool) -> None:
    """With rows before channels it is none, and its extents are computed."""
    nodes = [
        *extents_of("x", "d"),
        node("Div", ["d1", "two"], ["per"]),
        node("Concat", ["d0", "two", "per", "d2", "d3"], ["apart"], axis=0),
        node("Reshape", ["x", "apart"], ["a"]),
        node("Transpose", ["a"], ["t"], perm=[0, 3, 2, 1, 4] if rows_first else [0, 2, 1, 3, 4]),
        node("Concat", ["d0", "minus", "d2", "d3"], ["together"], axis=0),
        node("Reshape", ["t", "together"], ["y"]),
    ]
    model = make_model(nodes, INDICES | {"two": integers(2), "minus": integers(-1)}, inputs=ANY)
    graph = check_sizes(model, tmp_path)
    if rows_first:
        assert ops(graph) == ["Reshape", "Transpose", "Reshape"]
        assert [dict(n.sizes) for n in run_nodes(graph)] == [{"shape": "apart"}, {}, {"shape": "together"}]
    else:
        assert ops(graph) == ["Gather"]


def test_positions_in_one_axis_and_back(tmp_path: Path) -> None:
    nodes = [
        HALVED,
        node("Relu", ["half"], ["r"]),
        *extents_of("r", "d"),
        node("Concat", ["d0", "d1", "minus"], ["flat_shape"], axis=0),
        node("Reshape", ["r", "flat_shape"], ["flat"]),
        node("Softmax", ["flat"], ["s"], axis=-1),
        node("Concat", ["d0", "d1", "d2", "d3"], ["shape"], axis=0),
        node("Reshape", ["s", "shape"], ["back"]),
        node("Mul", ["back", "r"], ["y"]),
    ]
    graph = check_sizes(make_model(nodes, INDICES | W | {"minus": integers(-1)}, inputs=ANY), tmp_path)
    assert ops(graph) == ["Conv+Relu", "Reshape", "Softmax", "Reshape", "Mul"]
    flat, back = (n for n in run_nodes(graph) if n.op == "Reshape")
    assert flat.attrs["shape"] == (0, 4, -1)  # one extent remains, so that nothing is computed
    assert dict(back.sizes) == {"shape": "shape"}


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_to_the_size_of_the_input(mode: str, tmp_path: Path) -> None:
    """Half of an odd size is rounded, and twice the half is another size."""
    nodes = [
        HALVED,
        *extents_of("half", "h"),
        *extents_of("x", "d"),
        node("Concat", ["h0", "h1", "d2", "d3"], ["sizes"], axis=0),
        node("Resize", ["half", "", "", "sizes"], ["y"], mode=mode),
    ]
    graph = check_sizes(make_model(nodes, INDICES | W, inputs=ANY), tmp_path)
    assert ops(graph) == ["Conv", "Resize"]
    assert run_nodes(graph)[1].sizes.keys() == {"sizes"}


def test_resize_to_twice_the_size(tmp_path: Path) -> None:
    nodes = [
        HALVED,
        node("Shape", ["half"], ["s"]),
        node("Mul", ["s", "factors"], ["sizes"]),
        node("Resize", ["half", "", "", "sizes"], ["y"], mode="nearest"),
    ]
    graph = check_sizes(make_model(nodes, W | {"factors": integers(1, 1, 2, 2)}, inputs=ANY), tmp_path)
    assert run_nodes(graph)[1].inputs == ("half",)
    assert run_nodes(graph)[1].sizes.keys() == {"sizes"}


def test_a_pyramid(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["large"]),
        node("Conv", ["large", "w"], ["d"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["d"], ["small"]),
        *extents_of("large", "l", first=2),
        node("Concat", ["l2", "l3"], ["sizes"], axis=0),
        node("Resize", ["small", "", "", "sizes"], ["up"], mode="nearest", axes=[2, 3]),
        node("Add", ["up", "large"], ["y"]),
    ]
    graph = check_sizes(make_model(nodes, INDICES | W, inputs=ANY), tmp_path)
    assert ops(graph) == ["Conv+Relu", "Conv+Relu", "Resize", "Add"]
    assert run_nodes(graph)[2].inputs == ("small",)


def test_expand_of_pooled_values(tmp_path: Path) -> None:
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"]),
        *extents_of("x", "d"),
        node("Concat", ["d0", "d1", "d2", "d3"], ["shape"], axis=0),
        node("Expand", ["p", "shape"], ["wide"]),
        node("Concat", ["x", "wide"], ["y"], axis=1),
    ]
    graph = check_sizes(make_model(nodes, INDICES, inputs=ANY), tmp_path)
    assert run_nodes(graph)[1].inputs == ("p",)


@pytest.mark.parametrize(
    ("last", "dims", "more", "out"),
    [
        (node("Resize", ["x", "", "", "sum"], ["y"]), ("N", 4, "H", "W"), (0, 0, 7, 9), ("N", 4, "y_2", "y_3")),
        (node("Expand", ["x", "sum"], ["y"]), ("N", 4, 1, "W"), (0, 0, 7, 0), ("N", 4, "y_2", "W")),
    ],
)
def test_extents_that_no_tensor_has(
    last: Any, dims: tuple[Any, ...], more: tuple[int, ...], out: tuple[Any, ...], tmp_path: Path
) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Add", ["s", "more"], ["t"]),
        node("Gather", ["s", "last"], ["width"]),
        node("Concat", ["zeros", "width", "zero"], ["widths"], axis=0),
        node("Add", ["t", "widths"], ["sum"]),
        last,
    ]
    constants = {"more": integers(*more), "last": integers(3), "zeros": integers(0, 0), "zero": integers(0)}
    model = make_model(nodes, constants, inputs={"x": dims})
    for n, c, h, w in SIZES:
        check(model, tmp_path, {"x": random(n, c, h if isinstance(dims[2], str) else 1, w)})
    with streamrt.Model(tmp_path / "model.safetensors") as packed:
        assert packed.inputs[0].dims == dims
        assert packed.outputs[0].dims == out


def test_a_model_that_takes_only_even_sizes(tmp_path: Path) -> None:
    """The sum refuses odd sizes; the examples are even."""
    nodes = [
        node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Resize", ["p", "", "scales"], ["up"], mode="nearest"),
        node("Add", ["up", "x"], ["y"]),
    ]
    model = make_model(nodes, {"scales": np.array([1, 1, 2, 2], np.float32)}, inputs=ANY)
    check(model, tmp_path, {"x": random(2, 4, 6, 10)})
    odd = random(2, 4, 7, 10)
    with (
        streamrt.Model(tmp_path / "model.safetensors") as model,
        pytest.raises(streamrt.InputError, match="cannot run"),
    ):
        model(odd)


def test_plans_are_kept_for_each_size(tmp_path: Path) -> None:
    path = streamrt.pack(make_model([HALVED], W, inputs=ANY, outputs=["half"]), tmp_path / "out")
    with streamrt.Model(path) as model:
        plans = [model.plan_for(shape) for shape in SIZES]
        assert len({plan.workspace for plan in plans}) == len(SIZES)
        for shape, plan in zip(SIZES, plans, strict=True):
            model(random(*shape))
            assert model.plan is plan
            assert model.plan_for(shape) is plan


@pytest.mark.parametrize(("start", "step"), [(0, 1), (1, 2)])
def test_an_extent_that_small_inputs_cut_short_is_free(tmp_path: Path, start: int, step: int) -> None:
    nodes = [node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"])]
    values = {"starts": integers(start), "ends": integers(9), "axes": integers(0), "steps": integers(step)}
    model = make_model(nodes, values, inputs={"x": ("N", 3)})
    for samples in (12, 5, 2):
        check(model, tmp_path, {"x": random(samples, 3)})
    with streamrt.Model(tmp_path / "model.safetensors") as packed:
        assert packed.outputs[0].dims == ("y_0", 3)
