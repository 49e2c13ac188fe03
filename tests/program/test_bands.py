"""Schedules of sections that run in bands: every row is computed once, from rows that are in memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrt._core import Window
from streamrt.program import bands as module
from streamrt.program.bands import Meter, RowInput, RowNode, Schedule
from streamrt.program.lines import Arrival


@dataclass
class Drawn:
    """A section: its nodes, the height of each tensor, and the tensors that are its results."""

    nodes: list[RowNode] = field(default_factory=list)
    heights: dict[str, int] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)


def _window(height: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int]) -> Window:
    count = (height + sum(pads) - (kernel - 1) * dilation - 1) // stride + 1
    lengths = ((kernel, 1), (stride, 1), (dilation, 1), (pads[0], 0, pads[1], 0))
    return Window(*lengths, input=(height, 1), output=(count, 1))


def _same(first: int, last: int) -> tuple[int, int]:
    return first, last


def _doubled(first: int, last: int) -> tuple[int, int]:
    """The rows that the nearest rows of a picture of twice the height are."""
    return first // 2, -(-last // 2)


def schedule(nodes: list[RowNode], outputs: set[str], rows: int) -> Schedule:
    found = module.schedule(nodes, outputs, rows, Meter(2**16))
    assert found is not None
    return found


@st.composite
def sections(draw: st.DrawFn) -> Drawn:
    """Windows, sums of two tensors of one height, and doubling, in any graph without circles."""
    found = Drawn(heights={"x0": draw(st.integers(1, 40))})
    if draw(st.booleans()):
        found.heights["x1"] = draw(st.integers(1, 40))
    for index in range(draw(st.integers(1, 8))):
        output, one = f"t{index}", draw(st.sampled_from(sorted(found.heights)))
        height = found.heights[one]
        alike = sorted(name for name, other in found.heights.items() if other == height)
        kind = draw(st.sampled_from(["window", "window", "sum", "double"]))
        if kind == "sum":
            apart = draw(st.booleans())
            inputs = (RowInput(one, _same, apart), RowInput(draw(st.sampled_from(alike)), _same, apart))
        elif kind == "double" and height <= 40:
            inputs, height = (RowInput(one, _doubled),), 2 * height
        else:
            kernel, dilation, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
            reach = (kernel - 1) * dilation
            pads = draw(st.integers(0, 3)), draw(st.integers(0, 3))
            pads = (pads[0] + max(0, reach + 1 - height - sum(pads)), pads[1])
            window = _window(height, kernel, stride, dilation, pads)
            inputs, height = (RowInput(one, window.rows_read),), (height + sum(pads) - reach - 1) // stride + 1
        found.nodes.append(RowNode(inputs, output, height, draw(st.sampled_from([1, 1, 4]))))
        found.heights[output] = height
    made = [node.output for node in found.nodes]
    read = {each.tensor for node in found.nodes for each in node.inputs}
    found.outputs = {name for name in made if name not in read or draw(st.integers(0, 4)) == 0}
    return found


@dataclass
class Memory:
    """The line buffers, as the row of the picture that each of their rows holds; None holds nothing."""

    rows: dict[str, list[int | None]]
    origins: dict[str, int]

    def receive(self, arrival: Arrival, made: list[int]) -> None:
        """New rows come in, as a pass brings them."""
        line = self.rows[arrival.tensor]
        if arrival.shift:
            source, moved = arrival.shift
            assert moved > 0
            assert source > 0
            line[:moved] = line[source : source + moved]
        self.origins[arrival.tensor] = arrival.origin
        first, last = arrival.first - arrival.origin, arrival.last - arrival.origin
        assert 0 <= first < last <= len(line)
        line[first:last] = made


def _run(drawn: Drawn, planned: Schedule) -> dict[str, list[int]]:
    """Run all visits; returns the rows that were computed of each tensor. Asserts that every row read is there."""
    memory = Memory({name: [None] * line.room for name, line in planned.lines.items()}, {})
    arrived: dict[str, list[int]] = {name: [] for name in drawn.heights}
    for visit in planned.visits:
        node = drawn.nodes[visit.node]
        for load in visit.loads:
            assert load.tensor not in {node.output for node in drawn.nodes}
            memory.receive(load, list(range(load.first, load.last)))
            arrived[load.tensor] += range(load.first, load.last)
        assert visit.made.tensor == node.output
        for (name, reads, apart), origin in zip(node.inputs, visit.origins, strict=True):
            assert apart or origin == memory.origins.get(name, 0)
            for row in range(*reads(visit.made.first, visit.made.last)):
                assert memory.rows[name][row - origin] == row
        memory.receive(visit.made, list(range(visit.made.first, visit.made.last)))
        arrived[node.output] += range(visit.made.first, visit.made.last)
    return arrived


@given(drawn=sections(), rows=st.integers(1, 50))
def test_nodes_begin_in_their_order(drawn: Drawn, rows: int) -> None:
    visits = schedule(drawn.nodes, drawn.outputs, rows).visits
    assert list(dict.fromkeys(visit.node for visit in visits)) == list(range(len(drawn.nodes)))


@given(drawn=sections(), rows=st.integers(1, 50))
def test_no_row_is_read_that_is_not_there_and_none_is_computed_twice(drawn: Drawn, rows: int) -> None:
    planned = schedule(drawn.nodes, drawn.outputs, rows)
    arrived = _run(drawn, planned)
    for name, rows in arrived.items():
        assert rows == list(range(len(rows)))
        if name in drawn.outputs:
            assert len(rows) == drawn.heights[name]


@given(drawn=sections(), rows=st.integers(1, 50))
def test_no_row_is_made_or_kept_that_is_not_needed(drawn: Drawn, rows: int) -> None:
    """What has come in is needed by then, and what moves to the front is needed from then on."""
    planned = schedule(drawn.nodes, drawn.outputs, rows)
    arrived = _run(drawn, planned)
    for name, rows in arrived.items():
        if name not in drawn.outputs:
            read = [_last_read(node, name, len(arrived[node.output])) for node in drawn.nodes]
            step, height = _step(drawn, name)
            wanted = max(*read, 0 if name.startswith("x") else 1)
            assert len(rows) == min(-(-wanted // step) * step, height)
    done = dict.fromkeys(drawn.heights, 0)
    for visit in planned.visits:
        for arrival in (*visit.loads, visit.made):
            if arrival.shift:
                rest = [
                    (reads(done[node.output], len(arrived[node.output])), apart)
                    for node in drawn.nodes
                    for name, reads, apart in node.inputs
                    if name == arrival.tensor and done[node.output] < len(arrived[node.output])
                ]
                lows = (
                    min((start for (start, end), apart in rest if start < end and not (ring and apart)), default=None)
                    for ring in (False, True)
                )
                assert arrival.origin in lows
        done[visit.made.tensor] = visit.made.last


def _step(drawn: Drawn, name: str) -> tuple[int, int]:
    """The step of the node that makes a tensor, and the tensor's height."""
    return next((node.step for node in drawn.nodes if node.output == name), 1), drawn.heights[name]


@given(drawn=sections(), rows=st.integers(1, 50))
def test_visits_end_at_multiples_of_the_step(drawn: Drawn, rows: int) -> None:
    for visit in schedule(drawn.nodes, drawn.outputs, rows).visits:
        step, height = _step(drawn, visit.made.tensor)
        assert visit.made.first % step == 0
        assert visit.made.last % step == 0 or visit.made.last == height


def _last_read(node: RowNode, name: str, rows: int) -> int:
    return max((reads(0, rows)[1] for tensor, reads, _ in node.inputs if tensor == name and rows), default=0)


@given(drawn=sections(), rows=st.integers(1, 50))
def test_line_buffers_have_no_spare_room(drawn: Drawn, rows: int) -> None:
    planned = schedule(drawn.nodes, drawn.outputs, rows)
    used = dict.fromkeys(planned.lines, 0)
    for visit in planned.visits:
        for arrival in (*visit.loads, visit.made):
            used[arrival.tensor] = max(used[arrival.tensor], arrival.last - arrival.origin)
    assert used == {name: line.room for name, line in planned.lines.items()}


@given(drawn=sections(), rows=st.integers(1, 50))
def test_no_visit_is_higher_than_its_part(drawn: Drawn, rows: int) -> None:
    tallest = max([1, *(_loaded(drawn, name) for name in ("x0", "x1"))])
    for visit in schedule(drawn.nodes, drawn.outputs, rows).visits:
        step, height = _step(drawn, visit.made.tensor)
        assert visit.made.last - visit.made.first < -(-height * rows // tallest) + step


def _loaded(drawn: Drawn, name: str) -> int:
    """The rows of an input that come in."""
    arrived = _run(drawn, schedule(drawn.nodes, drawn.outputs, 50))
    return len(arrived.get(name, []))


@given(drawn=sections())
def test_one_band_is_the_whole(drawn: Drawn) -> None:
    planned = schedule(drawn.nodes, drawn.outputs, 40)
    assert all(visit.made.first == 0 and visit.made.shift is None for visit in planned.visits)
    assert not any(line.kept for line in planned.lines.values())


@pytest.mark.parametrize("step", [1, 4])
def test_no_node_catches_up_at_the_lower_border(step: int) -> None:
    """The rows of a chain of windows that are left at the end come at the pace of those before.

    An enlarged picture follows the chain. If its input came faster, it would have to wait in the line buffer.
    """
    window, larger = _window(400, 3, 1, 1, (1, 1)), _window(800, 3, 1, 1, (1, 1))
    names = ["x", *(f"t{index}" for index in range(20))]
    chain = [RowNode((RowInput(a, window.rows_read),), b, 400, step) for a, b in itertools.pairwise(names)]
    above = [
        RowNode((RowInput("t19", _doubled),), "up", 800),
        RowNode((RowInput("up", larger.rows_read),), "y", 800, step),
    ]
    planned = schedule([*chain, *above], {"y"}, 2)
    assert planned.lines["t19"].room <= 2 * max(2, step) + 2


def test_a_chain_of_windows_keeps_what_overlaps() -> None:
    """Two 3 x 3 windows in bands of 10 rows: each keeps two rows, and the second is a row behind the first."""
    heights = _window(100, 3, 1, 1, (1, 1))
    nodes = [
        RowNode((RowInput("x", heights.rows_read),), "a", 100),
        RowNode((RowInput("a", heights.rows_read),), "b", 100),
    ]
    planned = schedule(nodes, {"b"}, 10)
    made = [(visit.made.first, visit.made.last) for visit in planned.visits]
    assert made[:4] == [(0, 9), (0, 8), (9, 19), (8, 18)]
    assert planned.lines["x"] == (12, True)
    assert planned.lines["a"] == (12, True)
    assert planned.lines["b"] == (10, False)


def test_a_skip_waits_for_the_branch_beside_it() -> None:
    """The skip of a U-Net keeps the rows by which the branch of lower resolution is behind."""
    window, half = _window(64, 3, 1, 1, (1, 1)), _window(64, 2, 2, 1, (0, 0))
    below = _window(32, 3, 1, 1, (1, 1))
    nodes = [
        RowNode((RowInput("x", window.rows_read),), "skip", 64),
        RowNode((RowInput("skip", half.rows_read),), "pooled", 32),
        RowNode((RowInput("pooled", below.rows_read),), "deep", 32),
        RowNode((RowInput("deep", _doubled),), "up", 64),
        RowNode((RowInput("skip", _same), RowInput("up", _same)), "y", 64),
    ]
    planned = schedule(nodes, {"y"}, 8)
    # In a band 8 rows of "skip" are made. A row of "deep" needs the row of "pooled" below it, which two of them make.
    assert planned.lines["skip"].room == 8 + 3
    assert planned.lines["pooled"].kept
    assert not planned.lines["up"].kept


def _long_skip(apart: bool) -> Schedule:
    """A tensor is the input of a chain of 12 windows, to whose result it is added."""
    window = _window(1000, 3, 1, 1, (1, 1))
    names = ["x", *(f"t{index}" for index in range(12))]
    chain = [RowNode((RowInput(one, window.rows_read),), other, 1000) for one, other in itertools.pairwise(names)]
    added = RowNode((RowInput(names[-1], _same, apart), RowInput("t0", _same, apart)), "y", 1000)
    nodes = [*chain, added]
    planned = schedule(nodes, {"y"}, 4)
    _run(Drawn(nodes, dict.fromkeys(["x", *(node.output for node in nodes)], 1000)), planned)
    return planned


def test_rows_of_a_long_skip_stay_where_they_are() -> None:
    """The sum needs 11 rows, and the window 2. In a ring these 2 move once a lap, instead of 11 each band."""
    moved, rooms = {}, {}
    for apart in (False, True):
        planned = _long_skip(apart)
        arrivals = [visit.made for visit in planned.visits if visit.made.tensor == "t0"]
        moved[apart] = [arrival.shift.moved for arrival in arrivals if arrival.shift]
        rooms[apart] = planned.lines["t0"].room
    assert rooms[False] == 4 + 11
    assert rooms[True] <= rooms[False] + 4 + 2 - 1
    assert set(moved[False]) == {11}
    assert set(moved[True]) == {2}
    assert len(moved[True]) <= len(moved[False]) / 3


def test_a_visit_is_in_pieces_where_a_ring_begins_again() -> None:
    sums = [visit for visit in _long_skip(apart=True).visits if visit.node == 12]
    assert [visit.made.first for visit in sums[1:]] == [visit.made.last for visit in sums[:-1]]
    assert len(sums) > 251
    assert len({visit.origins[1] for visit in sums}) > 50


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_a_node_with_few_rows_takes_part_in_few_bands(rows: int) -> None:
    half = _window(10, 5, 5, 1, (0, 0))
    nodes = [RowNode((RowInput("x", _same),), "a", 10), RowNode((RowInput("a", half.rows_read),), "b", 2)]
    planned = schedule(nodes, {"b"}, rows)
    assert [visit.made.last for visit in planned.visits if visit.node == 1] == [1, 2]
    assert [visit.made.last for visit in planned.visits if visit.node == 0][-1] == 10


def test_nodes_that_need_all_rows_of_the_one_before_have_no_schedule() -> None:
    """Each then begins when the one before has ended, so that a hostile graph would have many bands."""
    window = _window(2**12, 2**13 - 1, 1, 1, (2**12 - 1, 2**12 - 1))
    names = ["x", *(f"t{index}" for index in range(400))]
    nodes = [RowNode((RowInput(one, window.rows_read),), other, 2**12) for one, other in itertools.pairwise(names)]
    assert module.schedule(nodes, {names[-1]}, 2**11, Meter(2**16)) is None
    assert len(schedule(nodes[:50], {names[50]}, 2**11).visits) == 100
