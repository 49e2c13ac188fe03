"""How models give memory up: they shrink for a load or a call of another model, or they are closed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from streamrt.pool.admission import Shrink
from streamrt.pool.entry import Entry
from streamrt.pool.memory import Memory
from streamrt.pool.refusals import too_large
from streamrt.pool.resident import Resident
from streamrt.pool.runtime import Runtime


class Giving:
    """Makes models give memory up. The lock is not held, except where a method says so.

    Args:
        memory: of the pool.
        runtime: has the clock and the threads.
        timeout: seconds that a call waits for memory.
    """

    def __init__(self, memory: Memory, runtime: Runtime, timeout: float) -> None:
        self._memory = memory
        self._runtime = runtime
        self._timeout = timeout

    # ---------------------------------------------------------------- for another model

    def grow(self, entry: Entry, minimum: int, wait: bool = True) -> int:
        """Raise the budget of ``entry`` to at least ``minimum`` bytes during a call, in its thread; returns the budget.

        Unless it may ``wait`` for leased memory, the budget may be smaller: it then stays as it was.

        Raises:
            ModelTooLargeError, PoolBusyError: as `ModelPool.lease`.
        """
        memory = self._memory
        try:
            self._take_for(entry, minimum, wait)
        finally:
            with memory.changed:
                surplus = memory.ledger.held(entry.name) - entry.budget
                if surplus > 0 and not entry.busy:  # a part of what was wanted; a thread that changes it settles all
                    memory.ledger.give_back(entry.name, surplus)
                    memory.changed.notify_all()
        return entry.budget

    def _take_for(self, entry: Entry, minimum: int, wait: bool) -> None:
        """As `grow`. If the budget stays as it was, ``entry`` may hold more."""
        memory = self._memory
        deadline = self._runtime.now() + self._timeout
        while True:
            with memory.changed:
                if minimum > (most := memory.pins.capacity(entry)):
                    raise too_large(entry, minimum, memory.ledger.budget, most)
                while True:
                    idled = memory.idled
                    shrinks = memory.room_for(entry, minimum)
                    if shrinks is not None:
                        break
                    if not wait:
                        return
                    need = f"a call of {entry.name!r:.80} needs a budget of {minimum} bytes, and other memory is leased"
                    reason = f"{need}; gave up after the timeout of {self._timeout:g} s: try again later"
                    memory.wait(deadline, reason, idled)
                memory.take(entry, minimum, shrinks)
            self.collect(entry, shrinks, minimum)
            with memory.changed:
                if memory.ledger.held(entry.name) >= minimum:
                    entry.budget = memory.ledger.held(entry.name)
                    return

    def collect(self, taker: Entry, shrinks: Sequence[Shrink], total: int) -> None:
        """Shrink marked models. ``taker`` gets their memory until it has ``total`` bytes; the rest is free."""
        left = list(shrinks)
        try:
            while left:
                self._shrink(taker, left[0], total)
                del left[0]
        finally:
            if left:  # a KeyboardInterrupt ended the call for which memory was collected
                self._spare(left)

    def _spare(self, shrinks: Sequence[Shrink]) -> None:
        """Unmark models that were not shrunk. The first may be partly shrunk, so it is closed."""
        memory = self._memory
        with memory.changed:
            memory.mark(shrinks, False)
            memory.entries[shrinks[0].name].unloading = True
            for shrink in shrinks:
                self.settle(memory.entries[shrink.name])
            memory.changed.notify_all()

    def _shrink(self, taker: Entry, shrink: Shrink, total: int) -> None:
        memory, ledger = self._memory, self._memory.ledger
        victim = memory.entries[shrink.name]
        # The objects of a closed model are thousands. They are freed at the end, without the lock, and not before the
        # memory is given back: an interrupt in between would leave a closed model that holds memory.
        resident = victim.resident
        kept = _shrunk(victim, shrink)
        with memory.changed:
            gone = ledger.held(victim.name) - kept
            missing = max(0, total - ledger.held(taker.name))
            ledger.move(victim.name, taker.name, min(gone, missing))
            ledger.give_back(victim.name, gone - min(gone, missing))
            memory.counts.given_up += victim.pinned - min(kept, victim.pinned)
            victim.pinned, victim.busy = kept, False
            if kept and resident:
                victim.budget = resident.budget or 0
            else:
                victim.forget_open()
                memory.counts.evictions += 1
                memory.policy.evicted(victim.name)
            self.settle(victim)
            memory.changed.notify_all()

    # ---------------------------------------------------------------- for ever

    def settle(self, entry: Entry) -> None:
        """Close or forget a model that is marked for it, once it has no lease and no thread changes it. Lock held."""
        if entry.busy or entry.leases:
            return
        if entry.resident and (entry.unloading or entry.error is not None):
            entry.busy = True
            try:
                self._runtime.spawn(partial(self._shut, entry))
            except RuntimeError:  # no thread can be started: close it in this thread
                self._shut(entry)
        elif entry.unloading and not entry.resident:
            entry.unloading = False
            entry.forget_failure()  # the caller of `unload` may have repaired the file
            if entry.removed:
                self._memory.remove(entry)
            self._memory.changed.notify_all()

    def _shut(self, entry: Entry) -> None:
        memory, resident = self._memory, entry.resident
        assert resident
        with suppress(Exception):
            resident.shut()
        with memory.changed:
            entry.forget_open()
        del resident  # frees its objects, before those who wait for the end are told of it
        with memory.changed:
            memory.ledger.give_back(entry.name, memory.ledger.held(entry.name))
            memory.entries.know(entry, None)  # a user may unload a model because its file was replaced
            entry.busy = False
            memory.policy.evicted(entry.name)
            self.settle(entry)
            memory.changed.notify_all()


def rested(resident: Resident, most: int | None, window: int) -> int:
    """Put an open model to rest; returns the bytes that it keeps. If 0, the caller closes it. No lock held."""
    try:
        return resident.rest(most, window)
    except Exception:  # even a fault of ours must not keep promised memory: the caller closes the model
        return 0


def _shrunk(victim: Entry, shrink: Shrink) -> int:
    """Shrink an idle model as ``shrink`` says, or close it; returns the bytes that it keeps. No lock held."""
    resident, needs = victim.resident, victim.needs
    assert resident
    assert needs
    most = shrink.pinned if shrink.pinned < resident.pinned else None
    kept = rested(resident, most, needs.least) if shrink.pinned else 0
    if kept == 0 or kept > shrink.pinned:  # close it: the memory is promised to the model that waits for it
        with suppress(Exception):
            resident.shut()
        return 0
    return kept
