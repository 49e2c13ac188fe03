"""The schedule of a section that runs in bands: which rows each node computes when, and which rows stay in memory.

A section is a run of nodes that compute rows of their output from rows of their inputs. It runs depth first: in each
band some rows of the inputs come in, and every node computes the rows that are possible now. Rows that a later band
needs again stay. No row is computed twice.

Each tensor of a section has a line buffer (`streamrt.program.lines`).

Pure: numbers of rows alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from streamrt.ops.rows import Reads
from streamrt.program.lines import Arrival, Growth, Line, Places, line_of


class RowInput(NamedTuple):
    """A tensor that a node reads by rows.

    Attributes:
        tensor: its name.
        reads: which rows.
        apart: whether these are the rows of the output, and each may lie anywhere. Otherwise they must be successive.
    """

    tensor: str
    reads: Reads
    apart: bool = False


class RowNode(NamedTuple):
    """A node of a section.

    Attributes:
        inputs: the tensors that it reads by rows.
        output: the tensor that it computes.
        height: rows of the output.
        step: it makes rows up to a multiple of this one, or to the last.
    """

    inputs: tuple[RowInput, ...]
    output: str
    height: int
    step: int = 1


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


class Meter:
    """Counts the tensors of all bands of several schedules: their number bounds time (5 us each) and memory.

    If each node needs all rows of the one before it, there are as many times more bands as nodes.
    """

    def __init__(self, left: int) -> None:
        self.left = left


#: The row behind the last that is computed, or loaded, or the first that is still needed, for each tensor.
_Marks = Mapping[str, int]


def schedule(nodes: Sequence[RowNode], outputs: Collection[str], rows: int, meter: Meter) -> Schedule | None:
    """The schedule of a section: in each band so many ``rows`` of its tallest input come in, and others in proportion.

    A few bands follow for the rest. A node with few rows takes part in some bands. Nodes begin in their order, so that
    weights arrive in the order of the file at first. The result is None if there would be too many bands.

    Args:
        nodes: in the order of execution.
        outputs: the tensors of which all rows are needed. Of others only the rows that these need are computed.
        rows: as above; at least 1.
        meter: the result is None if nothing is left.
    """
    final = _needed(nodes, outputs)
    pace = _Pace(nodes, final, rows)
    ends: list[_Marks] = [dict.fromkeys(final, 0)]
    while ends[-1] != final:
        meter.left -= len(final)
        if meter.left < 0:
            return None
        ends.append(pace.next_ends(ends[-1]))
    growths: dict[str, list[Growth]] = {name: [] for name in final}
    for now, after in pairwise(ends):
        low, near = _still_needed(nodes, now, final)
        for name, each in growths.items():
            each.append(Growth(low[name], near[name], now[name], after[name]))
    found = {name: line_of(name, each) for name, each in growths.items()}
    visits = tuple(_visits(nodes, {name: places for name, (_, places) in found.items()}, len(ends) - 1))
    return Schedule({name: line for name, (line, _) in found.items()}, visits)


def _visits(nodes: Sequence[RowNode], places: Mapping[str, Places], bands: int) -> Iterator[Visit]:
    """The visits of all bands. They are in pieces where rows that a node reads do not lie together."""
    made = {node.output for node in nodes}
    inputs = [each for name, each in places.items() if name not in made]
    plans = [(places[node.output], [(places[each.tensor], each.apart) for each in node.inputs]) for node in nodes]
    loads: tuple[Arrival, ...] = ()  # that no visit has yet
    for band in range(bands):
        loads += tuple(new for each in inputs if (new := each.arrival(band)))
        for index, (output, read) in enumerate(plans):
            new = output.arrival(band)
            if new is None:
                continue
            cuts: set[int] = set()
            for each, apart in read:
                if apart:
                    cuts.update(each.seams(new.first, new.last))
            pieces: tuple[Arrival, ...] = (new,)
            if cuts:
                pieces = tuple(
                    new._replace(first=first, last=last, shift=None if first > new.first else new.shift)
                    for first, last in pairwise((new.first, *sorted(cuts), new.last))
                )
            for piece in pieces:
                origins = tuple([each.origin_of(piece.first if apart else None) for each, apart in read])
                yield Visit(index, loads, piece, origins)
                loads = ()


def _needed(nodes: Sequence[RowNode], outputs: Collection[str]) -> _Marks:
    """The end of the rows of each tensor that are needed in all. Each node makes a row at least."""
    found: dict[str, int] = {}
    for node in reversed(nodes):
        end = node.height if node.output in outputs else max(1, found.get(node.output, 0))
        end = found[node.output] = min(_up(end, node.step), node.height)
        for name, reads, _ in node.inputs:
            found[name] = max(found.get(name, 0), reads(0, end)[1])
    return found


class _Pace:
    """Which rows come in, or are computed, in each band.

    Each node makes rows for which it has what it needs, as far as its pace allows. So it does not catch up in a few
    bands at the upper and lower border, where rows need fewer others: line buffers would have to hold these rows.
    """

    def __init__(self, nodes: Sequence[RowNode], final: _Marks, rows: int) -> None:
        made = {node.output for node in nodes}
        self._nodes, self._final, self._rows = nodes, final, rows
        self._inputs = [name for name in final if name not in made]
        self._height = max([1, *(final[name] for name in self._inputs)])
        self._once = [self._allowed(node.output, 1, node.step) for node in nodes]  # the most rows in a band
        self._began: dict[str, int] = {}  # the band in which a node computed its first rows
        self._band = 0

    def next_ends(self, before: _Marks) -> _Marks:
        """The ends after the next band."""
        self._band += 1
        found = {name: self._allowed(name, self._band) for name in self._inputs}
        begun = True
        for node, once in zip(self._nodes, self._once, strict=True):
            name = node.output
            end, last = before[name], self._final[name]
            if begun and end < last:
                since = self._band - self._began.get(name, self._band)
                most = min(end + once, self._allowed(name, since + 1, node.step))
                end += _more(node, end, min(max(end, most), last), found)
                end -= 0 if end == last else end % node.step
                if end and name not in self._began:
                    self._began[name] = self._band
            begun, found[name] = end > 0, end
        return found

    def _allowed(self, name: str, bands: int, step: int = 1) -> int:
        """The most rows in so many bands."""
        last = self._final[name]
        return min(last, _up(-(-last * self._rows * bands // self._height), step))


def _up(rows: int, step: int) -> int:
    """``rows`` rounded up to a multiple of ``step``."""
    return -(-rows // step) * step


def _more(node: RowNode, first: int, last: int, there: _Marks) -> int:
    """How many rows from ``first`` on, up to ``last``, need only rows that are ``there``."""

    def lacks(count: int) -> bool:
        return any(reads(0, first + count)[1] > there[name] for name, reads, _ in node.inputs)

    most = last - first
    return most if most > 0 and not lacks(most) else bisect_left(range(1, most + 1), True, key=lacks)


def _still_needed(nodes: Sequence[RowNode], now: _Marks, final: _Marks) -> tuple[_Marks, _Marks]:
    """The first row of each tensor that is needed for rows that are not computed yet; its end if none is.

    The second result is the same for the nodes that read successive rows.
    """
    low, near = dict(now), dict(now)
    for node in nodes:
        begin, end = now[node.output], final[node.output]
        if begin < end:
            for name, reads, apart in node.inputs:
                first, last = reads(begin, end)
                if first < last:
                    if first < low[name]:
                        low[name] = first
                    if not apart and first < near[name]:
                        near[name] = first
    return low, near
