"""One ONNX node as the conversion of its operator sees it: attributes, inputs and shapes, and the draft for results.

Everything that cannot be converted is added to one list of problems. Conversion then goes on, so that a user sees all
problems at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto
from onnx.helper import get_attribute_value

from streamrt.convert.draft import Draft, DraftNode, unique
from streamrt.convert.onnx.facts import Facts
from streamrt.convert.probes import Shape
from streamrt.convert.weights import AnyArray, Weight, is_float, is_integer
from streamrt.graph import Attr

#: The largest integer of an attribute. In a Slice it means "up to the end"; ONNX uses larger integers for that, too.
MOST = 2**31 - 1
#: The smallest integer of an attribute.
LEAST = -(2**31)
#: The most values of an attribute that is a list: the limit of a graph.
MOST_VALUES = 4096


class UnsupportedNodeError(Exception):
    """A problem of converting a node; its text is one line of the list that users see.

    If an attribute is refused, ``attribute`` is its name. The node is then tried without it, to find further problems.
    """

    def __init__(self, message: str, attribute: str | None = None) -> None:
        super().__init__(message)
        self.attribute = attribute


class UnknownShapeError(UnsupportedNodeError):
    """The conversion needs the shape of a tensor, which could not be inferred."""


@dataclass(slots=True)
class Context:
    """Data that the conversions of all nodes of a graph share.

    Attributes:
        facts: the facts about the tensors.
        draft: the draft to which nodes and weights are added.
        wanted: the names of all tensors that are read.
        tensors: the names of all tensors of the draft, including tensors that are not added yet.
        nodes: the names of the nodes of the draft.
        reads: for each tensor the positions of the nodes that read it. Outputs of the graph are read after all nodes.
        derived: the name of the weight that a constant became, by the constant's name and the change made to it.
    """

    facts: Facts
    draft: Draft
    wanted: set[str]
    tensors: set[str]
    reads: dict[str, list[int]] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)
    derived: dict[tuple[str, str], str] = field(default_factory=dict)


class OnnxNode:
    """A node, with the facts about its tensors and the draft to which its conversion is added."""

    def __init__(self, proto: NodeProto, index: int, context: Context) -> None:
        self.proto = proto
        self.op = proto.op_type
        self.facts = context.facts
        self.opset = context.facts.opset
        self.name = proto.name or f"{proto.op_type}_{index}"
        self._index = index
        self._context = context
        self._attributes = {attribute.name: attribute for attribute in proto.attribute}
        self._seen: set[str] = set()

    def problem(self, what: str) -> UnsupportedNodeError:
        """The exception to raise: ``raise node.problem("no axes are given")``."""
        return UnsupportedNodeError(f"node {self.name!r} ({self.op}): {what}")

    def attribute_problem(self, name: str, what: str) -> UnsupportedNodeError:
        """The exception to raise for an attribute: ``raise node.attribute_problem("mode", "is 'linear'")``."""
        return UnsupportedNodeError(f"node {self.name!r} ({self.op}): attribute {name!r} {what}", name)

    # Attributes

    def has(self, name: str) -> bool:
        """Whether the attribute is given."""
        return name in self._attributes

    def ignore(self, *names: str) -> None:
        """Accept attributes that have no effect."""
        self._seen.update(names)

    def int_(self, name: str, default: int | None = None) -> int:
        """An integer attribute."""
        return int(self._attribute(name, AttributeProto.INT, default))

    def flag(self, name: str, default: bool = False) -> bool:
        """An integer attribute that is 0 or 1."""
        return self.int_(name, int(default)) != 0

    def float_(self, name: str, default: float | None = None, finite: bool = True) -> float:
        """A floating-point attribute, which must be finite unless ``finite`` is false."""
        value = float(self._attribute(name, AttributeProto.FLOAT, default))
        if finite and not math.isfinite(value):
            raise self.attribute_problem(name, f"is {value}, expected a finite number")
        return value

    def ints(self, name: str) -> tuple[int, ...] | None:
        """A list of integers, or None when it is not given."""
        value = self._attribute(name, AttributeProto.INTS, ())
        return tuple(int(v) for v in value) if self.has(name) else None

    def floats(self, name: str) -> tuple[float, ...] | None:
        """A list of floating-point numbers, or None when it is not given."""
        value = self._attribute(name, AttributeProto.FLOATS, ())
        return tuple(float(v) for v in value) if self.has(name) else None

    def text(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """A string attribute, which must be one of ``choices``."""
        value = self._attribute(name, AttributeProto.STRING, default)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if value not in choices:
            raise self.attribute_problem(name, f"is {value!r:.80}, expected one of {choices}")
        return str(value)

    def expect_attributes(self, names: Collection[str]) -> None:
        """Refuse attributes that are not among ``names``."""
        for name in sorted(self._attributes.keys() - names):
            allowed = ", ".join(sorted(names)) or "none"
            raise self.attribute_problem(name, f"is not supported, expected only: {allowed}")

    def expect_all_read(self) -> None:
        """Refuse attributes that the conversion did not ask for."""
        self.expect_attributes(self._seen)

    def _attribute(self, name: str, kind: Any, default: Any) -> Any:
        self._seen.add(name)
        attribute = self._attributes.get(name)
        if attribute is None:
            if default is None:
                raise self.attribute_problem(name, "is missing")
            return default
        if attribute.type != kind:
            found, expected = (AttributeProto.AttributeType.Name(number) for number in (attribute.type, kind))
            raise self.attribute_problem(name, f"is of the wrong type {found}, expected {expected}")
        return get_attribute_value(attribute)

    # Inputs

    def given(self, index: int) -> bool:
        """Whether input ``index`` is there."""
        return index < len(self.proto.input) and self.proto.input[index] != ""

    def input(self, index: int) -> str:
        """The name of an input that must be there."""
        if not self.given(index):
            raise self.problem(f"input {index} is missing")
        return str(self.proto.input[index])

    def count(self) -> int:
        """The number of inputs."""
        return len(self.proto.input)

    def is_constant(self, index: int) -> bool:
        """Whether an input is there and a constant."""
        return self.given(index) and self.proto.input[index] in self.facts.constants

    def weight(self, index: int, what: str) -> Weight:
        """An input that must be a constant of real numbers."""
        name = self.input(index)
        weight = self.facts.constants.get(name)
        if weight is None:
            raise self.problem(f"input {index} ({what}, {name!r}) is computed, expected a constant")
        if not weight.is_float():
            raise self.problem(f"input {index} ({what}, {name!r}) is {weight.dtype}, expected floating-point numbers")
        return weight

    def shapes(self, index: int) -> list[Shape]:
        """The shape of an input under each probe."""
        return self._known_shapes(self.input(index))

    def rank(self, index: int) -> int:
        """The number of axes of an input."""
        return len(self.shapes(index)[0])

    def out_shapes(self, index: int = 0) -> list[Shape]:
        """The shape of an output under each probe."""
        return self._known_shapes(self.proto.output[index])

    def _known_shapes(self, name: str) -> list[Shape]:
        shapes = self.facts.shapes(name)
        if shapes is None:
            why = self.facts.errors.get(self.proto.output[0])
            reason = f"the shape of {name!r} cannot be inferred{f': {why}' if why else ''}"
            raise UnknownShapeError(str(self.problem(reason)))
        return shapes

    def computed_before(self) -> Iterator[str]:
        """The names of all tensors that are computed when the node runs, and of the graph's inputs."""
        draft = self._context.draft
        yield from (spec.name for spec in draft.inputs)
        yield from (name for node in draft.nodes for name in node.outputs if name)

    def cost_of_keeping(self, name: str) -> tuple[bool, bool, int]:
        """The cost of reading a tensor in this node, which can be compared: see `streamrt.convert.onnx.extents`."""
        reads = self._context.reads.get(name, [])
        shapes = self._known_shapes(name)
        return len(reads) < 2, max(reads, default=0) < self._index, math.prod(shapes[0])

    def values(self, index: int, what: str, most: int | None = MOST_VALUES) -> list[AnyArray]:
        """The value, under each probe, of an input that must not depend on the values of the model's inputs.

        It may have at most ``most`` elements.
        """
        name = self.input(index)
        found = max((math.prod(shape) for shape in self.facts.shapes(name) or ()), default=0)
        if most is not None and found > most:
            raise self.problem(f"input {index} ({what}, {name!r}) has {found} values, expected no more than {most}")
        values = self.facts.values(name)
        if values is None:
            raise self.problem(f"input {index} ({what}, {name!r}) is computed, expected a constant")
        return values

    def scalar(self, index: int, what: str) -> float | None:
        """A constant number, or None when the input is left out."""
        if not self.given(index):
            return None
        value = self.constant(index, what)
        if value.size != 1:
            raise self.problem(f"input {index} ({what}) has shape {value.shape}, expected one number")
        return float(value.reshape(()))

    def integers(self, index: int, what: str) -> tuple[int, ...] | None:
        """A constant list of integers, or None when the input is left out."""
        if not self.given(index):
            return None
        return tuple(int(v) for v in self.constant(index, what).reshape(-1))

    def numbers(self, index: int, what: str) -> tuple[float, ...] | None:
        """A constant list of floating-point numbers, or None when the input is left out."""
        if not self.given(index):
            return None
        return tuple(float(v) for v in self.constant(index, what).reshape(-1))

    def constant(self, index: int, what: str, most: int | None = MOST_VALUES) -> AnyArray:
        """The value of an input that must not depend on the extents of the model's inputs."""
        first, *others = self.values(index, what, most)
        if not all(other is first or np.array_equal(first, other) for other in others):
            raise self.problem(
                f"input {index} ({what}) depends on the extents of the model's inputs, expected a constant"
            )
        return first

    def axis(self, value: int, rank: int) -> int:
        """``value`` counted from the front."""
        if not -rank <= value < rank:
            raise self.problem(f"axis {value} of a tensor with {rank} axes, expected {-rank} to {rank - 1}")
        return value % rank

    def axes(self, values: tuple[int, ...], rank: int) -> tuple[int, ...]:
        """``values`` counted from the front, ascending."""
        return tuple(sorted(self.axis(value, rank) for value in values))

    # Results

    def operand(self, index: int, integers: bool = False) -> str:
        """The name of an input in the draft. A constant becomes a weight.

        It is float32, or with ``integers`` it may be an integer type. Integers of all sizes are int64 in a graph.
        """
        name, dtype = self.input(index), self.dtype(index)
        weight = self.facts.constants.get(name)
        if weight is not None and integers and is_integer(dtype):
            return self._derived(index, "int64", weight, Weight.as_integers)
        if weight is not None:
            return self.derived(index, "an operand", "", lambda weight: weight)
        if self.facts.is_known(name):
            raise self.problem(f"input {index} ({name!r}) depends on the extents of the model's inputs")
        if not is_float(dtype) and not (integers and is_integer(dtype)):
            raise self.problem(f"input {index} ({name!r}) is {dtype}, expected float32{' or integers' * integers}")
        return name

    def any_operand(self, index: int) -> str:
        """As `operand`, for an input that may be integers or truth values."""
        if self.dtype(index) != np.bool_:
            return self.operand(index, integers=True)
        name = self.input(index)
        weight = self.facts.constants.get(name)
        if weight is not None:
            return self._derived(index, "truth", weight, lambda weight: weight)
        if self.facts.is_known(name):
            raise self.problem(f"input {index} ({name!r}) depends on the extents of the model's inputs")
        return name

    def dtype(self, index: int) -> np.dtype[Any]:
        """The type of an input in the ONNX model; float32 if it is not known."""
        return self.facts.dtype(self.input(index)) or np.dtype(np.float32)

    def derived(self, index: int, what: str, change: str, make: Callable[[Weight], Weight]) -> str:
        """The name of the weight that ``make`` computes from a constant input.

        It is the constant's name, unless that is taken. Nodes that need the same ``change`` of the same constant share
        the weight.
        """
        return self._derived(index, change, self.weight(index, what), make)

    def _derived(self, index: int, change: str, weight: Weight, make: Callable[[Weight], Weight]) -> str:
        key = (self.input(index), change)
        if key not in self._context.derived:
            self._context.derived[key] = self.new_weight(key[0], make(weight))
        return self._context.derived[key]

    def new_weight(self, name: str, weight: Weight) -> str:
        """Add a weight, and return its name: ``name``, or a similar name if that is taken."""
        name = self._reserve(name)
        self._context.draft.params[name] = weight
        return name

    def temporary(self, suffix: str) -> str:
        """A name for a tensor between two nodes, if one ONNX node becomes several."""
        return self._reserve(f"{self.proto.output[0]}.{suffix}")

    def _reserve(self, name: str) -> str:
        name = unique(name, self._context.tensors)
        self._context.tensors.add(name)
        return name

    def emit(
        self, op: str, inputs: list[str], attrs: dict[str, Attr] | None = None, outputs: list[str] | None = None
    ) -> str:
        """Add a node to the draft; returns the name of its first output. By default it has this node's first output."""
        if outputs is None:
            outputs = [self.proto.output[0]]
        name = unique(self.name, self._context.nodes)
        self._context.nodes.add(name)
        self._context.draft.nodes.append(DraftNode(name, op, inputs, outputs, attrs or {}))
        return outputs[0]

    def emit_sum(self, op: str, inputs: list[str], attrs: dict[str, Attr] | None = None) -> str:
        """As `emit`, for an operator whose result may be beyond the node's type. Integers then wrap, as in ONNX."""
        dtype = self.facts.dtype(self.proto.output[0])
        if dtype is None or dtype.kind not in "iu" or dtype.itemsize == 8:
            return self.emit(op, inputs, attrs)
        whole = self.emit(op, inputs, attrs, [self.temporary("whole")])
        return self.emit("Cast", [whole], {"to": dtype.name})

    def only_first_output(self, why: str) -> None:
        """Refuse a node if an output other than the first is read."""
        for name in self.proto.output[1:]:
            if name in self._context.wanted:
                raise self.problem(f"output {name!r} ({why}) is used, expected use of the first output only")


Convert = Callable[[OnnxNode], None]
#: The conversion of each operator, by name. Complete once `streamrt.convert.onnx.ops` is imported.
CONVERSIONS: dict[str, Convert] = {}


def converts(*ops: str) -> Callable[[Convert], Convert]:
    """Register a function as the conversion of ``ops``."""

    def register(function: Convert) -> Convert:
        for op in ops:
            CONVERSIONS[op] = function
        return function

    return register
