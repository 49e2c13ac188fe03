"""Cutting a model into tiles, and the file into the ranges that they need."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, islice, pairwise

from streamrt.host.yielding import give_way
from streamrt.plan.types import HUGE, PAGE, Extent, NodeWeights, Range, Tile


@dataclass(frozen=True, slots=True)
class Tiling:
    """A size of tiles.

    Attributes:
        tile_bytes: the most bytes of weights in a tile of several rows.
        granule: bytes in which its memory is counted.
        rate: GB/s at which such tiles were read from a fast disk (docs/measurements.md).
        apart: whether tiles share no range with their neighbours, for the smallest window. Nodes that begin within a
            granule then have tiles of half the size, so that they take no more granules than if they began with one.
    """

    tile_bytes: int
    granule: int
    rate: float
    apart: bool = False

    @property
    def overhead(self) -> float:
        """Seconds of processing for each byte, beside the time of the disk: page faults and calls. See `read_rate`."""
        return math.sqrt(self.rate**-2 - TILINGS[0].rate ** -2) / 1e9

    def last_resort(self) -> Tiling:
        """The same tiles with ranges of their own. They are short; half of the speed is assumed."""
        return replace(self, rate=self.rate / 2, apart=True)


#: The sizes that are tried, the fastest first. Of equally fast sizes the larger comes first, for fewer calls and larger
#: products. Below 64 KiB calls take longer than reading.
TILINGS = (
    Tiling(16 << 20, HUGE, 2.6),
    Tiling(8 << 20, HUGE, 2.6),
    Tiling(4 << 20, HUGE, 2.6),
    Tiling(2 << 20, HUGE, 2.5),
    Tiling(1 << 20, PAGE, 0.90),
    Tiling(512 << 10, PAGE, 0.81),
    Tiling(256 << 10, PAGE, 0.74),
    Tiling(128 << 10, PAGE, 0.63),
    Tiling(64 << 10, PAGE, 0.45),
)
#: A node's first tile is joined with the second if it has at most 1/4 of a tile and the granule is needed by both. A
#: call costs as much as 20 rows.
_SHORT = 4
#: With more tiles of pages than this in a pass, their calls take more time than their small windows save.
_MOST_TILES = 1024
#: With more tiles than this in a pass, planning takes seconds. This limits tiles of 2 MiB granules, too.
_FAR_TOO_MANY = 2**16
#: The least filling of tiles that are repeated is 1/2: for each pass there are at least two, of which one is full.
_FILLING = 2


class Cut:
    """The tiles and ranges for one tile size, and the memory that they take in granules.

    Attributes:
        granule: bytes.
        tiles: in the order of execution.
        ranges: in the order in which the tiles need them.
        footprints: bytes of the granules of each range.
        shared: of these, bytes of the granules that the range before it covers, too.
    """

    def __init__(
        self,
        nodes: Sequence[NodeWeights],
        tile_bytes: int,
        granule: int,
        file_size: int,
        apart: bool = False,
        held: float = 0,
    ) -> None:
        self.granule = granule
        self._file_size = file_size
        self.tiles, self.ranges = _cut(nodes, tile_bytes, granule, apart, held)
        self.footprints = footprints(self.ranges, granule, file_size)
        self.shared = shared(self.ranges, granule, file_size)

    @cached_property
    def first(self) -> list[int]:
        """For each range, the index of the first range with the same bytes.

        The others are later readings of it: see `NodeWeights.repeats` and ``section``.
        """
        earliest: dict[tuple[int, int], int] = {}
        return [earliest.setdefault((r.offset, r.length), index) for index, r in enumerate(self.ranges)]

    def held(self, ranges: Iterable[Range]) -> int:
        """Bytes of the granules that cover ``ranges``; a granule that several share counts once."""
        total, reached = 0, 0
        for start, end in sorted(_span(r, self.granule, self._file_size) for r in ranges):
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
        return total

    def run_of(self, count: int) -> int:
        """The most bytes that ``count`` successive ranges hold. The first range follows the last."""
        sizes, added = self.footprints, self.added
        count = min(count, len(sizes))
        around = added + added[: count - 1] if count else []
        return max((sizes[i] + sum(around[i + 1 : i + count]) for i in range(len(sizes))), default=0)

    @cached_property
    def added(self) -> list[int]:
        """Bytes of the granules of each range that the range before it does not cover."""
        return [size - own for size, own in zip(self.footprints, self.shared, strict=True)]

    @cached_property
    def least(self) -> int:
        """The smallest window: the most bytes of ranges that a tile needs, or that are kept for a later one."""
        last = {index: t for t, tile in enumerate(self.tiles) for index in range(tile.begin, tile.end)}
        sums = [0, *accumulate(self.added)]
        most = oldest = end = 0
        for t, tile in enumerate(self.tiles):
            end = max(end, tile.end)
            while oldest < end and last[oldest] < t:
                oldest += 1
            if oldest < end:
                most = max(most, self.footprints[oldest] + sums[end] - sums[oldest + 1])
        return most


def footprints(ranges: Iterable[Range], granule: int, file_size: int) -> list[int]:
    """Bytes of the granules that cover each range."""
    return [end - start for start, end in (_span(r, granule, file_size) for r in ranges)]


def shared(ranges: Iterable[Range], granule: int, file_size: int) -> list[int]:
    """Bytes of the granules that each range has in common with the range before it; 0 for the first."""
    spans = [_span(r, granule, file_size) for r in ranges]
    common = (max(0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in pairwise(spans))
    return [0, *common] if spans else []


def _span(r: Range, granule: int, file_size: int) -> tuple[int, int]:
    start = r.offset // granule * granule
    return start, min(-(-(r.offset + r.length) // granule) * granule, file_size)


def smallest_tiling(nodes: Sequence[NodeWeights]) -> Tiling:
    """The smallest tiles that are worth planning for."""
    total = sum(node.read * (1 if node.passes == 1 else _FILLING) for node in nodes)
    pages = [tiling for tiling in TILINGS if tiling.granule == PAGE]
    smallest = next((tiling for tiling in pages if tiling.tile_bytes * _MOST_TILES <= total), pages[-1])
    few = [tiling for tiling in TILINGS if tiling.tile_bytes * _FAR_TOO_MANY >= total]
    return max(smallest, few[-1] if few else TILINGS[0], key=lambda tiling: tiling.tile_bytes)


def _cut(
    nodes: Sequence[NodeWeights], tile_bytes: int, granule: int, apart: bool, held: float
) -> tuple[list[Tile], list[Range]]:
    """Divide every node into tiles of about ``tile_bytes``, and the file into the ranges that they need.

    Neighbours in the file share a range as long as its granules stay within ``tile_bytes``, unless they are ``apart``.
    A node with several passes over its weights is one tile if they have at most ``held`` bytes, or fit in a tile. Else
    its tiles and ranges are repeated for each pass. If the weights of a section have at most ``held`` bytes, all bands
    use the same ranges; else each has its own. What is repeated has ranges of its own, so that all readings are alike.
    """
    halved = apart and 2 * sum(node.read for node in nodes) <= tile_bytes * _FAR_TOO_MANY
    tiles: list[Tile] = []
    ranges: list[Range] = []
    behind = 0  # the number of ranges up to the last one that is repeated
    sections = {number for number, size in section_bytes(nodes).items() if size <= held}
    known: dict[_Reading, list[Tile]] = {}  # the tiles of nodes in these sections
    # By node: its tiles, as if they needed the first ranges, and its ranges. Most bands have nodes in common.
    patterns: dict[int, tuple[list[Tile], list[Range]]] = {}
    for index, node in enumerate(nodes):
        give_way()
        earlier = known.get(_reading(node)) if node.section in sections else None
        if earlier is not None:
            tiles += [Tile(index, tile.first, tile.last, tile.begin, tile.end) for tile in earlier]
            continue
        count, before = len(tiles), len(ranges)
        repeats = node.repeats(max(held, tile_bytes))
        alike = repeats or node.section > 0
        own_tiles, own_ranges = patterns.get(id(node), ([], []))
        if own_tiles and not (ranges and own_ranges and _has(ranges[-1], own_ranges[0])):
            tiles += [Tile(index, t.first, t.last, before + t.begin, before + t.end) for t in own_tiles]
            ranges += own_ranges
            behind = len(ranges)
            continue
        joined = 0 if apart or alike or len(ranges) == behind else tile_bytes
        single = node.passes > 1 and not repeats
        for first, last, groups in _slices(node, tile_bytes, granule, halved, single):
            begin = len(ranges)
            for run in (run for group in groups for run in _runs(group)):
                begin = min(begin, _add(ranges, run, joined, granule))
            tiles.append(Tile(index, first, last, begin, len(ranges)))
        if alike:
            behind = len(ranges)
        if node.section and node.section not in sections and all(t.begin >= before for t in tiles[count:]):
            moved = [t._replace(begin=t.begin - before, end=t.end - before) for t in tiles[count:]]
            patterns[id(node)] = moved, ranges[before:]
        if node.section in sections:
            known[_reading(node)] = tiles[count:]
    return tiles, ranges


#: A section, and what a node of it reads.
_Reading = tuple[int, tuple[Extent, ...], tuple[Extent, ...]]


def _reading(node: NodeWeights) -> _Reading:
    return node.section, node.whole, node.tiled


def section_bytes(nodes: Iterable[NodeWeights]) -> dict[int, int]:
    """The bytes of all weights of each section."""
    found: Counter[int] = Counter()
    different = {id(node): node for node in nodes if node.section}.values()  # most bands have nodes in common
    for section, whole, tiled in {_reading(node) for node in different}:
        found[section] += sum(extent.length for extent in (*whole, *tiled))
    return found


def _runs(extents: Iterable[Extent]) -> list[Extent]:
    """The extents of a tile, in ascending order; neighbours are joined."""
    extents = list(extents)
    if len(extents) == 1:
        return extents
    runs: list[Extent] = []
    for extent in sorted(extents, key=lambda e: e.offset):
        if runs and extent.offset - runs[-1].end <= PAGE:
            end = max(runs[-1].end, extent.end)
            runs[-1] = Extent(runs[-1].offset, end - runs[-1].offset)
        else:
            runs.append(extent)
    return runs


def _add(ranges: list[Range], run: Extent, joined: int, granule: int) -> int:
    """Add ``run`` to the last range as a whole, or as a new one; returns the index of its range."""
    last = ranges[-1] if ranges else None
    if last and _joins(last, run, joined, granule):
        end = max(last.offset + last.length, run.end)
        ranges[-1] = Range(last.offset, end - last.offset)
    else:
        ranges.append(Range(run.offset, run.length))
    return len(ranges) - 1


def _joins(r: Range, run: Extent, joined: int, granule: int) -> bool:
    """Whether the range ``r`` has the bytes of ``run``, or has room for them in ``joined`` bytes of granules."""
    end = r.offset + r.length
    if run.offset < r.offset or run.end <= end:
        return run.offset >= r.offset
    return run.offset - end <= PAGE and run.end <= r.offset // granule * granule + joined


def _has(r: Range, other: Range) -> bool:
    """Whether the range ``r`` has all bytes of the other."""
    return r.offset <= other.offset and other.offset + other.length <= r.offset + r.length


def _slices(
    node: NodeWeights, tile_bytes: int, granule: int, halved: bool, single: bool
) -> Iterable[tuple[int, int, list[list[Extent]]]]:
    """First row, last row and extents of each tile of a node. A ``single`` tile has all rows of all passes.

    Extents are in groups, which share no range.
    """
    whole = [extent for extent in node.whole if extent.length]
    rows = node.rows // node.passes
    row_bytes = sum(extent.length for extent in node.tiled) // rows if rows else 0
    if single or not row_bytes:
        yield 0, node.rows, [[*whole, *(node.tiled if row_bytes else ())]]
        return
    ends = list(_ends(node, rows, row_bytes, tile_bytes, granule, halved))
    for number in range(node.passes):
        for first, last in pairwise((0, *ends)):
            part = [Extent(e.offset + first * e.length // rows, (last - first) * e.length // rows) for e in node.tiled]
            own = whole if number == first == 0 else []
            groups = [own + part] if node.passes == 1 else [own, part]
            yield number * rows + first, number * rows + last, groups


def fullest_tile(node: NodeWeights, tiling: Tiling) -> int:
    """Bytes that a cut of the node must have in memory at once, at least: those of the larger of its first two tiles.

    The first tile may be short, since the node begins within a granule. Later tiles are as large as the second, except
    for a few rows, so this is close to the largest. The tiles of ``tiling`` are not ``apart``.
    """
    single = node.passes > 1 and not node.repeats(tiling.tile_bytes)
    slices = _slices(node, tiling.tile_bytes, tiling.granule, False, single)
    runs = (_runs(group) for _, _, groups in islice(slices, 2) for group in groups)
    return max((sum(run.length for run in group) for group in runs), default=0)


def _ends(node: NodeWeights, rows: int, row_bytes: int, tile_bytes: int, granule: int, halved: bool) -> Iterable[int]:
    """The row behind each tile of a pass over a node's ``rows``.

    Tiles are cut at multiples of ``tile_bytes``, counted from the granule in which the node's weights begin. So they
    end where granules of the file end, as far as rows do.
    """
    rows_begin = node.tiled[0].offset
    before = (e.offset for e in node.whole if e.length and 0 <= rows_begin - e.offset <= tile_bytes)
    begin = min(before, default=rows_begin)
    start = begin // granule * granule
    size = tile_bytes // 2 if halved and start < begin else tile_bytes
    first, tile = 0, 0
    while first < rows:
        tile += 1
        fits = (start + tile * size - rows_begin) // row_bytes
        last = max(fits // node.row_step * node.row_step, first + node.row_step)
        last = min(last, rows)
        behind = rows_begin + last * row_bytes
        if first == 0 and behind - begin <= size // _SHORT and last < rows and behind < start + granule:
            continue  # the next tile needs this granule anyway
        yield last
        first = last
