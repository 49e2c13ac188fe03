"""Some rows of a node's output: which rows of its inputs they need, and the kernel that computes them.

A node computes bands of rows if all its tensors with rows have one sample: (1, C, H, W). In the memory of a section the
rows of such a tensor are outermost: (R, C, W), with room for R of the H rows. So a range of rows has no gaps, and a
window sees it as planes whose rows lie apart.

Three kinds of nodes compute bands. A window (`Lowered.window`) reads the rows around it. An operator that computes each
row from the same row of its inputs (`Traits.rowwise`) gets rows as samples, (R, C, 1, W), so its lowering is the usual
one. Others say how they do it (`Lowered.by_rows`). A fourth kind only reads bands, and computes a small result from all
rows (`Lowered.collects`).

A strip is some columns of all tensors of a section. Its nodes are lowered as those of a narrower picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Protocol

from streamrt._core import Band, Copies, MoveRows, Sliding
from streamrt.graph import Node
from streamrt.ops.base import FLOAT32, Array, Buffers, ByRows, Collects, Lowered, Operand, Run
from streamrt.ops.coded import Decoding
from streamrt.ops.strip import Columns

#: ``reads(first, last)``: the input rows (from, to) that the output rows ``first`` to ``last`` need. Both numbers are
#: equal if they need none. Neither number falls if ``first`` and ``last`` rise.
Reads = Callable[[int, int], tuple[int, int]]
#: Lowers the node for other operands.
Again = Callable[[Sequence[Operand | None]], Lowered]

#: Bytes of a value, float32.
_FLOAT = 4
#: Fewer elements than this lie between the beginnings of two rows.
_MOST_APART = 2**30
#: The pieces of a row that threads share, if each has as many elements: 4 KiB.
_PIECES, _LEAST_PIECE = 16, 2**10


class Part(NamedTuple):
    """The columns of a line buffer from ``first`` to ``last`` that a node reads which `Rows.collects`.

    The part that ``begins`` is the first of the picture's columns, and the one that ``ends`` the last.
    """

    first: int
    last: int
    begins: bool
    ends: bool


class BandOf(Protocol):
    """Binds the computing of output rows ``first`` to ``last``."""

    def __call__(self, first: int, last: int, origins: Mapping[int, int], origin: int, part: Part | None = None) -> Run:
        """The function that computes these rows, in tiles as those of the node.

        Args:
            first: output row.
            last: the row behind.
            origins: for each input that is read by rows, the row of the picture that is row 0 of its memory.
            origin: the same of the output.
            part: of a strip, for a node that collects; None if there is all of each row.
        """


@dataclass(frozen=True, slots=True)
class Rows:
    """How a node computes some of its rows.

    Attributes:
        height: rows of the output; of the input, if the node ``collects``.
        inputs: the inputs that are read by rows, by index.
        whole: the inputs that are read as a whole. Others are not read.
        apart: of ``inputs``, those of which the rows are those of the output, and each may lie anywhere.
        scratch: gives the bytes of scratch memory for computing so many rows at once.
        bind: takes `Buffers` in which these inputs and the output are (R, C, W).
        step: bands begin and end at multiples of this row, or with the picture.
        collects: whether the output has no rows: it is complete when the last row of the input has been read.
    """

    height: int
    inputs: Mapping[int, Reads]
    whole: tuple[int, ...]
    scratch: Callable[[int], int]
    bind: Callable[[Buffers], BandOf]
    apart: tuple[int, ...] = ()
    step: int = 1
    collects: bool = False


def rows_of(node: Node, lowered: Lowered, operands: Sequence[Operand | None], again: Again) -> Rows | None:
    """How ``node`` computes some of its rows; None if it cannot."""
    if len(lowered.outputs) != 1 or lowered.view_of is not None:
        return None
    if lowered.collects is not None:
        return _of_collects(lowered.collects, operands[0])
    output = Operand(lowered.outputs[0], lowered.dtype(0))
    if not has_rows(output):
        return None
    if lowered.window is not None:
        return _of_window(lowered, operands)
    if lowered.by_rows is not None:
        return _of_rows(lowered, lowered.by_rows, operands)
    return _of_same_row(lowered, operands, again) if lowered.rowwise and not node.sizes else None


def columns_of(node: Node, lowered: Lowered, index: int) -> Columns | None:
    """Which columns of its input ``index`` a node that computes rows needs. None: no rule says it."""
    if lowered.window is not None or lowered.by_rows is not None:
        computed = bool(node.sizes) and lowered.by_rows is None  # it cannot be lowered again
        return None if computed else Columns() if index else lowered.columns
    return Columns()


def in_strip(
    lowered: Lowered, operands: Sequence[Operand | None], wide: Operand, output: Operand, again: Again
) -> Lowered:
    """A node lowered for the narrower picture of a strip. ``wide`` is its input 0 as it was.

    Raises:
        FormatError: it cannot run with narrower inputs.
    """
    if lowered.collects is not None:
        return lowered
    if lowered.by_rows is None:
        return again(operands)
    assert operands[0] is not None
    less = wide.shape[3] - operands[0].shape[3], lowered.outputs[0][3] - output.shape[3]
    return replace(lowered, outputs=(output.shape,), by_rows=lowered.by_rows.narrowed(*less))


def mover(rows: Array) -> MoveRows:
    """Moves some of these rows (R, C, W) towards the front: see `MoveRows`. Threads share pieces of long rows."""
    size = math.prod(rows.shape[1:])
    pieces = math.gcd(size, _PIECES) if size >= _PIECES * _LEAST_PIECE else 1
    return MoveRows(rows.reshape(len(rows), pieces, size // pieces).transpose(1, 0, 2))


def has_rows(operand: Operand) -> bool:
    """Whether a node may read a tensor by rows, or make it so. A single row is one that strips divide."""
    shape = operand.shape
    return (
        not operand.is_param
        and operand.dtype == FLOAT32
        and len(shape) == 4
        and shape[0] == 1
        and max(shape[2:]) > 1
        and shape[1] * shape[3] < _MOST_APART
    )


def _same(first: int, last: int) -> tuple[int, int]:
    return first, last


def _of_window(lowered: Lowered, operands: Sequence[Operand | None]) -> Rows | None:
    window = lowered.window
    assert window is not None
    inputs: dict[int, Reads] = {0: window.rows_read}
    residual = operands[3] if len(operands) > 3 else None
    if residual is not None and not residual.is_param:
        inputs[3] = _same
    taken = [operands[index] for index in inputs]
    if not all(operand is not None and has_rows(operand) for operand in taken):
        return None

    def bind(buffers: Buffers) -> BandOf:
        given = [
            _as_planes(buffers.input(index)) if index in inputs else array for index, array in enumerate(buffers.inputs)
        ]
        run = lowered.bind(Buffers(tuple(given), (_as_planes(buffers.outputs[0]),), buffers.scratch))
        kernel = run.compute if isinstance(run, Decoding) else run
        assert isinstance(kernel, Sliding)

        def band_of(first: int, last: int, origins: Mapping[int, int], origin: int, part: Part | None = None) -> Run:
            held = window.rows_read(first, last)
            x = held[0] - origins[0] if held[0] < held[1] else 0
            band = Band(kernel, first, last, held, x=x, y=first - origin, residual=first - origins.get(3, 0))
            return replace(run, compute=band) if isinstance(run, Decoding) else band

        return band_of

    return Rows(
        height=lowered.outputs[0][2],
        inputs=inputs,
        whole=_others(operands, inputs),
        scratch=lambda rows: lowered.scratch,
        bind=bind,
        apart=(3,) if 3 in inputs and lowered.band_step == 1 else (),
        step=lowered.band_step,
    )


def _others(operands: Sequence[Operand | None], inputs: Mapping[int, Reads]) -> tuple[int, ...]:
    return tuple(index for index, operand in enumerate(operands) if operand is not None and index not in inputs)


def _of_rows(lowered: Lowered, by_rows: ByRows, operands: Sequence[Operand | None]) -> Rows | None:
    if operands[0] is None or not has_rows(operands[0]):
        return None

    def bind(buffers: Buffers) -> BandOf:
        source, target = buffers.input(0), buffers.outputs[0]

        def band_of(first: int, last: int, origins: Mapping[int, int], origin: int, part: Part | None = None) -> Run:
            begin, end = by_rows.reads(first, last)
            x, y = source[begin - origins[0] : end - origins[0]], target[first - origin : last - origin]
            return by_rows.bind(x, y, first, buffers.scratch)

        return band_of

    return Rows(lowered.outputs[0][2], {0: by_rows.reads}, (), by_rows.scratch, bind)


def _of_collects(collects: Collects, operand: Operand | None) -> Rows | None:
    if operand is None or not has_rows(operand):
        return None
    _, channels, height, width = operand.shape
    if width < collects.width and not collects.in_parts:
        return None

    def scratch(rows: int) -> int:
        """In strips it ends with a copy of the columns that are read."""
        copied = rows * channels * width if width < collects.width else 0
        return collects.scratch(rows) + _FLOAT * copied

    def bind(buffers: Buffers) -> BandOf:
        source, output, memory = buffers.input(0), buffers.outputs[0], buffers.scratch

        def band_of(first: int, last: int, origins: Mapping[int, int], origin: int, part: Part | None = None) -> Run:
            rows = source[first - origins[0] : last - origins[0]]
            begins, ends = first == 0, last == height
            if part is None:
                return collects.bind(rows, output, first, memory, begins=begins, ends=ends)
            shape = (len(rows), channels, part.last - part.first)
            copied = memory[len(memory) - _FLOAT * math.prod(shape) :].view(source.dtype).reshape(shape)
            copy = Copies([(copied, rows[:, :, part.first : part.last])])
            begins, ends = begins and part.begins, ends and part.ends
            collect = collects.bind(copied, output, first, memory, begins=begins, ends=ends)

            def run(_first: int, _last: int) -> None:
                copy(0, 1)
                collect(0, 1)

            return run

        return band_of

    return Rows(
        height=height,
        inputs={0: _same},
        whole=(),
        scratch=scratch,
        bind=bind,
        apart=(0,) if collects.step == 1 else (),
        step=collects.step,
        collects=True,
    )


def _as_planes(rows: Array) -> Array:
    """Memory of rows (R, C, W) as planes (1, C, R, W)."""
    return rows.transpose(1, 0, 2)[None]


def _of_same_row(lowered: Lowered, operands: Sequence[Operand | None], again: Again) -> Rows | None:
    _, channels, height, width = lowered.outputs[0]
    inputs: dict[int, Reads] = {}
    for index, operand in enumerate(operands):
        if operand is None:
            continue
        if has_rows(operand) and operand.shape[2] == height:
            inputs[index] = _same
        elif operand.shape[-2:-1] not in ((), (1,)) or (len(operand.shape) == 4 and operand.shape[0] != 1):
            return None  # it differs from row to row

    @lru_cache(8)
    def lowered_for(rows: int) -> Lowered:
        return again(
            [
                operand._replace(shape=(rows, operand.shape[1], 1, operand.shape[3]))
                if operand is not None and index in inputs
                else operand
                for index, operand in enumerate(operands)
            ]
        )

    if not inputs or lowered_for(1).outputs != ((1, channels, 1, width),):
        return None

    def bind(buffers: Buffers) -> BandOf:
        def band_of(first: int, last: int, origins: Mapping[int, int], origin: int, part: Part | None = None) -> Run:
            count = last - first
            low = lowered_for(count)
            given = [
                _as_samples(buffers.input(index), first - origins[index], count) if index in inputs else array
                for index, array in enumerate(buffers.inputs)
            ]
            output = _as_samples(buffers.outputs[0], first - origin, count)
            return low.bind(Buffers(tuple(given), (output,), buffers.scratch[: low.scratch]))

        return band_of

    return Rows(
        *(height, inputs, _others(operands, inputs), lambda rows: lowered_for(rows).scratch, bind), apart=tuple(inputs)
    )


def _as_samples(rows: Array, first: int, count: int) -> Array:
    """``count`` rows of memory (R, C, W), from row ``first`` on, as samples (count, C, 1, W)."""
    return rows[first : first + count, :, None]
