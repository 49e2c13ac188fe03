"""Conversion of the ONNX operators that make or take truth values and indices, which a graph holds as float32."""

from __future__ import annotations

import numpy as np

from streamrt.convert.onnx.data import type_name
from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.convert.weights import Weight, is_float
from streamrt.graph import Attr

#: FLOAT, FLOAT16, DOUBLE and BFLOAT16 of TensorProto.DataType; BOOL; INT32 and INT64, which hold any index.
_FLOATS, _BOOL, _INTEGERS = (1, 10, 11, 16), 9, (6, 7)


@converts("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def comparison(node: OnnxNode) -> None:
    """Of two tensors of real numbers, either of which may be a weight."""
    node.emit(node.op, [node.operand(0), node.operand(1)])


@converts("And", "Or", "Xor")
def binary(node: OnnxNode) -> None:
    """Of two truth values."""
    node.emit(node.op, [_truth(node, 0, "A"), _truth(node, 1, "B")])


@converts("Not")
def not_(node: OnnxNode) -> None:
    """The same in all versions."""
    node.emit("Not", [_truth(node, 0, "X")])


@converts("Where")
def where(node: OnnxNode) -> None:
    """The condition may be computed or constant."""
    node.emit("Where", [_truth(node, 0, "condition"), node.operand(1), node.operand(2)])


@converts("ArgMax", "ArgMin")
def arg(node: OnnxNode) -> None:
    """The last of several from opset 12 on."""
    attrs: dict[str, Attr] = {
        "axis": node.axis(node.int_("axis", 0), node.rank(0)),
        "keepdims": int(node.flag("keepdims", True)),
    }
    if node.flag("select_last_index"):
        attrs["select_last_index"] = 1
    node.emit(node.op, [node.operand(0)], attrs)


@converts("Cast")
def cast(node: OnnxNode) -> None:
    """Of floating-point types only float32 is left; truth values and indices are numbers already."""
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
