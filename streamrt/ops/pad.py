"""Pad: values around a tensor, or fewer values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from streamrt.ops.base import INT64, Array, Buffers, ByRows, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.movement import MOVES, copy_all, same_memory
from streamrt.ops.registry import operator
from streamrt.ops.strip import Columns

#: The largest absolute value of a number that is added to integers.
_MOST = 2**63
#: The most blocks that are bound before a run. With 8 axes there may be 3**8 = 6561 of them, of 1 KiB each.
_MOST_KEPT = 3**4

#: Along an axis the output has up to three stretches: padding, input, padding. Each comes from a stretch of the input.
_Stretches = list[tuple[slice, slice]]


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
    value = call.int_("value", 0, -_MOST, _MOST) if dtype == INT64 else call.float_("value", 0.0)
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

    by_rows: ByRows | None = None
    columns = None
    if rank == 4 and mode == "constant":
        inside, sides = (crop[1], crop[3]), (before[1], before[3])
        by_rows = _PaddedRows(crop[2].start, kept[2], before[2], inside, sides, value)
    elif rank == 4 and (mode != "wrap" or before[2] == 0 == after[2]):
        pairs = tuple(zip(before[1:], after[1:], strict=True))
        by_rows = _RowsFromInput(mode, crop[1:], pairs)
    if by_rows is not None and (mode != "wrap" or before[3] == 0 == after[3]):
        same = Fraction(crop[3].start - before[3])
        mirrored = x[3] - kept[3] + max(before[3], after[3]) if mode == "reflect" else 0
        columns = Columns(low=same, high=same, mirrored=mirrored)
    return Lowered(
        outputs=(out,),
        bind=bind,
        batchwise=batchwise,
        batch=batch,
        dtypes=(dtype,),
        by_rows=by_rows,
        columns=columns,
    )


@dataclass(frozen=True, slots=True)
class _PaddedRows:
    """Rows of a Pad in mode ``constant``: see `ByRows`.

    Attributes:
        start: the first input row that stays.
        kept: the number of input rows that stay.
        before: rows that are added before them.
        inside: what stays along channels and columns.
        sides: channels and columns that are added before.
        value: of what is added.
    """

    start: int
    kept: int
    before: int
    inside: tuple[slice, slice]
    sides: tuple[int, int]
    value: float

    def reads(self, first: int, last: int) -> tuple[int, int]:
        begin, end = (min(max(row - self.before, 0), self.kept) for row in (first, last))
        return self.start + begin, self.start + end

    def scratch(self, rows: int) -> int:
        return 0

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8]) -> Run:
        before = min(max(self.before - first, 0), len(y))
        return _pad_constant(x[(slice(None), *self.inside)], y, (before, *self.sides), self.value)

    def narrowed(self, before: int, after: int) -> _PaddedRows:
        channels, columns = self.inside
        return replace(self, inside=(channels, slice(columns.start, columns.stop - before)))


def _pad_constant(x: Array, y: Array, before: Shape, value: float) -> Run:
    middle = tuple(slice(b, b + extent) for b, extent in zip(before, x.shape, strict=True))
    borders = []
    for axis, part in enumerate(middle):
        borders += [y[(*middle[:axis], side)] for side in (slice(0, part.start), slice(part.stop, None))]
    borders = [border for border in borders if border.size]
    added = np.full((), value, y.dtype)
    return copy_all([(y[middle], x), *((border, added) for border in borders)])


def _pad_from_input(x: Array, y: Array, before: Shape, after: Shape, mode: str) -> Run:
    return _copied(x, y, [_stretches(*along, mode) for along in zip(x.shape, before, after, strict=True)])


def _stretches(extent: int, before: int, after: int, mode: str) -> _Stretches:
    """The stretches of the output along an axis."""
    found = [(slice(before, before + extent), slice(0, extent))]
    sources = {
        "edge": (slice(0, 1), slice(extent - 1, extent)),
        "reflect": (_backward(before, before), _backward(extent - 2, after)),
        "wrap": (slice(extent - before, extent), slice(0, after)),
    }[mode]
    if before:
        found.append((slice(0, before), sources[0]))
    if after:
        found.append((slice(before + extent, before + extent + after), sources[1]))
    return found


def _backward(start: int, count: int) -> slice:
    """So many values from ``start`` on, each one before the last one."""
    return slice(start, start - count if start >= count else None, -1)


def _copied(x: Array, y: Array, stretches: Sequence[_Stretches]) -> Run:
    """Copies ``x`` to ``y`` in blocks: a block is one stretch of each axis."""

    def pairs() -> Iterator[tuple[Array, Array]]:
        for block in itertools.product(*stretches):
            yield y[tuple(to for to, _ in block)], x[tuple(of for _, of in block)]

    if math.prod(map(len, stretches)) <= _MOST_KEPT:
        return copy_all(list(pairs()))

    def run(first: int, last: int) -> None:
        for pair in pairs():
            copy_all([pair])(0, 1)

    return run


@dataclass(frozen=True, slots=True)
class _RowsFromInput:
    """Rows of a Pad whose values come from the input: see `ByRows`.

    Attributes:
        mode: ``edge``, ``reflect``, or ``wrap`` without added rows.
        crop: what stays along channels, rows and columns.
        added: the numbers of values that are added before and after, along the same axes.
    """

    mode: str
    crop: tuple[slice, ...]
    added: tuple[tuple[int, int], ...]

    def reads(self, first: int, last: int) -> tuple[int, int]:
        start, kept = self.crop[1].start, self.crop[1].stop - self.crop[1].start
        before, after = self.added[1]
        # The first row of the output is the last one of those that are mirrored at the top. So all of them are needed
        # at once, and at the bottom they stay to the end: neither number may fall.
        least, most = (before + 1, kept - 1 - after) if self.mode == "reflect" else (1, kept - 1)
        begin, end = min(max(first - before, 0), most), min(max(last - before, least), kept)
        return start + begin, start + end

    def scratch(self, rows: int) -> int:
        return 0

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8]) -> Run:
        channels, rows, columns = self.crop
        inside = x[:, channels, columns]
        begin = self.reads(first, first + len(y))[0] - rows.start
        along = _within(_stretches(rows.stop - rows.start, *self.added[1], self.mode), first, first + len(y), begin)
        _, count, width = inside.shape
        beside = _stretches(count, *self.added[0], self.mode), _stretches(width, *self.added[2], self.mode)
        return _copied(inside, y, [along, *beside])

    def narrowed(self, before: int, after: int) -> _RowsFromInput:
        channels, rows, columns = self.crop
        return replace(self, crop=(channels, rows, slice(columns.start, columns.stop - before)))


def _within(stretches: _Stretches, first: int, last: int, begin: int) -> _Stretches:
    """The parts from ``first`` to ``last`` of the output, for an input without what is before ``begin``."""
    found = []
    for to, of in stretches:
        low, high = max(first, to.start), min(last, to.stop)
        if low >= high:
            continue
        start, count = of.start - begin, high - low
        if of.step == -1:
            source = _backward(start - (low - to.start), count)
        elif of.stop - of.start == 1:  # one row, which is repeated
            source = slice(start, start + 1)
        else:
            source = slice(start + low - to.start, start + high - to.start)
        found.append((slice(low - first, high - first), source))
    return found
