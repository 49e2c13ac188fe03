"""A node as its operator's lowering sees it: operands, and attributes that are checked when they are read."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from streamrt.errors import FormatError, printable
from streamrt.graph import Attr, Node
from streamrt.ops.base import FLOAT32, INT64, Operand, Shape, Value, size_problem

_FLT_MAX = float(np.finfo(np.float32).max)


class Call:
    """A node with its operands, and typed access to its attributes.

    Every accessor raises `FormatError`, which names the node, if the value in the file does not fit.
    """

    def __init__(
        self,
        node: Node,
        operands: Sequence[Operand | None],
        exact: bool = False,
        *,
        samples: int = 0,
        sizes: Mapping[str, Value] = MappingProxyType({}),
    ) -> None:
        self.node = node
        #: The samples of the whole graph, which may be a part of an axis' extent; 0 if they are not known.
        self.samples = samples
        #: Whether the operator may use no algorithm that is faster but rounds more.
        self.exact = exact
        #: The inputs; None is an input left out.
        self.operands = tuple(operands)
        #: Whether the operator applies the node's activation itself.
        self.fused = False
        self._sizes = sizes
        self._seen: set[str] = set()

    def fail(self, reason: str) -> FormatError:
        """The error to raise for this node: ``raise call.fail("...")``."""
        return FormatError(f"node {self.node.name!r} ({printable(self.node.op):.80}): {reason}")

    def shape(self, index: int) -> Shape:
        """The shape of input ``index``, which must be there."""
        shape = self.optional(index)
        if shape is None:
            raise self.fail(f"input {index} is missing")
        return shape

    def optional(self, index: int) -> Shape | None:
        """The shape of input ``index``, or None when it was left out."""
        operand = self.operands[index] if index < len(self.operands) else None
        return None if operand is None else operand.shape

    def is_param(self, index: int) -> bool:
        """Whether input ``index`` is there and a parameter."""
        operand = self.operands[index] if index < len(self.operands) else None
        return operand is not None and operand.is_param

    def operand(self, index: int) -> Operand:
        """Input ``index``, which must be there."""
        self.shape(index)
        operand = self.operands[index]
        assert operand is not None
        return operand

    def dtype(self, *indices: int) -> str:
        """The type that all inputs ``indices`` have, which must be there; of all inputs if none is named."""
        found = [self.operand(index).dtype for index in indices or range(len(self.operands))]
        if len(set(found)) != 1:
            raise self.fail(f"inputs of types {', '.join(map(type_name, found)):.80}, expected one type")
        return found[0]

    def param(self, index: int) -> Shape:
        """The shape of input ``index``, which must be a parameter."""
        shape = self.shape(index)
        if not self.is_param(index):
            raise self.fail(f"input {index} must be a parameter, not computed")
        return shape

    def batch(self, index: int = 0) -> int | None:
        """The axis of input ``index`` along which samples lie; None if it is fixed or left out."""
        operand = self.operands[index] if index < len(self.operands) else None
        return None if operand is None or operand.fixed else operand.batch

    def from_batch(self, name: str, count: int) -> tuple[bool, ...]:
        """Which of the ``count`` numbers of an attribute are computed from the number of samples."""
        found = self._sizes[name].from_batch if name in self._sizes else None
        return (False,) * count if found is None else tuple(map(bool, found.reshape(-1)))

    def computed(self, index: int) -> Shape:
        """The shape of input ``index``, which must not be a parameter."""
        shape = self.shape(index)
        if self.is_param(index):
            raise self.fail(f"input {index} must be computed, not a parameter")
        return shape

    def bias(self, index: int, count: int) -> bool:
        """Whether the optional parameter ``index`` is there: a bias of shape ``(count,)``."""
        if self.optional(index) is None:
            return False
        if self.param(index) != (count,):
            raise self.fail(f"bias has shape {self.shape(index)}, expected ({count},)")
        return True

    def expect(self, inputs: tuple[int, int], outputs: tuple[int, int] = (1, 1)) -> None:
        """Check the number of inputs and outputs against ``(fewest, most)``."""
        for what, names, (least, most) in (
            ("inputs", self.node.inputs, inputs),
            ("outputs", self.node.outputs, outputs),
        ):
            if not least <= len(names) <= most:
                raise self.fail(f"{len(names)} {what}, expected {least} to {most}")
        if not self.node.outputs[0]:
            raise self.fail("output 0 has no name, expected a name")

    def int_(self, name: str, default: int | None = None, low: int = -(2**31), high: int = 2**31 - 1) -> int:
        """An integer attribute from ``low`` to ``high``."""
        value = self._get(name, default)
        if type(value) is not int or not low <= value <= high:
            raise self.fail(f"attribute {name!r} is {value!r:.80}, expected an integer from {low} to {high}")
        return value

    def ints(
        self,
        name: str,
        default: tuple[int, ...] | None = None,
        low: int = -(2**31),
        high: int = 2**31 - 1,
        count: int | None = None,
    ) -> tuple[int, ...]:
        """A list of ``count`` integers, each from ``low`` to ``high``."""
        value = self._get(name, default)
        if (
            not isinstance(value, tuple)
            or (count is not None and len(value) != count)
            or not all(type(v) is int and low <= v <= high for v in value)
        ):
            many = "" if count is None else f"{count} "
            raise self.fail(f"attribute {name!r} is {value!r:.80}, expected {many}integers from {low} to {high}")
        return value  # type: ignore[return-value]

    def flag(self, name: str, default: bool) -> bool:
        """A truth value, written as 0 or 1."""
        return bool(self.int_(name, int(default), 0, 1))

    def axis(self, name: str, rank: int, default: int | None = None) -> int:
        """An axis of a tensor of ``rank`` axes, counted from the front; the file may count from the back."""
        if rank == 0:
            raise self.fail(f"attribute {name!r} names an axis of a tensor without axes")
        return self.int_(name, default, -rank, rank - 1) % rank

    def axes(self, name: str, rank: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Axes of a tensor of ``rank`` axes, each at most once, counted from the front, in the order of the file."""
        axes = tuple(axis % rank for axis in self.ints(name, default, -rank, rank - 1))
        if len(set(axes)) != len(axes):
            raise self.fail(f"attribute {name!r} is {axes}, expected each axis at most once")
        return axes

    def float_(self, name: str, default: float | None = None) -> float:
        """A float32 number, possibly infinite."""
        value = self._get(name, default)
        if not isinstance(value, (int, float)) or not (abs(value) <= _FLT_MAX or abs(value) == math.inf):
            raise self.fail(f"attribute {name!r} is {value!r:.80}, expected a float32 number")
        return float(value)

    def floats(self, name: str, count: int) -> tuple[float, ...]:
        """A list of ``count`` finite numbers."""
        value = self._get(name, None)
        if (
            not isinstance(value, tuple)
            or len(value) != count
            or not all(isinstance(v, (int, float)) and abs(v) <= _FLT_MAX for v in value)
        ):
            raise self.fail(f"attribute {name!r} is {value!r:.80}, expected {count} finite numbers")
        return tuple(map(float, value))

    def numbers(self, name: str) -> tuple[int, ...] | tuple[float, ...]:
        """A list of integers or of floating-point numbers."""
        value = self._get(name, None)
        if not isinstance(value, tuple):
            raise self.fail(f"attribute {name!r} is {value!r:.80}, expected a list of numbers")
        return value

    def text(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """One of ``choices``."""
        value = self._get(name, default)
        if value not in choices:
            raise self.fail(f"attribute {name!r} is {value!r:.80}, expected one of {choices}")
        return value

    def string(self, name: str, most: int) -> str:
        """A text of at most ``most`` characters."""
        value = self._get(name, None)
        if not isinstance(value, str) or len(value) > most:
            raise self.fail(f"attribute {name!r} is {value!r:.80}, expected a text of at most {most} characters")
        return value

    def texts(self, name: str, default: tuple[str, ...], choices: Container[str]) -> tuple[str, ...]:
        """As many of ``choices`` as ``default`` has, which the file separates by commas."""
        value = self._get(name, ",".join(default))
        texts = tuple(value.split(",")) if isinstance(value, str) else ()
        if len(texts) != len(default) or not all(text in choices for text in texts):
            raise self.fail(f"attribute {name!r} is {value!r:.80}, expected {len(default)} names such as {default}")
        return texts

    def has(self, name: str) -> bool:
        """Whether the attribute is there."""
        return name in self.node.attrs

    def finish(self) -> None:
        """Raise unless every attribute of the node was read."""
        if unknown := self.node.attrs.keys() - self._seen:
            known = ", ".join(sorted(self._seen)) or "none"
            raise self.fail(f"unknown attributes {sorted(unknown)[:3]}, expected only: {known}")

    def check(self, what: str, shape: Shape) -> None:
        """Raise if a tensor of ``shape`` is empty or its size is out of bounds."""
        if problem := size_problem(shape):
            raise self.fail(f"{what} {problem}")

    def _get(self, name: str, default: Attr | None) -> Attr | None:
        self._seen.add(name)
        value = self.node.attrs.get(name, default)
        if value is None:
            raise self.fail(f"attribute {name!r} is missing")
        return value


def type_name(dtype: str) -> str:
    """The NumPy name of a type of computed tensors; other types keep the name that the weights file gives them."""
    return {FLOAT32: "float32", INT64: "int64"}.get(dtype, dtype)
