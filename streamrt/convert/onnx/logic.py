"""Conversion of the ONNX operators on truth values and indices, which are float32 in a graph."""

from __future__ import annotations

import numpy as np

from streamrt.convert.onnx.data import type_name
from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.convert.weights import Weight, is_float
from streamrt.graph import Attr

#: Numbers of TensorProto.DataType: FLOAT, FLOAT16, DOUBLE and BFLOAT16.
_FLOATS = (1, 10, 11, 16)
#: BOOL of TensorProto.DataType.
_BOOL = 9
#: INT32 and INT64 of TensorProto.DataType, which hold every index.
_INTEGERS = (6, 7)


@converts("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def comparison(node: OnnxNode) -> None:
    """Comparison of two tensors of real numbers, one of which may be a weight."""
    node.emit(node.op, [node.operand(0), node.operand(1)])


@converts("And", "Or", "Xor")
def binary(node: OnnxNode) -> None:
    """Logic of two truth values."""
    node.emit(node.op, [_truth(node, 0, "A"), _truth(node, 1, "B")])


@converts("Not")
def not_(node: OnnxNode) -> None:
    """The operator is the same in all opsets."""
    node.emit("Not", [_truth(node, 0, "X")])


@converts("Where")
def where(node: OnnxNode) -> None:
    """The condition may be computed or constant."""
    node.emit("Where", [_truth(node, 0, "condition"), node.operand(1), node.operand(2)])


@converts("ArgMax", "ArgMin")
def arg(node: OnnxNode) -> None:
    """From opset 12 on, ``select_last_index`` gives the index of the last of equal values."""
    attrs: dict[str, Attr] = {
        "axis": node.axis(node.int_("axis", 0), node.rank(0)),
        "keepdims": int(node.flag("keepdims", True)),
    }
    if node.flag("select_last_index"):
        attrs["select_last_index"] = 1
    node.emit(node.op, [node.operand(0)], attrs)


@converts("Cast")
def cast(node: OnnxNode) -> None:
    """All floating-point types are float32 in a graph, and so are truth values and indices."""
    node.ignore("saturate", "round_mode")
    target, given = node.int_("to"), node.any_operand(0)
    source = node.dtype(0)
    if target == _BOOL and source != np.bool_:
        is_zero = node.emit("Not", [given], outputs=[node.temporary("zero")])
        node.emit("Not", [is_zero])
    elif target == _BOOL or target in _FLOATS or (target in _INTEGERS and not is_float(source)):
        node.emit("Identity", [given])
    else:
        raise node.attribute_problem("to", f"is {type_name(target)} and the input {source}, expected float32")


def _truth(node: OnnxNode, index: int, what: str) -> str:
    """The name of an input of truth values; a constant becomes a weight."""
    if node.facts.is_known(node.input(index)):
        values = node.constant(index, what, most=None)
        if values.dtype == np.bool_:
            return node.new_weight(f"{node.input(index)}.truth", Weight.of(values))
    elif node.facts.dtype(node.input(index)) in (None, np.bool_):
        return node.any_operand(index)
    raise node.problem(f"input {index} ({what}, {node.input(index)!r}) is {node.dtype(index)}, expected truth values")
