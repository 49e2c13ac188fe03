"""A discrete simulation of a pass: one disk, which reads ahead as far as the window has room, and one processor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress

from streamrt.host.yielding import give_way
from streamrt.plan.types import NodeWeights, Tile

#: Passes that are simulated. In the first pass the disk has not read ahead yet; the third is like all later ones.
_PASSES = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of a pass among many, and the seconds for which computing waited for each range.

    Waiting for a later reading of a range counts for the first reading.
    """

    seconds: float
    stalls: Sequence[float]


#: A step that reads or releases streamed ranges: the seconds of computing before it, the ranges that it reads, its own
#: seconds, and the ranges that it releases. Of a range that it reads: its index, the bytes that are read, the bytes
#: that its release frees, and the seconds that reading takes.
_Event = tuple[float, list[tuple[int, int, int, float]], float, list[int]]


@dataclass(slots=True)
class _Progress:
    """How far a simulation has come.

    Attributes:
        number: the last reading of each range.
        released: when the memory of each reading was free again, in the order of reading; seconds.
        reading: bytes that its release frees, in the same order.
        held: bytes of the readings from ``oldest`` on.
        oldest: the first reading whose memory is still counted.
        disk: when the disk is free; seconds.
        clock: when the processor is free; seconds.
    """

    number: list[int]
    released: list[float] = field(default_factory=list)
    reading: list[int] = field(default_factory=list)
    held: int = 0
    oldest: int = 0
    disk: float = 0.0
    clock: float = 0.0


def call_share(node: NodeWeights, tile: Tile) -> float:
    """The cost of a kernel call for a streamed tile, besides its rows, as a share of the node's seconds."""
    return node.call_rows / node.rows if tile.last - tile.first < node.rows else 0.0


class Pipeline:
    """A pass as steps, which can be simulated.

    A step that streams takes longer by the cost of its call. Steps whose ranges stay are merged into few large ones,
    so that their calls cost nothing.

    Attributes:
        sizes: bytes that each range takes in memory.
        shared: of these, bytes that the range before it takes, too: the granule that both cover. One more follows, 0.
        added: bytes of each range that the range before it does not take.
        first: as in `Cut`. All readings of a range stay in memory, or none; a pinned set says it for the first one.
        again: the later readings of a range, and the first one.
        steps: for each tile, the ranges that it is the first to need, its computing time in seconds, and the ranges
            that it is the last to need.
        compute: seconds of computing of all steps, without calls.
        demands: the ranges in the order in which steps need them, each with its bytes of ``added``, and the seconds of
            computing between the step that needs the range before it and the step that needs it.
        rest: seconds of computing from the step on that needs the last range.
    """

    def __init__(
        self,
        tiles: Sequence[Tile],
        sizes: Sequence[int],
        nodes: Sequence[NodeWeights],
        shared: Sequence[int] = (),
        first: Sequence[int] = (),
    ) -> None:
        begins: dict[int, int] = {}
        last: dict[int, int] = {}
        for position, tile in enumerate(tiles):
            for index in range(tile.begin, tile.end):
                begins.setdefault(index, position)
                last[index] = position
        needs: list[list[int]] = [[] for _ in tiles]
        done: list[list[int]] = [[] for _ in tiles]
        for index in range(len(sizes)):
            needs[begins[index]].append(index)
            done[last[index]].append(index)
        self.sizes = sizes
        self.shared = [*shared, 0] if shared else [0] * (len(sizes) + 1)
        self.added = [size - common for size, common in zip(sizes, self.shared, strict=False)]
        self.first = first or range(len(sizes))
        self.again = [(index, of) for index, of in enumerate(self.first) if index != of]
        self._common = [(index, common) for index, common in enumerate(self.shared) if common]
        # As `_common`, for ranges that are read for the first time, with the first reading of the range before.
        self._once = [(i, self.first[i - 1], common) for i, common in self._common if self.first[i] == i]
        # The sizes of first readings; 0 for later ones.
        self._own = [size if self.first[i] == i else 0 for i, size in enumerate(sizes)] if first else sizes
        # How often each range is read that is read more than once, the most often first, and its size.
        readings = Counter(first) if first else {}
        self._repeated = sorted(((n, sizes[i]) for i, n in readings.items() if n > 1), reverse=True)
        self.steps = [
            (needs[position], nodes[tile.node].seconds * (tile.last - tile.first) / max(1, nodes[tile.node].rows), ends)
            for position, (tile, ends) in enumerate(zip(tiles, done, strict=True))
        ]
        self._calls = [node.seconds * call_share(node, tile) for tile, node in ((t, nodes[t.node]) for t in tiles)]
        self.compute = sum(seconds for _, seconds, _ in self.steps)
        self.demands: list[tuple[int, int, float]] = []
        self.rest = 0.0
        for indices, seconds, _ in self.steps:
            for index in indices:
                self.demands.append((index, self.added[index], self.rest))
                self.rest = 0.0
            self.rest += seconds

    @property
    def work(self) -> int:
        """The cost of a simulation, in steps and ranges that it goes through."""
        return _PASSES * (len(self.steps) + len(self.sizes))

    def bytes_of(self, pinned: Sequence[bool]) -> int:
        """Bytes that the pinned ranges take. What neighbours share counts once."""
        twice = sum(common for index, before, common in self._once if pinned[before] and pinned[index])
        return sum(compress(self._own, pinned)) - twice

    def bytes_more(self, pinned: Sequence[bool], index: int) -> int:
        """Bytes that pinning one range, by its first reading, takes beside what its pinned neighbours take."""
        first = self.first
        more = self.sizes[index]
        if index > 0 and pinned[first[index - 1]]:
            more -= self.shared[index]
        if index + 1 < len(pinned) and first[index + 1] == index + 1 and pinned[index + 1]:
            more -= self.shared[index + 1]
        return more

    def least_read(self, room: int) -> int:
        """The fewest bytes that a pass reads, whichever ranges are pinned in ``room`` bytes."""
        kept, left = 0, room
        for readings, size in self._repeated:
            part = max(0, min(size, left))
            kept += readings * part
            left -= part
        return sum(self.added) - kept - left

    def least_seconds(self, room: int, rate: float) -> float:
        """Seconds that a pass takes at least, whichever ranges are pinned in ``room`` bytes."""
        calls, left = math.fsum(value for value, _ in self._worth), room
        for value, size in self._worth:
            part = min(1.0, left / size) if size else 1.0
            calls -= value * part
            left -= min(size, left)
            if left <= 0:
                break
        return max(self.compute + calls, self.least_read(room) / rate)

    @cached_property
    def _worth(self) -> list[tuple[float, int]]:
        """The seconds of calls that pinning each range saves at most, and its bytes; the most for a byte first.

        A call is saved if all ranges are pinned that its step is the first to need. Here each range saves a part of it.
        """
        seconds = dict.fromkeys(self.first, 0.0)
        for (needs, _, _), call in zip(self.steps, self._calls, strict=True):
            total = sum(self.added[index] for index in needs)
            for index in needs:
                seconds[self.first[index]] += call * (self.added[index] / total if total else 1 / len(needs))
        found = [(value, self.added[index]) for index, value in seconds.items()]
        return sorted(found, key=lambda pair: -pair[0] / pair[1] if pair[1] else -math.inf)

    def run(self, pinned: Sequence[bool], window: int, rate: float) -> Outcome:
        """Simulate passes with these ranges pinned, and the others read at ``rate`` bytes a second.

        Ranges are read one after the other, each as soon as it fits in the window beside the ranges before it.
        ``window`` is in bytes. It must have room for all ranges that a step needs at once.
        """
        give_way()
        progress = _Progress([0] * len(self.sizes))
        events = self._events(pinned, window, rate)
        for _ in range(_PASSES - 1):
            self._run_pass(progress, events, window)
        begin = progress.clock
        stalls = self._run_pass(progress, events, window)
        return Outcome(progress.clock - begin, stalls)

    def _events(self, pinned: Sequence[bool], window: int, rate: float) -> list[_Event]:
        """The steps that read or release streamed ranges. Each has the computing of those behind it, up to the next."""
        sizes = self._to_read(pinned, window)
        freed = self._to_free(pinned, window, sizes)
        times = [size / rate for size in sizes]
        events: list[_Event] = []
        before = 0.0  # computing that is not in an event yet
        for (needs, seconds, ends), call in zip(self.steps, self._calls, strict=True):
            reads = [(i, sizes[i], freed[i], times[i]) for i in needs if not pinned[i]]
            releases = [i for i in ends if not pinned[i]]
            if reads:
                seconds += call
            if reads or releases:
                events.append((before, reads, seconds, releases))
                before = 0.0
            else:
                before += seconds
        return [*events, (before, [], 0.0, [])]

    def _to_read(self, pinned: Sequence[bool], window: int) -> Sequence[int]:
        """Bytes of each range that are not in memory when it is read, if it streams.

        A granule that it shares with a neighbour is there if the neighbour is pinned, or if the window has room for
        both ranges.
        """
        sizes = self.sizes
        if not self._common:
            return sizes
        found = list(sizes)
        for index, common in self._common:
            if pinned[index]:
                found[index - 1] -= common
            elif pinned[index - 1] or sizes[index - 1] + sizes[index] - common <= window:
                found[index] -= common
        return [max(0, size) for size in found]

    def _to_free(self, pinned: Sequence[bool], window: int, sizes: Sequence[int]) -> Sequence[int]:
        """Bytes that the release of each range frees, of the ``sizes`` that were read.

        A granule that it shares with the next range stays in memory for that range, if the window has room for both.
        """
        if not self._common:
            return sizes
        found = list(sizes)
        for index, common in self._common:
            both = self.sizes[index - 1] + self.sizes[index] - common
            if not (pinned[index - 1] or pinned[index]) and both <= window:
                later = min(common, found[index - 1])
                found[index - 1] -= later
                found[index] += later
        return found

    def _run_pass(self, progress: _Progress, events: Sequence[_Event], window: int) -> list[float]:
        """Simulate one more pass; returns the seconds that computing waited for each range."""
        stalls = [0.0] * len(self.sizes)
        first = self.first
        released, reading, number = progress.released, progress.reading, progress.number
        held, oldest, disk, clock = progress.held, progress.oldest, progress.disk, progress.clock
        for before, reads, seconds, releases in events:
            clock += before
            for index, size, frees, time in reads:
                held += size
                while held > window and oldest < len(reading):
                    if released[oldest] > disk:
                        disk = released[oldest]
                    held -= reading[oldest]
                    oldest += 1
                number[index] = len(reading)
                reading.append(frees)
                released.append(clock)  # replaced at the end of the step that releases it
                disk += time
                if disk > clock:
                    stalls[first[index]] += disk - clock
                    clock = disk
            clock += seconds
            for index in releases:
                released[number[index]] = clock
        progress.held, progress.oldest, progress.disk, progress.clock = held, oldest, disk, clock
        return stalls
