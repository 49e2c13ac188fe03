"""Sections of a program: runs of nodes that are computed together, a band of rows at a time.

The tensors between the nodes of a section have line buffers instead of planes (`streamrt.program.bands`). Its inputs
and results are whole tensors: their rows are copied to line buffers, and from them, as bands need them. In strips
(`streamrt.program.strips`) these are some columns of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Copies
from streamrt.graph import Node
from streamrt.host.yielding import give_way
from streamrt.ops import Array, Buffers, Lowered, Param, Run, Table
from streamrt.ops.cast import to_integers
from streamrt.ops.rows import BandOf, Rows, mover
from streamrt.program.bands import Schedule
from streamrt.program.current import Collecting, Current, Tensor
from streamrt.program.lines import Arrival
from streamrt.program.strips import Strips

#: Bytes of a value in a line buffer, float32.
FLOAT = 4


class Whole(Protocol):
    """A whole tensor (1, C, H, W): an array of the arena, or one of a caller, whose rows may lie in a file."""

    def __getitem__(self, index: tuple[slice, ...], /) -> NDArray[Any]: ...

    def __setitem__(self, index: tuple[slice, ...], rows: NDArray[Any], /) -> None: ...


@dataclass(frozen=True, slots=True)
class Section:
    """The nodes of a program from ``first`` to ``last``, which run in bands.

    Attributes:
        first, last: indices of nodes; ``last`` is behind the section.
        bands: the parts in which its tallest input comes in.
        nodes: of the program.
        lowered: of each node, for the columns of a strip if there are strips.
        rows: of each node, as above.
        schedule: of the section. Its visits are those of a pass, or of each strip.
        strips: None if all columns are computed at once.
        inputs: the whole tensors in the arena that are read, by rows or as they are. Parameters are none of them.
        outputs: the whole tensors in the arena that are made, the largest first.
        inplace: indices of the inputs whose memory the first output may take over: its rows are written there when
            those of the input have been read.
        outside: inputs and outputs of the graph that only sections use, and by rows alone. They have no place in the
            arena: their rows are copied from the caller's arrays, and to them.
        widths: elements of a row of each tensor that has a line buffer, as channels and columns.
        lines: where each line buffer begins in the section's memory, bytes.
        scratch: where the scratch memory of each node begins there, and its bytes.
        nbytes: of the section's memory.
    """

    first: int
    last: int
    bands: int
    nodes: tuple[Node, ...]
    lowered: tuple[Lowered, ...]
    rows: tuple[Rows, ...]
    schedule: Schedule
    strips: Strips | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    inplace: tuple[int, ...]
    outside: frozenset[str]
    widths: Mapping[str, tuple[int, int]]
    lines: Mapping[str, int]
    scratch: tuple[tuple[int, int], ...]
    nbytes: int

    @property
    def times(self) -> int:
        """How often the visits are made: the number of strips."""
        return self.strips.count if self.strips else 1

    def share(self, visit: int) -> float:
        """The part of its node's result that a visit computes. Strips compute some columns twice."""
        each = self.schedule.visits[visit]
        rows = (each.made.last - each.made.first) / self.rows[each.node].height
        if self.strips is None:
            return rows
        name = self.nodes[each.node].inputs[0] if self.rows[each.node].collects else each.made.tensor
        return rows * self.strips.widths[name] / self.strips.whole[name]

    def bind(
        self,
        memory: NDArray[np.uint8],
        whole: Mapping[str, Array],
        params: Mapping[str, Param],
        outside: Mapping[str, Whole],
        current: Current,
    ) -> Iterator[Run]:
        """The function that runs each visit.

        Args:
            memory: of the section, ``nbytes``.
            whole: the ``inputs`` and ``outputs``.
            params: all parameters by name.
            outside: has the arrays of ``outside`` during a pass.
            current: the strip that the functions compute.
        """
        lines = {name: self._line(memory, name) for name in self.lines}
        movers = {name: mover(line) for name, line in lines.items()}
        kernels = {
            index: self._kernel(index, memory, lines, whole, params)
            for index in {visit.node for visit in self.schedule.visits}
        }

        def tensor(name: str) -> Tensor:
            return Tensor(name, self.strips, current)

        def shifted(arrival: Arrival) -> Iterator[Callable[[], None]]:
            if shift := arrival.shift:  # the rows that are still needed move to the front
                yield partial(movers[arrival.tensor], shift.source, 0, shift.moved)

        for visit in self.schedule.visits:
            give_way()
            made, rows = visit.made, self.rows[visit.node]
            origins = dict(zip(rows.inputs, visit.origins, strict=True))
            bound = partial(kernels[visit.node], made.first, made.last, origins, made.origin)
            collects = rows.collects and self.strips is not None
            compute: Run = Collecting(bound, tensor(self.nodes[visit.node].inputs[0])) if collects else bound()
            before = [*shifted(made)]
            for load in visit.loads:
                arrays: Mapping[str, Whole] = outside if load.tensor in self.outside else whole
                before += [*shifted(load), partial(_load, load, lines[load.tensor], arrays, tensor(load.tensor))]
            after = None
            if made.tensor in self.outside or (made.tensor in self.outputs and not rows.collects):
                arrays = outside if made.tensor in self.outside else whole
                after = partial(_store, made, lines[made.tensor], arrays, tensor(made.tensor))
            tiles = self.lowered[visit.node].rows
            yield _Visiting(tuple(before), compute, after, tiles) if before or after else compute

    def _line(self, memory: NDArray[np.uint8], name: str) -> Array:
        """The line buffer of a tensor (R, C, W)."""
        shape = (self.schedule.lines[name].room, *self.widths[name])
        start = self.lines[name]
        return memory[start : start + FLOAT * math.prod(shape)].view(np.float32).reshape(shape)

    def _kernel(
        self,
        index: int,
        memory: NDArray[np.uint8],
        lines: Mapping[str, Array],
        whole: Mapping[str, Array],
        params: Mapping[str, Param],
    ) -> BandOf:
        node, rows, (start, size) = self.nodes[index], self.rows[index], self.scratch[index]

        def given(position: int, name: str) -> Param | Table | None:
            if position in rows.inputs:
                return lines[name]
            if position in rows.whole:
                return params[name] if name in params else whole[name]
            return None

        inputs = tuple(given(position, name) for position, name in enumerate(node.inputs))
        output = (whole if rows.collects else lines)[node.outputs[0]]
        return rows.bind(Buffers(inputs, (output,), memory[start : start + size]))


def _load(arrival: Arrival, line: Array, whole: Mapping[str, Whole], tensor: Tensor) -> None:
    """Copy rows of a whole tensor, or the columns of them that a strip has, to its line buffer."""
    rows = whole[tensor.name][(*_rows(arrival), *tensor.held)][0].transpose(1, 0, 2)
    if rows.dtype == line.dtype and rows.flags.aligned:  # as `Copies` needs them
        Copies([(_in_line(arrival, line), rows)])(0, 1)
    else:
        np.copyto(_in_line(arrival, line), rows, casting="unsafe")


def _store(arrival: Arrival, line: Array, whole: Mapping[str, Whole], tensor: Tensor) -> None:
    """Copy rows from a line buffer to the whole tensor, or a strip's own columns of them."""
    target, rows = whole[tensor.name], _in_line(arrival, line[:, :, tensor.within]).transpose(1, 0, 2)[None]
    place = (*_rows(arrival), *tensor.own)
    if isinstance(target, np.ndarray) and target.dtype == line.dtype and target.flags.aligned:
        Copies([(target[place], rows)])(0, 1)
    elif isinstance(target, np.ndarray) and target.dtype.kind in "iu":
        to_integers(rows, target[place])
    else:
        target[place] = rows


def _in_line(arrival: Arrival, line: Array) -> Array:
    return line[arrival.first - arrival.origin : arrival.last - arrival.origin]


def _rows(arrival: Arrival) -> tuple[slice, ...]:
    """Where the rows of an arrival are in a tensor (1, C, H, W). In a line buffer they lie as (rows, C, W)."""
    return slice(0, 1), slice(None), slice(arrival.first, arrival.last)


@dataclass(frozen=True, slots=True)
class _Visiting:
    """A visit in tiles: ``before`` precedes the first, and ``after`` follows the last, which ends at row ``rows``."""

    before: tuple[Callable[[], None], ...]
    compute: Run
    after: Callable[[], None] | None
    rows: int

    def __call__(self, first: int, last: int) -> None:
        for prepare in self.before if first == 0 else ():
            prepare()
        self.compute(first, last)
        if self.after and last == self.rows:
            self.after()
