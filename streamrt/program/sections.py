"""Sections of a program: runs of nodes that are computed together, a band of rows at a time.

The tensors between the nodes of a section have line buffers instead of planes (`streamrt.program.bands`). Its inputs
and results are whole tensors: their rows are copied to line buffers, and from them, as bands need them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from streamrt.graph import Node
from streamrt.host.yielding import give_way
from streamrt.ops import Array, Buffers, Lowered, Operand, Param, Run, Table
from streamrt.ops.rows import BandOf, Rows, to_front
from streamrt.program import arena
from streamrt.program.bands import Arrival, RowNode, Schedule, schedule

#: Bytes of a value in a line buffer, float32.
_FLOAT = 4
#: A shorter run of nodes is no section: all its tensors are whole ones.
_FEWEST = 2


@dataclass(frozen=True, slots=True)
class Section:
    """The nodes of a program from ``first`` to ``last``, which run in bands.

    Attributes:
        first, last: indices of nodes; ``last`` is behind the section.
        bands: into how many parts the section's results are divided.
        nodes: of the program.
        lowered: of each node.
        rows: of each node.
        schedule: of the section. Its visits are the steps of a pass.
        inputs: the whole tensors that are read, by rows or as they are. Parameters are none of them.
        outputs: the whole tensors that are made.
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
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    widths: Mapping[str, tuple[int, int]]
    lines: Mapping[str, int]
    scratch: tuple[tuple[int, int], ...]
    nbytes: int

    def share(self, visit: int) -> float:
        """The part of its node's rows that a visit computes."""
        each = self.schedule.visits[visit]
        return (each.made.last - each.made.first) / self.rows[each.node].height

    def bind(
        self,
        memory: NDArray[np.uint8],
        whole: Mapping[str, Array],
        params: Mapping[str, Param],
    ) -> Iterator[Run]:
        """The function that runs each visit.

        Args:
            memory: of the section, ``nbytes``.
            whole: the ``inputs`` and ``outputs``.
            params: all parameters by name.
        """
        lines = {name: self._line(memory, name) for name in self.lines}
        kernels = {
            index: self._kernel(index, memory, lines, whole, params)
            for index in {visit.node for visit in self.schedule.visits}
        }
        outputs = {name: whole[name] for name in self.outputs}
        for visit in self.schedule.visits:
            give_way()
            made, rows = visit.made, self.rows[visit.node]
            origins = dict(zip(rows.inputs, visit.origins, strict=True))
            compute = kernels[visit.node](made.first, made.last, origins, made.origin)
            before = _shifts(made, lines)
            for load in visit.loads:
                line, planes = _both(load, lines, whole)
                before += [*_shifts(load, lines), partial(np.copyto, line, planes)]
            after = []
            if made.tensor in outputs:
                line, planes = _both(made, lines, outputs)
                after.append(partial(np.copyto, planes, line))
            yield _visiting(before, compute, after, self.lowered[visit.node].rows)

    def _line(self, memory: NDArray[np.uint8], name: str) -> Array:
        """The line buffer of a tensor (R, C, W)."""
        shape = (self.schedule.lines[name].room, *self.widths[name])
        start = self.lines[name]
        return memory[start : start + _FLOAT * math.prod(shape)].view(np.float32).reshape(shape)

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
        return rows.bind(Buffers(inputs, (lines[node.outputs[0]],), memory[start : start + size]))


def sections_of(
    nodes: Sequence[Node],
    lowered: Sequence[Lowered],
    rows: Sequence[Rows | None],
    tensors: Mapping[str, Operand],
    results: Sequence[str],
    bands: int,
) -> list[Section]:
    """The sections of a program, each divided into ``bands`` parts.

    Args:
        nodes: of the program.
        lowered: of each node.
        rows: how each node computes bands; None if it cannot.
        tensors: all tensors by name, parameters included.
        results: the names of the program's outputs.
        bands: as above; at least 1.
    """
    last_use = {name: index for index, node in enumerate(nodes) for name in node.inputs}
    last_use |= dict.fromkeys(results, len(nodes))
    found = []
    for first, last in _runs(nodes, rows):
        give_way()
        own = [each for each in rows[first:last] if each is not None]
        found.append(_section(first, nodes[first:last], lowered[first:last], own, tensors, last_use, bands))
    return found


def _runs(nodes: Sequence[Node], rows: Sequence[Rows | None]) -> Iterator[tuple[int, int]]:
    """The first node of each section and the one behind it."""
    first, made = 0, set[str]()
    for index, node in enumerate(nodes):
        own = rows[index]
        wholes = [node.inputs[position] for position in own.whole] if own else []
        if own is None or not made.isdisjoint(wholes):
            if index - first >= _FEWEST:
                yield first, index
            first, made = index if own else index + 1, set()
        if own:
            made.update(node.outputs)
    if len(nodes) - first >= _FEWEST:
        yield first, len(nodes)


def _section(
    first: int,
    nodes: Sequence[Node],
    lowered: Sequence[Lowered],
    rows: Sequence[Rows],
    tensors: Mapping[str, Operand],
    last_use: Mapping[str, int],
    bands: int,
) -> Section:
    made = [node.outputs[0] for node in nodes]
    outputs = tuple(name for name in made if last_use.get(name, 0) >= first + len(nodes))
    read = dict.fromkeys(
        node.inputs[position]
        for node, own in zip(nodes, rows, strict=True)
        for position in (*own.inputs, *own.whole)
        if not tensors[node.inputs[position]].is_param
    )
    planned = schedule(
        [
            RowNode(tuple((node.inputs[i], reads) for i, reads in own.inputs.items()), node.outputs[0], own.height)
            for node, own in zip(nodes, rows, strict=True)
        ],
        outputs,
        bands,
    )
    widths = {name: (tensors[name].shape[1], tensors[name].shape[3]) for name in planned.lines}
    most = [0] * len(nodes)
    for visit in planned.visits:
        most[visit.node] = max(most[visit.node], visit.made.last - visit.made.first)
    scratch = [own.scratch(count) for own, count in zip(rows, most, strict=True)]
    step_of = {name: step for step, name in enumerate(made)}
    last_read = {name: step for step, node in enumerate(nodes) for name in node.inputs}
    blocks = []
    for name, line in planned.lines.items():
        begin, end = step_of.get(name, 0), last_read.get(name, step_of.get(name, 0))
        if line.kept:
            begin, end = 0, len(nodes)
        blocks.append(arena.Block(_FLOAT * line.room * math.prod(widths[name]), begin, end))
    offsets, nbytes = arena.arrange([*blocks, *(arena.Block(size, step, step) for step, size in enumerate(scratch))])
    return Section(
        first=first,
        last=first + len(nodes),
        bands=bands,
        nodes=tuple(nodes),
        lowered=tuple(lowered),
        rows=tuple(rows),
        schedule=planned,
        inputs=tuple(name for name in read if name not in step_of),
        outputs=outputs,
        widths=widths,
        lines=dict(zip(planned.lines, offsets, strict=False)),
        scratch=tuple(zip(offsets[len(blocks) :], scratch, strict=True)),
        nbytes=nbytes,
    )


def _shifts(arrival: Arrival, lines: Mapping[str, Array]) -> list[Callable[[], None]]:
    """What makes room for new rows: the rows that are still needed move to the front of the line buffer."""
    shift = arrival.shift
    return [] if shift is None else [to_front(lines[arrival.tensor], shift.source, shift.moved)]


def _both(arrival: Arrival, lines: Mapping[str, Array], whole: Mapping[str, Array]) -> tuple[Array, Array]:
    """Rows in their line buffer, and the same rows of the whole tensor (1, C, H, W), both as (rows, C, W)."""
    rows = slice(arrival.first - arrival.origin, arrival.last - arrival.origin)
    planes = whole[arrival.tensor][0, :, arrival.first : arrival.last]
    return lines[arrival.tensor][rows], planes.transpose(1, 0, 2)


def _visiting(
    before: Sequence[Callable[[], None]], compute: Run, after: Sequence[Callable[[], None]], rows: int
) -> Run:
    """A visit in tiles: ``before`` precedes the first, and ``after`` follows the last, which ends at row ``rows``."""
    if not before and not after:
        return compute

    def run(first: int, last: int) -> None:
        for prepare in before if first == 0 else ():
            prepare()
        compute(first, last)
        for finish in after if last == rows else ():
            finish()

    return run
