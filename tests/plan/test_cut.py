"""The memory that the ranges of a cut take."""

from __future__ import annotations

import pytest

from streamrt.plan.tiling import Cut, smallest_tiling
from streamrt.plan.types import PAGE, Extent, NodeWeights


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
