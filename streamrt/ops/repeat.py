"""Operators that repeat values, or keep a part of them and fill the rest."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from streamrt.ops.base import MAX_RANK, NUMPY_TYPES, Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.movement import MOVES, RESHAPES, copies, copy_all, same_memory
from streamrt.ops.registry import Traits, operator
from streamrt.ops.repeated import with_rows
from streamrt.ops.scratch import Scratch
from streamrt.ops.shapes import borrowed, broadcast, keeps_batch

#: The largest absolute value of ``k``: as many rows as a tensor can have.
_FAR = 2**40
#: The largest depth of a OneHot: float32 holds every integer up to here.
_MOST_DEPTH = 2**24


@operator("Tile", traits=replace(MOVES, extents=("repeats",)))
def tile(call: Call) -> Lowered:
    """The input ``repeats[i]`` times along axis i."""
    call.expect((1, 1))
    x = call.shape(0)
    repeats = call.ints("repeats", low=1, high=2**40, count=len(x))
    out = tuple(extent * times for extent, times in zip(x, repeats, strict=True))
    batchwise, batch = _batch_tiled(call, repeats)
    if out == x:
        return same_memory(call, x, batchwise, batch)
    apart = tuple(part for pair in zip(repeats, x, strict=True) for part in pair)
    single = tuple(part for extent in x for part in (1, extent))
    return with_rows(copies(call, out, lambda x, y: [(y.reshape(apart), x.reshape(single))], batchwise, batch), x)


def _batch_tiled(call: Call, repeats: Shape) -> tuple[bool, int]:
    """Whether the result of a Tile has whole samples along an axis, and along which."""
    x, own = call.shape(0), call.batch()
    computed = [axis for axis, flag in enumerate(call.from_batch("repeats", len(repeats))) if flag]
    if own is not None:
        return len(x) > 0 and repeats[own] == 1 and not computed, own
    # The same for all samples: repeated for each.
    return len(computed) == 1 and x[computed[0]] == 1, computed[0] if computed else 0


@operator("Expand", traits=RESHAPES)
def expand(call: Call) -> Lowered:
    """The input broadcast with ``shape``. Some extents may be taken from another input instead (see `borrowed`)."""
    x = call.shape(0)
    wanted = call.ints("shape", low=1, high=2**40)
    taken = borrowed(call, len(wanted))
    out = broadcast(call, x, tuple(taken.get(axis, extent) for axis, extent in enumerate(wanted)))
    if taken:
        # A number as the extent of axis 0 does not change with the batch.
        batchwise = len(x) > 0 and len(x) == len(out) and (len(wanted) < len(x) or wanted[0] == 1)
        batchwise &= keeps_batch(call, taken) and len(wanted) == len(x) and call.batch() == 0
        batch = 0
    else:
        batchwise, batch = _batch_expanded(call, wanted, out)
    if out == x:
        return same_memory(call, x, batchwise, batch)
    return with_rows(copies(call, out, lambda x, y: [(y, np.broadcast_to(x, out))], batchwise, batch), x)


def _batch_expanded(call: Call, wanted: tuple[int, ...], out: Shape) -> tuple[bool, int]:
    """Whether the result of an Expand to ``wanted`` has whole samples along an axis, and along which."""
    x, own = call.shape(0), call.batch()
    computed = [
        axis + len(out) - len(wanted) for axis, flag in enumerate(call.from_batch("shape", len(wanted))) if flag
    ]
    if own is None:  # the same for all samples: repeated for each
        if len(computed) != 1:
            return False, 0
        source = computed[0] - (len(out) - len(x))
        return source < 0 or x[source] == 1, computed[0]
    if not x:
        return False, 0
    batch = own + len(out) - len(x)
    asked = batch - (len(out) - len(wanted))
    # A number as the extent of the batch does not change with the batch.
    kept = asked < 0 or wanted[asked] == 1 or computed == [batch]
    return kept and computed in ([], [batch]) and out[batch] == x[own], batch


@operator("Trilu", traits=MOVES)
def trilu(call: Call) -> Lowered:
    """The upper triangle of each matrix (``upper`` is 0: the lower), from diagonal ``k`` on, and 0 elsewhere.

    Diagonal 0 is the main diagonal; positive diagonals lie above it.
    """
    call.expect((1, 1))
    x = call.shape(0)
    if len(x) < 2:
        raise call.fail(f"an input of shape {x}, expected at least 2 axes")
    upper, k = call.flag("upper", True), call.int_("k", 0, -_FAR, _FAR)
    rows, columns = x[-2:]
    inplace = () if call.is_param(0) else (0,)

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0), buffers.outputs[0]
        copy = copy_all([(target, source)] if target.ctypes.data != source.ctypes.data else [])

        def run(first: int, last: int) -> None:
            copy(0, 1)
            for row in range(rows):
                edge = row + k if upper else row + k + 1
                edge = min(max(edge, 0), columns)
                target[..., row, slice(0, edge) if upper else slice(edge, None)] = 0

        return run

    batch = call.batch() or 0
    return Lowered(
        outputs=(x,),
        bind=bind,
        inplace=inplace,
        batchwise=batch < len(x) - 2,
        batch=batch,
        flops=math.prod(x),
        dtypes=(call.dtype(0),),
    )


@operator("OneHot", traits=Traits(integers=True))
def one_hot(call: Call) -> Lowered:
    """``on_value`` at each index along the new axis ``axis`` of extent ``depth``, and ``off_value`` elsewhere.

    Negative indices count from the end. An index out of range marks nothing.
    """
    call.expect((1, 1))
    x = call.shape(0)
    if len(x) >= MAX_RANK:
        raise call.fail(f"an input of shape {x}, expected fewer than {MAX_RANK} axes")
    axis = call.axis("axis", len(x) + 1, -1)
    depth = call.int_("depth", low=1, high=_MOST_DEPTH)
    on, off = call.float_("on_value", 1.0), call.float_("off_value", 0.0)
    out = (*x[:axis], depth, *x[axis:])
    call.check("the result", out)
    scratch = Scratch()
    dtype = call.dtype(0)
    number = NUMPY_TYPES[dtype].type(depth)
    at_part, marked_part = (
        scratch.add(*x, dtype=dtype),
        scratch.add(-(-math.prod(x) // 4)),
    )  # a byte for each truth value

    def bind(buffers: Buffers) -> Run:
        indices, target = buffers.input(0), np.moveaxis(buffers.outputs[0], axis, 0)
        at = at_part.of(buffers.scratch)
        marked = marked_part.of(buffers.scratch).view(np.bool_)[: math.prod(x)].reshape(x)

        def run(first: int, last: int) -> None:
            # at = index + depth where the index is negative
            np.less(indices, 0, out=marked)
            np.multiply(marked, number, out=at)
            np.add(at, indices, out=at)
            target.fill(off)
            for index in range(depth):
                np.equal(at, index, out=marked)
                np.copyto(target[index, ...], on, where=marked)  # an array also of a single number

        return run

    return Lowered(
        outputs=(out,), bind=bind, scratch=scratch.nbytes, batchwise=axis != 0 and len(x) > 0, flops=math.prod(out)
    )
