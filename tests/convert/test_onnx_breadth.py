"""Operators that few models have: each gives the reference's answer in every version from opset 7 on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import OPSETS, check, integers, make_model, onnx, ops, random, run_packed

helper = onnx.helper
node = helper.make_node

# name: (node, constants)
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    **{op: (node(op, ["x"], ["y"]), {}) for op in ("Asinh", "Atan", "Cos", "Cosh", "Round", "Sin", "Sinh", "Tan")},
    "Softsign": (node("Softsign", ["x"], ["y"]), {}),
    "Celu": (node("Celu", ["x"], ["y"]), {}),
    "Celu of alpha": (node("Celu", ["x"], ["y"], alpha=0.5), {}),
    "ThresholdedRelu": (node("ThresholdedRelu", ["x"], ["y"], alpha=0.3), {}),
    "Shrink": (node("Shrink", ["x"], ["y"]), {}),
    "Shrink of bias": (node("Shrink", ["x"], ["y"], bias=0.25, lambd=0.75), {}),
    "Mean": (node("Mean", ["x", "k", "x"], ["y"]), {"k": random(8)}),
    "Mean of one": (node("Mean", ["x"], ["y"]), {}),
    "Mod": (node("Mod", ["x", "k"], ["y"], fmod=1), {"k": random(8)}),
    "MeanVarianceNormalization": (node("MeanVarianceNormalization", ["x"], ["y"]), {}),
    "MeanVarianceNormalization of an axis": (node("MeanVarianceNormalization", ["x"], ["y"], axes=[-1]), {}),
    "LpNormalization": (node("LpNormalization", ["x"], ["y"]), {}),
    "LpNormalization of channels": (node("LpNormalization", ["x"], ["y"], axis=1, p=2), {}),
    "Trilu": (node("Trilu", ["x"], ["y"]), {}),
    "Trilu of k": (node("Trilu", ["x", "k"], ["y"], upper=0), {"k": integers(2).reshape(())}),
    "Tile": (node("Tile", ["x", "k"], ["y"]), {"k": integers(1, 2, 1, 3)}),
    "Tile once": (node("Tile", ["x", "k"], ["y"]), {"k": integers(1, 1, 1, 1)}),
    "CumSum": (node("CumSum", ["x", "k"], ["y"]), {"k": integers(-1).reshape(())}),
    "CumSum reversed": (node("CumSum", ["x", "k"], ["y"], reverse=1, exclusive=1), {"k": integers(2).reshape(())}),
    "ReverseSequence": (node("ReverseSequence", ["x", "k"], ["y"]), {"k": integers(2, 1, 2)}),
    "GatherElements": (
        node("GatherElements", ["x", "k"], ["y"], axis=-1),
        {"k": np.arange(384).reshape(2, 3, 8, 8) % 8 - 4},
    ),
    "GatherND": (node("GatherND", ["x", "k"], ["y"]), {"k": integers(1, 2, 0, -1).reshape(2, 1, 2)}),
    "CenterCropPad": (node("CenterCropPad", ["x", "k"], ["y"]), {"k": integers(2, 4, 5, 11)}),
    "CenterCropPad of axes": (node("CenterCropPad", ["x", "k"], ["y"], axes=[-1, 2]), {"k": integers(3, 5)}),
    "CenterCropPad of nothing": (node("CenterCropPad", ["x", "k"], ["y"], axes=[1]), {"k": integers(3)}),
    "ScatterElements": (
        node("ScatterElements", ["x", "k", "u"], ["y"], axis=3),
        {"k": np.arange(48).reshape(2, 3, 8, 1) % 8 - 4, "u": random(2, 3, 8, 1)},
    ),
    "ScatterND": (node("ScatterND", ["x", "k", "u"], ["y"]), {"k": integers(1, 0).reshape(1, 2), "u": random(1, 8, 8)}),
    "ScatterND that adds": (
        node("ScatterND", ["x", "k", "u"], ["y"], reduction="add"),
        {"k": integers(1, 0, 1, 0).reshape(2, 2), "u": random(2, 8, 8)},
    ),
}


def versions(proto: Any) -> list[int]:
    """The opsets at which the operator got a new version that has the node's attributes, and the last opset."""
    schemas = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == "" and s.name == proto.op_type]
    fits = {s.since_version for s in schemas if {a.name for a in proto.attribute} <= s.attributes.keys()}
    return sorted({max(OPSETS[0], version) for version in fits} | {OPSETS[-1]})


@pytest.mark.parametrize(
    ("name", "opset"), [pytest.param(name, v, id=f"{name}-{v}") for name in CASES for v in versions(CASES[name][0])]
)
def test_operator(name: str, opset: int, tmp_path: Path) -> None:
    proto, constants = CASES[name]
    check(make_model([proto], constants, opset=opset), tmp_path)


@pytest.mark.parametrize("op", ["Acos", "Asin", "Atanh"])
def test_functions_of_numbers_up_to_one(op: str, tmp_path: Path) -> None:
    nodes = [node("Tanh", ["x"], ["t"]), node(op, ["t"], ["y"])]
    assert ops(check(make_model(nodes), tmp_path)) == ["Tanh", op]


def test_acosh(tmp_path: Path) -> None:
    nodes = [node("Cosh", ["x"], ["t"]), node("Acosh", ["t"], ["y"])]
    check(make_model(nodes), tmp_path, tolerance=1e-4)


@pytest.mark.parametrize("p", [1, 2])
def test_a_norm_of_zero_gives_zero(p: int, tmp_path: Path) -> None:
    """The reference implementation adds values for p = 1, where their magnitudes count."""
    x = np.array([[3, -4], [0, 0], [1e-30, 0]], np.float32)
    model = make_model([node("LpNormalization", ["x"], ["y"], p=p)], inputs={"x": (3, 2)})
    (found,) = run_packed(streamrt.pack(model, tmp_path / "out"), {"x": x})
    norms = {1: [[7], [1], [1e-30]], 2: [[5], [1], [1]]}[p]
    np.testing.assert_allclose(found[:2], (x / np.float32(norms))[:2], rtol=1e-6)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("opset", [7, 11, 13, 18, OPSETS[-1]])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("op", ["ReduceProd", "ReduceLogSumExp", "ReduceL2"])
@pytest.mark.parametrize("axes", [None, (1,), (0, -1)])
def test_reductions(op: str, axes: tuple[int, ...] | None, keepdims: int, opset: int, tmp_path: Path) -> None:
    constants: dict[str, Any] = {}
    attributes: dict[str, Any] = {"keepdims": keepdims}
    if axes is not None and opset >= 18:
        constants = {"axes": integers(*axes)}
    elif axes is not None:
        attributes["axes"] = list(axes)
    check(make_model([node(op, ["x", *constants], ["y"], **attributes)], constants, opset=opset), tmp_path)


def test_the_logarithm_of_large_and_infinite_sums(tmp_path: Path) -> None:
    x = np.array([[200, 201, 199], [-300, -301, -302], [1, np.inf, 2], [-np.inf] * 3], np.float32)
    model = make_model([node("ReduceLogSumExp", ["x", "a"], ["y"])], {"a": integers(1)}, inputs={"x": (4, 3)})
    with np.errstate(divide="ignore"):
        (found,) = run_packed(streamrt.pack(model, tmp_path / "out"), {"x": x})
    wanted = np.logaddexp.reduce(x.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("op", "function"),
    [("ReduceL1", np.abs), ("ReduceSumSquare", np.square), ("ReduceL2", np.abs), ("ReduceLogSum", np.log)],
)
def test_norms_without_axes_that_reduce_nothing(op: str, function: Any, tmp_path: Path) -> None:
    x = np.abs(random(2, 3)) + np.float32(0.1)
    x[0, 0] *= -1 if op != "ReduceLogSum" else 1
    model = make_model([node(op, ["x"], ["y"], noop_with_empty_axes=1)], inputs={"x": (2, 3)})
    (found,) = run_packed(streamrt.pack(model, tmp_path / "out"), {"x": x})
    np.testing.assert_allclose(found, function(x), rtol=1e-6)


@pytest.mark.parametrize("opset", [18, 21, OPSETS[-1]])
def test_group_normalization(opset: int, tmp_path: Path) -> None:
    """Before opset 21, scale and bias are values of groups; after that, of channels."""
    count = 2 if opset < 21 else 4
    scale, bias, x = random(count), random(count, seed=1), random(3, 4, 5, 6)
    nodes = [node("GroupNormalization", ["x", "s", "b"], ["n"], num_groups=2), node("Relu", ["n"], ["y"])]
    model = make_model(nodes, {"s": scale, "b": bias}, inputs={"x": ("N", 4, 5, 6)}, opset=opset)
    (found,) = run_packed(streamrt.pack(model, tmp_path / "out"), {"x": x})
    wide = x.astype(np.float64).reshape(3, 2, -1)
    normal = (wide - wide.mean(2, keepdims=True)) / np.sqrt(wide.var(2, keepdims=True) + 1e-5)
    column = (np.repeat(v, 4 // count).reshape(4, 1, 1) for v in (scale, bias))
    wanted = normal.reshape(x.shape) * next(column) + next(column)
    np.testing.assert_allclose(found, np.maximum(wanted, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [None, 0, 2])
@pytest.mark.parametrize("opset", [7, 11, 13])
def test_hardmax(axis: int | None, opset: int, tmp_path: Path) -> None:
    """Before opset 13 all axes from ``axis`` on (default: 1) count as one."""
    attributes = {} if axis is None else {"axis": axis}
    x = random(2, 3, 4)
    model = make_model([node("Hardmax", ["x"], ["y"], **attributes)], inputs={"x": (2, 3, 4)}, opset=opset)
    (found,) = run_packed(streamrt.pack(model, tmp_path / "out"), {"x": x})
    start = (1 if opset < 13 else 2) if axis is None else axis
    axes = tuple(range(start, 3)) if opset < 13 else (start,)
    np.testing.assert_array_equal(found, x == x.max(axis=axes, keepdims=True))


@pytest.mark.parametrize("opset", [7, 10, 11, OPSETS[-1]])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(largest: int, opset: int, tmp_path: Path) -> None:
    """``k`` is an attribute up to opset 9. Indices are int64."""
    attributes: dict[str, Any] = {"axis": 1} if largest or opset < 11 else {"axis": 1, "largest": 0, "sorted": 0}
    inputs, constants = (["x"], {}) if opset < 10 else (["x", "k"], {"k": integers(2)})
    attributes |= {"k": 2} if opset < 10 else {}
    model = make_model([node("TopK", inputs, ["v", "i"], **attributes)], constants, outputs=["v", "i"], opset=opset)
    model.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    x = random(2, 3, 8, 8)
    values, indices = run_packed(streamrt.pack(model, tmp_path / "out"), {"x": x})
    order = np.argsort(x if "largest" in attributes else -x, axis=1)[:, :2]
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, 1))


@pytest.mark.parametrize("opset", [9, 11, OPSETS[-1]])
def test_one_hot_of_computed_indices(opset: int, tmp_path: Path) -> None:
    nodes = [
        node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
        node("OneHot", ["i", "depth", "values"], ["y"], axis=1),
    ]
    constants = {"depth": integers(3).reshape(()), "values": np.array([0.5, 2], np.float32)}
    assert ops(check(make_model(nodes, constants, opset=opset), tmp_path)) == ["ArgMax", "OneHot"]


@pytest.mark.parametrize(("opset", "modes"), [(16, ("bilinear", "bicubic")), (OPSETS[-1], ("linear", "cubic"))])
def test_grid_sample(opset: int, modes: tuple[str, ...], tmp_path: Path) -> None:
    """Modes have other names up to opset 19, which onnx's reference does not know."""
    for mode, name in zip(("nearest", *modes), ("nearest", "linear", "cubic"), strict=True):
        given, newest = (
            node("GridSample", ["x", "g"], ["y"], mode=each, padding_mode="border", align_corners=1)
            for each in (mode, name)
        )
        inputs = {"x": (2, 3, 5, 6), "g": (2, 3, 4, 2)}
        model = make_model([given], inputs=inputs, opset=opset)
        check(model, tmp_path, same_as=make_model([newest], inputs=inputs))


@pytest.mark.parametrize("opset", [11, 13, 18, OPSETS[-1]])
@pytest.mark.parametrize("antialias", [0, 1])
def test_cubic_resize(antialias: int, opset: int, tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}
    attributes |= {"antialias": antialias} if opset >= 18 else {}
    resize = node("Resize", ["x", "", "", "k"], ["y"], **attributes)
    model = make_model([resize], {"k": integers(1, 2, 5, 11)}, inputs={"x": (1, 2, 8, 6)}, opset=opset)
    if opset < 13:  # the region is not optional
        model.graph.node[0].input[1:3] = ["none", "none"]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(0, np.float32), "none"))
    newest = make_model([resize], {"k": integers(1, 2, 5, 11)}, inputs={"x": (1, 2, 8, 6)})
    check(model, tmp_path, same_as=newest)


@pytest.mark.parametrize("to", ["FLOAT", "BOOL"])
def test_cast_like(to: str, tmp_path: Path) -> None:
    """The values of the second input are not read: a constant of another shape is enough."""
    like = {"FLOAT": np.float32(0), "BOOL": np.bool_(False)}[to]
    nodes = [node("Greater", ["x", "zero"], ["t"]), node("CastLike", ["t", "like"], ["c"])]
    nodes.append(node("Cast", ["c"], ["y"], to=onnx.TensorProto.FLOAT))
    graph = check(make_model(nodes, {"zero": np.float32(0), "like": np.asarray(like)}), tmp_path)
    assert ops(graph) == ["Greater"]


def test_scatter_of_opset_10(tmp_path: Path) -> None:
    constants = {"k": np.array([[2, 0]]), "u": random(1, 2)}
    model = make_model([node("Scatter", ["x", "k", "u"], ["y"], axis=1)], constants, inputs={"x": (3, 4)}, opset=10)
    (found,) = run_packed(streamrt.pack(model, tmp_path / "out"), {"x": (x := random(3, 4))})
    x[0, [2, 0]] = constants["u"]
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize(
    ("proto", "constants", "match"),
    [
        (node("TopK", ["x", "k"], ["y", ""]), {"k": integers(1, 2)}, "k is"),
        (node("TopK", ["x", "x"], ["y", ""]), {}, "computed, expected a constant"),
        (node("Tile", ["x", "x"], ["y"]), {}, "computed, expected a constant"),
        (node("GatherElements", ["x", "k"], ["y"]), {"k": np.zeros((2, 3, 8, 100), np.int64)}, "4800 values"),
        (node("OneHot", ["x", "x", "k"], ["y"]), {"k": random(2)}, "computed, expected a constant"),
        (node("Celu", ["x"], ["y"], alpha=0.0), {}, "alpha"),
        (node("LpNormalization", ["x"], ["y"], p=3), {}, "'p' is 3"),
        (node("GroupNormalization", ["x", "k", "k"], ["y"], num_groups=2), {"k": random(3)}, "2 groups"),
        (node("GroupNormalization", ["x", "k", "k"], ["y"], num_groups=3), {"k": random(4)}, "scale has shape"),
    ],
)
def test_nodes_that_are_refused(proto: Any, constants: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(streamrt.StreamrtError, match=match):
        streamrt.pack(make_model([proto], constants), tmp_path / "out")
