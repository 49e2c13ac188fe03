"""Size nodes in a program: attributes, constants in the arena, and whether samples stay apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from streamrt.errors import FormatError
from streamrt.format import Segment, Source, write
from streamrt.graph import Graph, Node, TensorSpec
from streamrt.ops import Operand
from streamrt.program.compile import Program, compile_program

IMAGE = TensorSpec("x", ("N", 3, "H", "W"))


def node(op: str, inputs: list[str], output: str, sizes: dict[str, str] | None = None, **attrs: Any) -> Node:
    return Node(f"make {output}", op, tuple(inputs), (output,), attrs, None, sizes or {})


def number(name: str, *value: int) -> Node:
    return node("Constant", [], name, value=value)


#: Tokens of a picture, with one more token in front: (N, 1 + H * W, 3).
TOKENS = Graph(
    (IMAGE,),
    (TensorSpec("y", ("N", "L", 3)),),
    (
        node("Shape", ["x"], "shape"),
        number("first", 0),
        node("Gather", ["shape", "first"], "count"),
        number("rest", 3, -1),
        node("Concat", ["count", "rest"], "flat", axis=0),
        node("Reshape", ["x"], "columns", {"shape": "flat"}),
        node("Transpose", ["columns"], "tokens", perm=(0, 2, 1)),
        number("one token", 1, 3),
        node("Concat", ["count", "one token"], "repeated", axis=0),
        node("Expand", ["token"], "first token", {"shape": "repeated"}),
        node("Concat", ["first token", "tokens"], "y", axis=1),
    ),
)
#: Each value of a picture plus its column, which is a constant in the arena.
GRID = Graph(
    (IMAGE,),
    (TensorSpec("y", ("N", 3, "H", "W")),),
    (
        node("Shape", ["x"], "shape"),
        number("third", 3),
        node("Gather", ["shape", "third"], "width list"),
        node("Squeeze", ["width list"], "width"),
        node("Constant", [], "zero", value=(0,), shape=()),
        node("Constant", [], "one", value=(1,), shape=()),
        node("Range", ["zero", "width", "one"], "positions"),
        node("Cast", ["positions"], "columns", to="float32"),
        node("Relu", ["x"], "positive"),
        node("Add", ["positive", "columns"], "y"),
    ),
)
#: Each value divided by the number of samples.
MEAN = Graph(
    (IMAGE,),
    (TensorSpec("y", ("N", 3, "H", "W")),),
    (
        node("Shape", ["x"], "shape"),
        number("first", 0),
        node("Gather", ["shape", "first"], "count"),
        node("Cast", ["count"], "divisor", to="float32"),
        node("Div", ["x", "divisor"], "y"),
    ),
)


def compiled(graph: Graph, *shape: int, **params: tuple[int, ...]) -> Program:
    operands = {name: Operand(shape, is_param=True) for name, shape in params.items()}
    graph.check(operands)
    assert Graph.from_json(graph.to_json()) == graph
    return compile_program(graph, operands, {"x": shape})


def saved(graph: Graph, path: Path, **params: np.ndarray) -> Path:
    segments = [
        Segment(tensors=[Source(name=name, shape=array.shape, chunks=lambda array=array: iter([array]))])
        for name, array in params.items()
    ]
    write(path, graph, segments)
    return path


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (7, 3, 2, 2), (3, 3, 1, 9)])
def test_attributes_are_computed_from_sizes(shape: tuple[int, ...], tmp_path: Path) -> None:
    token = np.arange(3, dtype=np.float32).reshape(1, 1, 3)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    program = compiled(TOKENS, *shape, token=(1, 1, 3))
    assert program.batchwise
    assert [each.op for each in program.nodes] == ["Reshape", "Transpose", "Expand", "Concat"]
    assert not program.constants
    with streamrt.Model(saved(TOKENS, tmp_path / "m", token=token)) as model:
        tokens = x.reshape(shape[0], 3, -1).transpose(0, 2, 1)
        np.testing.assert_array_equal(
            model(x), np.concatenate([np.broadcast_to(token, (shape[0], 1, 3)), tokens], axis=1)
        )


def test_values_that_are_data_are_constants_in_the_arena(tmp_path: Path) -> None:
    program = compiled(GRID, 2, 3, 4, 5)
    assert program.constants == ("columns",)
    assert program.batchwise
    end = program.offsets["columns"] + 5 * 4
    assert end <= program.workspace
    # Nothing else lies there, as the constant is used in each pass.
    for name in ("x", "positive", "y"):
        begin = program.offsets[name]
        assert begin >= end or begin + 2 * 3 * 4 * 5 * 4 <= program.offsets["columns"]
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    with streamrt.Model(saved(GRID, tmp_path / "m")) as model:
        for _ in range(2):
            np.testing.assert_array_equal(model(x), np.maximum(x, 0) + np.arange(5, dtype=np.float32))
        small = np.ascontiguousarray(x[..., :3])
        np.testing.assert_array_equal(model(small), np.maximum(small, 0) + np.arange(3, dtype=np.float32))


def test_a_constant_outlives_the_nodes_that_read_it(tmp_path: Path) -> None:
    graph = Graph(
        (IMAGE,),
        (TensorSpec("y", ("N", 3, "H", "W")),),
        (
            node("Shape", ["x"], "shape"),
            node("ConstantOfShape", ["shape"], "ones", value=1.0),
            node("Add", ["x", "ones"], "sum"),
            node("Transpose", ["sum"], "turned", perm=(0, 1, 3, 2)),
            node("Transpose", ["turned"], "back", perm=(0, 1, 3, 2)),
            node("Exp", ["back"], "y"),
        ),
    )
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    with streamrt.Model(saved(graph, tmp_path / "m")) as model:
        for _ in range(3):
            np.testing.assert_allclose(model(x), np.exp(x + 1), rtol=1e-6)


def test_the_number_of_samples_as_data(tmp_path: Path) -> None:
    assert not compiled(MEAN, 7, 3, 2, 2).batchwise
    assert not compiled(MEAN, 1, 3, 2, 2).batchwise
    x = np.random.default_rng(0).normal(size=(7, 3, 2, 2)).astype(np.float32)
    with streamrt.Model(saved(MEAN, tmp_path / "m")) as model:
        np.testing.assert_array_equal(model(x), x / 7)
        assert [len(part) for part in model.predict([x])] == [7]
        one = x[:1]
        assert [found.tolist() for found in model.call_together([one, one])] == [one.tolist()] * 2


def windows(*, first: str) -> Graph:
    """Windows of 2 x 2 as samples of their own, and back: (N, H, W, 3) -> (N * H/2 * W/2, 2, 2, 3) -> (N, H, W, 3)."""
    return Graph(
        (TensorSpec("x", ("N", 4, 6, 3)),),
        (TensorSpec("y", ("N", 4, 6, 3)),),
        (
            node("Shape", ["x"], "shape"),
            number("zero", 0),
            node("Gather", ["shape", "zero"], "count"),
            number("apart", 2, 2, 3, 2, 3),
            node("Concat", ["count", "apart"], "six", axis=0),
            node("Reshape", ["x"], "rows", {"shape": "six"}),
            node("Transpose", ["rows"], "windows", perm=(0, 1, 3, 2, 4, 5)),
            number("six a sample", 6),
            node("Mul", ["count", "six a sample"], "many"),
            number("minus one", -1),
            number("window", 2, 2, 3),
            node("Concat", [first, "window"], "folded", axis=0),
            node("Reshape", ["windows"], "batch", {"shape": "folded"}),
            node("Softmax", ["batch"], "computed", axis=2),
            number("back", 2, 3, 2, 2, 3),
            node("Concat", ["count", "back"], "unfolded", axis=0),
            node("Reshape", ["computed"], "apart again", {"shape": "unfolded"}),
            node("Transpose", ["apart again"], "joined", perm=(0, 1, 3, 2, 4, 5)),
            number("picture", 4, 6, 3),
            node("Concat", ["count", "picture"], "whole", axis=0),
            node("Reshape", ["joined"], "y", {"shape": "whole"}),
        ),
    )


@pytest.mark.parametrize("first", ["many", "minus one"])
def test_windows_folded_into_the_batch(first: str, tmp_path: Path) -> None:
    graph = windows(first=first)
    assert all(compiled(graph, samples, 4, 6, 3).batchwise for samples in (1, 2, 7))
    x = np.random.default_rng(0).normal(size=(7, 4, 6, 3)).astype(np.float32)
    with streamrt.Model(saved(graph, tmp_path / "m")) as model:
        whole = model(x)
        np.testing.assert_array_equal(whole, np.concatenate([model(x[n : n + 1]) for n in range(7)]))
        least = model.min_budget((7, 4, 6, 3))
    with streamrt.Model(tmp_path / "m", budget=least) as model:
        assert model.plan_for((7, 4, 6, 3)).micro_batch == 1
        np.testing.assert_array_equal(model(x), whole)


@pytest.mark.parametrize(
    ("shape", "nodes"),
    [
        ((2, 2), (node("Transpose", ["x"], "t", perm=(1, 0)), node("Flatten", ["t"], "y", axis=1))),
        ((3, 2, 2), (node("Gather", ["x"], "t", indices=(0,), indices_shape=()), node("Transpose", ["t"], "y"))),
        (
            (3, 4, 4),
            (
                number("one", 1),
                node("Squeeze", ["one"], "at"),
                node("Gather", ["x", "at"], "t"),
                node("Transpose", ["t"], "y", perm=(1, 0)),
            ),
        ),
        (
            (2, 4),
            (
                node("Shape", ["x"], "s"),
                number("zero", 0),
                node("Gather", ["s", "zero"], "n"),
                node("ConstantOfShape", ["n"], "ones", dtype="int64", value=1),
                node("Tile", ["x"], "y", {"repeats": "ones"}),
            ),
        ),
    ],
    ids=["flattened", "one sample", "one sample, computed", "as many repeats as samples"],
)
def test_samples_that_are_mixed(shape: tuple[int, ...], nodes: tuple[Node, ...]) -> None:
    graph = Graph((TensorSpec("x", ("N", "H", "W")[: len(shape)]),), (TensorSpec("y", ("A", "B")),), nodes)
    assert not compiled(graph, *shape).batchwise


def refused(graph: Graph, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        compiled(graph, 2, 3, 4, 5)


def test_hostile_graphs_are_refused() -> None:
    def with_nodes(*nodes: Node) -> Graph:
        return Graph((IMAGE,), (TensorSpec("y", ("N", 3, "H", "W")),), nodes)

    refused(with_nodes(node("Reshape", ["x"], "y", {"shape": "x"})), "computed from sizes alone")
    refused(with_nodes(node("Reshape", ["x"], "y", {"shape": "none"})), "neither a parameter")
    many = [number("n", 4097), node("ConstantOfShape", ["n"], "long", dtype="int64", value=1)]
    refused(with_nodes(*many, node("Reshape", ["x"], "y", {"shape": "long"})), "list of at most 4096")
    grid = [number("n", 2, 2), node("ConstantOfShape", ["n"], "grid", dtype="int64", value=1)]
    refused(with_nodes(*grid, node("Reshape", ["x"], "y", {"shape": "grid"})), "a number or a list")
    flat = [number("n", 4096), node("ConstantOfShape", ["n"], "zeros", dtype="int64", value=0)]
    gathers = [node("Gather", ["x"], f"y{i}" if i else "y", {"indices": "zeros"}, axis=3) for i in range(65)]
    refused(with_nodes(*flat, *gathers), "266240 numbers in computed attributes")
    empty = [number("n", 0), node("ConstantOfShape", ["n"], "nothing")]
    refused(with_nodes(*empty, node("Add", ["x", "nothing"], "y")), "read as data")
    huge = [number("n", 2**40), node("ConstantOfShape", ["n"], "much")]
    refused(with_nodes(*huge, node("Add", ["x", "much"], "y")), "elements")
    refused(with_nodes(node("Shape", ["x"], "s"), node("Softmax", ["s"], "y")), "computed from sizes")


def test_a_graph_that_runs_with_no_size_that_is_tried(tmp_path: Path) -> None:
    graph = Graph(
        (TensorSpec("x", ("N", "L")),),
        (TensorSpec("y", (1, 21)),),
        (number("shape", 1, 21), node("Reshape", ["x"], "y", {"shape": "shape"})),
    )
    write(tmp_path / "m", graph, [])
    x = np.arange(21, dtype=np.float32).reshape(3, 7)
    with streamrt.Model(tmp_path / "m") as model:
        np.testing.assert_array_equal(model(x), x.reshape(1, 21))


def test_an_attribute_is_given_or_computed() -> None:
    data = TOKENS.to_json()
    reshape = next(each for each in data["nodes"] if each["op"] == "Reshape")
    reshape["attrs"] = {"shape": [1]}
    with pytest.raises(FormatError, match="given and computed"):
        Graph.from_json(data)


def test_a_part_of_a_graph_has_the_size_nodes_that_it_needs() -> None:
    part = TOKENS.subgraph(["columns"])
    assert [each.outputs[0] for each in part.nodes] == ["shape", "first", "count", "rest", "flat", "columns"]


#: Extents of values, which follow from the number of samples: nodes that compute such an extent as ``count``.
HIDDEN = {
    "a range": [node("Range", ["zero", "samples", "one"], "range"), node("Shape", ["range"], "count")],
    "the size of a range": [node("Range", ["zero", "samples", "one"], "range"), node("Size", ["range"], "count")],
    "a mask with one more axis": [
        node("ConstantOfShape", ["shape"], "mask", value=1.0),
        node("Unsqueeze", ["mask", "first"], "masks"),
        node("Shape", ["masks"], "shape of masks"),
        number("second", 1),
        node("Gather", ["shape of masks", "second"], "count"),
    ],
    "masks with samples along two axes": [
        node("ConstantOfShape", ["first two"], "mask", value=1.0),
        node("Transpose", ["mask"], "turned"),
        node("Add", ["mask", "turned"], "sum"),
        node("Shape", ["sum"], "shape of sums"),
        node("Gather", ["shape of sums", "one more"], "count"),
    ],
}


@pytest.mark.parametrize("name", HIDDEN)
def test_extents_of_values_follow_from_the_number_of_samples(name: str) -> None:
    start = [
        node("Shape", ["x"], "shape"),
        number("first", 0),
        node("Constant", [], "zero", value=(0,), shape=()),
        node("Constant", [], "one", value=(1,), shape=()),
        node("Gather", ["shape", "zero"], "samples"),
        node("Gather", ["shape", "first"], "list"),
        number("one more", 1),
        node("Concat", ["list", "one more"], "first two", axis=0),
        *HIDDEN[name],
    ]
    output = (TensorSpec("y", ("N", 3, "H", "W")),)
    as_data = [node("Cast", ["count"], "number", to="float32"), node("Mul", ["x", "number"], "y")]
    assert not compiled(Graph((IMAGE,), output, (*start, *as_data)), 4, 3, 4, 4).batchwise
    if name != "the size of a range":
        as_attribute = [
            node("Slice", ["x"], "part", {"ends": "count"}, starts=(0,), axes=(3,)),
            node("ReduceSum", ["part"], "y", axes=(3,)),
        ]
        assert not compiled(Graph((IMAGE,), output, (*start, *as_attribute)), 3, 3, 4, 4).batchwise


def test_the_product_of_extents_of_a_sample_keeps_samples_apart() -> None:
    nodes = (
        node("Shape", ["x"], "shape"),
        number("first", 0),
        number("second", 2),
        node("Slice", ["shape", "first", "second"], "two"),
        node("ReduceProd", ["two"], "rows", keepdims=1),
        number("rest", 20),
        node("Concat", ["rows", "rest"], "target", axis=0),
        node("Reshape", ["x"], "flat", {"shape": "target"}),
        node("Softmax", ["flat"], "computed"),
        node("Reshape", ["computed"], "y", {"shape": "shape"}),
    )
    assert compiled(Graph((IMAGE,), (TensorSpec("y", ("N", 3, "H", "W")),), nodes), 2, 3, 4, 5).batchwise


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_flat_axes_are_whole_samples(axis: int) -> None:
    """Axes that are joined with an axis before the samples mix samples, even if the result has as many rows."""
    nodes = (node("Transpose", ["x"], "turned", perm=(1, 0, 2, 3)), node("Flatten", ["turned"], "y", axis=axis))
    assert not compiled(Graph((IMAGE,), (TensorSpec("y", ("M", "K")),), nodes), 3, 3, 2, 2).batchwise
    back = (*nodes[:1], node("Flatten", ["turned"], "flat", axis=axis), node("Reshape", ["flat"], "y", shape=(-1, 12)))
    assert not compiled(Graph((IMAGE,), (TensorSpec("y", ("N", 12)),), back), 4, 3, 2, 2).batchwise


def test_a_tensor_that_all_calls_share_has_no_part_for_each_sample() -> None:
    """It is computed from parameters alone, and its axis 0 is as long as the batch."""
    state = node("Exp", ["state"], "h")
    rnn = Graph(
        (TensorSpec("x", ("N", 5, 3)),),
        (TensorSpec("y", ("N", 5, 1, 3)),),
        (state, Node("rnn", "RNN", ("x", "r", "", "h"), ("y",), {"layout": 1})),
    )
    assert not compiled(rnn, 4, 5, 3, r=(3, 3), state=(4, 1, 3)).batchwise
    sample = Graph(
        (IMAGE,),
        (TensorSpec("y", ("N", 3, 2, 2)),),
        (state, node("GridSample", ["x", "h"], "y")),
    )
    assert not compiled(sample, 4, 3, 4, 5, state=(4, 2, 2, 2)).batchwise
    conv = Graph(
        (IMAGE,),
        (TensorSpec("y", ("N", 3, "H", "W")),),
        (state, node("Conv", ["x", "w", "", "h"], "y")),
    )
    assert not compiled(conv, 4, 3, 4, 5, w=(3, 3, 1, 1), state=(4, 3, 4, 5)).batchwise


def test_no_samples_lie_along_an_axis_that_is_gone() -> None:
    nodes = (
        node("Transpose", ["x"], "turned", perm=(1, 2, 3, 0)),
        node("ReduceMax", ["turned"], "largest", axes=(2, 3), keepdims=0),
        node("Tile", ["largest"], "tiled", repeats=(1, 2)),
        node("Expand", ["tiled"], "y", shape=(2, 1, 1)),
    )
    program = compiled(Graph((IMAGE,), (TensorSpec("y", (2, 3, "H")),), nodes), 2, 3, 4, 5)
    assert program.shapes["y"] == (2, 3, 8)
    assert not program.batchwise


def test_extents_that_are_no_multiple_of_the_number_of_samples() -> None:
    output = (TensorSpec("y", ("N", "K")),)
    start = (
        node("Reshape", ["x"], "flat", shape=(0, -1)),
        node("Shape", ["x"], "shape"),
        number("first", 0),
        node("Gather", ["shape", "first"], "count"),
    )
    square = (
        *start,
        node("Mul", ["count", "count"], "rows"),
        number("column", 1),
        node("Concat", ["rows", "column"], "repeated", axis=0),
        node("Expand", ["token"], "tokens", {"shape": "repeated"}),
        number("rest", -1),
        node("Concat", ["count", "rest"], "by sample", axis=0),
        node("Reshape", ["tokens"], "own", {"shape": "by sample"}),
        node("ReduceSum", ["own"], "sums", axes=(1,), keepdims=1),
        node("Mul", ["flat", "sums"], "y"),
    )
    assert not compiled(Graph((IMAGE,), output, square), 4, 3, 2, 2, token=(1, 1)).batchwise
    half = (
        *start,
        number("two", 2),
        node("Div", ["count", "two"], "rows"),
        number("columns", 12),
        node("Concat", ["rows", "columns"], "repeated", axis=0),
        node("Expand", ["flat"], "y", {"shape": "repeated"}),
    )
    assert not compiled(Graph((IMAGE,), output, half), 3, 3, 2, 2).batchwise
