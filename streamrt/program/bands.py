"""The schedule of a section that runs in bands: which rows each node computes when, and which rows stay in memory.

A section is a run of nodes that compute rows of their output from rows of their inputs. It runs depth first: in each
band some rows of the inputs come in, and every node computes the rows that are possible now. Rows that a later band
needs again stay. No row is computed twice.

Each tensor of a section has a line buffer: memory for some successive rows. New rows are added behind the others. If
there is no room for them, the rows that are still needed move to the front first.

Pure: numbers of rows alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streamrt.ops.rows import Reads


class RowNode(NamedTuple):
    """A node of a section.

    Attributes:
        inputs: the tensors that it reads by rows, and which rows.
        output: the tensor that it computes.
        height: rows of the output.
        step: it makes rows up to a multiple of this one, or to the last.
    """

    inputs: tuple[tuple[str, Reads], ...]
    output: str
    height: int
    step: int = 1


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


#: The most tensors of all bands. Their number bounds time (5 us each) and memory. If each node needs all rows of the
#: one before it, there are as many times more bands as nodes, and bands save nothing.
_MOST_MARKS = 2**16
#: The row behind the last that is computed, or loaded, or the first that is still needed, for each tensor.
_Marks = Mapping[str, int]


def schedule(nodes: Sequence[RowNode], outputs: Collection[str], bands: int) -> Schedule | None:
    """The schedule of a section to which its inputs come in ``bands`` equal parts, and some bands more for the rest.

    A node with fewer rows than bands takes part in some of them. Nodes begin in their order, so that weights arrive in
    the order of the file at first. The result is None if it would have too many bands.

    Args:
        nodes: in the order of execution.
        outputs: the tensors of which all rows are needed. Of others only the rows that these need are computed.
        bands: as above; at least 1.
    """
    final = _needed(nodes, outputs)
    ends: list[_Marks] = [dict.fromkeys(final, 0)]
    while ends[-1] != final:
        if len(ends) * len(final) > _MOST_MARKS:
            return None
        ends.append(_reached(nodes, ends[-1], final, len(ends), bands))
    lows = [_still_needed(nodes, now, ends[-1]) for now in ends[:-1]]
    made = {node.output for node in nodes}
    inputs = [name for name in final if name not in made]
    steps = list(zip(lows, ends[:-1], ends[1:], strict=True))
    rooms = {name: max(after[name] - low[name] for low, _, after in steps) for name in final}
    kept = {name for name in final if any(low[name] < now[name] for low, now, _ in steps)}
    origins = dict.fromkeys(final, 0)
    visits: list[Visit] = []
    loads: tuple[Arrival, ...] = ()  # that no visit has yet

    def arrival(name: str, low: int, first: int, last: int) -> Arrival:
        shift = None
        if last - origins[name] > rooms[name]:
            shift = Shift(low - origins[name], first - low) if low < first else None
            origins[name] = low
        return Arrival(name, first, last, origins[name], shift)

    for low, now, after in steps:
        loads += tuple(arrival(name, low[name], now[name], after[name]) for name in inputs if now[name] < after[name])
        for index, node in enumerate(nodes):
            first, last = now[node.output], after[node.output]
            if first < last:
                new = arrival(node.output, low[node.output], first, last)
                visits.append(Visit(index, loads, new, tuple(origins[name] for name, _ in node.inputs)))
                loads = ()
    return Schedule({name: Line(room, name in kept) for name, room in rooms.items()}, tuple(visits))


def _needed(nodes: Sequence[RowNode], outputs: Collection[str]) -> _Marks:
    """The end of the rows of each tensor that are needed in all. Each node makes a row at least."""
    found: dict[str, int] = {}
    for node in reversed(nodes):
        end = node.height if node.output in outputs else max(1, found.get(node.output, 0))
        end = found[node.output] = min(_up(end, node.step), node.height)
        for name, reads in node.inputs:
            found[name] = max(found.get(name, 0), reads(0, end)[1])
    return found


def _reached(nodes: Sequence[RowNode], before: _Marks, final: _Marks, band: int, bands: int) -> _Marks:
    """The ends after ``band``: each node makes rows for which it has what it needs, and no more than its part.

    So a node does not catch up in one band at the upper and lower border, where rows need fewer others.
    """
    made = {node.output for node in nodes}
    found = {name: end if name in made else min(end, -(-end * band // bands)) for name, end in final.items()}
    begun = True
    for node in nodes:
        end = before[node.output]
        if begun:
            last = final[node.output]
            end += _more(node, end, min(end + _up(-(-last // bands), node.step), last), found)
            end -= 0 if end == last else end % node.step
        begun, found[node.output] = end > 0, end
    return found


def _up(rows: int, step: int) -> int:
    """``rows`` rounded up to a multiple of ``step``."""
    return -(-rows // step) * step


def _more(node: RowNode, first: int, last: int, there: _Marks) -> int:
    """How many rows from ``first`` on, up to ``last``, need only rows that are ``there``."""

    def lacks(count: int) -> bool:
        return any(reads(0, first + count)[1] > there[name] for name, reads in node.inputs)

    return bisect_left(range(1, last - first + 1), True, key=lacks)


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
