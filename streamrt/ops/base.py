"""What an operator is: a pure lowering from shapes to a kernel that can be bound to memory.

An operator is one function. Given a node and the shapes of its inputs it checks the attributes,
infers the output shapes and says what running will need; nothing is allocated and no weight is read:

    @operator("Relu")
    def relu(call: Call) -> Lowered: ...

The model then places all activations in one arena and calls ``bind`` once per shape. The function
that ``bind`` returns is what a pass runs: ``run(first, last)`` computes the output rows from ``first``
to ``last``, reading only those rows of the tiled parameters. A node that is not tiled gets ``run(0, rows)``.

Inside a pass, memory is what ``bind`` was handed: a kernel may not allocate anything that grows with the model.

A node's ``activation`` is no concern of most operators: `lower` applies it to what they compute. One whose kernel
can apply it on the way asks `Call.epilogue` for it; views and tiled operators, which `lower` cannot wrap, must.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import streamrt._core as _core
from streamrt.errors import FormatError
from streamrt.graph import Attr, Node
from streamrt.ops.epilogue import IDENTITY, Epilogue, epilogue_of
from streamrt.report.printable import printable

Shape = tuple[int, ...]
Array = NDArray[np.float32]
#: ``run(first, last)``: compute output rows ``first`` to ``last``.
Run = Callable[[int, int], None]

#: More axes than any layer has; bounds work that is exponential in the rank.
MAX_RANK = 8
#: Keeps every byte count and index computed from a shape far from overflow in 64 bits.
_MAX_SIZE = 2**40
#: Bytes of scratch, likewise: several tensors of that size.
_MAX_SCRATCH = 2**46
_FLT_MAX = float(np.finfo(np.float32).max)


class Buffers(NamedTuple):
    """The memory of one node: every array is float32 and C-contiguous; ``None`` is an input left out.

    ``scratch`` is ``Lowered.scratch`` bytes that begin on a 64-byte boundary and keep their content
    from the first tile of a node to its last, not longer.
    """

    inputs: tuple[Array | None, ...]
    outputs: tuple[Array, ...]
    scratch: NDArray[np.uint8]

    def input(self, index: int) -> Array:
        """The array of an input that is there."""
        array = self.inputs[index]
        assert array is not None
        return array


@dataclass(frozen=True, slots=True)
class Lowered:
    """A node for given input shapes.

    Attributes:
        outputs: shape of each output.
        bind: takes the `Buffers`, returns the function that a pass runs.
        scratch: bytes of scratch memory.
        view_of: the input whose memory ``outputs[0]`` shares, byte for byte (Reshape and its kin);
            ``run`` then does nothing.
        inplace: inputs whose memory ``outputs[0]`` may take over: the kernel gives the same answer when
            both are one buffer. Only inputs of the output's own shape.
        joins: ``outputs[0]`` is the inputs one after the other, byte for byte; ``run`` copies those that are not
            in their place in its memory already.
        tiled: the parameters (indices of inputs) that ``run`` reads by rows: axis 0 of each is ``rows`` long.
            Every other parameter is read only by the call with ``first == 0``, which copies to scratch what later
            tiles need.
        rows: length of the axis along which the node can be cut.
        row_step: cuts fall on multiples of this.
        batchwise: sample n of each output depends on sample n of the computed inputs only (axis 0 of each).
        flops: multiply-adds times two, for the planner.
    """

    outputs: tuple[Shape, ...]
    bind: Callable[[Buffers], Run]
    scratch: int = 0
    view_of: int | None = None
    inplace: tuple[int, ...] = ()
    joins: bool = False
    tiled: tuple[int, ...] = ()
    rows: int = 1
    row_step: int = 1
    batchwise: bool = True
    flops: int = 0


@lru_cache(4096)  # a graph may read one tensor thousands of times
def size_problem(shape: Shape) -> str | None:
    """What keeps a tensor of ``shape`` from being handled, if anything: it is empty, or its size is out of bounds."""
    if len(shape) > MAX_RANK:
        return f"has {len(shape)} axes, more than the {MAX_RANK} allowed"
    if not all(1 <= extent < _MAX_SIZE for extent in shape) or math.prod(shape) >= _MAX_SIZE:
        return f"has shape {shape}, expected 1 to 2**40 elements"
    return None


class Call:
    """A node with the shapes of its inputs, and typed access to its attributes.

    Every accessor raises `FormatError`, naming the node, when the file does not hold what is asked for.
    """

    def __init__(
        self, node: Node, shapes: tuple[Shape | None, ...], is_param: tuple[bool, ...], exact: bool = False
    ) -> None:
        self.node = node
        #: Whether the operator must not use an algorithm that is faster and rounds more.
        self.exact = exact
        self.shapes = shapes
        self.is_param = is_param
        #: Whether the operator applies the node's activation itself.
        self.fused = False
        self._seen: set[str] = set()

    def fail(self, reason: str) -> FormatError:
        """The error to raise for this node: ``raise call.fail("...")``."""
        return FormatError(f"node {self.node.name!r} ({printable(self.node.op):.80}): {reason}")

    def shape(self, index: int) -> Shape:
        """The shape of input ``index``, which must be there."""
        shape = self.shapes[index] if index < len(self.shapes) else None
        if shape is None:
            raise self.fail(f"input {index} is missing")
        return shape

    def optional(self, index: int) -> Shape | None:
        """The shape of input ``index``, or None when it was left out."""
        return self.shapes[index] if index < len(self.shapes) else None

    def param(self, index: int) -> Shape:
        """The shape of input ``index``, which must be a parameter."""
        shape = self.shape(index)
        if not self.is_param[index]:
            raise self.fail(f"input {index} must be a parameter, not computed")
        return shape

    def computed(self, index: int) -> Shape:
        """The shape of input ``index``, which must not be a parameter."""
        shape = self.shape(index)
        if self.is_param[index]:
            raise self.fail(f"input {index} must be computed, not a parameter")
        return shape

    def bias(self, index: int, count: int) -> bool:
        """Whether the optional parameter ``index``, a vector of ``count``, is there."""
        if self.optional(index) is None:
            return False
        if self.param(index) != (count,):
            raise self.fail(f"bias has shape {self.shape(index)}, expected ({count},)")
        return True

    def epilogue(self) -> Epilogue:
        """The node's activation, for an operator that applies it itself."""
        self.fused = True
        activation = self.node.activation
        if activation is None:
            return IDENTITY
        call = Call(replace(self.node, op=activation.op, attrs=activation.attrs, activation=None), (), ())
        epilogue = epilogue_of(call)
        call.finish()
        return epilogue

    def expect(self, inputs: tuple[int, int], outputs: tuple[int, int] = (1, 1)) -> None:
        """Check the number of inputs and outputs against ``(fewest, most)``."""
        for what, names, (least, most) in (
            ("inputs", self.node.inputs, inputs),
            ("outputs", self.node.outputs, outputs),
        ):
            if not least <= len(names) <= most:
                raise self.fail(f"{len(names)} {what}, expected {least} to {most}")
        if not self.node.outputs[0]:
            raise self.fail("its first output has no name")

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
            raise self.fail("a tensor without axes has no axis to name")
        return self.int_(name, default, -rank, rank - 1) % rank

    def axes(self, name: str, rank: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Different axes of a tensor of ``rank`` axes, counted from the front, in the order of the file."""
        axes = tuple(axis % rank for axis in self.ints(name, default, -rank, rank - 1))
        if len(set(axes)) != len(axes):
            raise self.fail(f"attribute {name!r} names an axis twice")
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

    def text(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """One of ``choices``."""
        value = self._get(name, default)
        if value not in choices:
            raise self.fail(f"attribute {name!r} is {value!r:.80}, expected one of {choices}")
        return value

    def has(self, name: str) -> bool:
        """Whether the attribute is there."""
        return name in self.node.attrs

    def finish(self) -> None:
        """Raise unless every attribute of the node was asked for."""
        if unknown := self.node.attrs.keys() - self._seen:
            raise self.fail(f"unknown attributes {sorted(unknown)[:3]}")

    def check(self, what: str, shape: Shape) -> None:
        """Raise unless a tensor of ``shape`` can be handled: it is not empty, and its size is within bounds."""
        if problem := size_problem(shape):
            raise self.fail(f"{what} {problem}")

    def _get(self, name: str, default: Attr | None) -> Attr | None:
        self._seen.add(name)
        value = self.node.attrs.get(name, default)
        if value is None:
            raise self.fail(f"attribute {name!r} is missing")
        return value


Lower = Callable[[Call], Lowered]
_OPERATORS: dict[str, Lower] = {}


def operator(*names: str) -> Callable[[Lower], Lower]:
    """Register a function as the lowering of the operators ``names``."""

    def register(function: Lower) -> Lower:
        for name in names:
            _OPERATORS[name] = function
        return function

    return register


def lower(node: Node, shapes: tuple[Shape | None, ...], is_param: tuple[bool, ...], exact: bool = False) -> Lowered:
    """Lower ``node`` for inputs of these shapes (``None``: left out); ``exact`` is `Call.exact`.

    Raises:
        FormatError: an unknown operator, or attributes or shapes that do not fit it.
    """
    call = Call(node, shapes, is_param, exact)
    function = _OPERATORS.get(node.op)
    if function is None:
        raise call.fail("no such operator")
    for index, shape in enumerate(shapes):
        if shape is not None:
            call.check(f"input {index}", shape)
    lowered = function(call)
    for index, shape in enumerate(lowered.outputs):
        call.check(f"output {index}", shape)
    if lowered.scratch >= _MAX_SCRATCH:
        raise call.fail(f"it needs {lowered.scratch} bytes of scratch memory, expected less than 2**46")
    if node.activation is not None and not call.fused:
        lowered = _activated(call, lowered)
    call.finish()
    if all(is_param):
        # Without a computed input no axis of the output is the batch.
        lowered = replace(lowered, batchwise=False)
    return lowered


def _activated(call: Call, lowered: Lowered) -> Lowered:
    """``lowered``, an operator that knows nothing of activations and computes its output in one call, with one."""
    epilogue = call.epilogue()
    if len(lowered.outputs) != 1:
        raise call.fail("an activation needs a node with one output")

    def bind(buffers: Buffers) -> Run:
        compute = lowered.bind(buffers)
        y = buffers.outputs[0].reshape(-1)

        def run(first: int, last: int) -> None:
            compute(first, last)
            _core.unary(y, y, *epilogue)

        return run

    return replace(lowered, bind=bind, joins=False)  # the inputs must stay as they are


def supported() -> frozenset[str]:
    """The names of all operators that a weights file may use."""
    return frozenset(_OPERATORS)
