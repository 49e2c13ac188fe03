"""Gather: rows of a tensor at indices, of which a table in the weights file may have many."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from streamrt._core import Coded
from streamrt.errors import InputError
from streamrt.ops.base import FLOAT32, INT64, NUMPY_TYPES, Array, Buffers, Lowered, Run, Table, table_scratch
from streamrt.ops.call import Call
from streamrt.ops.coded import TYPES, decoded
from streamrt.ops.movement import copy_all, same_memory
from streamrt.ops.registry import Traits, operator
from streamrt.ops.strip import Columns


@operator("Gather", traits=Traits(moves_batch=True, dtypes={0: TYPES}, integers=True, table=0))
def gather(call: Call) -> Lowered:
    """The values at ``indices`` along ``axis`` (default: 0); the axes of ``indices_shape`` replace this axis.

    Instead of these attributes it may have input 1, int64 indices of any shape. A negative index counts from the end.
    Of a parameter that is stored in fewer bytes, only the rows at the indices are decoded. A shuffle of channels is a
    Gather, too: indices at regular distances are one copy.
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
    index = np.array(indices, np.intp) % x[axis]  # at most 32 KiB
    batch = call.batch() or 0
    if out == x and not call.is_param(0) and np.array_equal(index, np.arange(x[axis])):
        return same_memory(call, x, axis != batch, batch)
    grid = _grid(index)

    def bind(buffers: Buffers) -> Run:
        y, rows = buffers.outputs[0], buffers.weights(0)
        if isinstance(rows, Coded):
            return _decoded_rows(rows, indices, y)
        return _copied(buffers.input(0), index, grid, axis, y)

    after = batch if batch < axis else batch - 1 + len(shape)
    lowered = Lowered(outputs=(out,), bind=bind, batchwise=axis != batch, batch=after, dtypes=_gathered_type(call))
    if len(x) == len(out) == 4 and axis in (1, 3):
        lowered = replace(lowered, by_rows=_GatheredRows(index, grid, axis), columns=Columns() if axis == 1 else None)
    return lowered if axis == 0 else decoded(lowered, (call.operand(0),))


def _copied(x: Array, index: NDArray[np.intp], grid: tuple[int, int, int] | None, axis: int, y: Array) -> Run:
    """Copies the values of x at ``index`` along ``axis`` to y, which has them in any shape. No index is negative.

    ``grid`` is that of the indices (`_grid`).
    """
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    if grid is None:
        target = y.reshape(*before, len(index), *after)

        def run(first: int, last: int) -> None:
            # In the default mode, NumPy writes to a temporary copy first.
            np.take(x, index, axis, out=target, mode="clip")

        return run
    count, across, along = grid
    begin = x[(*(slice(None),) * axis, slice(int(index[0]), None))]
    shape = (*before, len(index) // count, count, *after)
    strides = (*x.strides[:axis], across * x.strides[axis], along * x.strides[axis], *x.strides[axis + 1 :])
    return copy_all([(y.reshape(shape), as_strided(begin, shape, strides, writeable=False))])


def _grid(index: NDArray[np.intp]) -> tuple[int, int, int] | None:
    """The columns of a grid in which the indices lie row by row, and how far apart rows lie, and columns.

    The result is None if distances differ.
    """
    along = int(index[1] - index[0]) if len(index) > 1 else 0
    others = index[1:] != index[:-1] + along
    count = int(others.argmax()) + 1 if others.any() else len(index)
    if len(index) % count:
        return None
    rows = index.reshape(-1, count)
    across = int(rows[1, 0] - rows[0, 0]) if len(rows) > 1 else 0
    same = all((row - rows[0] == number * across).all() for number, row in enumerate(rows))
    return (count, across, along) if same else None


@dataclass(frozen=True, slots=True, eq=False)
class _GatheredRows:
    """Rows of a Gather along channels (axis 1) or columns (axis 3): see `ByRows`.

    Attributes:
        index: the indices; none is negative.
        grid: that in which they lie (`_grid`).
        axis: of (1, C, H, W).
    """

    index: NDArray[np.intp]
    grid: tuple[int, int, int] | None
    axis: int

    def reads(self, first: int, last: int) -> tuple[int, int]:
        return first, last

    def scratch(self, rows: int) -> int:
        return 0

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8]) -> Run:
        return _copied(x, self.index, self.grid, 1 if self.axis == 1 else 2, y)  # rows are (rows, C, W)

    def narrowed(self, before: int, after: int) -> _GatheredRows:
        return self


def _gather_computed(call: Call, axis: int) -> Lowered:
    """A Gather whose input 1 has the indices."""
    x, shape = call.shape(0), call.shape(1)
    if call.operand(1).dtype != INT64:
        raise call.fail(f"input 1 ({call.node.inputs[1]!r:.80}) is float32, expected int64 indices")

    extent, inner = x[axis], math.prod(x[axis + 1 :])
    count = math.prod(shape)
    # Few rows are read as a whole, as they take less memory than reading them one by one.
    itemsize = NUMPY_TYPES[_gathered_type(call)[0]].itemsize
    room = table_scratch(itemsize * inner)
    is_table = axis == 0 and call.is_param(0) and itemsize * math.prod(x) > room

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
        scratch=room if is_table else 0,
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
