"""The residency planner: which bytes stay, which stream, and through how large a window.

A pure function of sizes and budget. For a cyclic scan any fixed set of resident bytes is optimal (Belady), so a
pass reads the model less what is pinned. What streams goes through a small window, and is spread evenly
between pinned ranges, so that the disk keeps reading while pinned weights are computed with. Of the sizes of tiles
that fit, the one is taken with which a pass reads for the shortest time.

Memory is counted in granules, the unit in which the core populates and releases: 2 MiB, the page cache's
largest folio, read at a tenth of the processor time of small pages, or one page where the budget is too small for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from streamrt.errors import BudgetError

PAGE = 4096
HUGE = 2 << 20


@dataclass(frozen=True, slots=True)
class _Tiling:
    """A size of tiles, the granule that goes with it, and the GB/s at which such tiles were read (docs/design.md)."""

    tile_bytes: int
    granule: int
    rate: float


# Of equally fast ones the larger first: fewer calls, and larger products for BLAS. Below 64 KiB calls cost more than
# reading.
_TILINGS = (
    _Tiling(16 << 20, HUGE, 2.6),
    _Tiling(8 << 20, HUGE, 2.6),
    _Tiling(4 << 20, HUGE, 2.5),
    _Tiling(2 << 20, HUGE, 2.2),
    _Tiling(1 << 20, PAGE, 0.90),
    _Tiling(512 << 10, PAGE, 0.81),
    _Tiling(256 << 10, PAGE, 0.74),
    _Tiling(128 << 10, PAGE, 0.63),
    _Tiling(64 << 10, PAGE, 0.45),
)
_MOST_TILES = 1024
#: Ranges in a row that the window may hold, and the share of the rate that they allow: with two of them,
#: one is read while one is in use, and any unevenness shows; a third takes it up.
_AHEAD = ((3, 1.0), (2, 0.9))


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of the file."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class NodeWeights:
    """What one node reads of the file.

    Attributes:
        whole: read at once, by the node's first tile.
        tiled: read row by row; each extent holds ``rows`` rows of equal length.
        rows: rows of the node's output.
        row_step: a cut between tiles falls on a multiple of this row.
    """

    whole: tuple[Extent, ...] = ()
    tiled: tuple[Extent, ...] = ()
    rows: int = 1
    row_step: int = 1


@dataclass(frozen=True, slots=True)
class Range:
    """A piece of the file that is brought in and released as one."""

    offset: int
    length: int
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    """One step of a pass: rows ``first`` to ``last`` of a node, which need ``ranges[begin:end]`` of the plan."""

    node: int
    first: int
    last: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a pass runs within a budget; ``pinned_bytes + window + workspace <= budget``.

    Attributes:
        tiles: in the order of execution.
        ranges: in the order in which the tiles need them.
        granule: bytes in which memory is populated, released and counted.
        window: bytes that streamed ranges may hold at any moment.
        workspace: bytes of activations and scratch.
        pinned_bytes: what the pinned ranges hold.
        streamed_bytes: what one pass reads through the window, without the padding that whole granules bring along.
        micro_batch: samples that one pass over the weights serves; 0 when the batch is not divided.
        budget: the limit, or None.
    """

    tiles: tuple[Tile, ...]
    ranges: tuple[Range, ...]
    granule: int
    window: int
    workspace: int
    pinned_bytes: int
    streamed_bytes: int
    budget: int | None
    micro_batch: int = 0

    @property
    def total(self) -> int:
        """Bytes that the model may hold under this plan."""
        return self.pinned_bytes + self.window + self.workspace


class _Cut:
    """The tiles and ranges for one tile size, and the memory they take in granules."""

    def __init__(self, nodes: Sequence[NodeWeights], tile_bytes: int, granule: int, file_size: int) -> None:
        self.granule = granule
        self._file_size = file_size
        self.tiles, self.ranges = _cut(nodes, tile_bytes)
        self.footprints = [self.held([r]) for r in self.ranges]

    def held(self, ranges: Iterable[Range]) -> int:
        """Bytes of the granules that cover ``ranges``, each granule once."""
        total, reached = 0, 0
        for start, end in sorted(self._span(r) for r in ranges):
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
        return total

    def _span(self, r: Range) -> tuple[int, int]:
        start = r.offset // self.granule * self.granule
        end = -(-(r.offset + r.length) // self.granule) * self.granule
        return start, min(end, self._file_size)

    def run_of(self, count: int) -> int:
        """The most that ``count`` ranges in a row hold, across the wrap-around too."""
        sizes = self.footprints
        count = min(count, len(sizes))
        around = sizes + sizes[: count - 1] if count else []
        return max((sum(around[i : i + count]) for i in range(len(sizes))), default=0)

    @property
    def least(self) -> int:
        """The smallest window: the ranges that one tile needs together."""
        return max((sum(self.footprints[t.begin : t.end]) for t in self.tiles), default=0)


def make_plan(
    nodes: Sequence[NodeWeights], *, file_size: int, workspace: int, budget: int | None, huge: bool = True
) -> Plan:
    """Plan passes over ``nodes``, in order, within ``budget`` bytes.

    Args:
        nodes: what each node reads.
        file_size: bytes of the weights file, where its last granule ends.
        workspace: bytes of activations and scratch.
        budget: bytes that pinned ranges, window and workspace may take together; None pins everything.
        huge: whether the file's layout is made for 2 MiB granules.

    Raises:
        BudgetError: not even one of the smallest tiles fits beside the workspace.
    """
    tilings = [tiling for tiling in _TILINGS if huge or tiling.granule == PAGE]
    cut_for = cache(lambda tiling: _Cut(nodes, tiling.tile_bytes, tiling.granule, file_size))
    room = 0 if budget is None else budget - workspace
    for granule in dict.fromkeys(tiling.granule for tiling in tilings):
        cut = _Cut(nodes, tilings[0].tile_bytes, granule, file_size)
        if budget is None or cut.held(cut.ranges) <= room:
            return _finish(cut, set(range(len(cut.ranges))), 0, workspace, budget)

    best: tuple[float, _Cut, int] | None = None
    total = cut.held(cut.ranges)
    frugal = _frugal(nodes)
    for tiling in tilings[: tilings.index(frugal) + 1]:
        if best and (total - room) / tiling.rate >= best[0]:
            continue
        cut = cut_for(tiling)
        for ahead, share in _AHEAD:
            window = max(cut.run_of(ahead), cut.least)
            cost = (sum(cut.footprints) - (room - window)) / (tiling.rate * share)
            if window <= room and (best is None or cost < best[0]):
                best = cost, cut, window
    if best:
        _, cut, window = best
        return _finish(cut, _pin(cut, room - window), window, workspace, budget)

    cut = cut_for(frugal)
    if cut.least > room:
        need = cut.least + workspace
        raise BudgetError(
            f"a budget of {budget} bytes is too small: {workspace} bytes of activations and {cut.least} bytes "
            f"of weights are needed at once, so the smallest budget that works is {need} bytes",
            need,
        )
    return _finish(cut, set(), room, workspace, budget)


def smallest_window(nodes: Sequence[NodeWeights], file_size: int) -> int:
    """The bytes of weights that must be in memory at once, in the most frugal tiling."""
    frugal = _frugal(nodes)
    return _Cut(nodes, frugal.tile_bytes, frugal.granule, file_size).least


def _frugal(nodes: Sequence[NodeWeights]) -> _Tiling:
    """The smallest tiles worth having: more than about a thousand in a pass cost more in calls than they save."""
    total = sum(extent.length for node in nodes for extent in (*node.whole, *node.tiled))
    pages = [tiling for tiling in _TILINGS if tiling.granule == PAGE]
    return next((tiling for tiling in pages if tiling.tile_bytes * _MOST_TILES <= total), pages[-1])


def _pin(cut: _Cut, room: int) -> set[int]:
    """Ranges to pin in ``room`` bytes, so that what streams is spread evenly over the pass."""
    pinned: set[int] = set()
    total = sum(cut.footprints)
    passed = used = 0
    for index, footprint in enumerate(cut.footprints):
        passed += footprint
        # Of the pass so far the same share is pinned as of the whole.
        if (used + footprint) * total <= passed * room:
            pinned.add(index)
            used += footprint
    for index, footprint in enumerate(cut.footprints):
        if index not in pinned and used + footprint <= room:
            pinned.add(index)
            used += footprint
    return pinned


def _finish(cut: _Cut, pinned: set[int], window: int, workspace: int, budget: int | None) -> Plan:
    ranges = tuple(replace(r, pinned=index in pinned) for index, r in enumerate(cut.ranges))
    return Plan(
        tiles=tuple(cut.tiles),
        ranges=ranges,
        granule=cut.granule,
        window=window,
        workspace=workspace,
        pinned_bytes=cut.held(r for r in ranges if r.pinned),
        streamed_bytes=sum(r.length for r in ranges if not r.pinned),
        budget=budget,
    )


def _cut(nodes: Sequence[NodeWeights], tile_bytes: int) -> tuple[list[Tile], list[Range]]:
    """Divide every node into tiles of about ``tile_bytes``, and the file into the ranges that they need.

    Neighbours in the file share a range as long as it stays within ``tile_bytes``.
    """
    tiles: list[Tile] = []
    ranges: list[Range] = []
    for index, node in enumerate(nodes):
        for first, last, extents in _slices(node, tile_bytes):
            begin = len(ranges)
            for extent in extents:
                open_range = ranges[-1] if ranges else None
                if open_range and _joins(open_range, extent, tile_bytes):
                    end = max(open_range.offset + open_range.length, extent.end)
                    ranges[-1] = Range(open_range.offset, end - open_range.offset)
                    begin = min(begin, len(ranges) - 1)
                else:
                    ranges.append(Range(extent.offset, extent.length))
            tiles.append(Tile(index, first, last, begin, len(ranges)))
    return tiles, ranges


def _joins(r: Range, extent: Extent, tile_bytes: int) -> bool:
    gap = extent.offset - (r.offset + r.length)
    return (
        extent.offset >= r.offset and gap <= PAGE and max(extent.end - r.offset, r.length) <= max(tile_bytes, r.length)
    )


def _slices(node: NodeWeights, tile_bytes: int) -> Iterable[tuple[int, int, list[Extent]]]:
    """Rows and extents of each tile of a node, cut at multiples of ``tile_bytes`` from where its weights begin."""
    whole = [extent for extent in node.whole if extent.length]
    row_bytes = sum(extent.length for extent in node.tiled) // node.rows if node.rows else 0
    if not row_bytes:
        yield 0, node.rows, whole
        return
    rows_begin = node.tiled[0].offset
    begin = min((e.offset for e in whole if 0 <= rows_begin - e.offset <= tile_bytes), default=rows_begin)
    first, tile = 0, 0
    while first < node.rows:
        tile += 1
        fits = (begin + tile * tile_bytes - rows_begin) // row_bytes
        last = max(fits // node.row_step * node.row_step, first + node.row_step)
        last = min(last, node.rows)
        rows = [
            Extent(e.offset + first * e.length // node.rows, (last - first) * e.length // node.rows) for e in node.tiled
        ]
        yield first, last, sorted((whole if first == 0 else []) + rows, key=lambda e: e.offset)
        first = last
