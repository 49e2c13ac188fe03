"""Operators on integers with scales, of ONNX and of ONNX Runtime, and networks as ONNX Runtime quantises them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import make_model, onnx, ops, random, run_packed
from convert.test_quantize import dq, q, scalar, steps
from streamrt.convert.onnx.qlinear import Expansion
from streamrt.convert.weights import Weight
from streamrt.errors import UnsupportedModelError
from streamrt.format import read_header

node = onnx.helper.make_node
Array = np.ndarray[Any, Any]
F64 = np.ndarray[Any, np.dtype[np.float64]]

X, A, Y = (f"{name} s{name} z{name}".split() for name in "xao")
#: Scales and zero points of the tensors x, a and o.
PARTS = steps(0.02131, 120, name="x") | steps(0.01733, 99, name="a") | steps(0.04991, 90, name="o")
SHAPE = (2, 4, 6, 6)


def with_runtime(model: Any) -> Any:
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.ir_version = 10
    return model


def contributed(op: str, inputs: list[str], **attributes: Any) -> Any:
    return node(op, inputs, ["o"], domain="com.microsoft", **attributes)


def windows(x: F64, size: int, step: int) -> F64:
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::step, ::step]


def softmax(x: F64) -> F64:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


#: For each operator its node, and the function of the real numbers of x and a.
CASES: dict[str, tuple[Any, Callable[[F64, F64], F64]]] = {
    "QLinearAdd": (contributed("QLinearAdd", [*X, *A, *Y[1:]]), lambda x, a: x + a),
    "QLinearMul": (contributed("QLinearMul", [*X, *A, *Y[1:]]), lambda x, a: x * a),
    "QLinearSigmoid": (contributed("QLinearSigmoid", [*X, *Y[1:]]), lambda x, a: 1 / (1 + np.exp(-x))),
    "QLinearLeakyRelu": (
        contributed("QLinearLeakyRelu", [*X, *Y[1:]], alpha=0.25),
        lambda x, a: np.where(x < 0, 0.25 * x, x),
    ),
    "QLinearGlobalAveragePool": (
        contributed("QLinearGlobalAveragePool", [*X, *Y[1:]], channels_last=0),
        lambda x, a: x.mean((2, 3), keepdims=True),
    ),
    "QLinearAveragePool": (
        contributed("QLinearAveragePool", [*X, *Y[1:]], kernel_shape=[3, 3], strides=[2, 2]),
        lambda x, a: windows(x, 3, 2).mean((-2, -1)),
    ),
    "QLinearSoftmax": (contributed("QLinearSoftmax", [*X, *Y[1:]], axis=-1, opset=13), lambda x, a: softmax(x)),
    "QLinearConcat": (
        contributed("QLinearConcat", [*Y[1:], *X, *A, *X], axis=1),
        lambda x, a: np.concatenate([x, a, x], 1),
    ),
    "QLinearWhere": (contributed("QLinearWhere", ["c", *X, *A, *Y[1:]]), lambda x, a: np.where(x > 0.1, x, a)),
    "QLinearMatMul": (node("QLinearMatMul", [*X, *A, *Y[1:]], ["o"]), lambda x, a: x @ a),
}


def rounded(x: Array, name: str) -> F64:
    """The real numbers that the integers of a tensor mean."""
    scale, zero = PARTS[f"s{name}"], int(PARTS[f"z{name}"])
    whole = np.clip(np.rint(x.astype(np.float64) / scale) + zero, 0, 255)
    return (whole - zero) * np.float64(scale)


def model_of(case: str) -> Any:
    nodes = [q("gx", "x", "x"), q("ga", "a", "a"), CASES[case][0], dq("o", "y", "o")]
    if case == "QLinearWhere":
        nodes = [dq("x", "rx", "x"), node("Greater", ["rx", "tenth"], ["c"]), *nodes]
        nodes = [nodes[2], *nodes[:2], *nodes[3:]]
    if "a" not in nodes[-2].input:
        nodes = [made for made in nodes if "ga" not in made.input]
    read = {name for made in nodes for name in made.input}
    inputs = {name: SHAPE for name in ("gx", "ga") if name in read}
    constants = {name: value for name, value in (PARTS | {"tenth": scalar(0.1)}).items() if name in read}
    return with_runtime(make_model(nodes, constants, inputs=inputs, opset=21))


def given(model: Any) -> dict[str, Array]:
    """Numbers that are no halves of steps, so that float32 and float64 round alike."""
    return {value.name: random(*SHAPE, seed=seed) for seed, value in enumerate(model.graph.input)}


@pytest.mark.parametrize("case", CASES)
def test_an_operator_on_integers(case: str, tmp_path: Path) -> None:
    model = model_of(case)
    feeds = given(model)
    path = streamrt.pack(model, tmp_path / "packed")
    x = rounded(feeds["gx"], "x")
    a = rounded(feeds["ga"], "a") if "ga" in feeds else x
    wanted = rounded(CASES[case][1](x, a), "o")
    (y,) = run_packed(path, feeds)
    assert y.shape == wanted.shape
    assert len(np.unique(wanted)) > 5
    step = float(PARTS["so"])
    assert np.abs(y - wanted).max() <= 1.001 * step
    assert np.mean(np.abs(y - wanted) > step / 2) < 0.01
    assert {"QuantizeLinear", "DequantizeLinear"}.isdisjoint(ops(read_header(path).graph))


@pytest.mark.extras
@pytest.mark.parametrize("case", CASES)
def test_an_operator_agrees_with_onnx_runtime(case: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = model_of(case)
    feeds = given(model)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, feeds)
    (y,) = run_packed(streamrt.pack(model, tmp_path / "packed"), feeds)
    assert np.abs(y - wanted).max() <= 1.001 * float(PARTS["so"])


def weights(kind: str, per_channel: bool, *shape: int) -> dict[str, Array]:
    """Integers with a scale and a zero point, or with those of each index of the first axis."""
    rng, info = np.random.default_rng(3), np.iinfo(kind)
    scales = shape[:1] if per_channel else ()
    return {
        "w": rng.integers(info.min, info.max + 1, shape).astype(kind),
        "sw": np.asarray(rng.uniform(0.002, 0.004, scales), np.float32),
        "zw": np.asarray(rng.integers(-3, 4, scales) + (info.max + info.min + 1) // 2, kind),
        "bias": rng.integers(-20000, 20000, shape[:1]).astype(np.int32),
    }


def real_weights(made: Mapping[str, Array]) -> F64:
    along = (-1,) + (1,) * (made["w"].ndim - 1)
    scale, zero = made["sw"].astype(np.float64).reshape(along), made["zw"].astype(np.float64).reshape(along)
    return (made["w"] - zero) * scale


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_convolution(kind: str, per_channel: bool, bias: bool, tmp_path: Path) -> None:
    made = weights(kind, per_channel, 5, 4, 3, 3)
    names = [*X, "w", "sw", "zw", *Y[1:], *(["bias"] if bias else [])]
    nodes = [q("gx", "x", "x"), node("QLinearConv", names, ["o"], pads=[1, 1, 1, 1]), dq("o", "y", "o")]
    constants = {name: value for name, value in (PARTS | made).items() if name in names}
    path = streamrt.pack(make_model(nodes, constants, inputs={"gx": SHAPE}), tmp_path / "packed")
    feeds = {"gx": random(*SHAPE)}
    x, w = np.pad(rounded(feeds["gx"], "x"), ((0, 0), (0, 0), (1, 1), (1, 1))), real_weights(made)
    wanted = np.einsum("nchwij,ocij->nohw", windows(x, 3, 1), w)
    if bias:
        wanted += (made["bias"] * made["sw"].astype(np.float64) * PARTS["sx"]).reshape(-1, 1, 1)
    difference = np.abs(run_packed(path, feeds)[0] - rounded(wanted, "o"))
    assert difference.max() <= 0.0501
    assert np.mean(difference > 0.025) < 0.01
    file = read_header(path)
    assert ops(file.graph) == ["QuantizeDequantizeLinear", "Conv+QuantizeDequantizeLinear"]
    (codes,) = (tensor for tensor in file.tensors.values() if len(tensor.shape) == 4)
    assert (codes.dtype, codes.zeros) == ("int8", True)


@pytest.mark.parametrize("result", ["integers", "real"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_gemm(per_channel: bool, transposed: bool, result: str, tmp_path: Path) -> None:
    made = weights("int8", per_channel, 9, 20)
    feeds = {"gx": random(7, 20)}
    wanted = 0.5 * (rounded(feeds["gx"], "x") @ real_weights(made).T)
    wanted += made["bias"] * made["sw"].astype(np.float64) * PARTS["sx"] * 0.5
    if not transposed:
        made["w"] = np.ascontiguousarray(made["w"].T)
    whole = result == "integers"
    names = [*X, "w", "sw", "zw", "bias", *(Y[1:] if whole else [])]
    product = contributed("QGemm", names, alpha=0.5, transB=int(transposed))
    nodes = [q("gx", "x", "x"), product, dq("o", "y", "o") if whole else node("Identity", ["o"], ["y"])]
    constants = {name: value for name, value in (PARTS | made).items() if name in names}
    model = with_runtime(make_model(nodes, constants, inputs={"gx": (7, 20)}, opset=21))
    path = streamrt.pack(model, tmp_path / "packed")
    (y,) = run_packed(path, feeds)
    if whole:
        assert np.abs(y - rounded(wanted, "o")).max() <= 0.0501
    else:
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    assert [t.dtype for t in read_header(path).tensors.values() if len(t.shape) == 2] == ["int8"]


@pytest.mark.parametrize("per_channel", [False, True])
def test_matmul_with_weights(per_channel: bool, tmp_path: Path) -> None:
    made = weights("uint8", per_channel, 9, 6)
    feeds = {"gx": random(*SHAPE)}
    wanted = rounded(rounded(feeds["gx"], "x") @ real_weights(made).T, "o")
    made["w"] = np.ascontiguousarray(made["w"].T)
    names = [*X, "w", "sw", "zw", *Y[1:]]
    nodes = [q("gx", "x", "x"), node("QLinearMatMul", names, ["o"]), dq("o", "y", "o")]
    constants = {name: value for name, value in (PARTS | made).items() if name in names}
    path = streamrt.pack(make_model(nodes, constants, inputs={"gx": SHAPE}), tmp_path / "packed")
    assert np.abs(run_packed(path, feeds)[0] - wanted).max() <= 0.0501
    assert [t.dtype for t in read_header(path).tensors.values() if len(t.shape) == 2] == ["int8"]


@pytest.mark.parametrize("kind", ["uint16", "int16"])
def test_16_bits_before_onnx_had_them(kind: str, tmp_path: Path) -> None:
    """ONNX Runtime's quantizer writes these operators of its own for models of an opset before 21."""
    zero = 30000 if kind == "uint16" else -1000
    pair = [
        node("QuantizeLinear", ["x", "s", "z"], ["i"], domain="com.microsoft"),
        node("DequantizeLinear", ["i", "s", "z"], ["y"], domain="com.microsoft"),
    ]
    model = with_runtime(make_model(pair, steps(1e-4, zero, kind), opset=17))
    path = streamrt.pack(model, tmp_path / "packed")
    assert ops(read_header(path).graph) == ["QuantizeDequantizeLinear"]
    x, info = random(2, 3, 8, 8), np.iinfo(kind)
    whole = np.clip(np.rint(x / np.float32(1e-4)), info.min - zero, info.max - zero)
    np.testing.assert_array_equal(run_packed(path, {"x": x})[0], whole * np.float32(1e-4))


def changed(case: str, inputs: Mapping[int, str], **attributes: Any) -> Any:
    """The node of a case with other inputs or further attributes."""
    made = onnx.NodeProto()
    made.CopyFrom(CASES[case][0])
    for index, name in inputs.items():
        made.input[index] = name
    made.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
    return made


REFUSED: dict[str, tuple[Any, str]] = {
    "a computed scale": (changed("QLinearAdd", {1: "gx"}), r"input 1 \(scale, 'gx'\) is computed, expected a constant"),
    "a scale of integers": (changed("QLinearAdd", {1: "zx"}), r"input 1 \(scale\) is uint8, expected floating-point"),
    "scales of rows": (
        changed("QLinearMatMul", {1: "many"}),
        r"input 1 \(scale\) has shape \(4,\), expected one number",
    ),
    "scales of the result": (changed("QLinearMatMul", {6: "many"}), r"input 6 \(scale\) has shape \(4,\)"),
    "scales of two axes": (changed("QLinearMatMul", {4: "matrix"}), r"input 4 \(scale\) has shape \(2, 2\)"),
    "no zero point of the result": (changed("QLinearAdd", {7: ""}), r"input 7 \(zero point of the result\) is missing"),
    "no operand": (changed("QLinearAdd", {3: ""}), "input 3 is missing"),
    "channels last": (changed("QLinearSigmoid", {}, channels_last=1), "attribute 'channels_last' is not 0"),
    "an attribute": (changed("QLinearAdd", {}, mystery=3), "attribute 'mystery' is not supported"),
    "an older Softmax": (
        contributed("QLinearSoftmax", [*X, *Y[1:]], opset=11),
        "attribute 'opset' is 11 in a model of",
    ),
    "parts of a Concat": (contributed("QLinearConcat", [*Y[1:], *X[:2]], axis=0), "it has 4 inputs, expected 2 and 3"),
    "inputs of a convolution": (node("QLinearConv", [*X, *A], ["o"]), "it has 6 inputs, expected 8 to 9"),
    "a bias of float32": (
        node("QLinearConv", [*X, "w", *A[1:], *Y[1:], "many"], ["o"]),
        r"input 8 \(bias\) is float32, expected int32",
    ),
    "a computed bias": (node("QLinearConv", [*X, "w", *A[1:], *Y[1:], "gx"], ["o"]), r"input 8 \(bias, 'gx'\) is comp"),
    "scales that do not fit the bias": (
        node("QLinearConv", [*X, "w", "many", "zeros", *Y[1:], "two"], ["o"]),
        r"input 8 \(bias\) has shape \(2,\), expected one for each of 4 scales",
    ),
    "computed weights": (node("QLinearConv", [*X, *A, *Y[1:]], ["o"]), r"input 1 \(W, 'a.real'\) is computed"),
    "a scale of 0": (changed("QLinearAdd", {1: "zero"}), "has the value 0.0, expected finite numbers above 0"),
    "a negative scale of the result": (changed("QLinearAdd", {6: "minus"}), "has the value -1.0"),
    "a zero point of another type": (changed("QLinearAdd", {2: "int8"}), r"\(zero point\) is int8, expected uint8"),
    "two outputs": (node("QLinearMatMul", [*X, *A, *Y[1:]], ["o", "o2"]), "it has 2 outputs, expected one"),
    "another operator of the runtime": (
        contributed("QAttention", [*X]),
        "operators of domain 'com.microsoft' are not supported",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    broken, reason = REFUSED[case]
    constants = PARTS | {
        "many": np.ones(4, np.float32),
        "zeros": np.zeros(4, np.uint8),
        "matrix": np.ones((2, 2), np.float32),
        "two": np.zeros(2, np.int32),
        "w": np.zeros((4, 4, 1, 1), np.uint8),
        "zero": scalar(0),
        "minus": scalar(-1),
        "int8": scalar(0, np.int8),
    }
    nodes = [q("gx", "x", "x"), q("ga", "a", "a"), broken, dq("o", "y", "o")]
    model = with_runtime(make_model(nodes, constants, inputs={"gx": SHAPE, "ga": SHAPE}))
    with pytest.raises(UnsupportedModelError, match=reason):
        streamrt.pack(model, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


# ------------------------------------------------------------------------------------------------ embeddings

GATHER = node("Gather", ["t", "ids"], ["g"], name="gather", axis=0)
DEQUANTIZED = [node("DequantizeLinear", ["g", "s", "z"], [name], name=name) for name in ("r", "y")]


def expanded(nodes: list[Any], table: Any = np.uint8, scale: tuple[int, ...] = (), known: bool = False) -> list[Any]:
    """What each of the nodes is replaced by."""
    constants = {"t": np.zeros((5, 4), table), "s": np.ones(scale, np.float32), "z": np.zeros(scale, np.uint8)}
    constants |= {"ids": np.zeros(3, np.int64)} if known else {}
    names = {name for made in nodes for name in (*made.input, *made.output)}
    weights_of = {name: Weight.of(value) for name, value in constants.items()}
    expansion = Expansion(weights_of, 21, names, nodes, ["y"])
    return [expansion.of(made) for made in nodes]


def test_an_embedding_is_dequantised_before_its_rows_are_gathered() -> None:
    """ONNX Runtime's dynamic quantisation dequantises the rows. Only a weight is stored as integers."""
    (table, gather), (first,), (second,) = expanded([GATHER, *DEQUANTIZED])
    assert (table.op_type, list(table.input)) == ("DequantizeLinear", ["t", "s", "z"])
    assert (gather.op_type, gather.name, list(gather.input)) == ("Gather", "gather", [table.output[0], "ids"])
    assert gather.attribute == GATHER.attribute
    for made, name in ((first, "r"), (second, "y")):
        assert (made.op_type, list(made.input), list(made.output)) == ("Identity", list(gather.output), [name])


@pytest.mark.parametrize(
    "case",
    [
        "read as integers",
        "read in a branch",
        "an output",
        "real numbers",
        "constant indices",
        "scales of an axis",
        "other steps",
    ],
)
def test_a_gather_that_stays(case: str) -> None:
    nodes = [GATHER, *DEQUANTIZED]
    if case == "read as integers":
        nodes.append(node("Cast", ["g"], ["c"], to=1))
    elif case == "read in a branch":
        branch = onnx.helper.make_graph([node("DequantizeLinear", ["g", "s", "z"], ["b"])], "branch", [], [])
        nodes.append(node("If", ["condition"], ["c"], then_branch=branch))
    elif case == "a scale":
        nodes = [GATHER, node("DequantizeLinear", ["t", "g"], ["y"])]
    elif case == "other steps":
        nodes.append(node("DequantizeLinear", ["g", "s"], ["c"]))
    elif case == "an output":
        nodes = [node("Gather", ["t", "ids"], ["y"]), node("DequantizeLinear", ["y", "s", "z"], ["r"])]
    made = expanded(
        nodes,
        table=np.float32 if case == "real numbers" else np.uint8,
        scale=(4,) if case == "scales of an axis" else (),
        known=case == "constant indices",
    )
    assert made == [[] for _ in nodes]


# ------------------------------------------------------------------------------------------------ whole networks


def cnn() -> tuple[Any, tuple[int, ...]]:
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Array:
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "w1": drawn(32, 3, 3, 3),
        "w2": drawn(32, 32, 3, 3),
        "w3": drawn(32, 1, 3, 3),
        "w4": drawn(64, 32, 1, 1),
        "w5": drawn(10, 64),
        **{name: drawn(count, 25)[:, 0] for name, count in (("b1", 32), ("b2", 32), ("b4", 64), ("b5", 10))},
    }
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c1"], ["r1"]),
        node("MaxPool", ["r1"], ["m"], kernel_shape=[2, 2], strides=[1, 1]),
        node("Conv", ["m", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        node("Relu", ["c2"], ["r2"]),
        node("Conv", ["r2", "w3"], ["c3"], pads=[1, 1, 1, 1], group=32),
        node("Add", ["c3", "m"], ["s"]),
        node("Relu", ["s"], ["r3"]),
        node("Conv", ["r3", "w4", "b4"], ["c4"]),
        node("Sigmoid", ["c4"], ["g"]),
        node("Mul", ["c4", "g"], ["p"]),
        node("GlobalAveragePool", ["p"], ["a"]),
        node("Flatten", ["a"], ["f"]),
        node("Gemm", ["f", "w5", "b5"], ["y"], transB=1),
    ]
    return make_model(nodes, constants, inputs={"x": ("N", 3, 24, 24)}, opset=17), (3, 24, 24)


def mlp() -> tuple[Any, tuple[int, ...]]:
    rng = np.random.default_rng(1)
    extents = (64, 512, 512, 10)
    constants, nodes, last = {}, [], "x"
    for index, (inner, rows) in enumerate(itertools.pairwise(extents)):
        constants[f"w{index}"] = (rng.standard_normal((inner, rows)) * np.sqrt(2 / inner)).astype(np.float32)
        constants[f"b{index}"] = (rng.standard_normal(rows) / 5).astype(np.float32)
        end = rows == extents[-1]
        nodes.append(node("MatMul", [last, f"w{index}"], [f"p{index}"]))
        nodes.append(node("Add", [f"p{index}", f"b{index}"], ["y" if end else f"s{index}"]))
        last = f"r{index}"
        nodes += [] if end else [node("Relu", [f"s{index}"], [last])]
    return make_model(nodes, constants, inputs={"x": ("N", 64)}, opset=17), (64,)


NETWORKS = {"cnn": cnn, "mlp": mlp}


def last_scale(model: Any) -> float:
    """The scale of the network's result."""
    (made,) = (made for made in model.graph.node if made.output[0] == "y")
    scales = {tensor.name: tensor for tensor in model.graph.initializer}
    return float(onnx.numpy_helper.to_array(scales[made.input[1]]).reshape(()))


def check_network(source: Path, x: Array, folder: Path, most: float, precise: bool = True) -> None:
    """Compare with ONNX Runtime with all memory and with the least; the weights must have one byte each.

    Unless ONNX Runtime is ``precise``, its sums of two products saturate at 16 bits on processors without VNNI.
    """
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", str(int(precise)))
    session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x})
    path = streamrt.pack(source, folder / "packed")
    file = read_header(path)
    codes = [tensor for tensor in file.tensors.values() if len(tensor.shape) in (2, 4) and tensor.shape[-1:] != (1,)]
    assert codes
    assert all(tensor.dtype == "int8" for tensor in codes)
    assert sum(tensor.nbytes for tensor in file.tensors.values()) < 1.3 * sum(np.prod(t.shape) for t in codes) + 16384
    with streamrt.Model(path, budget=None) as model:
        found = model(x)
        least = model.min_budget()
    assert np.abs(found - wanted).max() <= most
    with streamrt.Model(path, budget=least) as model:
        again = np.concatenate([model(x[index : index + 1]) for index in range(len(x))])
    assert np.abs(again - found).max() <= most


@pytest.mark.extras
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("types", ["U8U8", "U8S8", "S8S8"])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("network", NETWORKS)
def test_static_quantisation(network: str, form: str, types: str, per_channel: bool, tmp_path: Path) -> None:
    """Within one step of the result's quantisation."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    model, shape = NETWORKS[network]()
    model.ir_version = 8
    onnx.save(model, tmp_path / "float.onnx")
    rng = np.random.default_rng(5)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined,misc]
        """Gives samples to the quantizer."""

        def __init__(self) -> None:
            self._left = iter([{"x": rng.standard_normal((4, *shape)).astype(np.float32)} for _ in range(4)])

        def get_next(self) -> Any:
            return next(self._left, None)

    kinds = {"U8": quantization.QuantType.QUInt8, "S8": quantization.QuantType.QInt8}
    quantization.quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "quantised.onnx",
        Reader(),
        quant_format=getattr(quantization.QuantFormat, form),
        activation_type=kinds[types[:2]],
        weight_type=kinds[types[2:]],
        per_channel=per_channel,
    )
    x = rng.standard_normal((3, *shape)).astype(np.float32)
    step = last_scale(onnx.load(tmp_path / "quantised.onnx"))
    precise = (form, types) != ("QOperator", "S8S8")  # ONNX Runtime has no precise QGemm for int8 activations
    check_network(tmp_path / "quantised.onnx", x, tmp_path, 1.001 * step, precise)


@pytest.mark.extras
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("kind", ["QUInt8", "QInt8"])
@pytest.mark.parametrize("network", NETWORKS)
def test_dynamic_quantisation(network: str, kind: str, per_channel: bool, tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    model, shape = NETWORKS[network]()
    model.ir_version = 8
    onnx.save(model, tmp_path / "float.onnx")
    weight_type = getattr(quantization.QuantType, kind)
    quantization.quantize_dynamic(
        tmp_path / "float.onnx", tmp_path / "quantised.onnx", weight_type=weight_type, per_channel=per_channel
    )
    x = random(1, *shape)
    check_network(tmp_path / "quantised.onnx", x, tmp_path, 1e-4)
