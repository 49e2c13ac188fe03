"""Conversion of the ONNX operators on truth values, which are float32 in a graph, on indices, and between types."""

from __future__ import annotations

import numpy as np
from onnx.helper import np_dtype_to_tensor_dtype

from streamrt.convert.onnx.data import type_name
from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.convert.weights import is_float, is_integer
from streamrt.graph import TYPES, Attr

#: Numbers of TensorProto.DataType: FLOAT, FLOAT16, DOUBLE and BFLOAT16.
_FLOATS = (1, 10, 11, 16)
#: BOOL of TensorProto.DataType.
_BOOL = 9
#: The integer types of a graph, by the numbers of TensorProto.DataType.
_INTEGERS: dict[int, str] = {np_dtype_to_tensor_dtype(np.dtype(name)): name for name in TYPES if "int" in name}


@converts("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def comparison(node: OnnxNode) -> None:
    """Comparison of two tensors of real numbers or truth values, one of which may be a weight."""
    node.emit(node.op, [node.any_operand(0), node.any_operand(1)])


@converts("And", "Or", "Xor")
def binary(node: OnnxNode) -> None:
    """Logic of two truth values."""
    node.emit(node.op, [node.truth(0, "A"), node.truth(1, "B")])


@converts("Not")
def not_(node: OnnxNode) -> None:
    """The operator is the same in all opsets."""
    node.emit("Not", [node.truth(0, "X")])


@converts("IsNaN")
def is_nan(node: OnnxNode) -> None:
    """The operator is the same in all opsets."""
    node.emit("IsNaN", [node.operand(0)])


@converts("IsInf")
def is_inf(node: OnnxNode) -> None:
    """Infinities of both signs, or of one."""
    attrs: dict[str, Attr] = {name: 0 for name in ("detect_positive", "detect_negative") if not node.flag(name, True)}
    node.emit("IsInf", [node.operand(0)], attrs)


@converts("Where")
def where(node: OnnxNode) -> None:
    """The condition may be computed or constant."""
    node.emit("Where", [node.truth(0, "condition"), *node.moved_operands(1, 2)])


@converts("ArgMax", "ArgMin")
def arg(node: OnnxNode) -> None:
    """From opset 12 on, ``select_last_index`` gives the index of the last of equal values."""
    attrs: dict[str, Attr] = {
        "axis": node.axis(node.int_("axis", 0), node.rank(0)),
        "keepdims": int(node.flag("keepdims", True)),
        "to": "int64",
    }
    if node.flag("select_last_index"):
        attrs["select_last_index"] = 1
    node.emit(node.op, [node.operand(0, integers=True)], attrs)


@converts("Cast")
def cast(node: OnnxNode) -> None:
    """All floating-point types are float32 in a graph, and all integers int64. Truth values are float32."""
    node.ignore("saturate", "round_mode")
    target = node.int_("to")
    if not _cast(node, target):
        raise node.attribute_problem("to", f"is {type_name(target)}, expected one of {', '.join(TYPES)}")


@converts("CastLike")
def cast_like(node: OnnxNode) -> None:
    """As Cast, to the type of input 1, whose values are not used."""
    node.ignore("saturate", "round_mode")
    target = np_dtype_to_tensor_dtype(node.dtype(1))
    if not _cast(node, target):
        raise node.problem(f"the type of input 1 is {type_name(target)}, expected one of {', '.join(TYPES)}")


def _cast(node: OnnxNode, target: int) -> bool:
    """Add a Cast to a type of ONNX; returns False if the graph has no such type."""
    if target not in (_BOOL, *_FLOATS, *_INTEGERS):
        return False
    if target in _FLOATS and node.is_exact(0):
        node.emit("Identity", [node.float_operand(0)])
        return True
    given, source = node.any_operand(0), node.dtype(0)
    if target in _INTEGERS:
        to = _INTEGERS[target]
        same = is_integer(source) and np.can_cast(source, to)
    else:
        to = "bool" if target == _BOOL else "float32"
        same = source == np.bool_ or (to == "float32" and is_float(source))
    if same:
        node.emit("Identity", [given])
    else:
        node.emit("Cast", [given], {"to": to})
    return True
