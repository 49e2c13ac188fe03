"""Weights that an engine without a session has in memory: those that it keeps at rest, or reads ahead of a call."""

from __future__ import annotations

from collections.abc import Sequence

from streamrt._core import Prefetcher
from streamrt.engine.prepared import Prepared
from streamrt.engine.session import schedule
from streamrt.plan import Plan
from streamrt.report.stats import PassStats

#: A range of a schedule: offset, bytes, and whether it is pinned.
Item = tuple[int, int, bool]


def pinned_items(plan: Plan) -> list[Item]:
    """The pinned ranges of a plan, each once."""
    return [(r.offset, r.length, True) for r in dict.fromkeys(plan.ranges) if r.pinned]  # some are read several times


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

        Otherwise they count once they were read, but for an item that is being read when another schedule comes.
        """
        self.count_begun()
        schedule(self._prefetcher, prepared.plan)
        self._begun = prepared

    def has_begun(self, prepared: Prepared) -> bool:
        """Whether the plan of ``prepared``, which gets a session now, is scheduled already."""
        if self._begun is prepared:
            self._begun = None
            return True
        self.count_begun()
        return False

    def keep_only(self, items: Sequence[Item], granule: int) -> None:
        """Give up all weights but ``items``, which are pinned."""
        self.count_begun()
        self._prefetcher.schedule(list(items), 0, granule)

    def bring_in(self, plan: Plan) -> None:
        """Keep only the weights that a plan pins, and wait until all of them are in memory.

        Raises:
            WeightsIOError: they cannot be read.
        """
        if not plan.pinned_bytes:
            return  # a schedule would start the prefetch thread, though there is nothing to read
        if self._begun is not None and self._begun.plan is plan:
            count, self._begun = len(plan.ranges), None
        else:
            items = pinned_items(plan)
            count = len(items)
            self.keep_only(items, plan.granule)
        prefetcher = self._prefetcher
        try:
            for index in range(count):
                prefetcher.wait(index)
            prefetcher.finish()
        except BaseException:
            prefetcher.rewind()
            raise
        self._count_read()

    def count(self, stats: PassStats) -> None:
        """Count the weights that a call brought in."""
        self.loaded += stats.bytes_streamed + stats.bytes_pinned
        self.reading += stats.read_seconds

    def count_begun(self) -> list[Item]:
        """Count the weights that were read since `begin`, and return them; none if it was not called."""
        if self._begun is None:
            return []
        self._begun = None
        self._prefetcher.finish()
        return self._count_read()

    def _count_read(self) -> list[Item]:
        """Count the items that were read for the last pass, and return them."""
        read = [item for item in self._prefetcher.report() if item.read_end > item.read_start]
        self.loaded += sum(item.length for item in read)
        self.reading += sum(item.read_end - item.read_start for item in read) * 1e-9
        return [(item.offset, item.length, item.pinned) for item in read]
