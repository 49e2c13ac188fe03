"""A discrete simulation of a pass: one disk, which reads ahead as far as the window lets it, and one processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamrt.host.yielding import give_way
from streamrt.plan.types import NodeWeights, Tile

#: Passes that are simulated: in the first the disk has no lead yet, the last is like all that would follow.
_PASSES = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a pass among many: how long it takes, and for how much of that each range was waited for."""

    seconds: float
    stalls: Sequence[float]


def call_share(node: NodeWeights, tile: Tile) -> float:
    """What a call for a tile that streams costs besides its rows, as a share of the node's seconds."""
    return node.call_rows / node.rows if tile.last - tile.first < node.rows else 0.0


class Pipeline:
    """Tiles as steps: ranges that are needed from here on, seconds of computing, ranges that are done.

    A step that streams computes longer by what a call costs. Those that stay become few large ones, and count as they
    are. ``sizes`` are the bytes that each range takes in memory.
    """

    def __init__(self, tiles: Sequence[Tile], sizes: Sequence[int], nodes: Sequence[NodeWeights]) -> None:
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for position, tile in enumerate(tiles):
            for index in range(tile.begin, tile.end):
                first.setdefault(index, position)
                last[index] = position
        needs: list[list[int]] = [[] for _ in tiles]
        done: list[list[int]] = [[] for _ in tiles]
        for index in range(len(sizes)):
            needs[first[index]].append(index)
            done[last[index]].append(index)
        self.sizes = sizes
        self.steps = [
            (needs[position], nodes[tile.node].seconds * (tile.last - tile.first) / max(1, nodes[tile.node].rows), ends)
            for position, (tile, ends) in enumerate(zip(tiles, done, strict=True))
        ]
        self._calls = [node.seconds * call_share(node, tile) for tile, node in ((t, nodes[t.node]) for t in tiles)]
        self.compute = sum(seconds for _, seconds, _ in self.steps)

    @property
    def work(self) -> int:
        """What a simulation costs, in steps."""
        return _PASSES * (len(self.steps) + len(self.sizes))

    def run(self, pinned: Sequence[bool], window: int, rate: float) -> Outcome:
        """Simulate passes with these ranges pinned, and the others read at ``rate`` bytes a second.

        Ranges are read one after the other, each as soon as it fits in the window beside those before it; the window
        must hold what any one step needs.
        """
        give_way()
        sizes = self.sizes
        stalls = [0.0] * len(sizes)
        released: list[float] = []  # when each reading's memory was free again, in the order of reading
        reading: list[int] = []  # sizes, in the same order
        number = [0] * len(sizes)  # the last reading of each range
        held = oldest = 0  # bytes of the readings from ``oldest`` on
        disk = clock = begin = 0.0
        for _ in range(_PASSES):
            begin = clock
            stalls = [0.0] * len(sizes)
            for (needs, seconds, ends), call in zip(self.steps, self._calls, strict=True):
                streams = False
                for index in needs:
                    if pinned[index]:
                        continue
                    streams = True
                    held += sizes[index]
                    while held > window and oldest < len(reading):
                        disk = max(disk, released[oldest])
                        held -= reading[oldest]
                        oldest += 1
                    number[index] = len(reading)
                    reading.append(sizes[index])
                    released.append(clock)  # until it is known
                    disk += sizes[index] / rate
                    if disk > clock:
                        stalls[index] += disk - clock
                        clock = disk
                clock += seconds + call if streams else seconds
                for index in ends:
                    if not pinned[index]:
                        released[number[index]] = clock
        return Outcome(clock - begin, stalls)
