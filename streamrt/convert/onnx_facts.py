"""What can be known of the tensors of an ONNX graph before it runs: types, shapes, values.

Nodes are taken one by one in order. Those that depend on constants only are folded: at once when the result is small,
else when the weight is written, so that packing holds one large tensor at a time. The shapes of all others come from
ONNX's own inference, once for each probe (see `streamrt.convert.probes`), and what a model computes from shapes
(``Shape``, ``Gather``, ``Concat`` ... ``Reshape``) is computed for each probe too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TypeProto
from onnx.reference import ReferenceEvaluator

from streamrt.convert.probes import Shape
from streamrt.convert.weights import AnyArray, Weight
from streamrt.errors import FormatError

#: Results of folding from this size on are computed when they are written.
_LAZY = 1 << 20
#: Constants up to this size are shown to shape inference, which reads extents and axes from them.
_SHOWN = 64 << 10
#: What is computed from the extents of the inputs is known up to this size: exporters write steps of layout as indices,
#: one for each value of a tensor.
_KNOWN = 16 << 20
#: No folded tensor has more elements: far beyond any weight, and small enough that a hostile model cannot ask for more.
_MAX_ELEMENTS = 2**34

_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout")
)
#: Operators that only look at a tensor differently.
_VIEWS = frozenset(("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"))


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of a tensor under one probe; ``value`` only of small tensors."""

    dtype: np.dtype[Any]
    shape: Shape | None
    value: AnyArray | None = None


@dataclass(slots=True)
class Facts:
    """Everything known of a graph.

    Attributes:
        opset: version of the default operator set.
        constants: the tensors that are the same in every run.
        by_probe: the others, by name, for each probe. A tensor that no inference reaches is missing.
        errors: why the shapes of a node's outputs could not be inferred, by the name of its first output.
    """

    opset: int
    constants: dict[str, Weight]
    by_probe: tuple[dict[str, Fact], ...]
    errors: dict[str, str] = field(default_factory=dict)

    def learn(self, node: NodeProto) -> None:
        """Work out the outputs of a node whose inputs have been worked out."""
        if node.domain not in ("", "ai.onnx"):
            return
        names = [name for name in node.input if name]
        pure = node.op_type not in _RANDOM and not any(a.type in _SUBGRAPHS for a in node.attribute)
        if pure and names and all(name in self.constants for name in names):
            self._fold(node)
            return
        for facts in self.by_probe:
            self._infer(node, facts, pure)
        for name in node.output:
            values = [facts[name].value if name in facts else None for facts in self.by_probe]
            first = values[0]
            if first is not None and all(v is not None and np.array_equal(v, first) for v in values):
                self.constants[name] = Weight.of(first)

    def shapes(self, name: str) -> list[Shape] | None:
        """The shape of a tensor under each probe, or None when it is not known under one of them."""
        if name in self.constants:
            return [self.constants[name].shape] * len(self.by_probe)
        shapes = [facts[name].shape if name in facts else None for facts in self.by_probe]
        return None if None in shapes else shapes  # type: ignore[return-value]

    def is_known(self, name: str) -> bool:
        """Whether a tensor is a constant, or depends on nothing but the extents of the inputs."""
        return name in self.constants or all(name in facts and facts[name].value is not None for facts in self.by_probe)

    def values(self, name: str) -> list[AnyArray] | None:
        """The value of a known tensor under each probe; None of any other."""
        if name in self.constants:
            return [self.constants[name].load()] * len(self.by_probe)
        values = [facts[name].value if name in facts else None for facts in self.by_probe]
        return None if any(value is None for value in values) else values  # type: ignore[return-value]

    def dtype(self, name: str) -> np.dtype[Any] | None:
        """The type of a tensor's elements, or None when it is not known."""
        if name in self.constants:
            return self.constants[name].dtype
        fact = self.by_probe[0].get(name)
        return None if fact is None else fact.dtype

    def _fold(self, node: NodeProto) -> None:
        weights = [self.constants[name] if name else None for name in node.input]
        known = {
            name: Fact(weight.dtype, weight.shape, weight.load() if weight.nbytes <= _SHOWN else None)
            for name, weight in zip(node.input, weights, strict=True)
            if weight is not None
        }
        inferred = self._types(node, known) or {}
        for name in node.output:
            if not name:
                continue
            fact = inferred.get(name)
            if fact is None or fact.shape is None:
                self.constants[name] = Weight.of(self._evaluate(node, weights, name))
                continue
            if math.prod(fact.shape) > _MAX_ELEMENTS:
                raise FormatError(f"node {node.name or name!r} makes a constant of shape {fact.shape}: too large")
            self.constants[name] = self._folded(node, weights, name, fact, fact.shape)

    def _folded(self, node: NodeProto, weights: Sequence[Weight | None], name: str, fact: Fact, shape: Shape) -> Weight:
        """Output ``name``, of which type and shape are known: a view of an input, a small array, or a promise."""
        first = weights[0]
        assert first is not None
        if node.op_type in _VIEWS:
            return first.view(shape, lambda array: array.reshape(shape))
        if node.op_type == "Transpose":
            axes = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), None)
            return first.view(shape, lambda array: array.transpose(axes))
        if node.op_type == "ConstantOfShape":
            given = [onnx.numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"]
            fill = given[0] if given else np.zeros(1, np.float32)
            return Weight.of(np.broadcast_to(fill.reshape(-1)[0], shape))
        if math.prod(shape) * fact.dtype.itemsize < _LAZY:
            return Weight.of(self._evaluate(node, weights, name))
        return Weight(lambda: self._evaluate(node, weights, name), shape, fact.dtype)

    def _infer(self, node: NodeProto, facts: dict[str, Fact], pure: bool) -> None:
        known = {}
        for name in node.input:
            if name in self.constants:
                weight = self.constants[name]
                known[name] = Fact(weight.dtype, weight.shape, weight.load() if weight.nbytes <= _SHOWN else None)
            elif name in facts:
                known[name] = facts[name]
        if len(known) != len({name for name in node.input if name}):
            return
        inferred = self._types(node, known)
        if inferred is None:
            return
        facts.update(inferred)
        values: dict[str, AnyArray] = {}
        if node.op_type in ("Shape", "Size") and (shape := known[node.input[0]].shape) is not None:
            values[node.output[0]] = _measure(node, shape)
        elif pure and known and all(fact.value is not None for fact in known.values()):
            if any(f.shape is not None and math.prod(f.shape) * f.dtype.itemsize > _KNOWN for f in inferred.values()):
                return
            arrays = [Weight.of(value) if (value := known[n].value) is not None else None for n in node.input if n]
            values = {name: self._evaluate(node, arrays, name) for name in node.output if name}
        for name, value in values.items():
            facts[name] = Fact(value.dtype, value.shape, value)

    def _types(self, node: NodeProto, known: Mapping[str, Fact]) -> dict[str, Fact] | None:
        """Types and shapes of the outputs by ONNX's inference, or None with the reason in ``errors``."""
        types = {name: _type_proto(fact) for name, fact in known.items()}
        data = {
            name: onnx.numpy_helper.from_array(fact.value, name)
            for name, fact in known.items()
            if fact.value is not None and fact.value.nbytes <= _SHOWN
        }
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, "")
            known_part = NodeProto(op_type=node.op_type, input=node.input, output=node.output)
            known_part.attribute.extend(a for a in node.attribute if a.name in schema.attributes)
            inferred = onnx.shape_inference.infer_node_outputs(
                schema, known_part, types, data, opset_imports=[onnx.helper.make_opsetid("", self.opset)]
            )
        except Exception as error:  # the C++ inference raises several unrelated types
            self.errors.setdefault(node.output[0], _first_line(error))
            return None
        return {
            name: Fact(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.tensor_type.elem_type)), _shape(proto))
            for name, proto in inferred.items()
            if proto.HasField("tensor_type") and proto.tensor_type.elem_type
        }

    def _evaluate(self, node: NodeProto, weights: Iterable[Weight | None], name: str) -> AnyArray:
        """Output ``name`` of a node, by the reference implementation of the ``onnx`` package."""
        present = [n for n in node.input if n]
        feeds = {n: w.load() for n, w in zip(present, (w for w in weights if w is not None), strict=True)}
        # Types of inputs and outputs are not looked at; the names are.
        graph = onnx.helper.make_graph(
            [node],
            "fold",
            [onnx.helper.make_value_info(n, TypeProto()) for n in feeds],
            [onnx.helper.make_value_info(name, TypeProto())],
        )
        try:
            with np.errstate(all="ignore"):
                (value,) = ReferenceEvaluator(graph, opsets={"": self.opset}).run(None, feeds)
        except Exception as error:  # whatever the reference implementation meets in a malformed node
            raise FormatError(
                f"node {node.name or name!r} ({node.op_type}) cannot be evaluated: {_first_line(error)}"
            ) from error
        return np.asarray(value)


_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def _measure(node: NodeProto, shape: Shape) -> AnyArray:
    """The value of a ``Shape`` or ``Size`` node."""
    if node.op_type == "Size":
        return np.asarray(math.prod(shape), np.int64)
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.asarray(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], np.int64)


def _type_proto(fact: Fact) -> TypeProto:
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(fact.dtype), fact.shape)


def _shape(proto: TypeProto) -> Shape | None:
    if not proto.tensor_type.HasField("shape"):
        return None
    dims = proto.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
