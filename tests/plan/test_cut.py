"""The memory that the ranges of a cut take."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamrt.plan import smallest_window
from streamrt.plan.tiling import TILINGS, Cut, Tiling, fullest_tile, smallest_tiling
from streamrt.plan.types import HUGE, PAGE, Extent, NodeWeights

KIB = 1 << 10


def cut_of(*pages: int) -> Cut:
    """A cut whose ranges have these numbers of pages. Three pages lie between neighbours, so that none are joined."""
    nodes, offset = [], 0
    for count in pages:
        nodes.append(NodeWeights(whole=(Extent(offset, count * PAGE),)))
        offset += (count + 3) * PAGE
    cut = Cut(nodes, PAGE, PAGE, offset)
    assert list(cut.footprints) == [count * PAGE for count in pages]
    return cut


@pytest.mark.parametrize(
    ("count", "pages"),
    [
        pytest.param(1, 10, id="one"),
        pytest.param(2, 19, id="the last one and the first one of the next pass"),
        pytest.param(3, 21, id="three"),
        pytest.param(4, 23, id="all"),
        pytest.param(9, 23, id="more than there are"),
    ],
)
def test_ranges_in_a_row_go_on_with_the_next_pass(count: int, pages: int) -> None:
    assert cut_of(10, 2, 2, 9).run_of(count) == pages * PAGE


def test_no_ranges() -> None:
    assert cut_of().run_of(3) == 0


def test_nodes_that_share_weights_off_the_pages_have_a_limited_number_of_tiles() -> None:
    """Tiles of the last resort are halved where weights begin within a page, but not beyond the limit of tiles."""
    rows, row = 2**14, 2**16
    weights = Extent(64, rows * row)  # 1 GiB
    nodes = [NodeWeights(tiled=(weights,), rows=rows)] * 1000
    least = smallest_tiling(nodes).tile_bytes
    cut = Cut(nodes, least, PAGE, weights.end, apart=True)
    assert len(cut.tiles) <= 2**16 + len(nodes)


@st.composite
def models(draw: st.DrawFn) -> list[NodeWeights]:
    """Nodes whose weights lie one behind the other, with gaps."""
    found: list[NodeWeights] = []
    offset = draw(st.sampled_from([0, 64, PAGE, HUGE - 1000]))
    for _ in range(draw(st.integers(1, 6))):
        rows, row = draw(st.sampled_from([1, 7, 64, 100, 1000])), draw(st.sampled_from([4, 576, 4096, 20_000]))
        passes = draw(st.sampled_from([1, 1, 3]))
        extents: list[Extent] = []
        for length in (*[rows * row] * draw(st.integers(0, 2)), draw(st.sampled_from([0, 64, 10_000, 300_000]))):
            offset += draw(st.sampled_from([0, 64, 1000, 50_000]))
            extents.append(Extent(offset, length))
            offset += length
        step = draw(st.sampled_from([1, 12, 64, 1000]))
        *tiled, whole = extents
        section = draw(st.sampled_from([0, 0, 1]))
        found.append(NodeWeights((whole,), tuple(tiled), rows * passes, step, passes=passes, section=section))
    return found


def size_of(nodes: Sequence[NodeWeights]) -> int:
    return max(extent.end for node in nodes for extent in (*node.whole, *node.tiled)) + 1


def window_of(nodes: Sequence[NodeWeights], tiling: Tiling) -> int:
    cut = Cut(nodes, tiling.tile_bytes, tiling.granule, size_of(nodes), tiling.apart)
    return min(cut.least, cut.held(cut.ranges))


# Tiles have one row and two rows in turn.
@example([NodeWeights((), (Extent(0, 100 * 40 * KIB),), 100)])
# A step of rows is larger than a tile.
@example([NodeWeights((), (Extent(0, 1000 * 4096),), 1000, 64), NodeWeights((), (Extent(1000 * 4096 + 64, 4096),))])
@settings(max_examples=200)
@given(models())
def test_the_smallest_window_is_that_of_the_best_tiles(nodes: list[NodeWeights]) -> None:
    smallest = smallest_tiling(nodes)
    for huge in (False, True):
        tilings = [t for t in TILINGS if t.tile_bytes > smallest.tile_bytes and (huge or t.granule == PAGE)]
        windows = [window_of(nodes, tiling) for tiling in (*tilings, smallest.last_resort())]
        assert smallest_window(nodes, size_of(nodes), huge=huge) == min(windows)


@settings(max_examples=200)
@given(models(), st.sampled_from(TILINGS))
def test_no_window_is_smaller_than_the_fullest_tile(nodes: list[NodeWeights], tiling: Tiling) -> None:
    assert max(fullest_tile(node, tiling) for node in nodes) <= window_of(nodes, tiling)


@pytest.mark.parametrize(
    ("offset", "rows", "row_bytes", "step", "fullest"),
    [
        pytest.param(0, 1024, KIB, 1, 64 * KIB, id="all tiles are full"),
        pytest.param(3 * KIB, 1024, KIB, 1, 64 * KIB, id="the second"),
        pytest.param(0, 100, 40 * KIB, 1, 80 * KIB, id="one row, then two"),
        pytest.param(0, 1024, KIB, 100, 100 * KIB, id="one step of rows a tile"),
        pytest.param(0, 50, KIB, 1, 50 * KIB, id="one tile"),
        pytest.param(0, 0, KIB, 1, 0, id="none"),
    ],
)
def test_the_fullest_tile(offset: int, rows: int, row_bytes: int, step: int, fullest: int) -> None:
    node = NodeWeights((), (Extent(offset, rows * row_bytes),) if rows else (), rows, step)
    assert fullest_tile(node, TILINGS[-1]) == fullest
