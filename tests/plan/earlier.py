"""How the planner cut a model into tiles and ranges for files of version 1, before version 2: to compare windows.

Tiles began at multiples of their size from the node's first byte, and each extent shared a range with the one before it
as long as the range had room. This is that code, with names made shorter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from format import version1
from streamrt.engine import planner
from streamrt.engine.programs import Programs
from streamrt.format import read_header
from streamrt.host.rates import Rates
from streamrt.plan.tiling import TILINGS, smallest_tiling
from streamrt.plan.types import PAGE, Extent, NodeWeights, Range, Tile


def least_budgets(path: Path, scratch: Path) -> tuple[int, int]:
    """The least budget of a model for its usual shapes: with a file of version 1 before version 2 came, and now.

    Args:
        path: a weights file of version 2.
        scratch: where the file of version 1 may be for a moment.
    """
    version1.convert(path, scratch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "smallest_window", smallest_window)
        before = _least_budget(scratch)
    old_file = _least_budget(scratch)
    scratch.unlink()
    assert old_file <= before, "the least budget of a file of version 1 has risen"
    return before, _least_budget(path)


def _least_budget(path: Path) -> int:
    made = planner.Planner(Programs(read_header(path)), None, Rates(disk=2e9, memory=2e10, flops=1e11))
    made.check()
    return made.needs()[3]


def smallest_window(nodes: Sequence[NodeWeights], file_size: int, *, huge: bool = True) -> int:
    """Bytes of weights that had to be in memory at once with the smallest tiles."""
    least = smallest_tiling(nodes).tile_bytes
    tilings = [tiling for tiling in TILINGS if huge or tiling.granule == PAGE]
    tilings = [tiling for tiling in tilings if tiling.tile_bytes >= least] or tilings[:1]
    found = []
    for tiling in tilings:
        tiles, ranges = cut(nodes, tiling.tile_bytes)
        spans = [_span(r, tiling.granule, file_size) for r in ranges]
        sizes = [end - start for start, end in spans]
        one_tile = max((sum(sizes[t.begin : t.end]) for t in tiles), default=0)
        total = reached = 0
        for start, end in sorted(spans):
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
        found.append(min(one_tile, total))
    return min(found)


def cut(nodes: Sequence[NodeWeights], tile_bytes: int) -> tuple[list[Tile], list[Range]]:
    """The tiles and ranges of nodes."""
    tiles: list[Tile] = []
    ranges: list[Range] = []
    for index, node in enumerate(nodes):
        for first, last, extents in _slices(node, tile_bytes):
            begin = len(ranges)
            for extent in extents:
                begin = min(begin, _add(ranges, extent, tile_bytes))
            tiles.append(Tile(index, first, last, begin, len(ranges)))
    return tiles, ranges


def _span(r: Range, granule: int, file_size: int) -> tuple[int, int]:
    return r.offset // granule * granule, min(-(-(r.offset + r.length) // granule) * granule, file_size)


def _add(ranges: list[Range], extent: Extent, tile_bytes: int) -> int:
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
    whole = sorted((extent for extent in node.whole if extent.length), key=lambda e: e.offset)
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
