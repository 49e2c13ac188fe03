from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ops.harness import assert_close, lowered_for, node, random, run
from streamrt._core import ACTIVATIONS
from streamrt.errors import FormatError
from streamrt.ops import Call, supported, traits_of
from streamrt.ops.epilogue import IDENTITY, activation_of, limits_of

erf = np.vectorize(math.erf)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# name: (operator, attributes, function of float64)
CASES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "Relu": ("Relu", {}, lambda x: np.maximum(x, 0)),
    "LeakyRelu": ("LeakyRelu", {}, lambda x: np.where(x >= 0, x, 0.01 * x)),
    "LeakyRelu alpha": ("LeakyRelu", {"alpha": -0.5}, lambda x: np.where(x >= 0, x, -0.5 * x)),
    "Clip": ("Clip", {"min": -1.5, "max": 2}, lambda x: np.clip(x, -1.5, 2)),
    "Clip below": ("Clip", {"min": 0.25}, lambda x: np.maximum(x, 0.25)),
    "Clip above": ("Clip", {"max": 0.25}, lambda x: np.minimum(x, 0.25)),
    "Clip nothing": ("Clip", {}, lambda x: x),
    "Sigmoid": ("Sigmoid", {}, sigmoid),
    "HardSigmoid": ("HardSigmoid", {}, lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    "HardSigmoid alpha beta": ("HardSigmoid", {"alpha": 0.4, "beta": 0.1}, lambda x: np.clip(0.4 * x + 0.1, 0, 1)),
    "HardSwish": ("HardSwish", {}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Tanh": ("Tanh", {}, np.tanh),
    "Elu": ("Elu", {}, lambda x: np.where(x > 0, x, np.expm1(x))),
    "Elu alpha": ("Elu", {"alpha": 2.5}, lambda x: np.where(x > 0, x, 2.5 * np.expm1(x))),
    "Gelu": ("Gelu", {}, lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))),
    "Gelu tanh": (
        "Gelu",
        {"approximate": "tanh"},
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "Erf": ("Erf", {}, erf),
    "Mish": ("Mish", {}, lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "Swish": ("Swish", {}, lambda x: x * sigmoid(x)),
    "Swish alpha": ("Swish", {"alpha": 1.75}, lambda x: x * sigmoid(1.75 * x)),
    "QuantizeDequantizeLinear": ("QuantizeDequantizeLinear", {}, lambda x: np.clip(np.rint(x), 0, 255)),
    "QuantizeDequantizeLinear int8": (
        "QuantizeDequantizeLinear",
        {"scale": 0.03125, "zero_point": 100, "dtype": "int8"},
        lambda x: np.clip(np.rint(x * 32), -228, 27) / 32,
    ),
    "QuantizeDequantizeLinear int16": (
        "QuantizeDequantizeLinear",
        {"scale": 2.0**-14, "zero_point": -7, "dtype": "int16"},
        lambda x: np.clip(np.rint(x * 2**14), -(2**15) + 7, 2**15 + 6) / 2**14,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_as_a_node(case: Any) -> None:
    op, attrs, function = case
    for shape in ((), (1,), (2, 3, 5, 7)):
        x = 3 * random(*shape)
        expected = function(x.astype(np.float64))
        assert_close(run(op, [x], attrs=attrs)[0], np.asarray(expected))
        assert_close(run(op, [x], attrs=attrs, inplace=0)[0], np.asarray(expected))


# An operator of every kind: (operator, shapes of inputs, parameters, attributes)
PRODUCERS: dict[str, tuple[str, list[tuple[int, ...]], list[int], dict[str, Any]]] = {
    "Gemm, one sample": ("Gemm", [(1, 6), (40, 6), (40,)], [1, 2], {}),
    "Gemm": ("Gemm", [(3, 6), (40, 6), (40,)], [1, 2], {}),
    "MatMul rows": ("MatMul", [(2, 3, 6), (40, 6)], [1], {"transB": 1}),
    "MatMul": ("MatMul", [(2, 3), (3, 4)], [], {}),
    "Conv": ("Conv", [(2, 3, 5, 5), (4, 3, 3, 3), (4,)], [1, 2], {}),
    "Conv without bias": ("Conv", [(2, 3, 5, 5), (4, 3, 3, 3)], [1], {}),
    "Conv pointwise": ("Conv", [(2, 3, 5, 5), (4, 3, 1, 1), (4,)], [1, 2], {}),
    "Conv depthwise": ("Conv", [(2, 3, 5, 5), (3, 1, 3, 3), (3,)], [1, 2], {"group": 3}),
    "BatchNormalization": ("BatchNormalization", [(2, 3, 4), (3,), (3,), (3,), (3,)], [1, 2, 3, 4], {}),
    "InstanceNormalization": ("InstanceNormalization", [(2, 3, 4), (3,), (3,)], [1, 2], {}),
    "GroupNormalization": ("GroupNormalization", [(2, 4, 3), (4,), (4,)], [1, 2], {"num_groups": 2}),
    "LRN": ("LRN", [(2, 3, 4)], [], {"size": 3}),
    "Add": ("Add", [(2, 3, 4), (3, 1)], [1], {}),
    "Sub": ("Sub", [(2, 3, 4), (3, 1)], [1], {}),
    "Mul": ("Mul", [(2, 3, 4), (2, 3, 4)], [], {}),
    "Div": ("Div", [(2, 3, 4), (3, 1)], [1], {}),
    "Max": ("Max", [(2, 3), (2, 3), (3,)], [], {}),
    "Min": ("Min", [(2, 3), (3,)], [], {}),
    "Sum": ("Sum", [(2, 3), (2, 3), (3,)], [], {}),
    "Sum of one": ("Sum", [(2, 3)], [], {}),
    "Softmax": ("Softmax", [(2, 3)], [], {}),
    "MaxPool": ("MaxPool", [(2, 3, 5, 5)], [], {"kernel_shape": (2, 2)}),
    "AveragePool": ("AveragePool", [(2, 3, 5, 5)], [], {"kernel_shape": (2, 2)}),
    "GlobalMaxPool": ("GlobalMaxPool", [(2, 3, 5)], [], {}),
    "GlobalAveragePool": ("GlobalAveragePool", [(2, 3, 5)], [], {}),
    "Resize": ("Resize", [(2, 3, 5)], [], {"sizes": (0, 0, 8)}),
    "DepthToSpace": ("DepthToSpace", [(2, 4, 3)], [], {"blocksize": (2,)}),
    "Concat": ("Concat", [(2, 3), (2, 4)], [], {"axis": 1}),
    "Reshape": ("Reshape", [(2, 3)], [], {"shape": (3, 2)}),
    "Identity": ("Identity", [(2, 3)], [], {}),
    "Transpose": ("Transpose", [(2, 3)], [], {}),
    "ReduceMean": ("ReduceMean", [(2, 3)], [], {"axes": (0,)}),
    "ReduceSum": ("ReduceSum", [(2, 3)], [], {"axes": (1,)}),
    "ReduceProd": ("ReduceProd", [(2, 3)], [], {"axes": (1,)}),
    "ReduceMax": ("ReduceMax", [(2, 3)], [], {"axes": (1,)}),
    "ReduceMin": ("ReduceMin", [(2, 3)], [], {}),
    "Tanh": ("Tanh", [(2, 3)], [], {}),
    "Split into one": ("Split", [(2, 3)], [], {"axis": 1, "split": (3,)}),
}


@pytest.mark.parametrize("producer", PRODUCERS.values(), ids=PRODUCERS)
def test_every_activation_fused_into_the_previous_node(producer: Any) -> None:
    op, shapes, params, attrs = producer
    inputs = [np.abs(random(*shape, seed=i)) - 0.25 * (i < 4) for i, shape in enumerate(shapes)]
    plain = run(op, inputs, params, attrs=attrs)[0]
    for act, act_attrs, function in CASES.values():
        activation = act, act_attrs
        fused = run(op, inputs, params, attrs=attrs, activation=activation)[0]
        assert_close(fused, function(plain.astype(np.float64)))
        for index in lowered_for(op, shapes, params, attrs=attrs, activation=activation).inplace:
            assert_close(run(op, inputs, params, attrs=attrs, activation=activation, inplace=index)[0], fused)


def test_every_activation_has_a_case() -> None:
    """The core, the operators and the cases have the same activations."""
    assert {op for op, _, _ in CASES.values()} == {op for op in supported() if traits_of(op).activation}
    calls = [Call(node(op, 1, attrs), ()) for op, attrs, _ in CASES.values()]
    assert {activation_of(call).act for call in calls} | {IDENTITY.act} == set(ACTIVATIONS.values())
    assert traits_of("QuantizeDequantizeLinear").activation


def test_every_operator_that_fuses_has_a_case() -> None:
    assert {op for op in supported() if traits_of(op).fuses} <= {op for op, *_ in PRODUCERS.values()}


def test_the_range_of_an_activation_is_where_its_values_lie() -> None:
    x = np.linspace(-4, 4, 101)
    for act, attrs, function in CASES.values():
        limits = limits_of(node("Add", 2, activation=(act, attrs)))
        if limits is None:
            assert not np.array_equal(function(x), np.clip(x, np.min(function(x)), np.max(function(x)))), act
        else:
            np.testing.assert_array_equal(function(x), np.clip(x, *limits))
    assert limits_of(node("Add", 2)) == (-math.inf, math.inf)


SLOPES = [(), (1,), (5,), (4, 1), (4, 5), (3, 1, 1), (1, 3, 1, 1), (3, 4, 1), (3, 4, 5), (3, 1, 5), (2, 3, 4, 5)]


@pytest.mark.parametrize("slope", [*SLOPES, (2, 1, 4, 1)])
def test_prelu(slope: tuple[int, ...]) -> None:
    x, s = random(2, 3, 4, 5), random(*slope, seed=1)
    expected = np.where(x >= 0, x, x.astype(np.float64) * s)
    assert_close(run("PRelu", [x, s], [1])[0], expected)
    assert_close(run("PRelu", [x, s], [1], inplace=0)[0], expected)
    assert_close(run("PRelu", [x, s])[0], expected)


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("LeakyRelu", {"alpha": "big"}),
        ("LeakyRelu", {"alpha": math.nan}),
        ("LeakyRelu", {"alpha": 1e300}),
        ("LeakyRelu", {"beta": 0.5}),
        ("Clip", {"min": (0.0,)}),
        ("Gelu", {"approximate": "fast"}),
        ("Relu", {"alpha": 0.5}),
        ("QuantizeDequantizeLinear", {"scale": 0.0}),
        ("QuantizeDequantizeLinear", {"scale": -1.0}),
        ("QuantizeDequantizeLinear", {"scale": math.inf}),
        ("QuantizeDequantizeLinear", {"scale": math.nan}),
        ("QuantizeDequantizeLinear", {"zero_point": 256}),
        ("QuantizeDequantizeLinear", {"zero_point": -1}),
        ("QuantizeDequantizeLinear", {"zero_point": 128, "dtype": "int8"}),
        ("QuantizeDequantizeLinear", {"zero_point": 0.0}),
        ("QuantizeDequantizeLinear", {"dtype": "int32"}),
        ("Softmax", {}),
        ("Softsign", {}),
    ],
)
def test_attributes_that_do_not_fit(op: str, attrs: dict[str, Any]) -> None:
    if op != "Softmax":
        with pytest.raises(FormatError, match="under_test"):
            lowered_for(op, [(2, 3)], attrs=attrs)
    for producer in ("Add", "Concat", "Gemm"):
        kwargs = {"attrs": {"axis": 0}} if producer == "Concat" else {}
        with pytest.raises(FormatError, match="under_test"):
            lowered_for(producer, [(3, 3), (3, 3)], [1], activation=(op, attrs), **kwargs)


def test_an_activation_needs_one_output() -> None:
    with pytest.raises(FormatError, match="one output"):
        lowered_for("Split", [(2, 4)], outputs=2, attrs={"axis": 1, "split": (1, 3)}, activation=("Relu", {}))


@pytest.mark.parametrize("slope", [(2,), (1, 2, 3, 4, 5), (3,), (4, 5, 1)])
def test_prelu_slopes_that_do_not_fit(slope: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for("PRelu", [(2, 3, 4, 5), slope], [1])
