"""The memory that the ranges of a cut take."""

from __future__ import annotations

import pytest

from streamrt.plan.tiling import Cut
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
