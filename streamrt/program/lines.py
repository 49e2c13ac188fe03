"""Line buffers: where the rows of a tensor lie while a section runs in bands.

A line buffer is memory for some successive rows. New rows are added behind the others. If there is no room for them,
they begin at the front again: a new lap. Nodes that read windows see successive rows, so the rows that they still need
move to the front first. Other nodes use one row at a time, and read rows where they lie: in a *ring* these rows stay.

Pure: numbers of rows alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

#: The most sizes of a ring that are tried. Trying one takes up to 1 us for each band.
_MOST_ROOMS = 32


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


class Growth(NamedTuple):
    """The rows of a tensor in a band.

    Attributes:
        low: the first row that is still needed.
        near: the first row that a node needs which reads successive rows.
        first, last: the new rows; both numbers are equal if there are none.
    """

    low: int
    near: int
    first: int
    last: int

    @property
    def together(self) -> Growth:
        """As if all nodes read successive rows."""
        return Growth(self.low, self.low, self.first, self.last)


class _Lap(NamedTuple):
    """Rows of the picture from ``first`` on; row ``origin`` of the picture is row 0 of the line buffer."""

    first: int
    origin: int


class Places:
    """The places of a tensor's rows in its line buffer.

    Args:
        tensor: its name.
        room: the rows for which the line buffer has room.
        growths: of each band.
    """

    def __init__(self, tensor: str, room: int, growths: Sequence[Growth]) -> None:
        self._tensor, self._room, self._growths = tensor, room, growths
        self._laps = [_Lap(0, 0)]  # those with rows that are still needed, the oldest first
        self.fits = True  # whether no new row has taken the place of one that is still needed

    def arrival(self, band: int) -> Arrival | None:
        """Gives the new rows of the next band their places. None: it has none."""
        low, near, first, last = self._growths[band]
        if first == last:
            return None
        laps = self._laps
        origin = laps[-1].origin
        begin, shift = first - origin, None
        if last - origin > self._room:
            if near < first:
                shift = Shift(near - origin, first - near)
            laps.append(_Lap(near, near))
            begin, origin = 0, near
        if len(laps) > 1:
            for lap, (behind, _) in pairwise(laps):
                held = max(low, lap.first)
                if held < behind and begin < behind - lap.origin and held - lap.origin < last - origin:
                    self.fits = False
            while len(laps) > 1 and laps[1].first <= low:
                laps.pop(0)
        return Arrival(self._tensor, first, last, origin, shift)

    def all_arrivals(self) -> Iterator[Arrival]:
        """Those of all bands."""
        return (new for band in range(len(self._growths)) if (new := self.arrival(band)))

    def seams(self, first: int, last: int) -> Sequence[int]:
        """The rows between ``first`` and ``last`` that do not follow the row before them in memory."""
        return () if len(self._laps) == 1 else [lap.first for lap in self._laps if first < lap.first < last]

    def origin_of(self, row: int | None) -> int:
        """The row of the picture that is row 0 of the line buffer, for rows from ``row`` to the next seam.

        None asks for the rows that a node needs which reads successive rows.
        """
        laps = self._laps
        if row is None or len(laps) == 1:
            return laps[-1].origin
        return next(lap.origin for lap in reversed(laps) if lap.first <= row)


def line_of(tensor: str, growths: Sequence[Growth]) -> tuple[Line, Places]:
    """The smallest line buffer of a tensor, and the places of its rows. It is a ring if otherwise many rows would move.

    Args:
        tensor: its name.
        growths: of each band.
    """
    room = max(each.last - each.low for each in growths)
    line = Line(room, any(each.low < each.first for each in growths))
    together = growths if all(low == near for low, near, _, _ in growths) else [each.together for each in growths]
    moved = _moved(room, together)
    if moved <= growths[-1].last:  # a row moves at most once on average
        return line, Places(tensor, room, together)
    # A lap needs these rows more at most: those that move to the front, and the places at the end for too few new ones.
    more = max(each.first - each.near for each in growths) + max(each.last - each.first for each in growths)
    rooms = range(room, room + more, -(-more // _MOST_ROOMS))
    room = next((each for each in rooms if _fits(Places(tensor, each, growths))), room + more)
    return Line(room, True), Places(tensor, room, growths)


def _moved(room: int, growths: Sequence[Growth]) -> int:
    """How many rows move to the front in all, as `Places.arrival` has it."""
    moved = origin = 0
    for _, near, first, last in growths:
        if first < last and last - origin > room:
            moved += max(0, first - near)
            origin = near
    return moved


def _fits(places: Places) -> bool:
    """Whether all rows find places."""
    return all(places.fits for _ in places.all_arrivals()) and places.fits
