"""Operators that move values without changing them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import streamrt._core as _core
from streamrt._core import Coded
from streamrt.errors import InputError
from streamrt.ops.base import FLOAT32, INT64, MAX_RANK, Array, Buffers, Lowered, Run, Shape, Table, table_scratch
from streamrt.ops.call import Call
from streamrt.ops.coded import TYPES, decoded
from streamrt.ops.epilogue import IDENTITY, epilogue_of
from streamrt.ops.registry import Traits, operator
from streamrt.ops.shapes import borrowed, broadcast, keeps_batch

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
            return _copy_all([(y, x)])
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
    return same_memory(call, out, batchwise=axis > 0 and (out[0] == x[0] or call.samples > 0))


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
    return copies(call, tuple(out), lambda x, y: [(y, x[key])], batchwise, batch)


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
        return _copy_all([(y, x[key]) for y, key in zip(buffers.outputs, named, strict=True)])

    outputs = tuple((*x[:axis], extent, *x[axis + 1 :]) for extent in extents)
    batch, dtypes = call.batch() or 0, (call.operand(0).dtype,) * len(outputs)
    return Lowered(outputs=outputs, bind=bind, batchwise=axis != batch, batch=batch, dtypes=dtypes)


@operator("Gather", traits=Traits(moves_batch=True, dtypes={0: TYPES}, integers=True, table=0))
def gather(call: Call) -> Lowered:
    """The values at ``indices`` along ``axis`` (default: 0); the axes of ``indices_shape`` replace this axis.

    Instead of these attributes it may have input 1, int64 indices of any shape. A negative index counts from the end.
    Of a parameter that is stored in fewer bytes, only the rows at the indices are decoded.
    """
    call.expect((1, 2))
    x = call.shape(0)
    axis = call.axis("axis", len(x), 0)
    if len(call.operands) == 2:
        return _gather_computed(call, axis)
    indices = call.ints("indices", low=-x[axis], high=x[axis] - 1)
    shape = call.ints("indices_shape", (len(indices),), 1)
    if math.prod(shape) != len(indices):
        raise call.fail(f"{len(indices)} indices, expected as many as shape {shape!s:.200} has elements")
    out = (*x[:axis], *shape, *x[axis + 1 :])

    def bind(buffers: Buffers) -> Run:
        y, rows = buffers.outputs[0], buffers.weights(0)
        if isinstance(rows, Coded):
            return _decoded_rows(rows, indices, y)
        x = buffers.input(0)
        index = (np.array(indices, np.intp) % x.shape[axis]).reshape(shape)  # at most 32 KiB

        def run(first: int, last: int) -> None:
            # In the default mode, NumPy writes to a temporary copy first.
            np.take(x, index, axis, out=y, mode="clip")

        return run

    batch = call.batch() or 0
    after = batch if batch < axis else batch - 1 + len(shape)
    lowered = Lowered(outputs=(out,), bind=bind, batchwise=axis != batch, batch=after, dtypes=_gathered_type(call))
    return lowered if axis == 0 else decoded(lowered, (call.operand(0),))


def _gather_computed(call: Call, axis: int) -> Lowered:
    """A Gather whose input 1 has the indices."""
    x, shape = call.shape(0), call.shape(1)
    if call.operand(1).dtype != INT64:
        raise call.fail(f"input 1 ({call.node.inputs[1]!r:.80}) is float32, expected int64 indices")

    extent, inner = x[axis], math.prod(x[axis + 1 :])
    count = math.prod(shape)
    # Few rows are read as a whole, as they take less memory than reading them one by one.
    is_table = axis == 0 and call.is_param(0) and 4 * math.prod(x) > table_scratch(inner)

    def bind(buffers: Buffers) -> Run:
        y, rows, index = buffers.outputs[0], buffers.rows(0), buffers.integers(1)

        def check() -> None:
            for found in (index.min(), index.max()):
                if not -extent <= found < extent:
                    raise InputError(
                        f"node {call.node.name!r} (Gather): input 1 ({call.node.inputs[1]!r:.80}) has the index "
                        f"{found}, expected {-extent} to {extent - 1}: axis {axis} of input 0 has extent {extent}"
                    )

        if not isinstance(rows, np.ndarray):
            return _gather_rows(rows, extent, index.reshape(-1), y.reshape(count, inner), buffers.scratch, check)
        data = rows

        def run(first: int, last: int) -> None:
            check()
            # In the default mode, NumPy writes to a temporary copy first. This mode lets -1 count from the end.
            np.take(data, index, axis, out=y, mode="wrap")

        return run

    data_batch, index_batch = call.batch(0), call.batch(1)
    if data_batch is None:  # sample n of the output is of sample n of the indices
        batch, is_batchwise = axis + (index_batch or 0), len(shape) > 0
    else:
        batch = data_batch if data_batch < axis else data_batch - 1 + len(shape)
        is_batchwise = index_batch is None and axis != data_batch
    lowered = Lowered(
        outputs=((*x[:axis], *shape, *x[axis + 1 :]),),
        bind=bind,
        scratch=table_scratch(inner) if is_table else 0,
        indexed=(0,) if is_table else (),
        batchwise=is_batchwise,
        batch=batch,
        dtypes=_gathered_type(call),
    )
    return lowered if axis == 0 else decoded(lowered, (call.operand(0), None))


def _gather_rows(
    rows: Coded | Table,
    extent: int,
    index: NDArray[np.int64],
    out: Array,
    scratch: NDArray[np.uint8],
    check: Callable[[], None],
) -> Run:
    """Copies rows that are decoded, or that are not in memory, to ``out``, a row for each index."""
    if not isinstance(rows, Coded):

        def read(first: int, last: int) -> None:
            check()
            rows.gather(index, out, scratch)

        return read

    def decode(first: int, last: int) -> None:
        check()
        for at in range(len(index)):
            row = int(index[at]) % extent
            rows.decode(row, row + 1, out[at : at + 1])

    return decode


def _gathered_type(call: Call) -> tuple[str]:
    """The type of the output: integers stay, and numbers in fewer bytes are decoded."""
    return (INT64 if call.operand(0).dtype == INT64 else FLOAT32,)


def _decoded_rows(rows: Coded, indices: tuple[int, ...], y: Array) -> Run:
    """Decodes the rows at ``indices`` one after the other to y; neighbours are decoded together."""
    out = y.reshape(len(indices), -1)
    wanted = [index % rows.shape[0] for index in indices]
    starts = [at for at in range(len(wanted)) if at == 0 or wanted[at] != wanted[at - 1] + 1]
    parts = [(wanted[at], wanted[end - 1] + 1, out[at:end]) for at, end in itertools.pairwise([*starts, len(wanted)])]

    def run(first: int, last: int) -> None:
        for begin, end, to in parts:
            rows.decode(begin, end, to)

    return run


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
    return copies(call, out, lambda x, y: [(y, np.broadcast_to(x, out))], batchwise, batch)


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


@operator("Concat", traits=Traits(fuses=True, moves_batch=True, integers=True))
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
        return _copy_all([(to, source) for to, source in pairs if to.ctypes.data != source.ctypes.data])

    return Lowered(
        outputs=((*x[:axis], ends[-1], *x[axis + 1 :]),),
        joins=math.prod(x[:axis]) == 1,
        bind=bind,
        # The extent of a fixed input does not change with the batch.
        batchwise=axis not in batches and None not in batches and len(batches) == 1,
        batch=call.batch() or 0,
        dtypes=(call.dtype(),),
    )


@operator("Pad", traits=MOVES)
def pad(call: Call) -> Lowered:
    """Adds values around the input. ``pads`` has the number before each axis, then the number after each axis.

    A negative number removes values; this comes first. The mode says which values are added: ``constant`` adds
    ``value``, ``edge`` the border, ``reflect`` the values next to the border in reverse order, and ``wrap`` the values
    at the other end.
    """
    call.expect((1, 1))
    x = call.shape(0)
    rank = len(x)
    pads = call.ints("pads", count=2 * rank)
    mode = call.text("mode", "constant", ("constant", "edge", "reflect", "wrap"))
    dtype = call.operand(0).dtype
    value = call.int_("value", 0, -_FAR, _FAR) if dtype == INT64 else call.float_("value", 0.0)
    begins, ends = pads[:rank], pads[rank:]
    crop = tuple(
        slice(max(0, -begin), extent - max(0, -end)) for extent, begin, end in zip(x, begins, ends, strict=True)
    )
    kept = tuple(part.stop - part.start for part in crop)
    if any(extent < 1 for extent in kept):
        raise call.fail(f"pads {pads} leave nothing of an input of shape {x}, expected 1 value or more on each axis")
    before = tuple(max(0, begin) for begin in begins)
    after = tuple(max(0, end) for end in ends)
    most = {"reflect": tuple(extent - 1 for extent in kept), "wrap": kept}.get(mode)
    if most and any(p > m for sides in (before, after) for p, m in zip(sides, most, strict=True)):
        raise call.fail(f"pads {pads} in mode {mode!r} are more than an input of shape {x} can fill")
    out = tuple(map(sum, zip(before, kept, after, strict=True)))
    batch = call.batch() or 0
    batchwise = rank > 0 and begins[batch] == 0 == ends[batch]
    if out == x and not any(pads):
        return same_memory(call, out, batchwise, batch)

    def bind(buffers: Buffers) -> Run:
        inside, y = buffers.input(0)[crop], buffers.outputs[0]
        if mode == "constant":
            return _pad_constant(inside, y, before, value)
        return _pad_from_input(inside, y, before, after, mode)

    return Lowered(outputs=(out,), bind=bind, batchwise=batchwise, batch=batch, dtypes=(dtype,))


def _pad_constant(x: Array, y: Array, before: Shape, value: float) -> Run:
    middle = tuple(slice(b, b + extent) for b, extent in zip(before, x.shape, strict=True))
    borders = []
    for axis, part in enumerate(middle):
        borders += [y[(*middle[:axis], side)] for side in (slice(0, part.start), slice(part.stop, None))]
    borders = [border for border in borders if border.size]
    inside = y[middle]

    def run(first: int, last: int) -> None:
        np.copyto(inside, x)
        for border in borders:
            border.fill(value)

    return run


def _pad_from_input(x: Array, y: Array, before: Shape, after: Shape, mode: str) -> Run:
    # Along each axis the output has up to three stretches: padding, input, padding. Each comes from a stretch of the
    # input. A block is one stretch of each axis, and is copied from the input.
    stretches = []
    for extent, b, a in zip(x.shape, before, after, strict=True):
        sources = {
            "edge": (slice(0, 1), slice(extent - 1, extent)),
            "reflect": (slice(b, 0, -1), slice(extent - 2, extent - 2 - a if a < extent - 1 else None, -1)),
            "wrap": (slice(extent - b, extent), slice(0, a)),
        }[mode]
        along = [(slice(b, b + extent), slice(0, extent))]
        if b:
            along.append((slice(0, b), sources[0]))
        if a:
            along.append((slice(b + extent, b + extent + a), sources[1]))
        stretches.append(along)

    def run(first: int, last: int) -> None:
        # Views are made during the run: with 8 axes there would be 3**8 = 6561 of them to keep.
        for block in itertools.product(*stretches):
            np.copyto(y[tuple(to for to, _ in block)], x[tuple(of for _, of in block)])

    return run


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
        return _copy_all(pairs(buffers.input(0), buffers.outputs[0]))

    return Lowered(outputs=(out,), bind=bind, batchwise=batchwise, batch=batch, dtypes=(call.operand(0).dtype,))


def _copy_all(pairs: list[tuple[Array, Array]]) -> Run:
    def run(first: int, last: int) -> None:
        for target, source in pairs:
            np.copyto(target, source)

    return run
