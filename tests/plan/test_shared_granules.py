"""Ranges that share a granule with their neighbours: the simulation, compared with a count of users of each granule."""

from __future__ import annotations

import pytest

from streamrt.plan.pipeline import Pipeline
from streamrt.plan.types import HUGE, NodeWeights, Tile

PASSES = 3
COUNT = 60


def counted(spans: list[tuple[int, int]], seconds: list[float], window: int) -> float:
    """Seconds of a pass of ranges that cover granules ``spans``, for a disk that reads a granule a second.

    A range is read as soon as the window, in granules, has room for those of its granules that are not held. It is
    released when its step ends, if a later range needs the room.
    """
    users: dict[tuple[int, int], int] = {}  # (pass, granule): ranges that hold it
    waiting: list[tuple[float, int, int]] = []  # ranges to release: when, pass and index
    disk = clock = begin = 0.0
    for number in range(PASSES):
        begin = clock
        for index, span in enumerate(spans):
            own = [(number, granule) for granule in range(*span)]
            while users and len(users) + sum(key not in users for key in own) > window:
                when, past, other = waiting.pop(0)
                disk = max(disk, when)
                for granule in range(*spans[other]):
                    users[past, granule] -= 1
                    if not users[past, granule]:
                        del users[past, granule]
            disk += sum(key not in users for key in own)
            for key in own:
                users[key] = users.get(key, 0) + 1
            clock = max(clock, disk) + seconds[index]
            waiting.append((clock, number, index))
    return clock - begin


@pytest.mark.parametrize("ahead", [1, 2, 3, 6])
@pytest.mark.parametrize("burst", [1, 2, 3, 6])
@pytest.mark.parametrize(("length", "step"), [(2, 1), (4, 3), (2, 2)], ids=["half", "quarter", "nothing"])
def test_a_shared_granule_is_read_once_and_freed_once(length: int, step: int, burst: int, ahead: int) -> None:
    spans = [(step * i, step * i + length) for i in range(COUNT)]
    seconds = [float(step * burst) if i % burst == 0 else 0.0 for i in range(COUNT)]
    window = length + (ahead - 1) * step
    tiles = [Tile(i, 0, 1, i, i + 1) for i in range(COUNT)]
    nodes = [NodeWeights(rows=1, seconds=each) for each in seconds]
    shared = [0] + [(length - step) * HUGE] * (COUNT - 1)
    pipeline = Pipeline(tiles, [length * HUGE] * COUNT, nodes, shared)
    found = pipeline.run([False] * COUNT, window * HUGE, HUGE)
    assert found.seconds == pytest.approx(counted(spans, seconds, window))
