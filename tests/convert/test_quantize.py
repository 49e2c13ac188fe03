"""Quantised activations: their steps are fused, and products of integers keep their weights in one byte each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import check, expected, make_model, onnx, ops, random, run_packed
from streamrt.errors import UnsupportedModelError
from streamrt.format import read_header

node = onnx.helper.make_node
Array = np.ndarray[Any, Any]
KINDS = {"uint8": (np.uint8, 117), "int8": (np.int8, -9), "uint16": (np.uint16, 30000), "int16": (np.int16, -5000)}


def scalar(value: float, dtype: Any = np.float32) -> Array:
    return np.asarray(value, dtype)


def steps(scale: float = 0.02, zero: int = 117, dtype: Any = np.uint8, name: str = "") -> dict[str, Array]:
    """A scale and a zero point."""
    return {f"s{name}": scalar(scale), f"z{name}": scalar(zero, dtype)}


def q(x: str, y: str, name: str = "", **attributes: Any) -> Any:
    return node("QuantizeLinear", [x, f"s{name}", f"z{name}"], [y], **attributes)


def dq(x: str, y: str, name: str = "", **attributes: Any) -> Any:
    return node("DequantizeLinear", [x, f"s{name}", f"z{name}"], [y], **attributes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_one_operator_with_the_bits_of_onnx(kind: str, tmp_path: Path) -> None:
    dtype, zero = KINDS[kind]
    scale = 6 / np.iinfo(dtype).max
    graph = check(make_model([q("x", "i"), dq("i", "y")], steps(scale, zero, dtype)), tmp_path, tolerance=0)
    assert ops(graph) == ["QuantizeDequantizeLinear"]
    attrs = graph.nodes[0].attrs
    assert attrs == {"scale": float(np.float32(scale)), "zero_point": zero, "dtype": kind}


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_a_pair_along_an_axis_stays_two_operators(kind: str, tmp_path: Path) -> None:
    parts = {"s": np.abs(random(3)) / 40, "z": np.array([1, 2, 100], KINDS[kind][0])}
    graph = check(make_model([q("x", "i", axis=-3), dq("i", "y", axis=1)], parts), tmp_path, tolerance=0)
    assert ops(graph) == ["QuantizeLinear", "DequantizeLinear"]


def test_without_a_zero_point_integers_are_uint8(tmp_path: Path) -> None:
    nodes = [node("QuantizeLinear", ["x", "s"], ["i"]), node("DequantizeLinear", ["i", "s"], ["y"])]
    graph = check(make_model(nodes, {"s": scalar(0.01)}), tmp_path, tolerance=0)
    assert graph.nodes[0].attrs == {"scale": float(np.float32(0.01)), "zero_point": 0, "dtype": "uint8"}


def test_output_dtype(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["i"], output_dtype=onnx.TensorProto.INT8),
        node("DequantizeLinear", ["i", "s"], ["y"]),
    ]
    graph = check(make_model(nodes, {"s": scalar(0.01)}), tmp_path, tolerance=0)
    assert graph.nodes[0].attrs["dtype"] == "int8"


@pytest.mark.parametrize("opset", [10, 13, 19, 21, 23])
def test_opsets(opset: int, tmp_path: Path) -> None:
    model = make_model([q("x", "i"), dq("i", "y")], steps(), opset=opset)
    same = make_model([q("x", "i"), dq("i", "y")], steps())
    assert ops(check(model, tmp_path, tolerance=0, same_as=same)) == ["QuantizeDequantizeLinear"]


def test_the_last_step_of_a_convolution_and_its_relu(tmp_path: Path) -> None:
    """The type limits values to 0 and above, as the Relu does."""
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        q("r", "i"),
        dq("i", "y"),
    ]
    constants = {"w": random(5, 3, 3, 3), "b": random(5, seed=1)} | steps(0.05, 0)
    x = random(2, 3, 8, 8)
    model = make_model(nodes, constants)
    path = streamrt.pack(model, tmp_path / "packed")
    assert ops(read_header(path).graph) == ["Conv+QuantizeDequantizeLinear"]
    found, wanted = run_packed(path, {"x": x})[0], expected(model, {"x": x})[0]
    assert np.abs(found - wanted).max() <= 0.0501
    assert np.mean(found != wanted) < 0.01


@pytest.mark.parametrize("limit", ["Relu", "Clip"])
def test_limits_within_the_type_stay(limit: str, tmp_path: Path) -> None:
    """A zero point above the least integer lets negative numbers through; 0.02 * 138 is above the Clip's 2."""
    bounds = ["low", "high"] if limit == "Clip" else []
    nodes = [node(limit, ["x", *bounds], ["r"]), q("r", "i"), dq("i", "y")]
    constants = steps() | {"low": scalar(-9), "high": scalar(2)}
    graph = check(make_model(nodes, constants), tmp_path, tolerance=0)
    assert ops(graph) == [limit, "QuantizeDequantizeLinear"]


def test_a_clip_as_wide_as_the_type_goes(tmp_path: Path) -> None:
    """The integers mean numbers from 0.02 * -117 to 0.02 * 138."""
    nodes = [node("Clip", ["x", "low", "high"], ["r"]), q("r", "i"), dq("i", "y")]
    constants = steps() | {"low": scalar(-2.35), "high": scalar(2.77)}
    assert ops(check(make_model(nodes, constants), tmp_path, tolerance=0)) == ["QuantizeDequantizeLinear"]


#: Operators that only move values, between a QuantizeLinear and a DequantizeLinear.
MOVES: dict[str, list[Any]] = {
    "MaxPool": [node("MaxPool", ["i"], ["j"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
    "Reshape": [node("Reshape", ["i", "shape"], ["j"])],
    "Transpose, Flatten": [node("Transpose", ["i"], ["t"], perm=[0, 2, 3, 1]), node("Flatten", ["t"], ["j"])],
    "Concat": [node("MaxPool", ["i"], ["m"], kernel_shape=[1, 1]), node("Concat", ["m", "i"], ["j"], axis=1)],
    "Concat with itself": [node("Concat", ["i", "i"], ["j"], axis=1)],
    "Slice": [node("Slice", ["i", "start", "end", "axis"], ["j"])],
    "Squeeze": [node("Unsqueeze", ["i", "axis"], ["u"]), node("Squeeze", ["u", "axis"], ["j"])],
    "Gather": [node("Gather", ["i", "start"], ["j"], axis=2)],
    "Pad": [node("Pad", ["i", "pads", "z"], ["j"])],
    "Pad of another value": [node("Pad", ["i", "pads", "seven"], ["j"])],
    "Pad by the edge": [node("Pad", ["i", "pads"], ["j"], mode="edge")],
    "Identity": [node("Identity", ["i"], ["j"])],
    "SpaceToDepth": [node("SpaceToDepth", ["i"], ["j"], blocksize=2)],
    "DepthToSpace": [
        node("Concat", ["i", "i", "i", "i"], ["c"], axis=1),
        node("DepthToSpace", ["c"], ["j"], blocksize=2),
    ],
    "Resize": [node("Resize", ["i", "", "scales"], ["j"])],
}
MOVED = {
    "shape": np.array([2, -1], np.int64),
    "start": np.array([1], np.int64),
    "end": np.array([5], np.int64),
    "axis": np.array([2], np.int64),
    "pads": np.array([0, 0, 1, 2, 0, 0, 3, 0], np.int64),
    "seven": scalar(7, np.uint8),
    "scales": np.array([1, 1, 2, 1.5], np.float32),
}


#: The reference casts NaN to the integers with which it pads.
reference_casts = pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")


@reference_casts
@pytest.mark.parametrize("case", MOVES)
def test_values_move_as_real_numbers(case: str, tmp_path: Path) -> None:
    nodes = [q("x", "i"), *MOVES[case], dq("j", "y")]
    graph = check(make_model(nodes, steps() | MOVED), tmp_path, tolerance=0)
    assert "QuantizeLinear" not in ops(graph)
    assert "DequantizeLinear" not in ops(graph)
    assert "QuantizeDequantizeLinear" in ops(graph)


@pytest.mark.parametrize("case", MOVES)
def test_values_that_keep_their_steps_are_not_quantised_again(case: str, tmp_path: Path) -> None:
    nodes = [q("x", "a"), dq("a", "i"), *MOVES[case], q("j", "b"), dq("b", "y")]
    constants = steps() | MOVED
    if case.startswith("Pad"):
        constants["seven"] = scalar(0.7)
        nodes = [node("Pad", ["i", "pads", "seven"], ["j"]) if n.op_type == "Pad" else n for n in nodes]
    graph = check(make_model(nodes, constants), tmp_path, tolerance=0)
    assert sum("QuantizeDequantizeLinear" in op for op in ops(graph)) == (2 if case.startswith("Pad") else 1)


def test_other_steps_quantise_again(tmp_path: Path) -> None:
    nodes = [q("x", "a"), dq("a", "b"), q("b", "c", "2"), dq("c", "y", "2")]
    constants = steps() | steps(0.033, 100, name="2")
    assert ops(check(make_model(nodes, constants), tmp_path, tolerance=0)) == ["QuantizeDequantizeLinear"] * 2


@pytest.mark.parametrize("parts", [steps(0.033, 117, name="2"), steps(0.02, 116, name="2")], ids=["scale", "zero"])
def test_a_pair_of_other_steps_stays_two_operators(parts: dict[str, Array], tmp_path: Path) -> None:
    graph = check(make_model([q("x", "i"), dq("i", "y", "2")], steps() | parts), tmp_path, tolerance=0)
    assert ops(graph) == ["QuantizeLinear", "DequantizeLinear"]


def test_a_tensor_that_is_dequantised_twice_is_one_tensor(tmp_path: Path) -> None:
    """Exporters write a DequantizeLinear for each reader."""
    nodes = [q("x", "i"), dq("i", "a"), dq("i", "b"), node("Relu", ["a"], ["r"]), node("Add", ["r", "b"], ["y"])]
    graph = check(make_model(nodes, steps()), tmp_path, tolerance=0)
    assert ops(graph) == ["QuantizeDequantizeLinear", "Relu", "Add"]


@reference_casts
def test_integers_that_are_dequantised_in_other_steps_stay_integers(tmp_path: Path) -> None:
    nodes = [q("x", "i"), node("MaxPool", ["i"], ["j"], kernel_shape=[2, 2]), dq("j", "a"), dq("j", "b", "2")]
    nodes.append(node("Add", ["a", "b"], ["y"]))
    graph = check(make_model(nodes, steps() | steps(0.033, 100, name="2")), tmp_path)
    assert ops(graph) == ["QuantizeLinear", "MaxPool", "DequantizeLinear", "DequantizeLinear", "Add"]


def test_padding_that_is_0_as_an_integer(tmp_path: Path) -> None:
    """It is not 0 as a real number, so that a convolution cannot take the Pad."""
    nodes = [q("x", "i"), node("Pad", ["i", "pads"], ["j"]), dq("j", "k"), node("Conv", ["k", "w"], ["y"])]
    graph = check(make_model(nodes, steps() | MOVED | {"w": random(4, 3, 3, 3)}), tmp_path)
    assert ops(graph) == ["QuantizeDequantizeLinear", "Pad", "Conv"]
    assert graph.nodes[1].attrs["value"] == pytest.approx(-117 * 0.02)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("per_axis", [False, True])
def test_weights_of_quantised_layers_stay_in_one_byte(per_axis: bool, kind: str, tmp_path: Path) -> None:
    dtype, zero = KINDS[kind]
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype)
    shape = (6,) if per_axis else ()
    constants = steps() | {
        "w": rng.integers(info.min, info.max + 1, (6, 3, 3, 3)).astype(dtype),
        "ws": np.asarray(rng.uniform(0.001, 0.01, shape), np.float32),
        "wz": np.full(shape, zero, dtype),
        "b": rng.integers(-9000, 9000, 6).astype(np.int32),
        "bs": np.asarray(rng.uniform(1e-4, 2e-4, shape), np.float32),
        "bz": np.zeros(shape, np.int32),
    }
    nodes = [
        q("x", "i"),
        dq("i", "r"),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wr"], axis=0),
        node("DequantizeLinear", ["b", "bs", "bz"], ["br"], axis=0),
        node("Conv", ["r", "wr", "br"], ["y"]),
    ]
    check(make_model(nodes, constants), tmp_path)
    tensors = read_header(tmp_path / "model.safetensors").tensors
    assert {(tensor.dtype, tensor.shape) for tensor in tensors.values()} == {("int8", (6, 3, 3, 3)), ("F32", (6,))}


@pytest.mark.parametrize("opset", [13, 17])
def test_a_bias_of_int32_in_an_opset_that_the_reference_does_not_compute(opset: int, tmp_path: Path) -> None:
    """The `onnx` package computes a DequantizeLinear from opset 19 on."""
    constants = {"b": np.array([2**30 + 1, -7, 12345678], np.int32), "bs": scalar(1e-8), "x": random(3)}
    nodes = [node("DequantizeLinear", ["b", "bs"], ["r"]), node("Add", ["x", "r"], ["y"])]
    del constants["x"]
    path = streamrt.pack(make_model(nodes, constants, inputs={"x": (3,)}, opset=opset), tmp_path / "packed")
    (y,) = run_packed(path, {"x": np.zeros(3, np.float32)})
    np.testing.assert_allclose(y, constants["b"] * 1e-8, rtol=1e-6)


# ------------------------------------------------------------------------------------------- products of integers


def dynamic(product: Any) -> list[Any]:
    """A dynamically quantised layer, as ONNX Runtime writes it."""
    return [
        node("DynamicQuantizeLinear", ["x"], ["i", "xs", "xz"]),
        product,
        node("Cast", ["p"], ["c"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["xs", "ws"], ["scale"]),
        node("Mul", ["c", "scale"], ["y"]),
    ]


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("zeros", ["none", "one", "per axis"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_dynamic_matmul(rank: int, zeros: str, kind: str, tmp_path: Path) -> None:
    dtype, _ = KINDS[kind]
    info = np.iinfo(dtype)
    rng = np.random.default_rng(1)
    constants = {"w": rng.integers(info.min, info.max + 1, (40, 7)).astype(dtype), "ws": scalar(0.01)}
    if zeros != "none":
        constants["wz"] = rng.integers(info.min, info.max + 1, () if zeros == "one" else 7).astype(dtype)
    names = ["i", "w", "xz", *(["wz"] if "wz" in constants else [])]
    shape = (5, 3, 40)[-rank:]
    model = make_model(dynamic(node("MatMulInteger", names, ["p"])), constants, inputs={"x": shape})
    check(model, tmp_path)
    (tensor,) = (tensor for tensor in read_header(tmp_path / "model.safetensors").tensors.values() if tensor.shape)
    if rank > 1:
        assert (tensor.dtype, tensor.shape) == ("int8", (7, 40))


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("zeros", ["none", "one"])
def test_dynamic_conv(zeros: str, kind: str, tmp_path: Path) -> None:
    dtype, _ = KINDS[kind]
    info = np.iinfo(dtype)
    rng = np.random.default_rng(1)
    constants = {"w": rng.integers(info.min, info.max + 1, (4, 3, 3, 3)).astype(dtype), "ws": scalar(0.01)}
    if zeros != "none":
        constants["wz"] = scalar(3, dtype)
    names = ["i", "w", "xz", *(["wz"] if "wz" in constants else [])]
    product = node("ConvInteger", names, ["p"], pads=[1, 0, 2, 1], strides=[2, 1])
    x = random(2, 3, 8, 9) + 1
    path = streamrt.pack(make_model(dynamic(product), constants, inputs={"x": x.shape}), tmp_path / "packed")
    (tensor,) = (tensor for tensor in read_header(path).tensors.values() if tensor.shape)
    assert tensor.dtype == "int8"
    # The reference pads with 0, and not with the zero point: so the definition, in integers.
    scale = (max(x.max(), 0) - min(x.min(), 0)) / np.float32(255)
    zero = np.rint(-min(x.min(), 0) / scale)
    whole = np.clip(np.rint(x / scale) + zero, 0, 255) - zero
    padded = np.pad(whole, ((0, 0), (0, 0), (1, 2), (0, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2]
    weights = constants["w"].astype(np.int64) - constants.get("wz", scalar(0)).astype(np.int64)
    wanted = np.einsum("nchwij,ocij->nohw", windows, weights) * (scale * np.float32(0.01))
    np.testing.assert_allclose(run_packed(path, {"x": x})[0], wanted, rtol=1e-5, atol=1e-5)


def test_a_zero_point_for_each_output_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    constants = {
        "w": rng.integers(0, 256, (4, 3, 1, 1)).astype(np.uint8),
        "wz": rng.integers(0, 256, 4).astype(np.uint8),
        "ws": scalar(0.01),
    }
    x = random(2, 3, 4, 4)
    product = node("ConvInteger", ["i", "w", "xz", "wz"], ["p"])
    path = streamrt.pack(make_model(dynamic(product), constants, inputs={"x": x.shape}), tmp_path / "packed")
    weights = (constants["w"].astype(np.float64) - constants["wz"].reshape(4, 1, 1, 1))[:, :, 0, 0] * 0.01
    wanted = np.einsum("oc,nchw->nohw", weights, x)
    assert np.abs(run_packed(path, {"x": x})[0] - wanted).max() < 0.03 * np.abs(wanted).max()


def test_two_computed_tensors(tmp_path: Path) -> None:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["i", "is", "iz"]),
        node("DynamicQuantizeLinear", ["w"], ["j", "js", "jz"]),
        node("MatMulInteger", ["i", "j", "iz", "jz"], ["p"]),
        node("Cast", ["p"], ["c"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["is", "js"], ["scale"]),
        node("Mul", ["c", "scale"], ["y"]),
    ]
    check(make_model(nodes, inputs={"x": (3, 4, 5), "w": (3, 5, 6)}), tmp_path)


def test_weights_of_one_byte_stream(tmp_path: Path) -> None:
    """Under the least budget, which is less than the codes, results are the same within the rounding of sums."""
    codes = np.random.default_rng(0).integers(-128, 128, (4096, 1024)).astype(np.int8)
    made = dynamic(node("MatMulInteger", ["i", "w", "xz"], ["p"]))
    model = make_model(made, {"w": codes, "ws": scalar(0.001)}, inputs={"x": ("N", 4096)})
    path = streamrt.pack(model, tmp_path / "packed")
    x = random(3, 4096)
    with streamrt.Model(path, budget=None) as whole:
        wanted, least = whole(x), whole.min_budget({"x": (3, 4096)})
    assert path.stat().st_size < 1.05 * codes.nbytes
    assert least < codes.nbytes / 2
    with streamrt.Model(path, budget=least) as streamed:
        np.testing.assert_allclose(streamed(x), wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
    np.testing.assert_allclose(wanted, expected(model, {"x": x})[0], rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


def test_samples_of_a_dynamic_batch_are_not_computed_apart(tmp_path: Path) -> None:
    """Scale and zero point are of the whole batch, as in ONNX."""
    constants = {"w": np.eye(6, dtype=np.int8), "ws": scalar(1)}
    model = make_model(dynamic(node("MatMulInteger", ["i", "w", "xz"], ["p"])), constants, inputs={"x": ("N", 6)})
    path = streamrt.pack(model, tmp_path / "packed")
    x = random(64, 6)
    x[7, 3] = 1000
    with streamrt.Model(path, budget=None) as whole:
        y = whole(x)
        budget = whole.min_budget()
    np.testing.assert_allclose(y, expected(model, {"x": x})[0], rtol=1e-5)
    assert (np.abs(y[:7] - x[:7]) > 0.1).any()
    with streamrt.Model(path, budget=budget) as least, pytest.raises(streamrt.BudgetError):
        least(x)


def test_sums_of_many_products(tmp_path: Path) -> None:
    """The largest sums that are accepted: float32 adds them up with a relative error below 1e-6."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (2**16, 3)).astype(np.uint8)
    constants = {"w": codes, "ws": scalar(1)}
    model = make_model(dynamic(node("MatMulInteger", ["i", "w", "xz"], ["p"])), constants, inputs={"x": (5, 2**16)})
    x = rng.integers(0, 256, (5, 2**16)).astype(np.float32)
    x[:, 0] = 255
    wanted = x.astype(np.int64) @ codes.astype(np.int64)
    (y,) = run_packed(streamrt.pack(model, tmp_path / "packed"), {"x": x})
    np.testing.assert_allclose(y, wanted, rtol=1e-6)
    constants["w"] = np.zeros((2**16 + 1, 3), np.uint8)
    model = make_model(model.graph.node, constants, inputs={"x": (5, 2**16 + 1)})
    with pytest.raises(UnsupportedModelError, match="sums of 65537 products of integers, expected at most 65536"):
        streamrt.pack(model, tmp_path / "packed")


# --------------------------------------------------------------------------------------------------------- refused

P = steps()
REFUSED: dict[str, tuple[list[Any], Mapping[str, Array], str]] = {
    "a scale of 0": ([q("x", "i"), dq("i", "y")], P | {"s": scalar(0)}, "has the value 0.0, expected finite numbers"),
    "a negative scale": ([q("x", "i"), dq("i", "y")], P | {"s": scalar(-1)}, "has the value -1.0"),
    "a scale of NaN": ([q("x", "i"), dq("i", "y")], P | {"s": scalar(np.nan)}, "has the value nan"),
    "an infinite scale": ([q("x", "i"), dq("i", "y")], P | {"s": scalar(np.inf)}, "has the value inf"),
    "one bad scale of an axis": (
        [q("x", "i"), dq("i", "y")],
        {"s": np.array([1, -2, 3], np.float32), "z": np.zeros(3, np.uint8)},
        "has the value -2.0",
    ),
    "a computed scale": (
        [node("ReduceMax", ["x"], ["m"], keepdims=0), node("QuantizeLinear", ["x", "m"], ["i"]), dq("i", "y")],
        P,
        r"input 1 \(scale, 'm'\) is computed",
    ),
    "a computed zero point": (
        [node("DynamicQuantizeLinear", ["x"], ["d", "ds", "dz"]), node("QuantizeLinear", ["x", "s", "dz"], ["y"])],
        P,
        r"input 2 \(zero point, 'dz'\) is computed",
    ),
    "zero points of another shape": (
        [q("x", "i"), dq("i", "y")],
        P | {"z": np.zeros(3, np.uint8)},
        r"input 2 \(zero point\) has shape \(3,\), expected that of the scale, \(\)",
    ),
    "a scale too many": (
        [q("x", "i"), dq("i", "y")],
        {"s": np.ones(4, np.float32), "z": np.zeros(4, np.uint8)},
        r"has shape \(4,\), expected one number, or one for each of the 3 indices of axis 1",
    ),
    "an axis beyond the rank": (
        [q("x", "i", axis=4), dq("i", "y")],
        {"s": np.ones(3, np.float32), "z": np.zeros(3, np.uint8)},
        "axis 4 of a tensor with 4 axes",
    ),
    "a huge axis": (
        [q("x", "i", axis=2**62), dq("i", "y")],
        {"s": np.ones(3, np.float32), "z": np.zeros(3, np.uint8)},
        "axis 4611686018427387904 of a tensor with 4 axes",
    ),
    "scales of blocks": (
        [q("x", "i", block_size=4, axis=3), dq("i", "y", block_size=4, axis=3)],
        {"s": np.ones((2, 3, 8, 2), np.float32), "z": np.zeros((2, 3, 8, 2), np.uint8)},
        "attribute 'block_size' is 4",
    ),
    "scales of two axes": (
        [q("x", "i"), dq("i", "y")],
        {"s": np.ones((2, 3), np.float32), "z": np.zeros((2, 3), np.uint8)},
        r"input 1 \(scale\) has shape \(2, 3\)",
    ),
    "a zero point of another type": (
        [q("x", "i"), node("DequantizeLinear", ["i", "s", "other"], ["y"])],
        P | {"other": scalar(0, np.int8)},
        r"input 2 \(zero point\) is int8, expected uint8",
    ),
    "a MatMulInteger of columns": (
        [q("x", "i"), node("MatMulInteger", ["i", "w", "zz"], ["j"]), dq("j", "y")],
        P | {"w": np.zeros((8, 4), np.uint8), "zz": np.zeros(8, np.uint8)},
        r"input 2 \(zero point\) has shape \(8,\), expected one number",
    ),
    "a zero point too many": (
        [q("x", "i"), node("MatMulInteger", ["i", "w", "", "zz"], ["j"]), dq("j", "y")],
        P | {"w": np.zeros((8, 4), np.uint8), "zz": np.zeros(3, np.uint8)},
        r"input 3 \(zero point\) has shape \(3,\), expected one number or 4 numbers",
    ),
    "computed weights": (
        [q("x", "i"), node("ConvInteger", ["i", "i"], ["j"]), node("Cast", ["j"], ["y"], to=1)],
        P,
        r"input 1 \(w, 'i'\) is computed, expected a constant",
    ),
    "float16 of 8 bits": (
        [node("QuantizeLinear", ["x", "s"], ["i"], output_dtype=17), node("DequantizeLinear", ["i", "s"], ["y"])],
        P,
        "the result is float8e4m3fn, expected one of uint8, int8, uint16, int16",
    ),
    "an unknown type": (
        [node("QuantizeLinear", ["x", "s"], ["i"], output_dtype=2**40), node("DequantizeLinear", ["i", "s"], ["y"])],
        P,
        "the result is 1099511627776, expected one of",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    nodes, constants, reason = REFUSED[case]
    with pytest.raises(UnsupportedModelError, match=reason):
        streamrt.pack(make_model(nodes, constants), tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
