from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ops.harness import lowered_for, node
from streamrt.errors import FormatError
from streamrt.graph import Node
from streamrt.ops import Call, Lowered, Operand, lower, supported
from streamrt.ops.registry import _OPERATORS

# fmt: off
CANONICAL = [
    "Gemm", "MatMul", "Conv", "BatchNormalization", "Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid",
    "HardSwish", "Tanh", "Elu", "Gelu", "Erf", "Swish", "Mish", "PRelu", "Softmax", "LogSoftmax", "MaxPool",
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Add", "Sub", "Mul", "Div", "Sum", "Concat", "Flatten",
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Pad", "Split", "Slice", "ReduceMean", "ReduceMax",
    "ReduceMin", "ReduceSum",
    "LRN", "Abs", "Ceil", "Exp", "Floor", "Log", "Reciprocal", "Sign", "Softplus", "Sqrt", "Pow", "Max",
    "Min", "Where", "InstanceNormalization", "LayerNormalization", "LpPool", "GlobalLpPool", "Gather", "Expand",
    "Resize", "DepthToSpace", "SpaceToDepth", "And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Not", "Or", "Xor", "ArgMax", "ArgMin", "Cast",
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Round", "Sin", "Sinh", "Tan", "Mod", "IsNaN",
    "IsInf", "ReduceProd", "GroupNormalization", "CumSum", "CumProd", "TopK", "Hardmax", "ReverseSequence", "Tile",
    "Trilu", "OneHot", "GatherElements", "GatherND", "ScatterElements", "ScatterND",
    "Attention", "Einsum", "RMSNormalization", "RotaryEmbedding",
    "GRU", "LSTM", "RNN",
    "GridSample",
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeDequantizeLinear",
]
# fmt: on


def test_every_operator_of_a_weights_file_is_there() -> None:
    assert supported() == set(CANONICAL)


@pytest.mark.parametrize("op", CANONICAL)
def test_every_operator_refuses_senseless_nodes(op: str) -> None:
    """No inputs, too many inputs, and shapes of all ranks with senseless attributes raise only `FormatError`."""
    attrs: dict[str, Any] = dict.fromkeys(("axis", "kernel_shape", "pads", "starts", "split", "perm"), "?")
    for count in (0, 1, 2, 5):
        for rank in range(5):
            with pytest.raises(FormatError, match="under_test"):
                lowered_for(op, [(2,) * rank] * count, attrs=attrs)


def test_unknown_operator() -> None:
    with pytest.raises(FormatError, match="'under_test' \\(Loop\\)"):
        lowered_for("Loop", [(1,)])


@pytest.mark.parametrize("op", ["Gemm", "Add", "Reshape"])
def test_a_parameter_of_a_type_that_no_operator_takes(op: str) -> None:
    node_of = node(op, 1 if op == "Reshape" else 2, {"shape": (4,)} if op == "Reshape" else {})
    operands = [Operand((2, 2)), Operand((2, 2), "I8", is_param=True)][-len(node_of.inputs) :]
    index = len(operands) - 1
    with pytest.raises(
        FormatError, match=rf"'under_test' \({op}\): input {index} \('in{index}'\) is I8, expected F32 or F16 or BF16"
    ):
        lower(node_of, operands)


def test_an_operator_sees_only_the_types_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    function, traits = _OPERATORS["Gemm"]
    seen: list[str] = []

    def spy(call: Call) -> Lowered:
        seen[:] = [operand.dtype for operand in call.operands if operand]
        return function(call)

    x, weights, bias = Operand((2, 3)), Operand((4, 3), "BF16", is_param=True), Operand((4,), "F16", is_param=True)
    for taken, expected in (({1: ("F32", "BF16")}, "BF16"), ({}, "F32")):
        monkeypatch.setitem(_OPERATORS, "Gemm", (spy, replace(traits, dtypes=taken)))
        assert lower(node("Gemm", 3), [x, weights, bias]).outputs == ((2, 4),)
        assert seen == ["F32", expected, "F32"]


@pytest.mark.parametrize("shape", [(0, 3), (2**40,), (2**20, 2**20), (1,) * 9, (-1,)])
def test_inputs_out_of_bounds(shape: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match="input 0"):
        lowered_for("Relu", [shape])


def test_number_of_outputs() -> None:
    with pytest.raises(FormatError, match="2 outputs"):
        lowered_for("Relu", [(1,)], outputs=2)
    with pytest.raises(FormatError, match="0 outputs"):
        lowered_for("Relu", [(1,)], outputs=0)
    with pytest.raises(FormatError, match="no name"):
        lower(Node("under_test", "Relu", ("x",), ("",)), [Operand((1,))])


@pytest.mark.parametrize(
    ("shapes", "params", "attrs"),
    [
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"strides": (0, 1)}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"strides": (1,)}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"strides": (1, 1.0)}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"dilations": (1, 0)}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"dilations": (2**31 - 1, 1)}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"pads": (0, 0, 0, -1)}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"pads": (0, 0)}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"pads": (2**31 - 1,) * 4}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"pads": (2**62,) * 4}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"auto_pad": "SAME"}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"group": 0}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"group": -1}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"group": 3}),
        ([(1, 4, 8, 8), (3, 2, 3, 3)], [1], {"group": 2}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"kernel_shape": (0, 0)}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"kernel_shape": (3, 2)}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"kernel_shape": 3}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [1], {"output_padding": (0, 0)}),
        ([(1, 3, 8, 8), (4, 3, 9, 3)], [1], {}),
        ([(1, 3, 8, 8), (4, 3, 9, 3)], [1], {"auto_pad": "VALID"}),
        ([(1, 3, 8, 8), (4, 2, 3, 3)], [1], {}),
        ([(1, 3, 8, 8), (4, 3, 3)], [1], {}),
        ([(1, 3, 8, 8, 8), (4, 3, 3, 3)], [1], {}),
        ([(1, 3, 8, 8, 8), (4, 3, 3, 3, 9)], [1], {}),
        ([(1, 3, 8, 8, 8), (4, 3, 3, 3, 3)], [1], {"strides": (1, 1)}),
        ([(1, 3, 8, 8, 8), (4, 3, 3, 3, 3)], [1], {"pads": (1,) * 4}),
        ([(1, 3, 8, 8, 8), (4, 3, 3, 3, 3)], [1], {"pads": (2**29, 0, 0, 2**29, 0, 0), "strides": (2**30, 1, 1)}),
        ([(1, 3, 8, 8, 8), (4, 3, 3, 3, 3)], [1], {"pads": (2**20,) * 6}),
        ([(1, 3, 8, 8, 8, 8), (4, 3, 3, 3, 3, 3)], [1], {}),
        ([(1, 3), (4, 3)], [1], {}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [], {}),
        ([(1, 3, 8, 8), (4, 3, 3, 3)], [0, 1], {}),
        ([(1, 3, 8, 8), (4, 3, 3, 3), (3,)], [1, 2], {}),
        ([(1, 3, 8, 8), (4, 3, 3, 3), (4,)], [1], {}),
        ([(1, 3, 8, 8), None], [], {}),
    ],
)
def test_convolutions_that_do_not_fit(shapes: list[Any], params: list[int], attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for("Conv", shapes, params, attrs=attrs)


def test_a_long_value_is_not_repeated_in_full() -> None:
    with pytest.raises(FormatError) as caught:
        lowered_for("Flatten", [(1, 2)], attrs={"axis": "x" * 10_000})
    assert len(str(caught.value)) < 300


def test_activation_attributes_are_checked_like_the_operators() -> None:
    with pytest.raises(FormatError, match="unknown attributes \\['gamma'\\]"):
        lower(node("Relu", 1, activation=("Elu", {"gamma": 1.0})), [Operand((2,))])


def test_scratch_that_no_memory_holds_is_refused() -> None:
    attrs = {"kernel_shape": (2**29, 2**29), "pads": (2**28,) * 4}
    with pytest.raises(FormatError, match="scratch memory, expected less than"):
        lowered_for("LpPool", [(1, 1, 2, 2)], attrs=attrs)
