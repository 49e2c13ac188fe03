"""Plans of nodes that read their weights in several passes, as a recurrent layer does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plan.test_plan import MIB, check_covers, check_plan_within, layout, simulate
from streamrt.errors import BudgetError
from streamrt.plan import PAGE, Range, make_plan, smallest_window
from streamrt.plan.pipeline import Pipeline
from streamrt.plan.tiling import Cut

#: Bytes read as a whole, rows, bytes of a row, and passes.
_nodes = st.lists(
    st.tuples(
        st.sampled_from([0, 100, 70_000]),
        st.integers(0, 100),
        st.sampled_from([64, 4000, 4096, 60_000]),
        st.sampled_from([1, 1, 2, 5]),
    ),
    min_size=1,
    max_size=6,
)
_times = st.lists(st.floats(0, 0.1), max_size=6)


@settings(max_examples=200)
@given(_nodes, st.integers(0, MIB), st.integers(1, 30 * MIB), st.booleans(), _times, st.sampled_from([1, 2]))
def test_plans_stay_within_budget_and_never_get_stuck(sizes, workspace, budget, thorough, seconds, version):
    nodes, size = layout(sizes, seconds, version)
    check_plan_within(nodes, size, workspace, budget, thorough)


@settings(max_examples=200)
@given(_nodes, _times, st.sampled_from([1, 2]), st.sampled_from([PAGE, 16 * PAGE]), st.floats(1, 40), st.data())
def test_no_pinned_set_makes_a_pass_shorter_than_the_least_seconds(sizes, seconds, version, tile_bytes, calls, data):
    nodes, size = layout(sizes, seconds, version)
    nodes = [replace(node, call_rows=calls) for node in nodes]
    cut = Cut(nodes, tile_bytes, PAGE, size)
    pipeline = Pipeline(cut.tiles, cut.footprints, nodes, cut.shared, cut.first)
    count = len(cut.ranges)
    pinned = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    pinned = [pinned[first] for first in cut.first]
    found = pipeline.run(pinned, max(1, cut.least), 1e9).seconds
    assert found >= (1 - 1e-9) * pipeline.least_seconds(pipeline.bytes_of(pinned), 1e9)


def parts(*passes: int) -> tuple[list, int]:
    """Nodes of 2 MiB with rows of 4 KiB, and the size of their file."""
    return layout([(0, 512, 4096, count) for count in passes])


@pytest.mark.parametrize("passes", [1, 20])
def test_weights_that_fit_in_a_tile_are_read_once(passes):
    nodes, size = parts(1, passes, 1)
    plan = make_plan(nodes, file_size=size, workspace=0, budget=3 * MIB)
    assert plan.streamed_bytes <= 6 * MIB
    assert next(tile for tile in plan.tiles if tile.node == 1).last == 512 * passes


def test_weights_that_are_a_little_larger_than_a_tile_are_read_once_if_they_fit():
    nodes, size = layout([(0, 520, 4096, 20), (0, 20, 4096), (0, 400, 4096, 20)])
    weights = [sum(e.length for e in node.tiled) for node in nodes]
    plan = make_plan(nodes, file_size=size, workspace=0, budget=weights[0] + 50_000)
    assert plan.pinned_bytes + plan.streamed_bytes <= sum(weights)
    check_covers(plan, nodes)
    simulate(plan, size)


def test_weights_that_do_not_fit_are_read_in_every_pass():
    nodes, size = parts(1, 20, 1)
    plan = make_plan(nodes, file_size=size, workspace=0, budget=MIB)
    readings = Counter((r.offset, r.length) for r in plan.ranges)
    assert sorted(set(readings.values())) == [1, 20]
    assert 40 * MIB < plan.streamed_bytes + 20 * plan.pinned_bytes <= 44 * MIB
    tiles = [tile for tile in plan.tiles if tile.node == 1]
    assert tiles[-1].last == 512 * 20
    assert all(tile.last <= (tile.first // 512 + 1) * 512 for tile in tiles)


def test_memory_goes_to_the_weights_that_are_read_most_often():
    nodes, size = parts(1, 1, 20, 1)
    budget = MIB + MIB // 2
    plan = make_plan(nodes, file_size=size, workspace=0, budget=budget)
    (extent,) = nodes[2].tiled
    kept = {r for r in plan.ranges if r.pinned and extent.offset <= r.offset < extent.end}
    assert sum(r.length for r in kept) > 0.8 * plan.pinned_bytes
    assert plan.pinned_bytes > (budget - plan.window) - 64 * 1024
    once = sum(e.length for node in nodes for e in node.tiled) - extent.length
    assert plan.streamed_bytes <= once + 20 * (extent.length - 0.8 * plan.pinned_bytes)


def test_weights_that_all_stay_are_one_step():
    nodes, size = layout([(0, 512, 4096), (100, 2000, 65536, 300), (0, 512, 4096)])
    plan = make_plan(nodes, file_size=size, workspace=0, budget=None)
    assert [tile.last for tile in plan.tiles if tile.node == 1] == [2000 * 300]
    assert len(plan.ranges) < 20
    assert plan.streamed_bytes == plan.window == 0
    assert plan.pinned_bytes <= size


@pytest.mark.parametrize(
    ("rows", "row_bytes", "passes"),
    [(4, 16, 2**34), (2**10, 2**14, 2**16), (17, MIB, 3000), (3, 2**29, 600)],
)
def test_no_number_of_passes_takes_long_to_plan(rows, row_bytes, passes):
    """Most of them read nearly 2**40 bytes, the most that a pass may read."""
    nodes, size = layout([(0, rows, row_bytes, passes)])
    least = smallest_window(nodes, size)
    plan = make_plan(nodes, file_size=size, workspace=0, budget=least)
    assert len(plan.tiles) <= 2**17
    with pytest.raises(BudgetError):
        make_plan(nodes, file_size=size, workspace=0, budget=least - 1)


def test_bytes_of_repeated_ranges_count_once():
    ranges = [Range(offset, 6000) for offset in (0, 6000, 0, 6000, 20_000)]
    nodes, _ = layout([(0, 2, 6000, 2), (0, 1, 6000)])
    cut = Cut(nodes, PAGE, PAGE, nodes[-1].tiled[0].end)
    assert cut.first == [0, 1, 0, 1, 4]
    assert len(cut.ranges) == len(ranges)
    pipeline = Pipeline(cut.tiles, cut.footprints, nodes, cut.shared, cut.first)
    everything = [True, True, False, False, True]
    for pinned in (everything, [True] * 5):  # only the first reading counts
        assert pipeline.bytes_of(pinned) == cut.held(cut.ranges)
    assert pipeline.bytes_more([True, False, False, False, False], 1) == cut.held(cut.ranges[:2]) - cut.held(
        cut.ranges[:1]
    )
    room = cut.held(cut.ranges[:1])
    assert pipeline.least_read(0) == sum(pipeline.added)
    assert pipeline.least_read(room) == sum(pipeline.added) - 2 * room
    stalls = pipeline.run([False] * 5, 10**6, 1e6).stalls
    assert stalls[2] == stalls[3] == 0.0
    assert min(stalls[0], stalls[1]) > 0
