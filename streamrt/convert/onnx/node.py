"""One ONNX node as the conversion of its operator sees it: attributes, inputs and shapes, and the draft for results.

Everything that cannot be converted is added to one list of problems. Conversion then goes on, so that a user sees all
problems at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto
from onnx.helper import get_attribute_value

from streamrt.convert.draft import Draft, DraftNode, unique
from streamrt.convert.onnx.facts import Facts
from streamrt.convert.onnx.infer import Extents, numbers_of
from streamrt.convert.weights import AnyArray, Weight, is_float, is_integer
from streamrt.graph import Attr

#: The largest integer of an attribute. In a Slice it means "up to the end"; ONNX uses larger integers for that, too.
MOST = 2**31 - 1
#: The smallest integer of an attribute.
LEAST = -(2**31)
#: The largest integer of a graph.
_FAR = 2**62
#: The most values of an attribute that is a list: the limit of a graph.
MOST_VALUES = 4096


#: Operators whose result has only values of input 0.
_FILLS = frozenset(
    ("Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze")
)


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
        derived: the name of the tensor that another one became, by the other one's name and the change made to it.
        exact: the tensors of integers that are float32 in the draft. Other integers are int64.
    """

    facts: Facts
    draft: Draft
    wanted: set[str]
    tensors: set[str]
    nodes: set[str] = field(default_factory=set)
    derived: dict[tuple[str, str], str] = field(default_factory=dict)
    exact: set[str] = field(default_factory=set)


class OnnxNode:
    """A node, with the facts about its tensors and the draft to which its conversion is added."""

    def __init__(self, proto: NodeProto, index: int, context: Context) -> None:
        self.proto = proto
        self.op = proto.op_type
        self.facts = context.facts
        self.opset = context.facts.opset
        self.name = proto.name or f"{proto.op_type}_{index}"
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

    def string(self, name: str) -> str:
        """A string attribute with any value."""
        value = self._attribute(name, AttributeProto.STRING, None)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A list of strings, or None when it is not given."""
        value = self._attribute(name, AttributeProto.STRINGS, ())
        return tuple(v.decode("utf-8", "replace") for v in value) if self.has(name) else None

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

    def reads_output(self, index: int) -> bool:
        """Whether another node, or the model's caller, reads output ``index``."""
        return index < len(self.proto.output) and self.proto.output[index] in self._context.wanted

    def truth(self, index: int, what: str) -> str:
        """The name in the draft of an input of truth values; a constant becomes a weight."""
        if self.is_constant(index):
            values = self.constant(index, what, most=None)
            if values.dtype == np.bool_:
                return self.new_weight(f"{self.input(index)}.truth", Weight.of(values))
        elif self.facts.dtype(self.input(index)) in (None, np.bool_):
            return self.any_operand(index)
        raise self.problem(
            f"input {index} ({what}, {self.input(index)!r}) is {self.dtype(index)}, expected truth values"
        )

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

    def dims(self, index: int) -> Extents:
        """The extents of an input."""
        return self._known_dims(self.input(index))

    def rank(self, index: int) -> int:
        """The number of axes of an input."""
        return len(self.dims(index))

    def out_dims(self, index: int = 0) -> Extents:
        """The extents of an output."""
        return self._known_dims(self.proto.output[index])

    def _known_dims(self, name: str) -> Extents:
        dims = self.facts.dims(name)
        if dims is None:
            why = self.facts.errors.get(self.proto.output[0])
            reason = f"the shape of {name!r} cannot be inferred{f': {why}' if why else ''}"
            raise UnknownShapeError(str(self.problem(reason)))
        return dims

    def is_size(self, index: int) -> bool:
        """Whether an input is there and a size value."""
        return self.given(index) and self.proto.input[index] in self.facts.sizes

    def elements(self, index: int, what: str) -> list[Any]:
        """The elements of an input that is a constant or a size value: each is a number, a name or None."""
        name = self.input(index)
        if name not in self.facts.sizes:
            return list(self.constant(index, what).reshape(-1).tolist())
        value = self.facts.value_in_part(name)
        if value is not None:
            return list(value.reshape(-1))
        shape = numbers_of(self._known_dims(name))
        if shape is None or math.prod(shape) > MOST_VALUES:
            raise self.problem(
                f"input {index} ({what}, {name!r}) has shape {self._known_dims(name)}, expected a known number of "
                f"elements, no more than {MOST_VALUES}"
            )
        return [None] * math.prod(shape)

    def is_filled(self, index: int, wanted: int | str | None) -> bool:
        """Whether all elements of an input are a number, or the extent of that name. None is no element's value."""
        name = self.input(index)
        if name in self.facts.constants:
            value = self.facts.value(name)
            return value is not None and isinstance(wanted, int) and bool(np.all(value == wanted))
        return wanted is not None and name in self.facts.sizes and self._is_filled(name, wanted)

    def _is_filled(self, name: str, wanted: int | str) -> bool:
        value = self.facts.value_in_part(name) if name in self.facts.sizes else None
        if value is not None:
            return all(element == wanted for element in value.reshape(-1))
        maker = next((node for node in self._context.draft.size_nodes if name in node.outputs), None)
        if maker is None:
            return False
        if maker.op == "ConstantOfShape":
            return maker.attrs.get("value", 0) == wanted
        if maker.op == "Constant":
            numbers = maker.attrs["value"]
            return isinstance(numbers, tuple) and all(number == wanted for number in numbers)
        sources = maker.inputs if maker.op == "Concat" else maker.inputs[:1] if maker.op in _FILLS else []
        return bool(sources) and all(self._is_filled(source, wanted) for source in sources)

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

    def maker(self, index: int) -> DraftNode | None:
        """The node of the draft that computes an input in a pass, if there is one."""
        name = self.input(index)
        return next((node for node in reversed(self._context.draft.nodes) if name in node.outputs), None)

    def constant(self, index: int, what: str, most: int | None = MOST_VALUES) -> AnyArray:
        """The value of an input that must be a constant. It may have at most ``most`` elements."""
        name = self.input(index)
        if name in self.facts.sizes:
            raise self.problem(
                f"input {index} ({what}) depends on the extents of the model's inputs, expected a constant"
            )
        if name not in self.facts.constants:
            raise self.problem(f"input {index} ({what}, {name!r}) is computed, expected a constant")
        size = self.facts.constants[name].size
        if most is not None and size > most:
            raise self.problem(f"input {index} ({what}, {name!r}) has {size} values, expected no more than {most}")
        value = self.facts.value(name)
        assert value is not None
        return value

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
            return self.shared(index, "int64", weight.as_integers)
        if weight is not None:
            return self.derived(index, "an operand", "", lambda weight: weight)
        if not is_float(dtype) and not (integers and is_integer(dtype)):
            raise self.problem(f"input {index} ({name!r}) is {dtype}, expected float32{' or integers' * integers}")
        return self._cast(name, "int64") if name in self._context.exact else name

    def any_operand(self, index: int) -> str:
        """As `operand`, for an input that may be integers or truth values."""
        if self.dtype(index) != np.bool_:
            return self.operand(index, integers=True)
        name = self.input(index)
        weight = self.facts.constants.get(name)
        if weight is not None:
            return self.shared(index, "truth", lambda: weight)
        return name

    def float_operand(self, index: int) -> str:
        """As `operand`, for an input that may be integers: as float32 numbers."""
        name = self.input(index)
        if not is_integer(self.dtype(index)):
            return self.operand(index)
        weight = self.facts.constants.get(name)
        if weight is not None:
            return self.shared(index, "float32", lambda: weight)
        return name if name in self._context.exact else self._cast(name, "float32")

    def exact_operand(self, index: int) -> str:
        """As `operand`, for an input of an operator on float32 that may be integers of 8 or 16 bits, as its outputs."""
        if self.dtype(index).name not in ("int8", "uint8", "int16", "uint16"):
            return self.operand(index)
        self.mark_exact()
        return self.float_operand(index)

    def moved_operands(self, *indices: int) -> list[str]:
        """As `any_operand`, for inputs whose values become those of the outputs without a change.

        If one of them is integers that are float32 in the draft, all of them and the outputs are.
        """
        if not any(map(self.is_exact, indices)):
            return [self.any_operand(index) for index in indices]
        self.mark_exact()
        return [self.float_operand(index) for index in indices]

    def is_exact(self, index: int) -> bool:
        """Whether an input is integers that are float32 in the draft."""
        return self.input(index) in self._context.exact

    def mark_exact(self) -> None:
        """State that the outputs are float32 in the draft, also those that are integers of up to 32 bits."""
        for name in self.proto.output:
            dtype = self.facts.dtype(name)
            if dtype is not None and is_integer(dtype) and dtype.itemsize < 8:
                self._context.exact.add(name)

    def _cast(self, name: str, to: str) -> str:
        """The name of a tensor as another type. Nodes that need the same one share it."""
        key = name, f"a Cast to {to}"
        if key not in self._context.derived:
            made = self._reserve(f"{name}.{to}")
            self._context.derived[key] = self.emit("Cast", [name], {"to": to}, [made])
        return self._context.derived[key]

    def dtype(self, index: int) -> np.dtype[Any]:
        """The type of an input in the ONNX model; float32 if it is not known."""
        return self.facts.dtype(self.input(index)) or np.dtype(np.float32)

    def derived(self, index: int, what: str, change: str, make: Callable[[Weight], Weight]) -> str:
        """The name of the weight that ``make`` computes from a constant input.

        It is the constant's name, unless that is taken. Nodes that need the same ``change`` of the same constant share
        the weight.
        """
        weight = self.weight(index, what)
        return self.shared(index, change, lambda: make(weight))

    def shared(self, index: int, change: str, make: Callable[[], Weight]) -> str:
        """As `derived`, for a constant of any type, which ``make`` reads itself."""
        key = (self.input(index), change)
        if key not in self._context.derived:
            self._context.derived[key] = self.new_weight(key[0], make())
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
        self,
        op: str,
        inputs: list[str],
        attrs: dict[str, Attr] | None = None,
        outputs: list[str] | None = None,
        sizes: dict[str, str] | None = None,
    ) -> str:
        """Add a node to the draft; returns the name of its first output. By default it has this node's first output."""
        if outputs is None:
            outputs = [self.proto.output[0]]
        name = unique(self.name, self._context.nodes)
        self._context.nodes.add(name)
        self._context.draft.nodes.append(DraftNode(name, op, inputs, outputs, attrs or {}, sizes=sizes or {}))
        return outputs[0]

    def emit_sum(self, op: str, inputs: list[str], attrs: dict[str, Attr] | None = None) -> str:
        """As `emit`, for an operator whose result may be beyond the node's type. Integers then wrap, as in ONNX."""
        dtype = self.facts.dtype(self.proto.output[0])
        if dtype is None or dtype.kind not in "iu" or dtype.itemsize == 8:
            return self.emit(op, inputs, attrs)
        whole = self.emit(op, inputs, attrs, [self.temporary("whole")])
        return self.emit("Cast", [whole], {"to": dtype.name})

    # Size values

    def emit_size(self, op: str, inputs: list[str], attrs: dict[str, Attr], outputs: list[str]) -> str:
        """Add a size node; returns the name of its first output, if it has one."""
        name = unique(self.name, self._context.nodes)
        self._context.nodes.add(name)
        self._context.draft.size_nodes.append(DraftNode(name, op, inputs, outputs, attrs))
        return next(iter(outputs), "")

    def size(self, index: int) -> str:
        """The name of an input that is a size value or a small constant, which becomes a size node."""
        name = self.input(index)
        if name in self.facts.sizes:
            return name
        key = name, "size"
        if key not in self._context.derived:
            self._context.derived[key] = self.size_constant(self.constant(index, "a size"), name)
        return self._context.derived[key]

    def size_constant(self, value: AnyArray, name: str = "") -> str:
        """Add a size node with a constant value; returns the name of its output."""
        if value.dtype.kind == "f" and not np.all(finite := np.isfinite(value)):
            # A file has finite numbers only: the others are quotients with 0.
            over = self.size_constant(np.where(finite, value, np.sign(np.nan_to_num(value))).astype(value.dtype))
            made = self._reserve(name) if name else self.temporary("constant")
            return self.emit_size("Div", [over, self.size_constant(finite.astype(value.dtype))], {}, [made])
        kinds = {"b": "bool", "i": "int64", "u": "int64", "f": "float64" if value.dtype == np.float64 else "float32"}
        dtype = kinds.get(value.dtype.kind, "float32")
        flat = value.reshape(-1)
        # Larger integers are bounds that mean "up to the end".
        numbers = flat.astype(np.float64) if "float" in dtype else np.clip(flat.astype(np.int64), -_FAR, _FAR)
        attrs: dict[str, Attr] = {"value": tuple(numbers.tolist())}
        if value.ndim != 1:
            attrs["shape"] = value.shape
        if dtype != "int64":
            attrs["dtype"] = dtype
        made = self._reserve(name) if name else self.temporary("constant")
        return self.emit_size("Constant", [], attrs, [made])

    def size_node(self, op: str, inputs: list[str], attrs: dict[str, Attr] | None = None) -> str:
        """Add a size node between others; returns the name of its output."""
        return self.emit_size(op, inputs, attrs or {}, [self.temporary("size")])

    def size_list(self, index: int) -> str:
        """As `size`, with one axis."""
        name = self.size(index)
        if self.facts.dims(self.input(index)) is not None and self.rank(index) == 1:
            return name
        return self.size_node("Reshape", [name, self.size_constant(np.array([-1]))])

    def size_number(self, index: int) -> str:
        """As `size`, without axes."""
        name = self.size(index)
        if self.facts.dims(self.input(index)) == ():
            return name
        return self.size_node("Reshape", [name, self.size_constant(np.zeros(0, np.int64))])

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
