"""Cutting a model into tiles, and the file into the ranges that they need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamrt.host.yielding import give_way
from streamrt.plan.types import HUGE, PAGE, Extent, NodeWeights, Range, Tile


@dataclass(frozen=True, slots=True)
class Tiling:
    """A size of tiles.

    Attributes:
        tile_bytes: the most bytes of weights in a tile of several rows.
        granule: bytes in which its memory is counted.
        rate: GB/s at which such tiles were read from a fast disk (docs/measurements.md).
    """

    tile_bytes: int
    granule: int
    rate: float

    @property
    def overhead(self) -> float:
        """Seconds of processing for each byte, beside the time of the disk: page faults and calls. See `read_rate`."""
        return math.sqrt(self.rate**-2 - TILINGS[0].rate ** -2) / 1e9


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
#: With more tiles of pages than this in a pass, their calls take more time than their small windows save.
_MOST_TILES = 1024
#: With more tiles than this in a pass, planning takes seconds. This limits tiles of 2 MiB granules, too.
_FAR_TOO_MANY = 2**16


class Cut:
    """The tiles and ranges for one tile size, and the memory that they take in granules.

    Attributes:
        granule: bytes.
        tiles: in the order of execution.
        ranges: in the order in which the tiles need them.
        footprints: bytes of the granules of each range.
    """

    def __init__(self, nodes: Sequence[NodeWeights], tile_bytes: int, granule: int, file_size: int) -> None:
        self.granule = granule
        self._file_size = file_size
        self.tiles, self.ranges = _cut(nodes, tile_bytes)
        self.footprints = footprints(self.ranges, granule, file_size)

    def held(self, ranges: Iterable[Range]) -> int:
        """Bytes of the granules that cover ``ranges``; a granule that several share counts once."""
        total, reached = 0, 0
        for start, end in sorted(_span(r, self.granule, self._file_size) for r in ranges):
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
        return total

    def run_of(self, count: int) -> int:
        """The most bytes that ``count`` successive ranges hold. The first range follows the last."""
        sizes = self.footprints
        count = min(count, len(sizes))
        around = sizes + sizes[: count - 1] if count else []
        return max((sum(around[i : i + count]) for i in range(len(sizes))), default=0)

    @property
    def least(self) -> int:
        """The smallest window: the ranges that one tile needs together."""
        return max((sum(self.footprints[t.begin : t.end]) for t in self.tiles), default=0)


def footprints(ranges: Iterable[Range], granule: int, file_size: int) -> list[int]:
    """Bytes of the granules that cover each range."""
    return [end - start for start, end in (_span(r, granule, file_size) for r in ranges)]


def _span(r: Range, granule: int, file_size: int) -> tuple[int, int]:
    start = r.offset // granule * granule
    return start, min(-(-(r.offset + r.length) // granule) * granule, file_size)


def smallest_tiling(nodes: Sequence[NodeWeights]) -> Tiling:
    """The smallest tiles that are worth planning for."""
    total = sum(extent.length for node in nodes for extent in (*node.whole, *node.tiled))
    pages = [tiling for tiling in TILINGS if tiling.granule == PAGE]
    smallest = next((tiling for tiling in pages if tiling.tile_bytes * _MOST_TILES <= total), pages[-1])
    few = [tiling for tiling in TILINGS if tiling.tile_bytes * _FAR_TOO_MANY >= total]
    return max(smallest, few[-1] if few else TILINGS[0], key=lambda tiling: tiling.tile_bytes)


def _cut(nodes: Sequence[NodeWeights], tile_bytes: int) -> tuple[list[Tile], list[Range]]:
    """Divide every node into tiles of about ``tile_bytes``, and the file into the ranges that they need.

    Neighbours in the file share a range as long as it stays within ``tile_bytes``.
    """
    tiles: list[Tile] = []
    ranges: list[Range] = []
    for index, node in enumerate(nodes):
        give_way()
        for first, last, extents in _slices(node, tile_bytes):
            begin = len(ranges)
            for extent in extents:
                begin = min(begin, _add(ranges, extent, tile_bytes))
            tiles.append(Tile(index, first, last, begin, len(ranges)))
    return tiles, ranges


def _add(ranges: list[Range], extent: Extent, tile_bytes: int) -> int:
    """Add ``extent`` to the last range or as a new one; returns the index of its range."""
    last = ranges[-1] if ranges else None
    if last and _mergeable(last, extent, tile_bytes):
        end = max(last.offset + last.length, extent.end)
        ranges[-1] = Range(last.offset, end - last.offset)
    else:
        ranges.append(Range(extent.offset, extent.length))
    return len(ranges) - 1


def _mergeable(r: Range, extent: Extent, tile_bytes: int) -> bool:
    gap = extent.offset - (r.offset + r.length)
    return (
        extent.offset >= r.offset and gap <= PAGE and max(extent.end - r.offset, r.length) <= max(tile_bytes, r.length)
    )


def _slices(node: NodeWeights, tile_bytes: int) -> Iterable[tuple[int, int, list[Extent]]]:
    """First row, last row and extents of each tile of a node.

    Tiles are cut at multiples of ``tile_bytes`` from the beginning of the node's weights.
    """
    whole = sorted((extent for extent in node.whole if extent.length), key=lambda e: e.offset)  # so neighbours merge
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
