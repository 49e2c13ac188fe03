"""Operators that move values without changing them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

import streamrt._core as _core
from streamrt.graph import Node
from streamrt.ops.base import MAX_RANK, Array, Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.epilogue import IDENTITY, epilogue_of
from streamrt.ops.registry import Traits, operator
from streamrt.ops.shapes import borrowed, keeps_batch
from streamrt.ops.strip import Columns

#: The largest absolute value of starts, ends and steps, which may be any int64 if they are computed. ONNX writes such
#: numbers to say "up to the end of the axis".
_FAR = 2**63
#: The most parts of a Split or a Concat: as many as a node can have names.
_MOST_PARTS = 4096
#: The traits of operators that move values of any type.
MOVES = Traits(moves_batch=True, integers=True)
#: As `MOVES`, for operators to which a shape is given.
RESHAPES = Traits(moves_batch=True, extents=("shape",), integers=True)


def same_memory(call: Call, out: Shape, batchwise: bool, batch: int = 0) -> Lowered:
    """A result with the values of input 0 in the same order.

    It is a view of the input. It is a copy if the node has an activation, or if the input is a parameter: parameters do
    not lie in the arena.
    """
    epilogue, dtypes = epilogue_of(call), (call.operand(0).dtype,)
    if epilogue == IDENTITY and not call.is_param(0):
        return Lowered(outputs=(out,), bind=_nothing, view_of=0, batchwise=batchwise, batch=batch, dtypes=dtypes)

    def bind(buffers: Buffers) -> Run:
        x, y = buffers.input(0).reshape(-1), buffers.outputs[0].reshape(-1)
        if epilogue == IDENTITY:
            return copy_all([(y, x)])
        return lambda first, last: _core.unary(x, y, *epilogue)

    inplace = () if call.is_param(0) or call.shape(0) != out else (0,)
    return Lowered(outputs=(out,), bind=bind, inplace=inplace, batchwise=batchwise, batch=batch, dtypes=dtypes)


def _nothing(buffers: Buffers) -> Run:
    return lambda first, last: None


@operator("Identity", traits=MOVES)
def identity(call: Call) -> Lowered:
    """``y = x``."""
    call.expect((1, 1))
    shape = call.shape(0)
    return same_memory(call, shape, batchwise=len(shape) > 0, batch=call.batch() or 0)


@operator("Reshape", traits=RESHAPES)
def reshape(call: Call) -> Lowered:
    """The same values in another shape.

    In ``shape``, 0 keeps the extent of the input and -1 is the extent that remains. For ``extents`` see `borrowed`.
    """
    x = call.shape(0)
    wanted = call.ints("shape", low=-1, high=2**40)
    if len(wanted) > MAX_RANK:
        raise call.fail(f"output 0 has {len(wanted)} axes, more than the {MAX_RANK} allowed")
    taken = borrowed(call, len(wanted))
    if call.flag("allowzero", False) and 0 in wanted:
        raise call.fail(
            f"attribute 'shape' is {wanted!s:.80} with allowzero: outputs without elements are not supported"
        )
    out = []
    for axis, extent in enumerate(taken.get(axis, extent) for axis, extent in enumerate(wanted)):
        if extent == 0 and axis >= len(x):
            raise call.fail(f"attribute 'shape' has a 0 for axis {axis}, which an input of shape {x} does not have")
        out.append(x[axis] if extent == 0 else extent)
    total, known = math.prod(x), math.prod(extent for extent in out if extent != -1)
    if out.count(-1) > 1 or (total % known if -1 in out else total != known):
        raise call.fail(f"an input of shape {x} cannot take shape {wanted!s:.200}")
    shape = tuple(total // known if extent == -1 else extent for extent in out)
    if taken:
        follows = (wanted[0] in (0, -1) or 0 in taken) and keeps_batch(call, taken) and call.batch() == 0
        return same_memory(call, shape, batchwise=follows and len(x) > 0 and shape[0] == x[0])
    batch = _batch_after(call, wanted, shape)
    return same_memory(call, shape, batchwise=batch is not None, batch=batch or 0)


def _batch_after(call: Call, wanted: tuple[int, ...], out: Shape) -> int | None:
    """The axis of ``out`` along which samples lie after a Reshape to ``wanted``; None if they lie along none.

    As many elements lie before this axis as before the input's, and a sample is a whole number of its positions. The
    extent must follow the number of samples: it is computed from it, is the input's (0), or is what remains (-1). No
    other extent may.
    """
    x, batch, computed = call.shape(0), call.batch(), call.from_batch("shape", len(wanted))
    if batch is None or not x:
        return None
    before = math.prod(x[:batch])
    for axis, (extent, given) in enumerate(zip(out, wanted, strict=True)):
        follows = computed[axis] or given == -1 or (given == 0 and axis == batch)
        fits = extent == x[batch] or (call.samples > 0 and extent % call.samples == 0)
        others = any(
            computed[other] or (number == 0 and other == batch) for other, number in enumerate(wanted) if other != axis
        )
        if follows and fits and not others and math.prod(out[:axis]) == before:
            return axis
    return None


@operator("Flatten", traits=MOVES)
def flatten(call: Call) -> Lowered:
    """Two axes: all axes before ``axis`` as one, and the others as one."""
    call.expect((1, 1))
    x = call.shape(0)
    axis = call.int_("axis", 1, -len(x), len(x))
    axis += len(x) if axis < 0 else 0
    out = (math.prod(x[:axis]), math.prod(x[axis:]))
    own = call.batch() or 0
    # Samples must be the outermost part of axis 0 of the result.
    whole = own < axis and math.prod(x[:own]) == 1 and (out[0] == x[own] or call.samples > 0)
    return same_memory(call, out, batchwise=whole)


@operator("Squeeze", traits=MOVES)
def squeeze(call: Call) -> Lowered:
    """Removes ``axes``, which have extent 1 (default: all axes of extent 1)."""
    call.expect((1, 1))
    x, batch = call.shape(0), call.batch() or 0
    if call.has("axes"):
        axes = call.axes("axes", len(x))
        batchwise = len(x) > 0 and batch not in axes
    else:
        axes = tuple(axis for axis, extent in enumerate(x) if extent == 1)
        # Whether the batch's axis is removed depends on the batch.
        batchwise = False
    if any(x[axis] != 1 for axis in axes):
        raise call.fail(f"axes {axes} of an input of shape {x} are not all of extent 1")
    out = tuple(extent for axis, extent in enumerate(x) if axis not in axes)
    return same_memory(call, out, batchwise, batch - sum(axis < batch for axis in axes))


@operator("Unsqueeze", traits=MOVES)
def unsqueeze(call: Call) -> Lowered:
    """Inserts axes of extent 1, so that they are ``axes`` of the output."""
    call.expect((1, 1))
    x = call.shape(0)
    rank = len(x) + len(call.ints("axes"))
    if rank > MAX_RANK:
        raise call.fail(f"output 0 has {rank} axes, more than the {MAX_RANK} allowed")
    axes = call.axes("axes", rank)
    extents = iter(x)
    out = tuple(1 if axis in axes else next(extents) for axis in range(rank))
    kept = [axis for axis in range(rank) if axis not in axes]
    return same_memory(call, out, batchwise=len(x) > 0, batch=kept[call.batch() or 0] if x else 0)


@operator("Transpose", traits=MOVES)
def transpose(call: Call) -> Lowered:
    """Axis i of the output is axis ``perm[i]`` of the input (default: reversed)."""
    call.expect((1, 1))
    x = call.shape(0)
    perm = call.ints("perm", tuple(reversed(range(len(x)))), 0, max(len(x) - 1, 0), count=len(x))
    if len(set(perm)) != len(perm):
        raise call.fail(f"attribute 'perm' is {perm}, expected each axis once")
    out = tuple(x[axis] for axis in perm)
    batchwise, batch = len(x) > 0, perm.index(call.batch() or 0) if x else 0
    moved = [axis for axis in perm if x[axis] != 1]
    if moved == sorted(moved):
        return same_memory(call, out, batchwise, batch)
    return copies(call, out, lambda x, y: [(y, x.transpose(perm))], batchwise, batch)


@operator("Slice", traits=MOVES)
def slice_(call: Call) -> Lowered:
    """Every ``steps``-th value from ``starts`` to ``ends`` (clipped to the input) along ``axes``."""
    call.expect((1, 1))
    x = call.shape(0)
    starts = call.ints("starts", low=-_FAR, high=_FAR)
    if len(starts) > len(x):
        raise call.fail(f"attribute 'starts' has {len(starts)} values, more than an input of shape {x} has axes")
    ends = call.ints("ends", low=-_FAR, high=_FAR, count=len(starts))
    steps = call.ints("steps", (1,) * len(starts), low=-_FAR, high=_FAR, count=len(starts))
    axes = call.axes("axes", len(x), tuple(range(len(starts))))
    if len(axes) != len(starts):
        raise call.fail(f"{len(axes)} axes and {len(starts)} starts, expected equal numbers")
    if 0 in steps:
        raise call.fail("attribute 'steps' has a 0, expected other integers")
    window = [slice(None)] * len(x)
    out = list(x)
    batch = call.batch() or 0
    batchwise = len(x) > 0
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        step = max(-x[axis], min(step, x[axis]))  # a longer step takes one value, too; now strides cannot overflow
        ranged = range(x[axis])[start:end:step]
        out[axis] = len(ranged)
        # A slice that runs back to the first value ends at -1, which NumPy would read as the last position.
        window[axis] = slice(ranged.start, ranged.stop if ranged.stop >= 0 else None, step)
        batchwise &= axis != batch or (start == 0 and step == 1 and end >= x[batch])
    key = tuple(window)
    if all(step > 0 for step in steps) and tuple(out) == x:
        return same_memory(call, x, batchwise, batch)
    lowered = copies(call, tuple(out), lambda x, y: [(y, x[key])], batchwise, batch)
    if len(x) != 4 or (key[2].step or 1) < 0:
        return lowered
    rows, across = (range(extent)[part] for extent, part in zip(x[2:], key[2:], strict=True))
    same = Fraction(across.start)
    return replace(
        lowered,
        by_rows=_SlicedRows(rows, key[1], across),
        columns=Columns(Fraction(across.step), same, same) if across.step > 0 else None,
    )


@dataclass(frozen=True, slots=True)
class _SlicedRows:
    """Rows of a Slice: see `ByRows`.

    Attributes:
        rows: the input row of each output row; ascending.
        channels: the slice along channels.
        columns: the input column of each output column.
    """

    rows: range
    channels: slice
    columns: range

    def reads(self, first: int, last: int) -> tuple[int, int]:
        return self.rows[first], self.rows[last - 1] + 1

    def scratch(self, rows: int) -> int:
        return 0

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8]) -> Run:
        across = self.columns
        # A slice that runs back to column 0 ends at -1, which NumPy would read as the last column.
        columns = slice(across.start, across.stop if across.stop >= 0 else None, across.step)
        return copy_all([(y, x[:: self.rows.step, self.channels, columns])])

    def narrowed(self, before: int, after: int) -> _SlicedRows:
        across = self.columns
        return replace(self, columns=range(across.start, across.stop - before, across.step))


@operator("Split", traits=MOVES)
def split(call: Call) -> Lowered:
    """Consecutive parts along ``axis``, of the extents ``split``."""
    call.expect((1, 1), (1, _MOST_PARTS))
    x = call.shape(0)
    axis = call.axis("axis", len(x), 0)
    extents = call.ints("split", low=1, count=len(call.node.outputs))
    if sum(extents) != x[axis]:
        raise call.fail(f"parts {extents!s:.200} of axis {axis} of an input of shape {x}, expected a sum of {x[axis]}")
    ends = tuple(itertools.accumulate(extents))
    keys = [_along(axis, slice(end - extent, end)) for extent, end in zip(extents, ends, strict=True)]
    named = [key for key, name in zip(keys, call.node.outputs, strict=True) if name]

    def bind(buffers: Buffers) -> Run:
        x = buffers.input(0)
        return copy_all([(y, x[key]) for y, key in zip(buffers.outputs, named, strict=True)])

    outputs = tuple((*x[:axis], extent, *x[axis + 1 :]) for extent in extents)
    batch, dtypes = call.batch() or 0, (call.operand(0).dtype,) * len(outputs)
    return Lowered(
        outputs=outputs,
        bind=bind,
        batchwise=axis != batch,
        batch=batch,
        dtypes=dtypes,
        parts=tuple(_slices(call.node, axis, extents)) if len(x) == 4 else (),
    )


def _slices(node: Node, axis: int, extents: Sequence[int]) -> Iterator[Node]:
    """A Slice for each output of a Split that is used."""
    end = 0
    for name, extent in zip(node.outputs, extents, strict=True):
        begin, end = end, end + extent
        if name:
            attrs = {"starts": (begin,), "ends": (end,), "axes": (axis,)}
            yield replace(node, op="Slice", inputs=node.inputs[:1], outputs=(name,), attrs=attrs, sizes={})


@operator("Concat", traits=Traits(fuses=True, moves_batch=True, integers=True, rowwise=True))
def concat(call: Call) -> Lowered:
    """The inputs one after the other along ``axis``."""
    call.expect((1, _MOST_PARTS))
    shapes = [call.shape(index) for index in range(len(call.operands))]
    x = shapes[0]
    axis = call.axis("axis", len(x))
    if any(len(s) != len(x) or s[:axis] != x[:axis] or s[axis + 1 :] != x[axis + 1 :] for s in shapes):
        raise call.fail(f"inputs of shapes {shapes!s:.200}, expected equal extents along all axes except {axis}")
    batches = {call.batch(index) for index in range(len(shapes))}
    ends = list(itertools.accumulate(shape[axis] for shape in shapes))
    keys = [_along(axis, slice(end - shape[axis], end)) for shape, end in zip(shapes, ends, strict=True)]

    def bind(buffers: Buffers) -> Run:
        y = buffers.outputs[0]
        pairs = [(y[key], buffers.input(index)) for index, key in enumerate(keys)]
        return copy_all([(to, source) for to, source in pairs if to.ctypes.data != source.ctypes.data])

    return Lowered(
        outputs=((*x[:axis], ends[-1], *x[axis + 1 :]),),
        joins=math.prod(x[:axis]) == 1,
        bind=bind,
        # The extent of a fixed input does not change with the batch.
        batchwise=axis not in batches and None not in batches and len(batches) == 1,
        batch=call.batch() or 0,
        dtypes=(call.dtype(),),
    )


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, part)


def copies(
    call: Call,
    out: Shape,
    pairs: Callable[[Array, Array], list[tuple[Array, Array]]],
    batchwise: bool,
    batch: int = 0,
) -> Lowered:
    """A node with one input and one output that copies ``source`` to ``target`` for each pair of their views."""

    def bind(buffers: Buffers) -> Run:
        return copy_all(pairs(buffers.input(0), buffers.outputs[0]))

    return Lowered(outputs=(out,), bind=bind, batchwise=batchwise, batch=batch, dtypes=(call.operand(0).dtype,))


def copy_all(pairs: list[tuple[Array, Array]]) -> Run:
    """A kernel that copies ``source`` to ``target`` for each pair (target, source).

    Both have one type. A source is broadcast to its target. No target overlaps another array of the list.
    """
    return _core.Copies([(target, _as_large(source, target.shape)) for target, source in pairs])


def _as_large(source: Array, shape: Shape) -> Array:
    return source if source.shape == shape else np.broadcast_to(source, shape)
