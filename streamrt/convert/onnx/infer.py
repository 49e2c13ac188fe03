"""Shapes by the inference of the ``onnx`` package, with checks before each call.

The inference is compiled code that checks little. Extents below 0, billions of axes or an attribute out of range abort
the process, or take all its memory. So it gets only nodes that fit their schema, inputs with valid shapes, and no
values that are known to abort it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TypeProto

from streamrt.convert.weights import AnyArray
from streamrt.format.layout import MAX_DIMS
from streamrt.ops import Shape

#: The most bytes of a constant that is given to shape inference, which reads extents and axes from small constants.
SHOWN = 64 << 10
#: The opset from which on ONNX quantises to 16 bits. ONNX Runtime's quantizer does so in older models, too.
_OF_16_BITS = 21
_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_TYPES = {
    getattr(onnx.defs.OpSchema.AttrType, name): getattr(AttributeProto, name)
    for name in ("FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS", "STRINGS", "TENSORS", "SPARSE_TENSOR")
}
#: Operators with an input that is a shape, and the index of this input. Its extent is the rank of the result.
_SHAPE_INPUTS = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}
#: A term of an Einsum's equation: letters, and "..." at most once.
_TERM = rb"[A-Za-z ]*(?:\.\.\.[A-Za-z ]*)?"
#: The equations that ONNX defines. With others the inference may never end.
_EQUATION = re.compile(_TERM + rb"(?:," + _TERM + rb")*(?:->" + _TERM + rb")?")


#: An extent: a number, the name of a free extent of an input that it equals, a product of such names and a number
#: (`streamrt.convert.terms`), or None if it is not known.
Extent = int | str | None
Extents = tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """Facts about a tensor: its type, its extents if their number is known, and its value if it is a small constant."""

    dtype: np.dtype[Any]
    dims: Extents | None
    value: AnyArray | None = None

    @property
    def shape(self) -> Shape | None:
        """The extents, if all of them are numbers."""
        return None if self.dims is None else numbers_of(self.dims)


def numbers_of(dims: Extents) -> Shape | None:
    """``dims`` if all of them are numbers, else None."""
    found = tuple(dim for dim in dims if isinstance(dim, int))
    return found if len(found) == len(dims) else None


class InferenceError(Exception):
    """Why the shapes of a node's outputs cannot be inferred, in one line."""


def infer_shapes(node: NodeProto, opset: int, known: Mapping[str, Fact]) -> dict[str, Fact]:
    """Types and extents of the outputs of a node; ``known`` has the facts about all its inputs.

    Raises:
        InferenceError: the node is malformed, or does not fit its inputs.
    """
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        opset = max(opset, _OF_16_BITS)
    schema = schema_of(node.op_type, opset)
    if schema is None:
        raise InferenceError(f"the onnx package {onnx.__version__} does not know the operator: install a newer one")
    part = NodeProto(op_type=node.op_type, input=node.input, output=node.output)
    part.attribute.extend(a for a in node.attribute if a.name in schema.attributes)
    _check(part, schema, known)
    if node.op_type == "GroupNormalization":  # the package has no inference for it
        x = known[node.input[0]]
        return {node.output[0]: Fact(x.dtype, x.dims)}
    try:
        return _inferred(part, schema, max(opset, schema.since_version), known)
    except InferenceError:
        raise
    except Exception as error:  # the compiled code raises several unrelated types
        raise InferenceError(first_line(error)) from None


def _inferred(node: NodeProto, schema: onnx.defs.OpSchema, version: int, known: Mapping[str, Fact]) -> dict[str, Fact]:
    types = {name: _type_proto(fact) for name, fact in known.items()}
    data = {
        name: onnx.numpy_helper.from_array(fact.value, name)
        for name, fact in known.items()
        if fact.value is not None and fact.value.nbytes <= SHOWN
    }
    imports = [onnx.helper.make_opsetid("", version)]
    names = {dim for fact in known.values() for dim in fact.dims or () if isinstance(dim, str)}
    found = {}
    for name, proto in onnx.shape_inference.infer_node_outputs(
        schema, node, types, data, opset_imports=imports
    ).items():
        if proto.HasField("tensor_type") and proto.tensor_type.elem_type:
            dims = _dims(proto, names)
            _check_dims(name, dims)
            found[name] = Fact(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.tensor_type.elem_type)), dims)
    return found


@cache
def schema_of(op: str, opset: int) -> onnx.defs.OpSchema | None:
    """The schema of an operator of the default domain; None if there is none.

    Exporters use operators in opsets that do not have them yet. Such an operator gets its first schema.
    """
    if onnx.defs.has(op, opset, ""):
        return onnx.defs.get_schema(op, opset, "")
    later = [s for s in _schemas().get(op, ()) if s.since_version > opset]
    return min(later, key=lambda schema: schema.since_version, default=None)


@cache
def _schemas() -> dict[str, list[onnx.defs.OpSchema]]:
    found: dict[str, list[onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, []).append(schema)
    return found


def has_subgraph(node: NodeProto) -> bool:
    """Whether a node has graphs as attributes, such as a loop."""
    return any(
        attribute.type in _SUBGRAPHS or attribute.HasField("g") or attribute.graphs for attribute in node.attribute
    )


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _check(node: NodeProto, schema: onnx.defs.OpSchema, known: Mapping[str, Fact]) -> None:
    """Raise `InferenceError` for a node that could make the compiled code abort."""
    if has_subgraph(node):
        raise InferenceError("it has graphs as attributes, which are not supported")
    for attribute in node.attribute:
        if (node.op_type, attribute.name) == ("Einsum", "equation") and not _EQUATION.fullmatch(attribute.s):
            raise InferenceError("attribute 'equation' is no equation, expected terms of letters such as 'ij,jk->ik'")
    if not schema.min_input <= len(node.input) <= schema.max_input:
        raise InferenceError(f"it has {len(node.input)} inputs, expected {schema.min_input} to {schema.max_input}")
    if not schema.min_output <= len(node.output) <= schema.max_output:
        raise InferenceError(f"it has {len(node.output)} outputs, expected {schema.min_output} to {schema.max_output}")
    for index, (name, formal) in enumerate(zip(node.input, schema.inputs, strict=False)):
        if not name and formal.option == onnx.defs.OpSchema.FormalParameterOption.Single:
            raise InferenceError(f"input {index} is missing")
    given = {attribute.name: attribute for attribute in node.attribute}
    if len(given) != len(node.attribute):
        raise InferenceError("an attribute is given twice")
    for name, expected in schema.attributes.items():
        attribute = given.get(name)
        if attribute is None and expected.required:
            raise InferenceError(f"attribute {name!r} is missing")
        if attribute is not None and attribute.type != _TYPES.get(expected.type):
            raise InferenceError(f"attribute {name!r} is of the wrong type")
    for name, fact in known.items():
        _check_dims(name, fact.dims)
    _check_values(node, given, known)


def _check_values(node: NodeProto, given: Mapping[str, AttributeProto], known: Mapping[str, Fact]) -> None:
    dims = [known[name].dims if name in known else None for name in node.input]
    first = dims[0] if dims else None
    rank = None if first is None else len(first)
    match node.op_type:
        case "ConstantOfShape" | "Expand" | "Reshape" | "Tile":
            shape = dims[_SHAPE_INPUTS[node.op_type]] if len(dims) > _SHAPE_INPUTS[node.op_type] else None
            if shape is not None and (len(shape) > 1 or any(isinstance(dim, int) and dim > MAX_DIMS for dim in shape)):
                raise InferenceError(f"the shape input has shape {shape}, expected one axis of at most {MAX_DIMS}")
        case "GatherND" if "batch_dims" in given and rank is not None:
            if not 0 <= given["batch_dims"].i < max(1, rank):
                raise InferenceError(f"attribute 'batch_dims' is {given['batch_dims'].i} for {rank} axes")
        case "LayerNormalization" | "RMSNormalization" if "axis" in given and rank is not None:
            if not -rank <= given["axis"].i < rank:
                raise InferenceError(f"attribute 'axis' is {given['axis'].i} for {rank} axes")
        case "Attention" | "RotaryEmbedding":
            for name in ("q_num_heads", "kv_num_heads", "num_heads", "rotary_embedding_dim"):
                least = 1 if name.endswith("v_num_heads") or name.startswith("q") else 0
                if name in given and given[name].i < least:
                    raise InferenceError(f"attribute {name!r} is {given[name].i}, expected at least {least}")
        case "Split" if "num_outputs" in given:
            if given["num_outputs"].i != len(node.output):
                raise InferenceError(f"attribute 'num_outputs' is {given['num_outputs'].i} of {len(node.output)}")
    for name in ("strides", "dilations", "kernel_shape"):
        if name in given and any(value < 1 for value in given[name].ints):
            raise InferenceError(f"attribute {name!r} is {tuple(given[name].ints)[:8]}, expected numbers above 0")


def _check_dims(name: str, dims: Extents | None) -> None:
    """Raise `InferenceError` for extents that no tensor may have."""
    if dims is None:
        return
    if len(dims) > MAX_DIMS:
        raise InferenceError(f"{name!r} would have {len(dims)} axes, expected no more than {MAX_DIMS}")
    if any(isinstance(dim, int) and dim < 0 for dim in dims):
        raise InferenceError(f"{name!r} would have shape {dims}, expected no extent below 0")


def _type_proto(fact: Fact) -> TypeProto:
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(fact.dtype), fact.dims)


def _dims(proto: TypeProto, names: Collection[str]) -> Extents | None:
    """The extents of a type; ``names`` are those that an extent can have."""
    if not proto.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param if dim.dim_param in names else None
        for dim in proto.tensor_type.shape.dim
    )
