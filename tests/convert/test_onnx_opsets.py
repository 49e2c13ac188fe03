"""Operators that changed between opsets give the reference's answer in every opset from 7 to the newest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import OPSETS, check, integers, make_model, onnx, ops, random, run_packed

helper = onnx.helper

node = helper.make_node

Built = tuple[list[Any], dict[str, Any]]


def clip(opset: int) -> Built:
    if opset < 11:
        return [node("Clip", ["x"], ["y"], min=-0.5, max=0.25)], {}
    return [node("Clip", ["x", "lo", "hi"], ["y"])], {"lo": np.float32(-0.5), "hi": np.float32(0.25)}


def clip_below(opset: int) -> Built:
    if opset < 11:
        return [node("Clip", ["x"], ["y"], min=0.1)], {}
    return [node("Clip", ["x", "lo"], ["y"])], {"lo": np.float32(0.1)}


def clip_above(opset: int) -> Built:
    if opset < 11:
        return [node("Clip", ["x"], ["y"], max=0.1)], {}
    return [node("Clip", ["x", "", "hi"], ["y"])], {"hi": np.float32(0.1)}


def pad(opset: int) -> Built:
    if opset < 11:
        return [node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 0, 3], value=1.5)], {}
    return [node("Pad", ["x", "pads", "value"], ["y"])], {
        "pads": integers(0, 0, 1, 2, 0, 0, 0, 3),
        "value": np.float32(1.5),
    }


def pad_some_axes(opset: int) -> Built:
    if opset < 18:
        return pad(opset)
    return [node("Pad", ["x", "pads", "", "axes"], ["y"], mode="reflect")], {
        "pads": integers(1, 2, 0, 3),
        "axes": integers(-2, 3),
    }


def squeeze(opset: int) -> Built:
    mean = [node("GlobalAveragePool", ["x"], ["mean"])]
    if opset < 13:
        return [*mean, node("Squeeze", ["mean"], ["y"], axes=[2, 3])], {}
    return [*mean, node("Squeeze", ["mean", "axes"], ["y"])], {"axes": integers(2, -1)}


def squeeze_all(opset: int) -> Built:
    return [node("GlobalAveragePool", ["x"], ["mean"]), node("Squeeze", ["mean"], ["y"])], {}


def unsqueeze(opset: int) -> Built:
    if opset < 13:
        return [node("Unsqueeze", ["x"], ["y"], axes=[0, 3])], {}
    return [node("Unsqueeze", ["x", "axes"], ["y"])], {"axes": integers(-3, 0)}


def split(opset: int) -> Built:
    outputs = ["a", "b"]
    add = node("Concat", ["b", "a"], ["y"], axis=1)
    if opset < 13:
        return [node("Split", ["x"], outputs, axis=1, split=[1, 2]), add], {}
    return [node("Split", ["x", "sizes"], outputs, axis=1), add], {"sizes": integers(1, 2)}


def split_evenly(opset: int) -> Built:
    number = {"num_outputs": 3} if opset >= 18 else {}
    return [
        node("Split", ["x"], ["a", "b", "c"], axis=-1 if opset >= 11 else 3, **number),
        node("Concat", ["b", "c", "a"], ["y"], axis=-1 if opset >= 11 else 3),
    ], {}


def slice_(opset: int) -> Built:
    if opset < 10:
        return [node("Slice", ["x"], ["y"], starts=[1, -5], ends=[2**31 - 1, -1], axes=[1, 2])], {}
    return [node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"])], {
        "starts": integers(1, -1),
        "ends": integers(2**63 - 1, -(2**63)),
        "axes": integers(1, 2),
        "steps": integers(1, -2),
    }


def reduce_mean(opset: int) -> Built:
    if opset < 18:
        return [node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)], {}
    return [node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)], {"axes": integers(-1, 2)}


def reduce_all(opset: int) -> Built:
    return [node("ReduceMean", ["x"], ["y"])], {}


def reduce_max(opset: int) -> Built:
    if opset < 18:
        return [node("ReduceMax", ["x"], ["y"], axes=[1, 2], keepdims=0)], {}
    return [node("ReduceMax", ["x", "axes"], ["y"], keepdims=0)], {"axes": integers(1, 2)}


def reduce_sum(opset: int) -> Built:
    if opset < 13:
        return [node("ReduceSum", ["x"], ["y"], axes=[1, 3])], {}
    return [node("ReduceSum", ["x", "axes"], ["y"])], {"axes": integers(-1, 1)}


def reshape(opset: int) -> Built:
    return [node("Reshape", ["x", "shape"], ["y"])], {"shape": integers(0, -1, 4)}


def flatten(opset: int) -> Built:
    return [node("Flatten", ["x"], ["y"], axis=2)], {}


def dropout(opset: int) -> Built:
    if opset < 12:
        return [node("Dropout", ["x"], ["kept"], ratio=0.9), node("Relu", ["kept"], ["y"])], {}
    return [node("Dropout", ["x", "ratio"], ["kept"]), node("Relu", ["kept"], ["y"])], {"ratio": np.float32(0.9)}


def batch_normalization(opset: int) -> Built:
    # Before opset 14 the reference implementation uses the statistics of the batch, unless the momentum is 1.
    return [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=1e-3, momentum=1.0)], {
        "s": random(3),
        "b": random(3, seed=1),
        "m": random(3, seed=2),
        "v": random(3, seed=3) ** 2,
    }


def sum_(opset: int) -> Built:
    third = random(3, 1, 1) if opset >= 8 else random(2, 3, 8, 8)
    return [node("Sum", ["x", "x", "c"], ["y"])], {"c": third}


def average_pool(opset: int) -> Built:
    return [
        node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], count_include_pad=1)
    ], {}


def prelu(opset: int) -> Built:
    return [node("PRelu", ["x", "slope"], ["y"])], {"slope": random(3, 1, 1)}


def prelu_of_keras(opset: int) -> Built:
    return [
        node("Relu", ["x"], ["above"]),
        node("Neg", ["x"], ["minus"]),
        node("Relu", ["minus"], ["below"]),
        node("Mul", ["below", "minus_slope"], ["scaled"]),
        node("Add", ["above", "scaled"], ["y"]),
    ], {"minus_slope": -random(3, 1, 1)}


def convolution(opset: int) -> Built:
    return [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 0, 1, 2], strides=[2, 1], dilations=[1, 2]),
        node("Relu", ["c"], ["y"]),
    ], {"w": random(4, 3, 3, 3), "b": random(4)}


def power(opset: int) -> Built:
    """A square and a cube. The exponent of the cube is an integer if the opset allows that."""
    exponent = integers(3) if opset >= 12 else np.float32(3)
    return [node("Pow", ["x", "two"], ["a"]), node("Pow", ["a", "three"], ["y"])], {
        "two": np.float32(2),
        "three": np.asarray(exponent).reshape(()),
    }


def functions(opset: int) -> Built:
    names = ["Abs", "Sqrt", "Exp", "Reciprocal", "Softplus", "Log", "Floor", "Ceil"]
    ends = ["x", *names[:-1], "y"]
    return [node(op, [ends[i]], [ends[i + 1]]) for i, op in enumerate(names)], {}


def selu(opset: int) -> Built:
    return [node("Selu", ["x"], ["a"]), node("Selu", ["a"], ["y"], alpha=2.0, gamma=0.5)], {}


def largest_and_smallest(opset: int) -> Built:
    third = random(3, 1, 1) if opset >= 8 else random(2, 3, 8, 8)
    return [node("Max", ["x", "c"], ["a"]), node("Min", ["a", "d"], ["b"]), node("Max", ["b"], ["y"])], {
        "c": third,
        "d": third + 0.5,
    }


def gather(opset: int) -> Built:
    return [
        node("Gather", ["x", "some"], ["a"], axis=1),
        node("Gather", ["a", "last"], ["b"], axis=-1),
        node("Gather", ["b", "square"], ["y"], axis=2),
    ], {"some": integers(2, 0, 2), "last": np.array(-1), "square": np.array([[0, 3], [1, 7]])}


def instance_normalization(opset: int) -> Built:
    return [node("InstanceNormalization", ["x", "s", "b"], ["y"], epsilon=0.01)], {"s": random(3), "b": random(3)}


def lp_pool(opset: int) -> Built:
    return [node("LpPool", ["x"], ["y"], kernel_shape=[3, 2], p=3, pads=[1, 0, 1, 0], strides=[2, 1])], {}


BUILDERS: list[Callable[[int], Built]] = [
    average_pool,
    batch_normalization,
    clip,
    clip_above,
    clip_below,
    convolution,
    dropout,
    flatten,
    functions,
    gather,
    instance_normalization,
    largest_and_smallest,
    lp_pool,
    pad,
    pad_some_axes,
    power,
    prelu,
    prelu_of_keras,
    reduce_all,
    reduce_max,
    reduce_mean,
    reduce_sum,
    reshape,
    selu,
    slice_,
    split,
    split_evenly,
    squeeze,
    squeeze_all,
    sum_,
    unsqueeze,
]


def versions(build: Callable[[int], Built]) -> list[int]:
    """The opsets at which an operator of a builder got a new version, the first opset and the last."""
    names = {proto.op_type for opset in OPSETS for proto in build(opset)[0]}
    schemas = onnx.defs.get_all_schemas_with_history()
    changes = {schema.since_version for schema in schemas if schema.domain == "" and schema.name in names}
    return sorted({OPSETS[0], OPSETS[-1], *changes.intersection(OPSETS)})


@pytest.mark.parametrize(
    ("build", "opset"),
    [pytest.param(build, opset, id=f"{build.__name__}-{opset}") for build in BUILDERS for opset in versions(build)],
)
def test_operator(build: Callable[[int], Built], opset: int, tmp_path: Path) -> None:
    nodes, constants = build(opset)
    shape = (2, 3, 8, 9) if build is split_evenly else (2, 3, 8, 8)
    check(make_model(nodes, constants, inputs={"x": shape}, opset=opset), tmp_path)


@pytest.mark.parametrize("opset", [7, OPSETS[-1]])
def test_global_lp_pool(opset: int, tmp_path: Path) -> None:
    """The reference implementation lacks this operator."""
    path = streamrt.pack(make_model([node("GlobalLpPool", ["x"], ["y"], p=3)], opset=opset), tmp_path / "out")
    x = random(2, 3, 8, 8)
    wanted = (np.abs(x.astype(np.float64)) ** 3).sum(axis=(2, 3), keepdims=True) ** (1 / 3)
    np.testing.assert_allclose(run_packed(path, {"x": x})[0], wanted, rtol=1e-5)


@pytest.mark.parametrize("opset", [9, 16, OPSETS[-1]])
def test_where_and_expand(opset: int, tmp_path: Path) -> None:
    nodes = [node("Expand", ["x", "shape"], ["a"]), node("Where", ["chosen", "a", "c"], ["y"])]
    constants = {"shape": integers(3, 4, 1), "chosen": random(4, 1) > 0, "c": random(3, 1, 1)}
    check(make_model(nodes, constants, inputs={"x": (2, 3, 1, 5)}, opset=opset), tmp_path)


@pytest.mark.parametrize("opset", [17, OPSETS[-1]])
@pytest.mark.parametrize("axis", [1, -1])
def test_layer_normalization(axis: int, opset: int, tmp_path: Path) -> None:
    nodes = [node("LayerNormalization", ["x", "s", "b"], ["n"], axis=axis), node("Relu", ["n"], ["y"])]
    shape = (3, 8, 8)[axis - 1 if axis > 0 else axis :]
    check(make_model(nodes, {"s": random(*shape), "b": random(*shape, seed=1)}, opset=opset), tmp_path)


@pytest.mark.parametrize("opset", OPSETS)
def test_a_small_network_in_every_opset(opset: int, tmp_path: Path) -> None:
    nodes, constants = convolution(opset)
    nodes += [
        node("BatchNormalization", ["y", "s", "b2", "m", "v"], ["n"], momentum=1.0),
        node("MaxPool", ["n"], ["p"], kernel_shape=[2, 2]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "g"], ["z"], transB=1),
    ]
    constants |= {"s": random(4), "b2": random(4), "m": random(4), "v": random(4) ** 2, "g": random(5, 60)}
    if opset < 11:  # before, the input C was not optional
        nodes[-1].input.append("bias")
        constants["bias"] = random(5)
    check(make_model(nodes, constants, outputs=["z"], opset=opset), tmp_path)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("opset", [7, 11, 12, 13, OPSETS[-1]])
def test_softmax(op: str, axis: int | None, opset: int, tmp_path: Path) -> None:
    """Before opset 13 all axes from ``axis`` on (default: 1) count as one. The reference implementation ignores it."""
    attributes = {} if axis is None else {"axis": axis}
    path = streamrt.pack(make_model([node(op, ["x"], ["y"], **attributes)], opset=opset), tmp_path / "out")
    x = random(2, 3, 8, 8)
    (found,) = run_packed(path, {"x": x})
    start = (1 if opset < 13 else 3) if axis is None else axis
    axes = tuple(range(start, 4)) if opset < 13 else (start,)
    exponentials = np.exp(x.astype(np.float64))
    wanted = exponentials / exponentials.sum(axis=axes, keepdims=True)
    np.testing.assert_allclose(found, wanted if op == "Softmax" else np.log(wanted), rtol=1e-5)


@pytest.mark.parametrize("opset", [6, OPSETS[-1] + 1])
def test_other_opsets_are_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(streamrt.UnsupportedModelError, match=f"opset {opset}: expected 7 to"):
        streamrt.pack(make_model([node("Relu", ["x"], ["y"])], opset=opset), tmp_path / "out")


@pytest.mark.parametrize("opset", [18, OPSETS[-1]])
@pytest.mark.parametrize("axes", [None, ()])
def test_reduce_mean_that_does_nothing(opset: int, axes: tuple[int, ...] | None, tmp_path: Path) -> None:
    constants = {} if axes is None else {"axes": integers(*axes)}
    mean = node("ReduceMean", ["x", *constants], ["m"], noop_with_empty_axes=1)
    graph = check(make_model([mean, node("Relu", ["m"], ["y"])], constants, opset=opset), tmp_path)
    assert ops(graph) == ["Relu"]


NEWER: dict[str, tuple[int, Any, dict[str, Any]]] = {
    "Erf": (7, node("Erf", ["x"], ["y"]), {}),
    "Expand": (7, node("Expand", ["x", "shape"], ["y"]), {"shape": integers(2, 3, 8, 8)}),
    "Gelu": (13, node("Gelu", ["x"], ["y"]), {}),
    "GreaterOrEqual": (11, node("GreaterOrEqual", ["x", "k"], ["y"]), {"k": random(8)}),
    "HardSwish": (13, node("HardSwish", ["x"], ["y"]), {}),
    "LayerNormalization": (13, node("LayerNormalization", ["x", "k", "k"], ["y"]), {"k": random(8)}),
    "Mish": (13, node("Mish", ["x"], ["y"]), {}),
    "Where": (7, node("Where", ["chosen", "x", "k"], ["y"]), {"k": random(8), "chosen": random(8) > 0}),
}


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("op", NEWER)
def test_operators_that_are_newer_than_the_opset(op: str, constant: bool, tmp_path: Path) -> None:
    """Exporters write such nodes, and runtimes that have the operator run them."""
    opset, newer, constants = NEWER[op]
    nodes = [newer]
    if constant:  # the operator is computed when the model is packed
        nodes = [onnx.NodeProto.FromString(newer.SerializeToString())]
        nodes[0].input[:] = ["c" if name == "x" else name for name in newer.input]
        nodes[0].output[0] = "made"
        nodes += [node("Cast", ["made"], ["float"], to=onnx.TensorProto.FLOAT), node("Add", ["x", "float"], ["y"])]
        constants = constants | {"c": random(2, 3, 8, 8, seed=5)}
    old, new = (make_model(nodes, constants, opset=version) for version in (opset, OPSETS[-1]))
    check(old, tmp_path, same_as=new)
