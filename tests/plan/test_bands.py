"""Plans of nodes that run in bands: steps between which other nodes run read the same weights."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ops.allocations import bounded
from plan.test_passes import _nodes
from plan.test_plan import MIB, check_plan_within, layout
from streamrt.plan import NodeWeights, make_plan
from streamrt.plan.tiling import Cut, footprints


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[NodeWeights], int]:
    """The steps of a pass, of which some nodes in the middle run in bands, and the size of the file."""
    nodes, size = layout(draw(_nodes), [], 2)
    first = draw(st.integers(0, len(nodes) - 1))
    last = draw(st.integers(first + 1, len(nodes)))
    found = nodes[:first]
    for _ in range(draw(st.integers(1, 6))):
        found += [replace(node, section=1) for node in nodes[first:last] if draw(st.booleans()) or node.passes > 1]
    return found + nodes[last:], size


@settings(max_examples=200)
@given(steps(), st.integers(0, MIB), st.integers(1, 30 * MIB), st.booleans())
def test_plans_stay_within_budget_and_never_get_stuck(drawn, workspace, budget, thorough):
    nodes, size = drawn
    check_plan_within(nodes, size, workspace, budget, thorough)


def bands(*rows: int, count: int) -> tuple[list[NodeWeights], int]:
    """Steps of nodes with so many rows of 4 KiB in ``count`` bands, and the size of their file."""
    nodes, size = layout([(100, each, 4096) for each in rows])
    return [replace(node, section=1) for _ in range(count) for node in nodes], size


def test_all_readings_of_a_band_are_alike():
    """Small nodes share no range with their neighbours, since these differ from band to band."""
    nodes, size = bands(3, 5, 700, 2, count=4)
    cut = Cut(nodes, MIB, 4096, size)
    once = len(cut.ranges) // 4
    assert [(r.offset, r.length) for r in cut.ranges] == [(r.offset, r.length) for r in cut.ranges[:once]] * 4
    assert cut.first == list(range(once)) * 4
    assert once > 4


@settings(max_examples=100)
@given(steps(), st.integers(0, 4 * MIB), st.booleans())
def test_steps_that_are_one_object_are_cut_as_others(drawn, held, apart):
    """A step may follow one that is alike: then both need the same ranges."""
    nodes, size = drawn
    alike = {node: node for node in nodes}
    shared = [alike[node] for node in nodes for _ in range(2)]
    others = [replace(node) for node in shared]
    for tile_bytes in (MIB, 64 << 10):
        one, other = (Cut(each, tile_bytes, 4096, size, apart, held) for each in (shared, others))
        assert (one.tiles, one.ranges, one.first) == (other.tiles, other.ranges, other.first)


def test_weights_are_read_once_a_band_or_stay():
    nodes, size = bands(256, 256, 256, count=5)
    for budget in (MIB, 2 * MIB):
        plan = make_plan(nodes, file_size=size, workspace=0, budget=budget)
        ranges = list(plan.ranges)
        once = len(ranges) // 5
        assert [r.pinned for r in ranges] == [r.pinned for r in ranges[:once]] * 5
        pinned = sum(footprints((r for r in ranges[:once] if r.pinned), plan.granule, size))
        assert plan.pinned_bytes <= pinned
        assert plan.streamed_bytes == 5 * sum(r.length for r in ranges[:once] if not r.pinned)
    assert plan.streamed_bytes > 0
    assert not make_plan(nodes, file_size=size, workspace=0, budget=5 * MIB).streamed_bytes


def two_sections(count: int) -> tuple[list[NodeWeights], int]:
    """Two sections of two nodes with 1 MiB each, in ``count`` bands, and a node behind them."""
    nodes, size = layout([(100, 256, 4096) for _ in range(5)])
    found = []
    for number in (1, 2):
        own = nodes[2 * number - 2 : 2 * number]
        found += [replace(node, section=number) for _ in range(count) for node in own]
    return [*found, nodes[4]], size


def test_weights_of_a_section_stay_until_its_end():
    """All of its bands use the same ranges, so that a pass reads them once. There is memory for one of two sections."""
    nodes, size = two_sections(7)
    plan = make_plan(nodes, file_size=size, workspace=0, budget=3 * MIB)
    assert 2 * MIB <= plan.streamed_bytes <= size
    for number in (0, 1):
        own = [(tile.begin, tile.end) for tile in plan.tiles if 14 * number <= tile.node < 14 * (number + 1)]
        each = len(own) // 7
        assert own == own[:each] * 7
    assert plan.window >= 2 * MIB


def test_the_window_has_room_for_all_that_is_kept():
    """After the first node of a section its weights stay, so the window holds them with those of the second."""
    nodes, size = two_sections(3)
    apart, together = (Cut(nodes, MIB, 4096, size, held=held) for held in (0, 3 * MIB))
    assert len(apart.ranges) > 2 * len(together.ranges)
    assert together.least >= 2 * MIB
    assert apart.least < 1.1 * MIB
    one = [node for node in nodes if node.section == 0]
    assert Cut(one, MIB, 4096, size).least == Cut(one, MIB, 4096, size, held=MIB).least


def test_planning_thousands_of_steps_takes_little_memory():
    """A hard limit counts it beside the budget, and Python keeps what it had once."""
    nodes, size = bands(*[256] * 20, count=100)
    nodes = [replace(node, seconds=1e-3) for node in nodes]
    for thorough in (False, True):
        with bounded("planning", 4500 * len(nodes)):
            make_plan(nodes, file_size=size, workspace=0, budget=2 * MIB, thorough=thorough)
