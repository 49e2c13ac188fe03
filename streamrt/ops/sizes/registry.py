"""The size operators by name, and the evaluation of a node.

A size operator is a function of a `SizeCall`, which has the inputs' arrays and typed access to attributes. Before it
makes an array it calls ``call.take(elements)``.

Some results depend on the number of samples. A model is run sample by sample only if such numbers are extents and
never data, so the evaluation says which they are (`Value.from_batch`). It is known exactly for operators that move
elements, and for element-wise ones. Of any other, all elements depend on the samples if one element of an input does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt.errors import FormatError
from streamrt.graph import Node
from streamrt.ops.base import MAX_RANK, Operand, Shape, Value
from streamrt.ops.call import Call

Array = NDArray[Any]
#: The most elements of a value: a mask of 2048 x 2048.
_MOST_OF_ONE = 2**22
#: The most elements that the size nodes of a graph may read and write together. They take 64 MiB and about 50 ms.
MOST_ELEMENTS = 2**23


class OtherCaseError(FormatError):
    """The extents of a call lead to another case of the graph: ``node`` is the ``If`` that says so."""

    def __init__(self, node: Node, text: str) -> None:
        super().__init__(text)
        self.node = node


def weight(shape: Shape) -> int:
    """Elements of ``shape``, where an empty axis counts as one: NumPy makes indices and sums for the others."""
    return math.prod(max(1, extent) for extent in shape)


class Meter:
    """Counts the elements that size nodes of one graph read and write."""

    def __init__(self) -> None:
        self._left = MOST_ELEMENTS

    def take(self, call: Call, elements: int) -> None:
        """Count ``elements``; raise `FormatError` if they are too many."""
        self._left -= elements
        if elements > _MOST_OF_ONE or self._left < 0:
            raise call.fail(
                f"a value computed from sizes would have {elements} elements, expected at most {_MOST_OF_ONE}, and "
                f"{MOST_ELEMENTS} of all such values of a graph together"
            )


class SizeCall(Call):
    """A size node with the arrays of its inputs; None is an input left out."""

    def __init__(self, node: Node, arrays: Sequence[Array | None], meter: Meter) -> None:
        super().__init__(node, [None if array is None else Operand(array.shape, batch=None) for array in arrays])
        self.arrays = tuple(arrays)
        self._meter = meter

    def array(self, index: int) -> Array:
        """Input ``index``, which must be there."""
        self.shape(index)
        array = self.arrays[index]
        assert array is not None
        return array

    def given(self, index: int) -> Array | None:
        """Input ``index``, or None if it was left out."""
        return self.arrays[index] if index < len(self.arrays) else None

    def integers(self, index: int) -> tuple[int, ...]:
        """Input ``index`` as a list of integers."""
        array = self.array(index)
        if array.ndim > 1 or array.dtype.kind != "i":
            raise self.fail(f"input {index} is {array.dtype} of shape {array.shape}, expected a list of integers")
        self.take(array.size)
        return tuple(array.reshape(-1).tolist())

    def axis_in(self, value: int, rank: int) -> int:
        """``value``, an axis of a tensor of ``rank`` axes, counted from the front."""
        if not -rank <= value < rank:
            raise self.fail(f"axis {value} of a tensor with {rank} axes, expected {-rank} to {rank - 1}")
        return value % rank

    def take(self, elements: int) -> None:
        """Count the elements of an array that the operator is about to make or to read."""
        self._meter.take(self, elements)

    def take_shape(self, shape: Shape) -> Shape:
        """`take` the elements of ``shape``, which is checked and returned."""
        if len(shape) > MAX_RANK or any(extent < 0 for extent in shape):
            raise self.fail(f"a result of shape {shape!s:.200}, expected up to {MAX_RANK} axes and no extent below 0")
        self.take(weight(shape))
        return shape


class Batch(Enum):
    """How the elements of a result depend on the number of samples, if elements of the inputs do."""

    #: As the elements of input 0 do that were moved there; as all if another input does.
    MOVED = 1
    #: As the elements of all inputs, broadcast.
    ELEMENTWISE = 2
    #: Each as any element of an input, and so does the shape.
    ALL = 3
    #: Each as any element of an input, while the shape depends on no element of input 0.
    COMBINED = 4


Compute = Callable[[SizeCall], "Array | Sequence[Array]"]


@dataclass(frozen=True, slots=True)
class _Operator:
    compute: Compute
    batch: Batch
    every: bool  # whether MOVED holds for all inputs, as for Concat


_OPERATORS: dict[str, _Operator] = {}
#: Operators of which only these are size nodes whatever their inputs are.
_ROOTS = frozenset(("Shape", "Size", "Constant"))


def size_operator(*names: str, batch: Batch = Batch.ALL, every: bool = False) -> Callable[[Compute], Compute]:
    """Register a function as the evaluation of the operators ``names``."""

    def register(function: Compute) -> Compute:
        for name in names:
            _OPERATORS[name] = _Operator(function, batch, every)
        return function

    return register


def supported() -> frozenset[str]:
    """The names of all operators that size nodes may use."""
    return frozenset(_OPERATORS) | _ROOTS


def is_size_node(node: Node, values: Container[str]) -> bool:
    """Whether a node is evaluated from sizes; ``values`` has the names of the results of the size nodes before it."""
    if node.op in _ROOTS:
        return True
    names = [name for name in node.inputs if name]
    return bool(names) and all(name in values for name in names)


def evaluate(node: Node, inputs: Sequence[Value | Operand | None], meter: Meter) -> list[Value]:
    """The values of the outputs of a size node. Only ``Shape`` and ``Size`` have an input that is an `Operand`.

    Raises:
        FormatError: an unknown operator, attributes or values that do not fit it, or too many elements.
        OtherCaseError: the node is an ``If``, and its condition goes the other way.
    """
    if node.op in ("Shape", "Size"):
        return [_measured(node, inputs)]
    if node.op == "If":
        return _decide(node, inputs)
    values = [value if isinstance(value, Value) else None for value in inputs]
    call = SizeCall(node, [None if value is None else value.array for value in values], meter)
    found = _OPERATORS.get(node.op)
    if node.op == "Constant":
        return [_constant(call)]
    if found is None:
        raise call.fail(f"it is computed from sizes, expected one of {', '.join(sorted(supported()))}")
    if node.activation is not None:
        raise call.fail("a node that is computed from sizes has an activation")
    arrays = _computed(found, call)
    if len(arrays) != len(node.outputs):
        raise call.fail(f"{len(node.outputs)} outputs, expected {len(arrays)}")
    call.finish()
    if not any(value.depends_on_batch for value in values if value is not None):
        return [Value(array) for array in arrays]
    return _with_batch(found, call, values, arrays, meter)


def _decide(node: Node, inputs: Sequence[Value | Operand | None]) -> list[Value]:
    """The outputs of an ``If``, which has none. Its case runs for one way of the condition."""
    call = Call(node, [])
    wanted = call.int_("value", low=0, high=1)
    call.finish()
    condition = inputs[0] if len(inputs) == 1 else None
    if node.outputs or node.activation is not None or not isinstance(condition, Value) or condition.array.size != 1:
        raise call.fail("expected one value as the condition, no output and no activation")
    if bool(condition.array.reshape(())) != bool(wanted):
        reason = (
            f"with these extents the condition {node.inputs[0]!r:.80} is {not wanted}, for which the file has no case"
        )
        raise OtherCaseError(node, str(call.fail(f"{reason}: pack the model with inputs= for them to see why")))
    return []


def _computed(operator: _Operator, call: SizeCall) -> list[Array]:
    for array in call.arrays:
        call.take(0 if array is None else weight(array.shape))
    try:
        with np.errstate(all="ignore"):
            made = operator.compute(call)
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        if isinstance(error, FormatError):
            raise
        raise call.fail(f"it cannot be computed from sizes: {' '.join(str(error).split()):.200}") from None
    return [_plain(call, array) for array in ([made] if isinstance(made, np.ndarray | np.generic) else made)]


def _plain(call: SizeCall, made: Any) -> Array:
    """An array of one of the types that values have."""
    array: Array = np.asarray(made)
    if array.ndim > MAX_RANK or weight(array.shape) > _MOST_OF_ONE:
        raise call.fail(
            f"a result of shape {array.shape}, expected up to {MAX_RANK} axes and {_MOST_OF_ONE} elements, where an "
            "empty axis counts as one"
        )
    if array.dtype.kind in "iu" and array.dtype != np.int64:
        return array.astype(np.int64)
    if array.dtype.kind == "f" and array.dtype not in (np.float32, np.float64):
        return array.astype(np.float32)
    return array


def _measured(node: Node, inputs: Sequence[Value | Operand | None]) -> Value:
    call = Call(node, [])
    if len(inputs) != 1 or inputs[0] is None or len(node.outputs) != 1:
        raise call.fail(f"{len(inputs)} inputs and {len(node.outputs)} outputs, expected one of each")
    given = inputs[0]
    if isinstance(given, Value):
        shape, batch, resized = given.array.shape, given.batch, given.resized
    else:
        shape, batch, resized = given.shape, None if given.fixed else given.batch, False
    flags = np.array([resized or axis == batch for axis in range(len(shape))], np.bool_)
    if node.op == "Size":
        call.finish()
        return Value(np.array(math.prod(shape), np.int64), np.array(True) if flags.any() else None)
    far = 2**31 - 1
    part = slice(call.int_("start", 0), call.int_("end", far))
    call.finish()
    flags = flags[part]
    return Value(np.array(shape[part], np.int64), flags if flags.any() else None)


def _constant(call: SizeCall) -> Value:
    call.expect((0, 0))
    dtype = {"int64": np.int64, "float32": np.float32, "float64": np.float64, "bool": np.bool_}[
        call.text("dtype", "int64", ("int64", "float32", "float64", "bool"))
    ]
    given = call.numbers("value")
    shape = call.ints("shape", (len(given),), 0)
    call.finish()
    if math.prod(shape) != len(given) or len(shape) > MAX_RANK:
        raise call.fail(f"{len(given)} numbers, expected as many as shape {shape!s:.200} has elements")
    try:
        with np.errstate(over="ignore"):
            array: Array = np.array(given, dtype)
    except OverflowError:
        raise call.fail("a number is beyond int64") from None
    return Value(_plain(call, array.reshape(shape)))


def _with_batch(
    operator: _Operator, call: SizeCall, values: Sequence[Value | None], arrays: Sequence[Array], meter: Meter
) -> list[Value]:
    """The results, with how they depend on the number of samples."""
    given = [value for value in values if value is not None]
    if any(value.resized for value in given):
        return [_resized(array) for array in arrays]
    powers = sum(value.from_batch is not None for value in given) > 1 and call.node.op in ("Mul", "Pow")
    if powers:  # not proportional to the number of samples
        return [_resized(array) for array in arrays]
    if operator.batch is Batch.ELEMENTWISE:
        return [_elementwise(given, arrays[0])]
    moved = given if operator.every else given[:1]
    plain = all(value.batch is None for value in given)
    if operator.batch is Batch.MOVED and plain and not any(v.depends_on_batch for v in given[len(moved) :]):
        flags = [None if value is None else value.array for value in values]
        flags[: len(moved)] = [_flags(value) for value in moved]
        found = _computed(operator, SizeCall(call.node, flags, meter))
        return [Value(a, f if f.any() else None) for a, f in zip(arrays, found, strict=True)]
    if call.node.op in ("ConstantOfShape", "Expand"):
        return [_extended(values, arrays[0])]
    if operator.batch is Batch.COMBINED and plain and not any(v.depends_on_batch for v in given[1:]):
        return [Value(array, np.broadcast_to(np.True_, array.shape)) for array in arrays]
    return [_resized(array) for array in arrays]


def _resized(array: Array) -> Value:
    return Value(array, np.broadcast_to(np.True_, array.shape), resized=True)


def _flags(value: Value) -> NDArray[np.bool_]:
    return np.broadcast_to(np.False_, value.array.shape) if value.from_batch is None else value.from_batch


def _elementwise(values: Sequence[Value], array: Array) -> Value:
    axes = {value.batch + array.ndim - value.array.ndim for value in values if value.batch is not None}
    flags = None
    if any(value.from_batch is not None for value in values):
        flags = np.broadcast_to(np.False_, array.shape)
        for value in values:
            flags = np.logical_or(flags, _flags(value))
    if not axes:
        return Value(array, flags)
    axis = axes.pop()
    for value in values:
        own = axis - (array.ndim - value.array.ndim)
        if axes or (value.batch is None and own >= 0 and value.array.shape[own] != 1):
            return _resized(array)
    return Value(array, flags, axis)


def _extended(values: Sequence[Value | None], array: Array) -> Value:
    """The result of ConstantOfShape (input 0 is its shape) or Expand (input 1 is)."""
    source, target = (None, values[0]) if len(values) == 1 else values
    assert target is not None
    axes = [] if target.from_batch is None else np.flatnonzero(target.from_batch).tolist()
    if len(axes) == 1 and (source is None or not source.depends_on_batch):
        axis = axes[0] + array.ndim - target.array.size
        own = axis - (0 if source is None else array.ndim - source.array.ndim)
        if source is None or own < 0 or source.array.shape[own] == 1:
            return Value(array, None, axis)
    return _resized(array)
