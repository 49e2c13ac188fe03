"""GroupNormalization that a model spells out, and arithmetic behind normalisations: folded where that is right."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import streamrt
from convert.support import Array, check, expected, integers, make_model, onnx, ops, random, run_nodes, run_packed
from streamrt.format import read_header
from streamrt.graph import Graph

node = onnx.helper.make_node
EPSILON = 1e-3
FREE = {"x": ("N", 4, "H", "W")}
#: Parameters of 2 groups, and of 4 channels.
GROUPS = {"ones": np.ones(2, np.float32), "zeros": np.zeros(2, np.float32), "s": random(2), "b": random(2, seed=1)}
CHANNELS = {"k": random(4, 1, 1, seed=2), "l": random(1, 4, 1, 1, seed=3)}
KERNEL = {"w": random(4, 4, 3, 3, seed=4)}
SHAPES = {"flat": integers(0, 2, -1), "back": integers(0, 4, 4, 4)}
SHAPE = node("Shape", ["x"], ["back"])
#: Packing does not know the extents of its result if it does not know those of x.
HALVES = node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1])


def split(x: str = "x", shape: str = "flat") -> Any:
    return node("Reshape", [x, shape], ["f"])


def norm(scale: str = "ones", bias: str = "zeros", x: str = "f") -> Any:
    return node("InstanceNormalization", [x, scale, bias], ["n"], epsilon=EPSILON)


def join(to: str = "g", shape: str = "back") -> Any:
    return node("Reshape", ["n", shape], [to])


def arithmetic(of: str = "g", to: str = "y") -> list[Any]:
    return [node("Mul", [of, "k"], ["p"]), node("Add", ["l", "p"], [to])]


def groups_of(x: Array, groups: int, scale: Any, bias: Any, epsilon: float = EPSILON) -> NDArray[np.float64]:
    """GroupNormalization in float64; scale and bias have a value for each channel."""
    wide = x.astype(np.float64).reshape(x.shape[0], groups, -1)
    normal = (wide - wide.mean(2, keepdims=True)) / np.sqrt(wide.var(2, keepdims=True) + epsilon)
    column = (x.shape[1],) + (1,) * (x.ndim - 2)
    return normal.reshape(x.shape) * np.reshape(scale, column) + np.reshape(bias, column)


def pack_free(
    nodes: Sequence[Any],
    folder: Path,
    sizes: Sequence[Sequence[int]] = ((1, 4, 6, 3), (2, 4, 2, 8), (3, 4, 5, 5)),
    constants: Mapping[str, Array] | None = None,
    inputs: Mapping[str, Any] = FREE,
    outputs: Sequence[str] = ("y",),
) -> Graph:
    """Pack once, run with pictures of all ``sizes``, and compare with the reference; returns the packed graph."""
    model = make_model(nodes, {**GROUPS, **CHANNELS, **KERNEL, **(constants or {})}, inputs=inputs, outputs=outputs)
    path = streamrt.pack(model, folder / "model.safetensors")
    for size in sizes:
        feeds = {name: random(*size, seed=index) for index, name in enumerate(inputs)}
        for found, wanted in zip(run_packed(path, feeds), expected(model, feeds), strict=True):
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-5)
    return read_header(path).graph


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(2, 5))
    spatial = tuple(draw(st.integers(1, 5)) for _ in range(rank - 2))
    return {
        "groups": (groups := draw(st.sampled_from([1, 2, 3]))),
        "shape": (draw(st.integers(1, 3)), groups * draw(st.integers(1, 3)), *spatial),
        "free": draw(st.sampled_from(["nothing", "batch", "all"])),
        "flat": draw(st.sampled_from(["rest", "channels"])),
        "own": draw(st.booleans()),
        "steps": draw(st.sampled_from([[], ["Mul"], ["Add"], ["Mul", "Add"], ["Add", "Mul"]])),
        "leading": draw(st.booleans()),
        "swapped": draw(st.booleans()),
        "activation": draw(st.sampled_from([None, "Relu", "Sigmoid"])),
        "seed": draw(st.integers(0, 99)),
    }


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_all_variants_become_one_node(case: dict[str, Any]) -> None:
    shape, groups, seed = case["shape"], case["groups"], case["seed"]
    channels, spatial = shape[1], shape[2:]
    rng = np.random.default_rng(seed)
    scale, bias = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    if case["own"]:
        scale, bias = (rng.standard_normal(groups).astype(np.float32) for _ in range(2))
    whole = case["flat"] == "rest" or case["free"] == "all" or not spatial
    flat = (0, groups, -1) if whole else (0, groups, channels // groups, *spatial)
    constants = {"s": scale, "b": bias, "flat": integers(*flat)}
    nodes = [split(), norm("s", "b")]
    if case["free"] == "all":
        nodes.append(SHAPE)
    else:
        constants["back"] = integers(0 if case["free"] == "batch" else shape[0], *shape[1:])
    nodes.append(join())
    factor, shift, last = np.repeat(scale, channels // groups), np.repeat(bias, channels // groups), "g"
    factor, shift = factor.astype(np.float64), shift.astype(np.float64)
    column = (1,) * case["leading"] + (channels,) + (1,) * len(spatial)
    for op in case["steps"]:
        values = rng.standard_normal(channels).astype(np.float32)
        constants[f"{op} values"] = values.reshape(column)
        operands = [f"{op} values", last]
        nodes.append(node(op, operands if case["swapped"] else operands[::-1], [op]))
        factor, shift = (factor * values, shift * values) if op == "Mul" else (factor, shift + values)
        last = op
    if case["activation"]:
        nodes.append(node(case["activation"], [last], ["y"]))
    else:
        nodes[-1].output[0] = "y"
    dims = {
        "nothing": shape,
        "batch": ("N", *shape[1:]),
        "all": ("N", channels, *(f"D{axis}" for axis in range(len(spatial)))),
    }
    model = make_model(nodes, constants, inputs={"x": dims[case["free"]]})
    x = random(*shape, seed=seed)
    wanted = groups_of(x, groups, factor, shift)
    wanted = {None: wanted, "Relu": np.maximum(wanted, 0), "Sigmoid": 1 / (1 + np.exp(-wanted))}[case["activation"]]
    with tempfile.TemporaryDirectory() as folder:
        path = streamrt.pack(model, Path(folder, "model"))
        (found,) = run_packed(path, {"x": x})
        graph = read_header(path).graph
    assert ops(graph) == ["GroupNormalization" + (f"+{case['activation']}" if case["activation"] else "")]
    assert graph.nodes[0].inputs[0] == "x"
    assert graph.nodes[0].attrs == {"num_groups": groups, "epsilon": pytest.approx(EPSILON)}
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_as_torch_writes_it_behind_a_convolution_of_free_extents(tmp_path: Path) -> None:
    """No extent of the convolution's result is known but the channels. A Swish is the last step."""
    nodes = [
        HALVES,
        split("c"),
        norm(),
        node("Shape", ["c"], ["back"]),
        join(),
        *arithmetic(to="a"),
        node("Sigmoid", ["a"], ["h"]),
        node("Mul", ["a", "h"], ["y"]),
    ]
    graph = pack_free(nodes, tmp_path, constants={"flat": SHAPES["flat"]})
    assert ops(graph) == ["Conv", "GroupNormalization+Swish"]
    assert len(graph.nodes) == 2  # no size is computed any more


def test_shapes_that_are_known_for_all_sizes(tmp_path: Path) -> None:
    """The batch is not known, so it follows from the other extents."""
    nodes = [
        node("Reshape", ["x", "apart"], ["a"]),
        node("Transpose", ["a"], ["t"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "parts"], ["c"]),
        split("c"),
        norm(),
        join("y"),
    ]
    constants = {"apart": integers(0, 4, -1, 2, 2), "parts": integers(-1, 4, 2, 2), "flat": integers(0, 2, -1)}
    graph = pack_free(nodes, tmp_path, constants={**constants, "back": integers(-1, 4, 2, 2)}, sizes=[(3, 4, 6, 2)])
    assert "GroupNormalization" in ops(graph)
    assert "InstanceNormalization" not in ops(graph)


def test_a_last_reshape_that_does_nothing_may_be_missing(tmp_path: Path) -> None:
    nodes = [split(), norm("k1", "l1"), node("Mul", ["n", "k2"], ["p"]), node("Relu", ["p"], ["y"])]
    constants = {"k1": random(4), "l1": random(4, seed=1), "k2": random(4, 1), "flat": integers(0, 4, -1)}
    for dims in (("N", 4, 5), ("N", 4, "L")):
        graph = pack_free(nodes, tmp_path, constants=constants, inputs={"x": dims}, sizes=[(3, 4, 5)])
        assert ops(graph) == ["GroupNormalization+Relu"]
    graph = pack_free(nodes, tmp_path, constants=constants, sizes=[(3, 4, 5, 2)])
    assert ops(graph) == ["Reshape", "InstanceNormalization+Relu"]


def test_reshapes_around_it_stay_apart_from_its_own(tmp_path: Path) -> None:
    constants = {"in": integers(0, 4, 4, 4), "out": integers(0, 4, 16), **SHAPES}
    nodes = [
        node("Reshape", ["x", "in"], ["c"]),
        split("c"),
        norm("s", "b"),
        join(),
        node("Reshape", ["g", "out"], ["y"]),
    ]
    graph = check(make_model(nodes, GROUPS | constants, inputs={"x": ("N", 4, 16)}), tmp_path)
    assert ops(graph) == ["Reshape", "GroupNormalization", "Reshape"]


def test_two_of_them_may_share_their_parameters(tmp_path: Path) -> None:
    nodes = [
        split(),
        norm("s", "s"),
        join(),
        node("Mul", ["g", "k"], ["p"]),
        node("Reshape", ["p", "flat"], ["f2"]),
        node("InstanceNormalization", ["f2", "s", "s"], ["n2"]),
        node("Reshape", ["n2", "back"], ["y"]),
    ]
    graph = check(make_model(nodes, GROUPS | CHANNELS | SHAPES, inputs={"x": (2, 4, 4, 4)}), tmp_path)
    assert ops(graph) == ["GroupNormalization"] * 2


#: What stays right if something else reads a result: nodes behind the first Reshape, outputs, and operators.
READ: dict[str, tuple[list[Any], list[str], list[str]]] = {
    "the groups": ([norm(), join("y")], ["y", "f"], ["GroupNormalization", "Reshape"]),
    "the normalised groups": ([norm(), join("y")], ["y", "n"], ["InstanceNormalization", "Reshape", "Reshape"]),
    "the normalised groups, by a node": (
        [norm(), join(), node("ReduceMax", ["n"], ["m"], keepdims=0), node("Add", ["g", "m"], ["y"])],
        ["y"],
        ["Add", "InstanceNormalization", "ReduceMax", "Reshape", "Reshape"],
    ),
    "the result": ([norm(), join(), *arithmetic()], ["y", "g"], ["Add", "GroupNormalization", "Mul"]),
    "the result, by a node": (
        [norm(), join(), *arithmetic(to="a"), node("Sub", ["a", "g"], ["y"])],
        ["y"],
        ["Add", "GroupNormalization", "Mul", "Sub"],
    ),
    "the product": ([norm(), join(), *arithmetic()], ["y", "p"], ["Add", "GroupNormalization"]),
    "the sum": (
        [norm(), join(), *arithmetic(to="a"), node("Relu", ["a"], ["y"])],
        ["y", "a"],
        ["GroupNormalization", "Relu"],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_result_that_something_else_reads_stays(name: str, tmp_path: Path) -> None:
    nodes, outputs, wanted = READ[name]
    model = make_model([split(), *nodes], GROUPS | CHANNELS | SHAPES, inputs={"x": ("N", 4, 4, 4)}, outputs=outputs)
    assert sorted(ops(check(model, tmp_path))) == wanted


@pytest.mark.parametrize("measured", ["f", "n", "g"])
def test_a_shape_that_is_read_stays(measured: str, tmp_path: Path) -> None:
    """A tensor whose shape alone is read is not computed for that."""
    nodes = [
        split(),
        norm("s", "b"),
        SHAPE,
        join(),
        node("Shape", [measured], ["d"], start=-1),
        node("Cast", ["d"], ["e"], to=onnx.TensorProto.FLOAT),
        node("Add", ["g", "e"], ["y"]),
    ]
    graph = pack_free(nodes, tmp_path, constants={"flat": SHAPES["flat"]})
    wanted = ["GroupNormalization", "Add"] if measured == "g" else ["Reshape", "GroupNormalization", "Add"]
    assert sorted(ops(graph)) == sorted(wanted)


STAYS: dict[str, tuple[list[Any], Mapping[str, Array], Any, Sequence[int]]] = {
    "groups that are no divisor of the channels": (
        [split(), node("InstanceNormalization", ["f", "three", "three"], ["n"]), join("y")],
        {"flat": integers(0, 3, -1), "back": integers(0, 4, 6, 4), "three": random(3)},
        ("N", 4, 6, 4),
        (2, 4, 6, 4),
    ),
    "two samples at once": (
        [split(), norm("s", "b"), join("y")],
        {"flat": integers(1, 2, -1), "back": integers(2, 4, 4, 4)},
        (2, 4, 4, 4),
        (2, 4, 4, 4),
    ),
    "samples of one batch at once": (
        [split(), norm("s", "b"), SHAPE, join("y")],
        {"flat": integers(24, 2, -1)},
        ("N", 4, 4, 4),
        (48, 4, 4, 4),
    ),
    "another shape behind it": (
        [split(), norm("s", "b"), join("y")],
        {"flat": integers(0, 2, -1), "back": integers(0, 4, 2, 8)},
        ("N", 4, 4, 4),
        (3, 4, 4, 4),
    ),
    "another rank behind it": (
        [split(), norm("s", "b"), join("y")],
        {"flat": integers(0, 2, -1), "back": integers(0, 4, 16)},
        ("N", 4, 4, 4),
        (3, 4, 4, 4),
    ),
    "the height of the example": (
        [split(), norm("s", "b"), join("y")],
        {"flat": integers(0, 2, -1), "back": integers(0, 4, 224, -1)},
        ("N", 4, "H", "W"),
        (2, 4, 112, 4),
    ),
    "a width, behind a convolution of free extents": (
        [HALVES, split("c"), norm("s", "b"), join("y")],
        {"flat": integers(0, 2, -1), "back": integers(0, 4, -1, 8)},
        ("N", 4, "H", "W"),
        (2, 4, 8, 32),
    ),
    "a height that only one size has": (
        [HALVES, split("c"), norm("s", "b"), join("y")],
        {"flat": integers(0, 2, -1), "back": integers(0, 4, 112, 4)},
        ("N", 4, "H", 8),
        (2, 4, 224, 8),
    ),
    "the channels of the example": (
        [split(), norm("s", "b"), join("y")],
        {"flat": integers(0, 2, -1), "back": integers(0, 224, -1)},
        ("N", "C", "L"),
        (2, 4, 112),
    ),
    "a part of the shape": (
        [
            node("Shape", ["x"], ["tail"], start=2),
            node("Concat", ["tail", "four", "last"], ["back"], axis=0),
            split(),
            norm("s", "b"),
            join("y"),
        ],
        {"flat": integers(0, 2, -1), "four": integers(4), "last": integers(-1)},
        ("N", 4, "H", "W"),
        (2, 4, 6, 5),
    ),
    "the first extents of a shape": (
        [node("Shape", ["x"], ["back"], end=4), split(), norm("s", "b"), join("y")],
        {"flat": integers(0, 2, -1)},
        ("N", 4, "H", "W", 1),
        (2, 4, 6, 5, 1),
    ),
    "height and width in the other order": (
        [
            HALVES,
            node("Shape", ["c"], ["shape"]),
            node("Gather", ["shape", "order"], ["back"], axis=0),
            split("c"),
            norm("s", "b"),
            join("y"),
        ],
        {"flat": integers(0, 2, -1), "order": integers(0, 1, 3, 2)},
        ("N", 4, "H", "W"),
        (2, 4, 12, 6),
    ),
    "an activation between": (
        [split(), norm("s", "b"), node("Relu", ["n"], ["r"]), SHAPE, node("Reshape", ["r", "back"], ["y"])],
        {"flat": integers(0, 2, -1)},
        ("N", 4, "H", "W"),
        (2, 4, 6, 5),
    ),
    "groups of positions": (
        [
            node("Reshape", ["x", "flat"], ["e"]),
            node("Transpose", ["e"], ["f"], perm=[0, 2, 1]),
            norm("s", "b"),
            SHAPE,
            join("y"),
        ],
        {"flat": integers(0, -1, 2)},
        ("N", 4, "H", "W"),
        (2, 4, 6, 5),
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_is_almost_a_group_normalization_stays(name: str, tmp_path: Path) -> None:
    nodes, constants, dims, size = STAYS[name]
    graph = pack_free(nodes, tmp_path, constants=constants, inputs={"x": dims}, sizes=[size])
    assert "GroupNormalization" not in " ".join(ops(graph))
    assert "InstanceNormalization" in " ".join(ops(graph))


def test_the_shape_of_another_input_may_differ(tmp_path: Path) -> None:
    """Packing finds an example only if both have the same shape."""
    nodes = [
        node("Shape", ["z"], ["back"]),
        split(),
        norm("s", "b"),
        join(),
        node("Add", ["g", "z"], ["y"]),
    ]
    model = make_model(nodes, GROUPS | {"flat": SHAPES["flat"]}, inputs={**FREE, "z": ("N", 4, "A", "B")})
    feeds = {"x": random(2, 4, 2, 8), "z": random(2, 4, 4, 4, seed=1)}
    path = streamrt.pack(model, tmp_path / "out")
    np.testing.assert_allclose(run_packed(path, feeds)[0], expected(model, feeds)[0], rtol=1e-5, atol=1e-5)
    assert "InstanceNormalization" in ops(read_header(path).graph)


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (4, 4), (2, 1, 1, 1), (1, 1, 4, 4), (1, 2, 4, 1, 1)])
def test_arithmetic_that_is_not_by_channel_stays(shape: tuple[int, ...], tmp_path: Path) -> None:
    nodes = [split(), norm("s", "b"), join(), node("Mul", ["g", "v"], ["y"])]
    model = make_model(nodes, GROUPS | SHAPES | {"v": random(*shape)}, inputs={"x": (2, 4, 4, 4)})
    assert ops(check(model, tmp_path)) == ["GroupNormalization", "Mul"]


def test_a_computed_factor_stays(tmp_path: Path) -> None:
    nodes = [split(), norm("s", "b"), join(), node("Mul", ["g", "v"], ["y"])]
    model = make_model(nodes, GROUPS | SHAPES, inputs={"x": (2, 4, 4, 4), "v": (2, 4, 1, 1)})
    assert ops(check(model, tmp_path)) == ["GroupNormalization", "Mul"]


def test_more_channels_than_packing_may_hold_are_refused(tmp_path: Path) -> None:
    """A few bytes of a model ask for a parameter of many channels."""
    nodes = [split(), norm("s", "b"), join("y")]
    constants = {"flat": integers(0, 2, -1), "back": integers(0, 1 << 20, 1)}
    model = make_model(nodes, GROUPS | constants, inputs={"x": (1, 1 << 20, 1)})
    with pytest.raises(streamrt.LimitError, match="InstanceNormalization"):
        streamrt.pack(model, tmp_path / "out", max_memory="4MiB")


BEHIND: dict[str, tuple[list[Any], list[str]]] = {
    "a product and a sum": (arithmetic("n"), []),
    "a difference and a quotient": ([node("Sub", ["n", "l"], ["q"]), node("Div", ["q", "k"], ["y"])], []),
    "a difference to it": ([node("Sub", ["k", "n"], ["y"])], []),
    "a quotient by it": ([node("Div", ["k", "n"], ["y"])], ["Div"]),
    "a BatchNormalization": ([node("BatchNormalization", ["n", "m", "m", "m", "d"], ["y"])], []),
    "a sum of each row": ([node("Add", ["n", "row"], ["y"])], ["Add"]),
    "an activation before a sum": ([node("Relu", ["n"], ["r"]), node("Add", ["r", "l"], ["y"])], ["Add"]),
}


@pytest.mark.parametrize("op", ["InstanceNormalization", "GroupNormalization"])
@pytest.mark.parametrize("name", BEHIND)
def test_arithmetic_behind_a_normalization(op: str, name: str, tmp_path: Path) -> None:
    nodes, rest = BEHIND[name]
    first = node(op, ["x", "a", "c"], ["n"], **({"num_groups": 2} if op == "GroupNormalization" else {}))
    constants = CHANNELS | {"a": random(4, seed=5), "c": random(4, seed=6), "row": random(5, 1)}
    constants |= {"m": random(4, seed=7), "d": random(4, seed=8) ** 2 + np.float32(0.1)}
    model = make_model([first, *nodes], constants, inputs={"x": ("N", 4, 5, 6)})
    x = random(3, 4, 5, 6)
    path = streamrt.pack(model, tmp_path / "out")
    (found,) = run_packed(path, {"x": x})
    reference = make_model(nodes, constants, inputs={"n": ("N", 4, 5, 6)})
    groups = 4 if op == "InstanceNormalization" else 2
    normal = groups_of(x, groups, constants["a"], constants["c"], 1e-5).astype(np.float32)
    (wanted,) = expected(reference, {"n": normal})
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    found_ops = [run.op for run in run_nodes(read_header(path).graph)]
    assert found_ops == [op, *rest]
