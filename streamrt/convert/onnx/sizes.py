"""Conversion of nodes whose results are size values: they become size nodes (`streamrt.ops.sizes`).

Size nodes have the form that their operator has in the newest opset: an attribute that is an input there becomes one.
"""

from __future__ import annotations

import numpy as np
from onnx import AttributeProto, helper

from streamrt.convert.onnx.data import to_array, type_name
from streamrt.convert.onnx.node import OnnxNode
from streamrt.graph import Attr

#: Attributes that became inputs, by operator: the attribute's name, the input's index, and the first opset with it.
_INPUTS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "Clip": (("min", 1, 11), ("max", 2, 11)),
    "ReduceMax": (("axes", 1, 18),),
    "ReduceMean": (("axes", 1, 18),),
    "ReduceMin": (("axes", 1, 18),),
    "ReduceProd": (("axes", 1, 18),),
    "ReduceSum": (("axes", 1, 13),),
    "Slice": (("starts", 1, 10), ("ends", 2, 10), ("axes", 3, 10)),
    "Split": (("split", 1, 13),),
    "Squeeze": (("axes", 1, 13),),
    "Unsqueeze": (("axes", 1, 13),),
}
#: Types of size values, by the names of types in ONNX: integers are int64.
_TYPES = {"FLOAT16": "float32", "BFLOAT16": "float32", "FLOAT": "float32", "DOUBLE": "float64", "BOOL": "bool"}


def convert_size(node: OnnxNode) -> None:
    """Add the size node."""
    if node.op in ("Shape", "Size"):
        inputs = [node.input(0)]
    else:
        inputs = [node.size(index) if node.given(index) else "" for index in range(node.count())]
    moved = {name: index for name, index, since in _INPUTS.get(node.op, ()) if node.opset < since}
    attrs: dict[str, Attr] = {}
    for attribute in node.proto.attribute:
        node.ignore(attribute.name)
        value = helper.get_attribute_value(attribute)
        if attribute.name in moved:
            index = moved[attribute.name]
            inputs += [""] * (index + 1 - len(inputs))
            kind = np.int64 if attribute.type == AttributeProto.INTS else np.float32
            inputs[index] = node.size_constant(np.array(value, kind))
        elif attribute.type == AttributeProto.TENSOR:
            attrs |= _filling(node, to_array(attribute.t))
        elif attribute.name in ("to", "dtype"):
            attrs[attribute.name] = _type(node, int(value))
        elif isinstance(value, bytes):
            attrs[attribute.name] = value.decode("utf-8", "replace")
        elif isinstance(value, int | float):
            attrs[attribute.name] = value
        elif attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
            attrs[attribute.name] = tuple(value)
    if node.op == "Cast":
        attrs = {"to": attrs["to"]}
    while inputs and not inputs[-1]:
        inputs.pop()
    node.emit_size(node.op, inputs, attrs, list(node.proto.output))


def _filling(node: OnnxNode, value: np.ndarray) -> dict[str, Attr]:
    """The value of a ConstantOfShape."""
    if value.size != 1:
        raise node.attribute_problem("value", f"has {value.size} values, expected 1")
    number = value.reshape(-1)[0]
    match value.dtype.kind:
        case "b":
            return {"value": int(number), "dtype": "bool"}
        case "i" | "u":
            return {"value": int(number), "dtype": "int64"}
    return {"value": float(number), "dtype": "float64" if value.dtype == np.float64 else "float32"}


def _type(node: OnnxNode, number: int) -> str:
    """The name of a type of size values, from the number of a type in ONNX."""
    name = type_name(number)
    if name.startswith(("INT", "UINT")):
        return "int64"
    if name not in _TYPES:
        raise node.attribute_problem("to", f"is {name}, expected a number or a truth value")
    return _TYPES[name]
