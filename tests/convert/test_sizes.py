"""Values that a model computes from free extents: one file gives ONNX's results at every size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import Array, check, expected, integers, make_model, onnx, ops, random, run_nodes
from streamrt.format import read_header

node = onnx.helper.make_node
NAMES = {"x": ("N", 4, "H", "W")}
SIZES = ((1, 4, 12, 9), (2, 4, 7, 13), (3, 4, 5, 5))
#: The extents of x, each as a list of one number: n, c, h, w.
EXTENTS = [node("Shape", ["x"], [name], start=axis, end=axis + 1) for axis, name in enumerate("nchw")]
CONSTANTS: dict[str, Array] = {
    **{f"i{value}": integers(value) for value in (-1, 0, 1, 2, 3, 4, 32)},
    "zero": np.array(0),
    "one": np.array(1),
    "half": np.array([0.5], np.float32),
}


def check_sizes(
    nodes: Sequence[Any],
    folder: Path,
    constants: Mapping[str, Array] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 21,
) -> list[Any]:
    """Pack once, run with all `SIZES`, and compare with the reference; returns the nodes that a pass runs."""
    model = make_model(
        [*EXTENTS, *nodes], CONSTANTS | dict(constants or {}), inputs=NAMES, outputs=outputs, opset=opset
    )
    path = streamrt.pack(model, folder / "model.safetensors")
    with streamrt.Model(path, budget=None) as packed:
        assert packed.inputs[0].dims == NAMES["x"]
        for shape in SIZES:
            x = random(*shape)
            found = packed(x)
            results = [found[name] for name in outputs] if len(outputs) > 1 else [found]
            for result, wanted in zip(results, expected(model, {"x": x}), strict=True):
                assert result.shape == wanted.shape
                np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)
    return run_nodes(read_header(path).graph)


CASES = {
    "reshape": [
        node("Div", ["c", "i2"], ["half_c"]),
        node("Concat", ["n", "i2", "half_c", "h", "w"], ["s"], axis=0),
        node("Reshape", ["x", "s"], ["y"]),
    ],
    "reshape with a 0 and a -1": [
        node("Concat", ["i0", "i0", "w", "i-1"], ["s"], axis=0),
        node("Reshape", ["x", "s"], ["y"]),
    ],
    "expand": [
        node("ReduceMax", ["x", "i2"], ["r"]),
        node("Concat", ["n", "c", "h", "w"], ["s"], axis=0),
        node("Expand", ["r", "s"], ["y"]),
    ],
    "expand a constant by the batch": [
        node("Concat", ["n", "i1", "i1", "i4"], ["s"], axis=0),
        node("Expand", ["table", "s"], ["e"]),
        node("ReduceMean", ["x", "i3"], ["r"]),
        node("Add", ["e", "r"], ["y"]),
    ],
    "expand to more axes": [
        node("Concat", ["i2", "n", "c", "h", "w"], ["s"], axis=0),
        node("Expand", ["x", "s"], ["y"]),
    ],
    "expand with a mask, as older exporters do": [
        node("Concat", ["i-1", "c", "h", "i-1"], ["s"], axis=0),
        node("ConstantOfShape", ["i4"], ["ones"], value=onnx.numpy_helper.from_array(integers(1))),
        node("Equal", ["s", "i-1"], ["is_kept"]),
        node("Where", ["is_kept", "ones", "s"], ["t"]),
        node("ReduceMax", ["x", "i2"], ["r"]),
        node("Expand", ["r", "t"], ["y"]),
    ],
    "slice to a computed end": [
        node("Div", ["h", "i2"], ["e"]),
        node("Slice", ["x", "i0", "e", "i2"], ["y"]),
    ],
    "slice to the extent of another axis": [node("Slice", ["x", "i0", "w", "i2"], ["y"])],
    "slice from a computed start": [
        node("Sub", ["w", "i3"], ["s"]),
        node("Slice", ["x", "s", "far", "i3"], ["y"]),
    ],
    "slice with a computed step": [
        node("Div", ["w", "i4"], ["step"]),
        node("Slice", ["x", "i0", "far", "i3", "step"], ["y"]),
    ],
    "slice with ends of which one is computed": [
        node("Div", ["h", "i2"], ["e"]),
        node("Concat", ["e", "far"], ["ends"], axis=0),
        node("Slice", ["x", "starts", "ends", "axes"], ["y"]),
    ],
    "pad to a multiple of 32": [
        *(
            each
            for name in "hw"
            for each in (
                node("Mod", [name, "i32"], [f"{name}_over"]),
                node("Sub", ["i32", f"{name}_over"], [f"{name}_less"]),
                node("Mod", [f"{name}_less", "i32"], [f"{name}_pad"]),
            )
        ),
        node("Concat", ["i0", "i0", "i0", "i0", "i0", "i0", "h_pad", "w_pad"], ["pads"], axis=0),
        node("Pad", ["x", "pads"], ["y"]),
    ],
    "pad some axes with a computed value": [
        node("Concat", ["i1", "i0", "h", "i2"], ["pads"], axis=0),
        node("Cast", ["w"], ["f"], to=1),
        node("Squeeze", ["f"], ["v"]),
        node("Pad", ["x", "pads", "v", "axes"], ["y"]),
    ],
    "tile": [
        node("Div", ["h", "i4"], ["times"]),
        node("Concat", ["i1", "i2", "times", "i1"], ["repeats"], axis=0),
        node("Tile", ["x", "repeats"], ["y"]),
    ],
    "tile a constant by the batch": [
        node("Concat", ["n", "i1", "i1", "i1"], ["repeats"], axis=0),
        node("Tile", ["table", "repeats"], ["e"]),
        node("ReduceMean", ["x", "i3"], ["r"]),
        node("Add", ["e", "r"], ["y"]),
    ],
    "resize to computed sizes": [
        node("Add", ["h", "i3"], ["h3"]),
        node("Concat", ["n", "c", "h3", "i4"], ["sizes"], axis=0),
        node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
    ],
    "resize some axes to computed sizes": [
        node("Mul", ["w", "i2"], ["w2"]),
        node("Resize", ["x", "", "", "w2"], ["y"], mode="nearest", axes=[3]),
    ],
    "resize by computed scales": [
        node("Concat", ["h", "w"], ["s"], axis=0),
        node("Add", ["s", "i1"], ["t"]),
        node("Cast", ["s"], ["before"], to=1),
        node("Cast", ["t"], ["after"], to=1),
        node("Div", ["after", "before"], ["scales"]),
        node("Resize", ["x", "", "scales"], ["y"], mode="linear", axes=[2, 3]),
    ],
    "resize a table of positions": [
        node("Concat", ["i1", "i4", "h", "w"], ["sizes"], axis=0),
        node("Resize", ["positions", "", "", "sizes"], ["p"], mode="linear"),
        node("Add", ["x", "p"], ["y"]),
    ],
    "split at a computed place": [
        node("Sub", ["h", "i2"], ["rest"]),
        node("Concat", ["i2", "rest"], ["parts"], axis=0),
        node("Split", ["x", "parts"], ["a", "b"], axis=2),
        node("Concat", ["b", "a"], ["y"], axis=2),
    ],
    "split in equal parts": [
        node("Split", ["x"], ["a", "b", "d"], axis=3, num_outputs=3),
        node("Concat", ["d", "a", "b"], ["y"], axis=3),
    ],
    "clip between computed bounds": [
        node("Cast", ["n"], ["f"], to=1),
        node("Squeeze", ["f"], ["high"]),
        node("Div", ["high", "half"], ["high2"]),
        node("Neg", ["high"], ["low"]),
        node("Mul", ["x", "high2"], ["wide"]),
        node("Clip", ["wide", "low", "high"], ["y"]),
    ],
    "clip between a constant and a computed bound": [
        node("Cast", ["n"], ["f"], to=1),
        node("Mul", ["f", "half"], ["g"]),
        node("Squeeze", ["g"], ["low"]),
        node("Clip", ["x", "low", "two"], ["a"]),
        node("Clip", ["x", "nothing", "low"], ["b"]),
        node("Sub", ["a", "b"], ["y"]),
    ],
    "a range as data": [
        node("Squeeze", ["w"], ["count"]),
        node("Range", ["zero", "count", "one"], ["r"]),
        node("Cast", ["r"], ["f"], to=1),
        node("Add", ["x", "f"], ["y"]),
    ],
    "a constant of a computed shape as data": [
        node("Concat", ["h", "w"], ["s"], axis=0),
        node("ConstantOfShape", ["s"], ["k"], value=onnx.numpy_helper.from_array(np.array([2.5], np.float32))),
        node("Mul", ["x", "k"], ["y"]),
    ],
    "a mask of computed positions": [
        node("Squeeze", ["w"], ["count"]),
        node("Range", ["zero", "count", "one"], ["r"]),
        node("Unsqueeze", ["r", "i1"], ["column"]),
        node("LessOrEqual", ["r", "column"], ["mask"]),
        node("Unsqueeze", ["x", "i4"], ["wide"]),
        node("Where", ["mask", "wide", "half"], ["y"]),
    ],
    "a mask of zeros and infinities": [
        node("Squeeze", ["w"], ["count"]),
        node("Range", ["zero", "count", "one"], ["r"]),
        node("Unsqueeze", ["r", "i1"], ["column"]),
        node("LessOrEqual", ["r", "column"], ["mask"]),
        node("Where", ["mask", "quarter", "nothing"], ["m"]),
        node("Unsqueeze", ["x", "i3"], ["wide"]),
        node("Add", ["wide", "m"], ["y"]),
    ],
    "rows of a table": [
        node("Squeeze", ["w"], ["count"]),
        node("Range", ["zero", "count", "one"], ["r"]),
        node("Gather", ["rows", "r"], ["g"]),
        node("ReduceMax", ["x", "i1"], ["m"], keepdims=0),
        node("MatMul", ["m", "g"], ["y"]),
    ],
    "one computed row": [
        node("Sub", ["h", "i1"], ["last"]),
        node("Squeeze", ["last"], ["index"]),
        node("Gather", ["x", "index"], ["y"], axis=2),
    ],
    "indices with two axes": [
        node("Squeeze", ["w"], ["count"]),
        node("Range", ["zero", "count", "one"], ["r"]),
        node("Unsqueeze", ["r", "i1"], ["column"]),
        node("Sub", ["r", "column"], ["apart"]),
        node("Gather", ["table", "apart"], ["g"], axis=3),
        node("ReduceMean", ["g"], ["m"], keepdims=0),
        node("Add", ["x", "m"], ["y"]),
    ],
    "many indices": [
        node("Sub", ["h", "i1"], ["last"]),
        node("Expand", ["last", "many"], ["indices"]),
        node("Gather", ["x", "indices"], ["y"], axis=2),
    ],
    "the largest of a computed number": [
        node("Div", ["h", "i2"], ["k"]),
        node("TopK", ["x", "k"], ["y", "at"], axis=2),
    ],
    "the number of values": [
        node("Size", ["x"], ["all"]),
        node("Cast", ["all"], ["f"], to=1),
        node("Div", ["x", "f"], ["y"]),
    ],
}
MORE: dict[str, Array] = {
    "table": random(1, 1, 1, 4),
    "positions": random(1, 4, 3, 3),
    "many": integers(5000),
    "rows": random(20, 6),
    "far": integers(2**63 - 1),
    "axes": integers(2, 3),
    "starts": integers(1, 0),
    "two": np.array(2, np.float32),
    "nothing": np.array(-np.inf, np.float32),
    "quarter": np.array([0.25], np.float32),
}


@pytest.mark.parametrize("case", CASES)
def test_one_file_for_all_sizes(case: str, tmp_path: Path) -> None:
    constants = dict(MORE)
    if case == "indices with two axes":
        constants["table"] = random(1, 1, 1, 40)
    check_sizes(CASES[case], tmp_path, constants)


def test_the_form_of_older_opsets(tmp_path: Path) -> None:
    """Axes and bounds are attributes there, and scales come alone."""
    nodes = [
        node("Shape", ["x"], ["all"]),
        *(node("Slice", ["all"], [name], starts=[axis], ends=[axis + 1]) for axis, name in enumerate("nchw")),
        node("Squeeze", ["h"], ["h0"], axes=[0]),
        node("Mul", ["h0", "one"], ["twice"]),
        node("Unsqueeze", ["twice"], ["h1"], axes=[0]),
        node("Cast", ["h1"], ["f"], to=1),
        node("Div", ["f", "f"], ["scale"]),
        node("Concat", ["ones", "scale", "two"], ["scales"], axis=0),
        node("Upsample", ["x", "scales"], ["u"], mode="nearest"),
        node("ReduceSum", ["all"], ["sum"], axes=[0], keepdims=0),
        node("Cast", ["sum"], ["g"], to=1),
        node("Clip", ["g"], ["limited"], min=1.0, max=20.0),
        node("Mul", ["u", "limited"], ["y"]),
    ]
    constants = {"one": np.array(1), "ones": np.ones(2, np.float32), "two": np.array([2], np.float32)}
    model = make_model(nodes, constants, inputs=NAMES, opset=9)
    for shape in SIZES:
        check(model, tmp_path, {"x": random(*shape)})


@pytest.mark.parametrize("dims", [("N", 4, 12, 9), (2, 4, 12, 9)])
def test_sizes_that_are_fixed_leave_no_size_nodes(dims: tuple[Any, ...], tmp_path: Path) -> None:
    nodes = [*EXTENTS, *CASES["pad to a multiple of 32"]]
    model = make_model(nodes, CONSTANTS, inputs=NAMES)
    path = streamrt.pack(model, tmp_path / "packed", inputs=dims)
    (only,) = read_header(path).graph.nodes
    assert (only.op, only.attrs["pads"]) == ("Pad", (0, 0, 0, 0, 0, 0, 20, 23))
    assert read_header(path).graph.outputs[0].dims == (dims[0], 4, 32, 32)


def test_extents_of_a_file_with_size_nodes_are_fixed(tmp_path: Path) -> None:
    model = make_model([*EXTENTS, *CASES["resize to computed sizes"]], CONSTANTS, inputs=NAMES)
    path = streamrt.pack(model, tmp_path / "packed")
    assert read_header(path).graph.outputs[0].dims == ("N", 4, "y_2", 4)
    streamrt.pack(path, path, inputs=("N", 4, 12, 9))
    assert read_header(path).graph.outputs[0].dims == ("N", 4, "y_2", 4)
    streamrt.pack(path, path, inputs=(2, 4, 12, 9))
    assert read_header(path).graph.outputs[0].dims == (2, 4, 15, 4)
    x = random(2, 4, 12, 9)
    with streamrt.Model(path, budget=None) as packed:
        np.testing.assert_allclose(packed(x), expected(model, {"x": x})[0], rtol=1e-5, atol=1e-5)


def test_the_shape_of_a_tensor_that_folding_removes(tmp_path: Path) -> None:
    """The convolution, the normalisation, the sum and the activation become one node, whose shape is read instead."""
    nodes = [
        node("Conv", ["x", "w"], ["conv"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["conv", "a", "b", "b", "a"], ["normal"]),
        node("Add", ["normal", "x"], ["sum"]),
        node("Relu", ["sum"], ["relu"]),
        *(node("Shape", [name], [f"of_{name}"]) for name in ("conv", "normal", "sum", "relu")),
        node("Add", ["of_conv", "of_normal"], ["s"]),
        node("Add", ["s", "of_sum"], ["t"]),
        node("Add", ["t", "of_relu"], ["u"]),
        node("Div", ["u", "i4"], ["shape"]),
        node("GlobalMaxPool", ["relu"], ["pool"]),
        node("Expand", ["pool", "shape"], ["y"]),
    ]
    constants = {"w": random(4, 4, 3, 3), "a": np.ones(4, np.float32), "b": random(4)}
    model = make_model(nodes, CONSTANTS | constants, inputs=NAMES)
    for shape in SIZES:
        graph = check(model, tmp_path, {"x": random(*shape)}, tolerance=1e-4)
    assert ops(graph) == ["Conv+Relu", "GlobalMaxPool", "Expand"]


def test_a_condition_behind_known_extents(tmp_path: Path) -> None:
    """Cast, Equal, Where, Identity and OneHot of known extents fold, although the batch is free."""
    nodes = [
        node("Identity", ["c"], ["same"]),
        node("Cast", ["same"], ["cast"], to=6),
        node("Equal", ["cast", "four"], ["is_four"]),
        node("Where", ["is_four", "i2", "i3"], ["two"]),
        node("OneHot", ["two", "depth", "off_on"], ["hot"]),
        node("Squeeze", ["hot", "i0"], ["factors"]),
        node("Reshape", ["factors", "column"], ["per_channel"]),
        node("Mul", ["x", "per_channel"], ["y"]),
    ]
    constants = {
        "four": np.array([4], np.int32),
        "off_on": np.array([1, 5], np.float32),
        "column": integers(4, 1, 1),
        "depth": np.array(4),
    }
    assert [n.op for n in check_sizes(nodes, tmp_path, constants)] == ["Mul"]


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (
            [node("Reshape", ["h", "i-1"], ["axis"]), node("Squeeze", ["x", "axis"], ["y"])],
            r"input 1 \(axes\) depends on the extents of the model's inputs, expected a constant",
        ),
        (
            [node("Range", ["zero", "count", "one"], ["s"]), node("Reshape", ["x", "s"], ["y"])],
            r"input 1 \(shape, 's'\) has shape .*, expected a known number of elements",
        ),
    ],
)
def test_values_that_may_not_depend_on_sizes(nodes: list[Any], reason: str, tmp_path: Path) -> None:
    squeezed = node("Squeeze", ["h"], ["count"])
    model = make_model([*EXTENTS, squeezed, *nodes], CONSTANTS, inputs=NAMES)
    with pytest.raises(streamrt.UnsupportedModelError, match=reason):
        streamrt.pack(model, tmp_path / "packed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("free", [False, True])
def test_values_too_large_for_the_batch_of_most_examples(tmp_path: Path, free: bool) -> None:
    """24 samples, the usual example, are too many: the values computed for them exceed a limit. 8 are not."""
    nodes = [
        node("Shape", ["x"], ["n"], end=1),
        node("Concat", ["n", "i1", "large"], ["s"], axis=0),
        node("Expand", ["one", "s"], ["e"]),
        node("CumSum", ["e", "two"], ["c"]),
        node("ReduceMax", ["c", "ends"], ["r"], keepdims=1),
        node("Cast", ["r"], ["f"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["x", "f"], ["y"]),
    ]
    constants = CONSTANTS | {"large": integers(180_000), "two": np.array(2), "ends": integers(2)}
    model = make_model(nodes, constants, inputs={"x": ("N", 4, "W" if free else 5)}, opset=21)
    path = streamrt.pack(model, tmp_path / "model.safetensors")
    x = random(30, 4, 5)
    with streamrt.Model(path) as packed:
        for count in (1, 8):
            np.testing.assert_allclose(packed(x[:count]), x[:count] * 180_000, rtol=1e-6)
        with pytest.raises(streamrt.InputError, match="a value computed from sizes would have 5400000 elements"):
            packed(x)
