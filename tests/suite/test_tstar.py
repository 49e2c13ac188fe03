"""T* compared with closed forms, and with a simulated pipeline. It must never be above the pipeline's time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from markers import needs

needs("scipy")

from bench.report.tstar import Problem, first, steady  # noqa: E402

pytestmark = pytest.mark.extras

MB = 1e6  # bytes; the linear program is solved to about 100 bytes


def near(seconds: float) -> object:
    return pytest.approx(seconds, rel=1e-4)


def test_everything_fits() -> None:
    """Then nothing is read, so the disk's speed does not matter."""
    problem = Problem([100 * MB, 300 * MB], [0.25, 0.5], room=400 * MB, window=100 * MB, bandwidth=1 * MB)
    assert steady(problem) == near(0.75)


@pytest.mark.parametrize(
    ("bandwidth", "seconds"),
    [
        (1000 * MB, 0.9),  # of 1200 MB, 300 MB stay or are ahead, and 900 MB stream
        (2000 * MB, 0.6),  # the layers' own time
        (100 * MB, 9.0),
    ],
)
def test_equal_layers_take_the_longer_of_reading_and_computing(bandwidth: float, seconds: float) -> None:
    problem = Problem([100 * MB] * 12, [0.05] * 12, room=320 * MB, window=20 * MB, bandwidth=bandwidth)
    assert steady(problem) == near(seconds)


def test_the_least_window_is_not_pinned() -> None:
    def problem(window: float) -> Problem:
        return Problem([100 * MB] * 10, [0.01] * 10, room=400 * MB, window=window, bandwidth=1000 * MB)

    assert steady(problem(0)) == near(0.6)
    assert steady(problem(100 * MB)) == near(0.7)
    assert steady(problem(400 * MB)) == near(1.0)


def test_computing_in_early_and_weights_in_late_layers_take_longer() -> None:
    """As in VGG: while the convolutions compute, no more can be read ahead than there is room for."""
    problem = Problem([0, 1000 * MB], [1.0, 0.0], room=100 * MB, window=0, bandwidth=1000 * MB)
    assert max(900 / 1000, 1.0) == 1.0  # the longer of reading and computing
    assert steady(problem) == near(1.9)
    assert first(problem) == near(1.9)


def test_room_saves_time_only_until_computing_is_the_limit() -> None:
    """Bytes ahead and bytes that stay save the same time in a pass."""

    def seconds(room: float) -> float:
        return steady(Problem([0, 1000 * MB], [0.5, 0.5], room=room * MB, window=0, bandwidth=1000 * MB))

    assert [seconds(room) for room in (0, 250, 500, 999)] == [near(s) for s in (1.5, 1.25, 1.0, 1.0)]


def test_a_pass_among_many_has_no_beginning() -> None:
    """The first weights of the next pass can be read while this pass ends."""
    weights, compute = [1000 * MB, 0, 200 * MB], [0.0, 1.0, 0.3]
    for turn in range(3):
        turned = weights[turn:] + weights[:turn], compute[turn:] + compute[:turn]
        problem = Problem(*turned, room=100 * MB, window=100 * MB, bandwidth=1000 * MB)
        assert steady(problem) == near(2.2)


def test_a_first_pass_reads_everything() -> None:
    problem = Problem([100 * MB, 300 * MB], [0.1, 0.0], room=400 * MB, window=0, bandwidth=1000 * MB)
    assert first(problem) == near(0.4)
    # The last layer, of 0.2 s, is computed after at least a part of it has come.
    slow = Problem([100 * MB, 300 * MB], [0.5, 0.2], room=400 * MB, window=0, bandwidth=1000 * MB)
    assert first(slow) == near(0.7)


def test_too_little_room() -> None:
    with pytest.raises(ValueError, match="no pass is possible"):
        steady(Problem([100 * MB], [0.1], room=-1 * MB, window=0, bandwidth=1000 * MB))


@dataclass(frozen=True)
class Tile:
    """A piece of a layer: megabytes, milliseconds to compute it, and whether it is read in every pass."""

    layer: int
    size: int
    compute: int
    streamed: bool


@dataclass(frozen=True)
class Pipeline:
    """A plan, a disk that reads ``bandwidth`` MB a millisecond, and a window of ``window`` MB."""

    tiles: list[Tile]
    window: int
    bandwidth: int

    def problem(self, spare: int = 0, least_window: int = 0) -> Problem:
        layers = range(1 + max(tile.layer for tile in self.tiles))

        def of_each(field: str) -> list[float]:
            return [sum(getattr(tile, field) for tile in self.tiles if tile.layer == layer) for layer in layers]

        pinned = sum(tile.size for tile in self.tiles if not tile.streamed)
        return Problem(
            weights=[size * MB for size in of_each("size")],
            compute=[milliseconds / 1e3 for milliseconds in of_each("compute")],
            room=(pinned + self.window + spare) * MB,
            window=least_window * MB,
            bandwidth=self.bandwidth * 1e3 * MB,
        )

    def run(self) -> tuple[float, float]:
        """Seconds of the first pass, and of a pass once passes repeat.

        The disk reads the tiles in order, the next pass included, and waits when the window is full. A streamed tile
        leaves the window once it is computed. Times are whole numbers of 1/bandwidth ms, so that repetition is exact.
        """
        window: deque[tuple[int, int]] = deque()  # size and end of streamed tiles whose room is not reused yet
        held = disk = clock = 0
        ends, seen = [0], {}
        for number in range(10_000):
            for tile in self.tiles:
                if tile.streamed:
                    while held + tile.size > self.window:
                        size, end = window.popleft()
                        held -= size
                        disk = max(disk, end)
                    held += tile.size
                if tile.streamed or number == 0:
                    disk += tile.size
                    clock = max(clock, disk)
                clock += tile.compute * self.bandwidth
                if tile.streamed:
                    window.append((tile.size, clock))
            ends.append(clock)
            state = (disk - clock, *((size, end - clock) for size, end in window))  # all that the next pass depends on
            passes = number - seen.setdefault(state, number)
            if passes:
                unit = 1e3 * self.bandwidth
                return ends[1] / unit, (ends[-1] - ends[-1 - passes]) / passes / unit
        raise AssertionError("the passes never repeat")


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    tiles = [Tile(0, draw(st.integers(1, 40)), draw(st.integers(0, 40)), streamed=True)]
    for layer in range(draw(st.integers(1, 5))):
        for _ in range(draw(st.integers(0 if layer == 0 else 1, 4))):
            size = draw(st.integers(0, 40))
            tiles.append(Tile(layer, size, draw(st.integers(0, 40)), streamed=size > 0 and draw(st.booleans())))
    window = draw(st.integers(max(tile.size for tile in tiles), 100))
    return Pipeline(tiles, window, draw(st.integers(1, 4)))


@settings(max_examples=200, deadline=None)
@given(pipelines(), st.data())
def test_no_pipeline_is_faster(pipeline: Pipeline, data: st.DataObject) -> None:
    first_pass, steady_pass = pipeline.run()
    spare = data.draw(st.sampled_from([0, 0, 0, 20]))
    problem = pipeline.problem(spare, data.draw(st.integers(0, pipeline.window)))
    assert steady(problem) <= steady_pass * (1 + 1e-4)
    assert first(problem) <= first_pass * (1 + 1e-4)


@pytest.mark.parametrize("compute", [1, 4, 20])
def test_small_tiles_come_close(compute: int) -> None:
    """So T* is not far below a real plan. Half of every layer streams, 1 MB at a time."""
    tiles = [Tile(layer, 1, compute, streamed=piece % 2 == 0) for layer in range(10) for piece in range(20)]
    pipeline = Pipeline(tiles, window=10, bandwidth=1)
    first_pass, steady_pass = pipeline.run()
    assert steady_pass <= 1.11 * steady(pipeline.problem())  # T* pins the window's 10 MB, too: 90 MB stream, not 100 MB
    assert first_pass <= 1.11 * first(pipeline.problem())


def test_the_simulation() -> None:
    """Worked out by hand. The window holds one tile, so reading and computing of streamed tiles alternate."""
    pipeline = Pipeline([Tile(0, 4, 3, True), Tile(0, 2, 5, False), Tile(1, 4, 1, True)], window=4, bandwidth=1)
    # In ms. The first tile is read 0-4 and computed 4-7, the pinned tile 4-6 and 7-12, the last tile 7-11 and 12-13.
    # Second pass: the first tile 13-17 and 17-20, the pinned tile is computed 20-25, the last tile 20-24 and 25-26.
    assert pipeline.run() == (0.013, 0.013)
    wider = Pipeline(pipeline.tiles, window=8, bandwidth=1)
    assert wider.run() == (0.013, 0.009)  # the first tile is read while the others are computed: nothing waits
