"""Loads: a model's header is read, or the model is opened or resized, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from streamrt.errors import PinError
from streamrt.pool.admission import Grant
from streamrt.pool.entry import Entry, Flight
from streamrt.pool.failure import strip
from streamrt.pool.giving import Giving, rested
from streamrt.pool.memory import Memory
from streamrt.pool.refusals import no_thread
from streamrt.pool.resident import Files, Resident, StaleHeaderError
from streamrt.pool.runtime import Runtime

#: Successive loads that may find their file replaced. A fourth is a failure, because the file is replaced all the time.
_REPLACED = 3


class Loads:
    """Begins loads and ends them. One load of a model is in flight at a time; `Flight` has those who wait for it.

    Args:
        memory: of the pool.
        giving: makes models give memory up.
        files: opens models.
        runtime: has the clock and the threads.
    """

    def __init__(self, memory: Memory, giving: Giving, files: Files, runtime: Runtime) -> None:
        self._memory = memory
        self._giving = giving
        self._files = files
        self._runtime = runtime

    def read_header(self, entry: Entry) -> None:
        """Begin to find the needs of a model that is not open. Lock held."""
        self._fly(entry, partial(self._read_header, entry))

    def load(self, entry: Entry, grant: Grant) -> None:
        """Begin to open or resize an idle model. The bytes of ``grant`` that are free are taken now. Lock held."""
        ledger = self._memory.ledger
        held = ledger.held(entry.name)
        self._memory.take(entry, grant.total, grant.shrinks)
        if not self._fly(entry, partial(self._load, entry, grant)):
            self._memory.mark(grant.shrinks, False)
            ledger.give_back(entry.name, max(0, ledger.held(entry.name) - held))  # 0 if it was closed

    def _fly(self, entry: Entry, work: Callable[[Flight], None]) -> bool:
        """Begin a load. If no thread can be started for it, note a failure and return False. Lock held."""
        flight = entry.flight = Flight()
        entry.busy = True
        try:
            self._runtime.spawn(partial(work, flight))
        except RuntimeError:
            self._land(entry, no_thread(entry.name))
            return False
        return True

    def _land(self, entry: Entry, error: BaseException | None) -> None:
        """End a load. Lock held."""
        memory, flight = self._memory, entry.flight
        assert flight
        entry.flight, entry.busy = None, False
        if isinstance(error, StaleHeaderError) and entry.replaced < _REPLACED:
            entry.replaced += 1
            error = None
            memory.entries.know(entry, None)  # its header is read again
        if error is not None:
            memory.counts.failures += 1
            if entry.resident is None:
                memory.entries.know(entry, None)
            entry.fail(error, self._runtime.now())
        elif flight.granted:
            entry.forget_failure()
            entry.leases += flight.waiters
        flight.done, flight.error = True, error
        if entry.resident and entry.leases == 0:
            memory.to_idle(entry)
        self._giving.settle(entry)
        memory.changed.notify_all()

    # ---------------------------------------------------------------- work, in threads of its own (lock not held)

    def _read_header(self, entry: Entry, flight: Flight) -> None:
        memory = self._memory
        error: BaseException | None = None
        try:
            most = memory.most(entry)
            measured = self._files.measure(entry.path, most)
        except BaseException as raised:
            error = strip(raised)
        with memory.changed:
            if error is None:
                needs, entry.identity = measured
                entry.most = most
                memory.entries.know(entry, needs)
                if entry.pin:  # its file may have been replaced
                    with suppress(PinError):
                        memory.pins.pin(entry, needs)
                    memory.pins.pin_again()
            self._land(entry, error)

    def _load(self, entry: Entry, grant: Grant, flight: Flight) -> None:
        """Make the room that was granted, and open or resize the model."""
        memory, ledger = self._memory, self._memory.ledger
        error: BaseException | None = None
        resident, granted = entry.resident, False
        try:
            self._giving.collect(entry, grant.shrinks, grant.total)
            if ledger.held(entry.name) >= grant.total:  # less if a model kept more than planned
                resident = self._opened(entry, grant)
                granted = True
        except BaseException as raised:
            error = strip(raised)
            if resident:
                with suppress(Exception):
                    resident.shut()
                resident = None
        with memory.changed:
            held = ledger.held(entry.name)
            if resident is None:
                entry.forget_open()
                ledger.give_back(entry.name, held)
            else:
                entry.loads += entry.resident is None
                if entry.resident is not resident:
                    entry.resident, entry.counted, entry.timed = resident, 0, 0.0
                if granted:
                    ledger.give_back(entry.name, held - grant.total)
                    entry.budget, entry.pinned = grant.total, grant.pinned
            flight.granted = granted
            self._land(entry, error)

    def _opened(self, entry: Entry, grant: Grant) -> Resident:
        memory, resident = self._memory, entry.resident
        assert entry.needs
        assert entry.identity
        if resident and grant.pinned < entry.pinned and not rested(resident, grant.pinned, entry.needs.least):
            with suppress(Exception):
                resident.shut()
            with memory.changed:
                entry.forget_open()
            resident = None
        if resident is None:
            resident = self._files.open(entry.path, entry.identity, grant.total)
            resident.most, resident.grow = partial(memory.most, entry), partial(self._giving.grow, entry)
        else:
            resident.enlarge(grant.total)
        resident.lent = True
        return resident
