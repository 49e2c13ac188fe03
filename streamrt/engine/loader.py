"""Weights that an engine without a session has in memory: those that it keeps at rest, or reads ahead of a call."""

from __future__ import annotations

from collections.abc import Sequence

from streamrt._core import Prefetcher
from streamrt.engine.planner import Prepared
from streamrt.engine.session import schedule
from streamrt.report.stats import PassStats

#: A range of a schedule: offset, bytes, and whether it is pinned.
Item = tuple[int, int, bool]


class Loader:
    """Gives the prefetcher schedules that no session runs. The caller has the turn, and the engine has no session.

    Args:
        prefetcher: of the engine.

    Attributes:
        loaded: bytes brought into memory since the file was opened, those of calls included.
        reading: seconds that it took to bring in those bytes.
    """

    def __init__(self, prefetcher: Prefetcher) -> None:
        self.loaded, self.reading = 0, 0.0
        self._prefetcher = prefetcher
        self._begun: Prepared | None = None  # its plan is scheduled, and no session runs it

    def begin(self, prepared: Prepared) -> None:
        """Read all weights from now on, by a plan that pins all. If the next call has this plan, they count as its own.

        Raises:
            WeightsIOError: weights of an earlier `begin` cannot be read.
        """
        self._end_begun()
        schedule(self._prefetcher, prepared.plan)
        self._begun = prepared

    def has_begun(self, prepared: Prepared) -> bool:
        """Whether the plan of ``prepared``, which gets a session now, is scheduled already. Raises as `begin`."""
        if self._begun is not prepared:
            self._end_begun()
            return False
        self._begun = None
        return True

    def keep_only(self, items: Sequence[Item], granule: int) -> None:
        """Give up all weights but ``items``, which are pinned."""
        self.count_begun()
        self._prefetcher.schedule(list(items), 0, granule)

    def bring_in(self, items: Sequence[Item], granule: int) -> None:
        """`keep_only`, and wait until all of ``items`` are in memory.

        Raises:
            WeightsIOError: they cannot be read.
        """
        self._end_begun()
        if items:  # a schedule would start the prefetch thread, even if there is nothing to read
            self.keep_only(items, granule)
            self._wait_for(len(items))

    def count(self, stats: PassStats) -> None:
        """Count the weights that a call brought in."""
        self.loaded += stats.bytes_streamed + stats.bytes_pinned
        self.reading += stats.read_seconds

    def count_begun(self) -> None:
        """Count the weights that were read since `begin`, without those that are being read."""
        if self._begun is not None:
            self._begun = None
            self._prefetcher.finish()
            self._count_read()

    def _end_begun(self) -> None:
        """Wait until all weights are in memory for which `begin` was called, and count them."""
        if self._begun is not None:
            count, self._begun = len(self._begun.plan.ranges), None
            self._wait_for(count)

    def _wait_for(self, count: int) -> None:
        """Wait until the first ``count`` items of the schedule are in memory, and count them. All are pinned."""
        prefetcher = self._prefetcher
        try:
            for index in range(count):
                prefetcher.wait(index)
            prefetcher.finish()
        except BaseException:
            prefetcher.rewind()
            raise
        self._count_read()

    def _count_read(self) -> None:
        read = [item for item in self._prefetcher.report() if item.read_end > item.read_start]
        self.loaded += sum(item.length for item in read)
        self.reading += sum(item.read_end - item.read_start for item in read) * 1e-9
