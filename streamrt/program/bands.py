"""The schedule of a section that runs in bands: which rows each node computes when, and which rows stay in memory.

A section is a run of nodes that compute rows of their output from rows of their inputs. It runs depth first: in each
band every node computes the rows that the nodes behind it need in this band. Rows that a later band needs again stay.
No row is computed twice.

Each tensor of a section has a line buffer: memory for some successive rows. New rows are added behind the others. If
there is no room for them, the rows that are still needed move to the front first.

Pure: numbers of rows alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from streamrt.ops.rows import Reads


class RowNode(NamedTuple):
    """A node of a section.

    Attributes:
        inputs: the tensors that it reads by rows, and which rows.
        output: the tensor that it computes.
        height: rows of the output.
    """

    inputs: tuple[tuple[str, Reads], ...]
    output: str
    height: int


class Line(NamedTuple):
    """The line buffer of a tensor.

    Attributes:
        room: the rows for which it has room.
        kept: whether rows stay in it from one band to the next. Otherwise it is used within bands alone.
    """

    room: int
    kept: bool


class Shift(NamedTuple):
    """The number of rows of a line buffer that are ``moved`` from its row ``source`` on to its front."""

    source: int
    moved: int


class Arrival(NamedTuple):
    """New rows of a tensor.

    Attributes:
        tensor: its name.
        first, last: the rows of the picture.
        origin: the row of the picture that is row 0 of the line buffer from now on.
        shift: what happens to the line buffer before, or None.
    """

    tensor: str
    first: int
    last: int
    origin: int
    shift: Shift | None


class Visit(NamedTuple):
    """A node computes some rows.

    Attributes:
        node: its index in the section.
        loads: rows of the section's inputs that are copied to their line buffers before.
        made: the rows that it computes.
        origins: the row of the picture that is row 0 of the line buffer, for each of the node's ``inputs``.
    """

    node: int
    loads: tuple[Arrival, ...]
    made: Arrival
    origins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The line buffer of each tensor by name, and the visits of a pass in their order."""

    lines: Mapping[str, Line]
    visits: tuple[Visit, ...]


def schedule(nodes: Sequence[RowNode], outputs: Collection[str], bands: int) -> Schedule:
    """The schedule of a section whose results ``outputs`` are computed in about ``bands`` equal parts.

    A node with fewer rows than that takes part in some of the bands. All take part in the first, so that the weights
    first arrive in the order of the file. ``nodes`` are in the order of execution.
    """
    ends = [_ends(nodes, outputs, band, bands) for band in range(bands + 1)]
    lows = [_still_needed(nodes, now, ends[-1]) for now in ends[:-1]]
    inputs = [name for name in ends[0] if name not in {node.output for node in nodes}]
    rooms = {name: max(after[name] - low[name] for low, (_, after) in _steps(lows, ends)) for name in ends[0]}
    kept = {name for name in ends[0] if any(low[name] < now[name] for low, (now, _) in _steps(lows, ends))}
    origins = dict.fromkeys(ends[0], 0)
    visits: list[Visit] = []

    def arrival(name: str, low: int, first: int, last: int) -> Arrival:
        shift = None
        if last - origins[name] > rooms[name]:
            shift = Shift(low - origins[name], first - low) if low < first else None
            origins[name] = low
        return Arrival(name, first, last, origins[name], shift)

    for low, (now, after) in _steps(lows, ends):
        loads = tuple(arrival(name, low[name], now[name], after[name]) for name in inputs if now[name] < after[name])
        for index, node in enumerate(nodes):
            first, last = now[node.output], after[node.output]
            if first < last:
                made = arrival(node.output, low[node.output], first, last)
                visits.append(Visit(index, loads, made, tuple(origins[name] for name, _ in node.inputs)))
                loads = ()
    return Schedule({name: Line(room, name in kept) for name, room in rooms.items()}, tuple(visits))


#: The row behind the last that is computed, or loaded, or the first that is still needed, for each tensor.
_Marks = Mapping[str, int]


def _steps(lows: Sequence[_Marks], ends: Sequence[_Marks]) -> list[tuple[_Marks, tuple[_Marks, _Marks]]]:
    """For each band the rows that are needed from it on, and the ends before and behind it."""
    return list(zip(lows, pairwise(ends), strict=True))


def _ends(nodes: Sequence[RowNode], outputs: Collection[str], band: int, bands: int) -> _Marks:
    """The end of each tensor's rows after ``band`` of all bands."""
    found: dict[str, int] = {}
    for node in reversed(nodes):
        end = -(-node.height * band // bands) if node.output in outputs else min(band, 1)
        end = found[node.output] = max(end, found.get(node.output, 0))
        for name, reads in node.inputs:
            found[name] = max(found.get(name, 0), reads(0, end)[1] if end else 0)
    return found


def _still_needed(nodes: Sequence[RowNode], now: _Marks, final: _Marks) -> _Marks:
    """The first row of each tensor that is needed for rows that are not computed yet; its end if none is."""
    found = dict(now)
    for node in nodes:
        if now[node.output] < final[node.output]:
            for name, reads in node.inputs:
                first, last = reads(now[node.output], final[node.output])
                if first < last:
                    found[name] = min(found[name], first)
    return found
