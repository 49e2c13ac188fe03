"""The planner against a simulation of the prefetcher that runs its plans, granule by granule."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrt.errors import BudgetError
from streamrt.plan import HUGE, PAGE, Extent, NodeWeights, make_plan, smallest_window

MIB = 1 << 20


def layout(nodes: list[tuple[int, int, int]]) -> tuple[list[NodeWeights], int]:
    """Nodes of (bytes read whole, rows, bytes of a row), laid out as the weights file lays them out; and its size."""
    offset, found = HUGE, []
    for whole, rows, row_bytes in nodes:
        total = whole + rows * row_bytes
        unit = HUGE if total >= MIB else PAGE
        offset = -(-offset // unit) * unit
        begin = -(-(offset + whole) // 64) * 64
        found.append(
            NodeWeights(
                (Extent(offset, whole),) if whole else (),
                (Extent(begin, rows * row_bytes),) if rows and row_bytes else (),
                max(rows, 1),
            )
        )
        offset = begin + rows * row_bytes
    return found, -(-offset // PAGE) * PAGE


def granules(plan, index, size):
    r = plan.ranges[index]
    end = min(r.offset + r.length, size)
    return range(r.offset // plan.granule, -(-end // plan.granule))


def simulate(plan, size, passes=2):
    """Run passes with a prefetcher that reads as far ahead as the window lets it; returns bytes read per pass.

    Fails if a tile's ranges cannot be in memory together, or if more is held than was planned.
    """
    count = len(plan.ranges)
    users: dict[int, int] = {}  # granule -> live ranges that cover it
    pinned: set[int] = set()
    live: set[int] = set()
    last_use = {i: t for t, tile in enumerate(plan.tiles) for i in range(tile.begin, tile.end)}
    head, reads = 0, []

    def bytes_of(granule):
        return min((granule + 1) * plan.granule, size) - granule * plan.granule

    def advance(done):
        nonlocal head
        while head < done + count:
            index = head % count
            new = [g for g in granules(plan, index, size) if g not in users and g not in pinned]
            if plan.ranges[index].pinned:
                pinned.update(new)
            else:
                streamed = sum(bytes_of(g) for g in users if g not in pinned)
                if streamed and streamed + sum(map(bytes_of, new)) > plan.window:
                    return
                for g in granules(plan, index, size):
                    users[g] = users.get(g, 0) + 1
            read[-1] += sum(map(bytes_of, new))
            live.add(head)
            held = sum(map(bytes_of, pinned | users.keys()))
            assert held <= plan.pinned_bytes + plan.window
            head += 1

    read = [0]
    done = 0
    for number in range(passes):
        for t, tile in enumerate(plan.tiles):
            advance(done)
            assert all(number * count + i in live for i in range(tile.begin, tile.end)), "the pass is stuck"
            for i in (i for i in range(tile.begin, tile.end) if last_use[i] == t):
                live.discard(number * count + i)
                done += 1
                if not plan.ranges[i].pinned:
                    for g in granules(plan, i, size):
                        users[g] -= 1
                        if not users[g]:
                            del users[g]
        reads.append(read[-1])
        read.append(0)
    return reads


def check_covers(plan, nodes):
    """Every row of every node is in exactly one tile, in order, and its bytes are in the tile's ranges."""
    rows = [0] * len(nodes)
    seen = 0
    for tile in plan.tiles:
        assert tile.node >= seen
        seen = tile.node
        assert tile.first == rows[tile.node]
        rows[tile.node] = tile.last
        node = nodes[tile.node]
        needed = list(node.whole) if tile.first == 0 else []
        for e in node.tiled:
            row = e.length // node.rows
            needed.append(Extent(e.offset + tile.first * row, (tile.last - tile.first) * row))
        for e in needed:
            inside = [r for r in plan.ranges[tile.begin : tile.end] if r.offset <= e.offset]
            assert any(e.offset + e.length <= r.offset + r.length for r in inside)
    assert rows == [node.rows for node in nodes]


shapes = st.lists(
    st.tuples(st.integers(0, 20_000), st.integers(0, 300), st.integers(0, 60_000)), min_size=1, max_size=8
)


@settings(max_examples=300, deadline=None)
@given(shapes, st.integers(0, 3 * MIB), st.integers(1, 40 * MIB), st.booleans())
def test_plans_stay_within_budget_and_never_get_stuck(sizes, workspace, budget, huge):
    nodes, size = layout(sizes)
    least = workspace + smallest_window(nodes, size)
    if budget < least:
        with pytest.raises(BudgetError) as error:
            make_plan(nodes, file_size=size, workspace=workspace, budget=budget, huge=huge)
        assert error.value.minimum == least
        return
    plan = make_plan(nodes, file_size=size, workspace=workspace, budget=budget, huge=huge)
    assert plan.total <= budget
    check_covers(plan, nodes)
    if plan.ranges:
        first, second = simulate(plan, size)
        assert second <= first


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(0, MIB))
def test_the_smallest_budget_works(sizes, workspace):
    nodes, size = layout(sizes)
    least = workspace + smallest_window(nodes, size)
    if least > 0:
        plan = make_plan(nodes, file_size=size, workspace=workspace, budget=least)
        assert plan.total <= least
        if plan.ranges:
            simulate(plan, size)
    with pytest.raises(BudgetError):
        make_plan(nodes, file_size=size, workspace=workspace, budget=least - 1)


MLP = [(32768, 8192, 32768)] * 12


@pytest.mark.parametrize("budget", [24 * MIB, 128 * MIB, 1024 * MIB, 2500 * MIB])
def test_a_pass_reads_the_model_less_what_is_pinned(budget):
    nodes, size = layout(MLP)
    plan = make_plan(nodes, file_size=size, workspace=8 * MIB, budget=budget)
    model = sum(e.length for n in nodes for e in (*n.whole, *n.tiled))
    assert plan.streamed_bytes <= model - budget + 64 * MIB
    assert plan.granule == HUGE


def test_everything_is_pinned_when_it_fits():
    nodes, size = layout(MLP)
    for budget in (None, size + MIB):
        plan = make_plan(nodes, file_size=size, workspace=MIB, budget=budget)
        assert plan.streamed_bytes == plan.window == 0
        assert all(r.pinned for r in plan.ranges)


def test_streamed_ranges_are_spread_over_the_pass():
    nodes, size = layout(MLP)
    plan = make_plan(nodes, file_size=size, workspace=0, budget=size // 2)
    halves = [sum(r.length for r in half if not r.pinned) for half in (plan.ranges[::2], plan.ranges[1::2])]
    quarter = len(plan.ranges) // 4
    quarters = [sum(not r.pinned for r in plan.ranges[i * quarter : (i + 1) * quarter]) for i in range(4)]
    assert sum(halves) == plan.streamed_bytes
    assert max(quarters) - min(quarters) <= 2


def test_shared_weights_are_visited_twice():
    shared = Extent(HUGE, 4 * MIB)
    nodes = [NodeWeights((), (shared,), 64), NodeWeights((), (Extent(HUGE + 4 * MIB, 4 * MIB),), 64)]
    nodes.append(NodeWeights((), (shared,), 64))
    size = HUGE + 8 * MIB
    plan = make_plan(nodes, file_size=size, workspace=0, budget=6 * MIB)
    check_covers(plan, nodes)
    simulate(plan, size)
