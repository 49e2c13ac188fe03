"""The keeper leases, loads, shrinks and closes the models of a `ModelPool`.

The rules of threads:

* One lock, ``changed``, guards all state. It is never held while a file is read, a model is opened, resized or closed,
  or a call runs.
* A thread that changes a model marks it busy under the lock, works without the lock, and takes it again to settle the
  accounts.
* Loads run in threads of their own. So every request that waits for a load, even the first, can leave at its deadline.
* Bytes are taken in the ledger before memory is allocated, and given back after the memory was freed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from streamrt.errors import (
    ModelClosedError,
    PinError,
    PoolBusyError,
    UnknownModelError,
    WeightsIOError,
)
from streamrt.pool.admission import Grant, Holding, Shrink, Slack, decide, make_room
from streamrt.pool.entries import Entries
from streamrt.pool.entry import Entry, Flight
from streamrt.pool.failure import anew, strip
from streamrt.pool.ledger import Ledger
from streamrt.pool.pins import Pins
from streamrt.pool.policy import Policy
from streamrt.pool.refusals import no_thread, too_large
from streamrt.pool.resident import Files, Resident, StaleHeaderError
from streamrt.pool.runtime import LONGEST_WAIT, Runtime

#: Successive loads that may find their file replaced. A fourth is a failure, because the file is replaced all the time.
_REPLACED = 3
#: A workspace that a call needed is granted from the start the next time, up to 1/4 of the budget: one large call must
#: not make a model take all memory for ever.
_WORKSPACE_SHARE = 4
#: Seconds after which a request that waits asks its user again whether the lease is still wanted.
_ASK_AGAIN = 0.1


@dataclass(eq=False)
class _Asker:
    """A request for a lease.

    Attributes:
        flight: the load that it waits for, if any.
        counted: whether the policy knows of the request.
        whole: whether it waits until all weights have room, because the model is pinned.
    """

    flight: Flight | None = None
    counted: bool = False
    whole: bool = False


class Keeper:
    """The models of a pool, and the memory that they hold.

    Args:
        budget: bytes for all models.
        policy: says which weights are worth their memory.
        files: opens models.
        runtime: has the clock, the lock and the threads.
        timeout: seconds that a request waits by default.

    Attributes:
        changed: the lock. It is notified when something under it changes.
        entries: the models by name.
        pins: the memory that is kept for pinned models.
        ledger: bytes of the budget by model.
        policy: as above.
        files: as above.
        closed: whether new leases are refused.
        past: sums over models that were unregistered.
        failures: loads that failed.
        evictions: how often a model gave up all memory for others.
        given_up: bytes of weights given up for others.
        busy: requests that ended at their deadline.
    """

    def __init__(self, budget: int, policy: Policy, files: Files, runtime: Runtime, timeout: float) -> None:
        self.ledger = Ledger(budget)
        self.policy = policy
        self.files = files
        self.changed = runtime.condition()
        self.entries = Entries()
        self.pins = Pins(budget, self.entries)
        self.closed = False
        self.past = dict.fromkeys(("requests", "hits", "loads", "loaded"), 0)
        self.failures = self.evictions = self.given_up = self.busy = 0
        self._runtime = runtime
        self._timeout = timeout
        self._pid = os.getpid()
        self._slack = Slack(budget)
        self._line: list[_Asker] = []  # requests that wait for memory, the oldest first

    def require_open(self) -> None:
        """Raise `ModelClosedError` if the pool is closed, or in a forked child, where its locks may never be free."""
        if os.getpid() != self._pid:
            raise ModelClosedError("this pool was made before a fork: make another one in the child process")
        if self.closed:
            raise ModelClosedError("the pool is closed: make another pool")

    def entry(self, name: str) -> Entry:
        """The model of this name. Lock held.

        Raises:
            UnknownModelError: there is none.
            ModelClosedError: see `require_open`.
        """
        self.require_open()
        entry = self.entries.get(name)
        if entry is None or entry.removed:
            raise UnknownModelError(f"the pool has no model named {name!r:.80}: register it first")
        return entry

    # ---------------------------------------------------------------- getting a lease

    def acquire(
        self, name: str, timeout: float | None, wanted: Callable[[], bool] | None = None, whole: bool = False
    ) -> Entry:
        """Wait until the model can be leased, and count a lease.

        Args:
            name: of the model.
            timeout: seconds to wait; None is the pool's.
            wanted: as for `ModelPool.lease`.
            whole: wait until all weights have room, if the model is pinned and they can have it.

        Raises:
            Exception: as `ModelPool.lease`.
        """
        self.require_open()
        limit = self._timeout if timeout is None else timeout
        deadline = self._runtime.now() + limit
        asker = _Asker(whole=whole)
        with self.changed:
            entry = self.entry(name)
            entry.requests += 1
            try:
                while not self._lease_now(entry, asker):
                    if wanted is not None and not wanted():
                        raise PoolBusyError(f"the lease of the model {name!r:.80} is not wanted any more")
                    what = "is loading" if asker.flight else "waits for memory, all of which is leased"
                    reason = f"the model {name!r:.80} {what}; gave up after the timeout of {limit:g} s: try again later"
                    self._wait(deadline, reason, LONGEST_WAIT if wanted is None else _ASK_AGAIN)
                return entry
            finally:
                self._leave_line(asker)
                if asker.flight and asker.flight.granted:  # interrupted: the load has made a lease that nobody holds
                    self._end_lease(entry)
                elif asker.flight:
                    asker.flight.waiters -= 1

    def _wait(self, deadline: float, reason: str, longest: float = LONGEST_WAIT) -> None:
        """Wait for a change, for at most ``longest`` seconds. Lock held.

        Raises:
            PoolBusyError: the deadline has passed; its text is ``reason``.
        """
        left = deadline - self._runtime.now()
        if left <= 0:
            self.busy += 1
            raise PoolBusyError(reason)
        self.changed.wait(min(left, longest))

    def _lease_now(self, entry: Entry, asker: _Asker) -> bool:
        """Lease a model if that is possible now; otherwise begin to load it, or wait for memory. Lock held."""
        flight = asker.flight
        if flight and flight.done:
            asker.flight = None
            if flight.error is not None:
                raise anew(flight.error)
            if flight.granted and not self._lacks_weights(entry, asker):
                return True
            if flight.granted:  # the load began before the model was pinned
                self._end_lease(entry)
        self.require_open()
        if entry.removed:
            raise UnknownModelError(f"the model {entry.name!r:.80} was unregistered")
        self._require_loadable(entry)
        if self._lease_or_begin(entry, asker):
            return True
        self._require_loadable(entry)  # raises if no thread could be started
        if asker.flight is None and entry.flight is not None:
            asker.flight = entry.flight
            asker.flight.waiters += 1
        return False

    def _lease_or_begin(self, entry: Entry, asker: _Asker) -> bool:
        """Lease a model, or begin to load it, or stand in the line for memory. Lock held.

        A request stands in the line only while it waits for nothing but memory: else it would delay those behind it.
        """
        if entry.busy or entry.unloading or (entry.error and entry.resident):
            self._leave_line(asker)
            return False
        if entry.needs is None:
            self._leave_line(asker)
            self._fly(entry, partial(self._read_header, entry))
            return False
        if not asker.counted:
            asker.counted = True
            self._note_request(entry)
        if entry.leases and self._lacks_weights(entry, asker):
            self._leave_line(asker)  # it gets more weights once it is idle
            return False
        if entry.leases:
            entry.leases += 1
            return True
        if asker not in self._line:
            self._line.append(asker)
        if self._line[0] is asker:
            if self._grant(entry, self._gets_whole(entry, asker)):
                return True
            if entry.busy:  # its load has begun
                self._leave_line(asker)
        return False

    def _gets_whole(self, entry: Entry, asker: _Asker) -> bool:
        """Whether a request waits for room for all weights, and can get it. Lock held."""
        assert entry.needs
        return asker.whole and entry.reserved is not None and entry.needs.full <= self.pins.capacity(entry)

    def _lacks_weights(self, entry: Entry, asker: _Asker) -> bool:
        """Whether a leased model was granted fewer weights than a request waits for. Lock held."""
        assert entry.needs
        return entry.pinned < entry.needs.weights and self._gets_whole(entry, asker)

    def _require_loadable(self, entry: Entry) -> None:
        """Raise the error after which loading pauses, as a new object."""
        if self._backs_off(entry):
            assert entry.error
            raise anew(entry.error)

    def _backs_off(self, entry: Entry) -> bool:
        return entry.error is not None and self._runtime.now() < entry.retry_at

    def _leave_line(self, asker: _Asker) -> None:
        if asker in self._line:
            self._line.remove(asker)
            self.changed.notify_all()

    def _note_request(self, entry: Entry) -> None:
        """Tell the policy of a request, once the model's size is known. Lock held."""
        assert entry.needs
        entry.hits += entry.resident is not None and entry.resident.complete
        self.policy.requested(entry.name, entry.needs.weights, entry.cost())

    def _grant(self, entry: Entry, whole: bool) -> bool:
        """Lease an idle model, or begin to load it if there is memory. Returns whether it is leased. Lock held."""
        needs = entry.needs
        assert needs
        held = self.ledger.held(entry.name)
        most = self.pins.capacity(entry)
        if most != entry.most and (needs.whole or needs.minimum > most):  # models were pinned or unpinned meanwhile
            self._measure_again(entry)
            return False
        if entry.resident and held == entry.budget and entry.pinned == needs.weights:
            self._lend(entry)
            return True
        if needs.minimum > most:
            raise too_large(entry, needs.minimum, self.ledger.budget, most)
        holdings = self._holdings(entry)
        grant = decide(
            self.ledger.budget,
            self._slack.size(self.entries.full),
            holdings,
            entry.name,
            self.policy.worth,
            lambda other: entry.reserved is not None or self.policy.admits(entry.name, other),
            whole,
        )
        if grant is None:
            return False
        others = (holding for name, holding in holdings.items() if holding.fixed and name != entry.name)
        self._slack.note(grant.working + sum(holding.working for holding in others))
        if entry.resident and not grant.shrinks and grant.total == entry.budget:
            self.ledger.take(entry.name, grant.total - held)
            entry.pinned = grant.pinned
            self._lend(entry)
            return True
        self.ledger.take(entry.name, min(self.ledger.free, max(0, grant.total - held)))
        self._mark(grant.shrinks, True)
        if not self._fly(entry, partial(self._load, entry, grant)):
            self._mark(grant.shrinks, False)
            self.ledger.give_back(entry.name, max(0, self.ledger.held(entry.name) - held))  # 0 if it was closed
        return False

    def _measure_again(self, entry: Entry) -> None:
        """Find the needs of an idle model anew: whether it runs in bands depends on what it can have. Lock held."""
        if entry.resident:
            entry.unloading = True  # its needs are forgotten when it is closed
            self.settle(entry)
        else:
            self._fly(entry, partial(self._read_header, entry))

    def _lend(self, entry: Entry) -> None:
        assert entry.resident
        entry.resident.lent = True
        entry.leases += 1

    def release(self, entry: Entry, error: BaseException | None) -> None:
        """End a lease. ``error`` is the error with which its user left, or None."""
        unreadable = anew(error) if isinstance(error, WeightsIOError) else None
        with self.changed:
            if unreadable and entry.error is None:
                entry.fail(unreadable, self._runtime.now())  # the open file may have changed: it is opened again
            self._end_lease(entry)

    def _end_lease(self, entry: Entry) -> None:
        """Count a lease less, and settle the model after its last lease. Lock held."""
        entry.leases -= 1
        if entry.leases == 0:
            self._to_idle(entry)
            self.settle(entry)
        self.changed.notify_all()

    def _to_idle(self, entry: Entry) -> None:
        """Refuse calls of a model without leases; others may take its memory from now on. Lock held."""
        resident, needs = entry.resident, entry.needs
        assert resident
        assert needs
        resident.lent = False
        entry.count_loaded()
        pinned = min(resident.pinned, self.ledger.held(entry.name))
        # A model may have all its weights in its window: then only those that it was granted to keep are pinned.
        entry.pinned = min(entry.pinned, pinned) if resident.complete else pinned
        if resident.complete and pinned != needs.weights:  # smaller granules may take fewer bytes than assumed
            needs = replace(needs, weights=pinned)
            self.entries.know(entry, needs)
            entry.reserved = entry.reserved and replace(entry.reserved, weights=pinned)
        workspace = min(resident.workspace, self.ledger.budget // _WORKSPACE_SHARE)
        if workspace > needs.workspace:  # the next call may need as much
            more = workspace - needs.workspace
            self.entries.know(entry, replace(needs, workspace=workspace, spare=needs.spare + more))

    # ---------------------------------------------------------------- holdings (lock held)

    def _holdings(self, entry: Entry) -> dict[str, Holding]:
        """The holdings of all models that hold memory, and of ``entry``."""
        found = {}
        for name in {**dict.fromkeys(self.ledger.holders), entry.name: None}:
            other = self.entries[str(name)]
            if other.needs:
                held = self.ledger.held(name)
                fixed = other.busy or other.leases > 0 or other.unloading
                pinned = min(other.pinned, held)
                kept = other.reserved is not None
                found[other.name] = Holding(other.needs, pinned, held - pinned, fixed, kept)
        return found

    # ---------------------------------------------------------------- pins (lock held)

    def unpin(self, entry: Entry) -> None:
        """Make a pinned model ordinary again."""
        self.pins.unpin(entry)
        self._pin_again()
        self.changed.notify_all()

    def _pin_again(self) -> None:
        """Load the pinned models that did not fit before, if they do now."""
        for entry in self.pins.pin_again():
            with suppress(RuntimeError):  # no thread can be started: the next request loads its weights
                self._runtime.spawn(partial(self.preload, entry.name, Future()))

    def _mark(self, shrinks: Sequence[Shrink], busy: bool) -> None:
        """Mark the models of ``shrinks`` as being changed by this thread, or as free again."""
        for shrink in shrinks:
            self.entries[shrink.name].busy = busy

    # ---------------------------------------------------------------- work, in threads of its own (lock not held)

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

    def _read_header(self, entry: Entry, flight: Flight) -> None:
        error: BaseException | None = None
        try:
            most = self.most(entry)
            measured = self.files.measure(entry.path, most)
        except BaseException as raised:
            error = strip(raised)
        with self.changed:
            if error is None:
                needs, entry.identity = measured
                entry.most = most
                self.entries.know(entry, needs)
                if entry.pin:  # its file may have been replaced
                    with suppress(PinError):
                        self.pins.pin(entry, needs)
                    self._pin_again()
            self._land(entry, error)

    def _load(self, entry: Entry, grant: Grant, flight: Flight) -> None:
        """Make the room that was granted, and open or resize the model."""
        error: BaseException | None = None
        resident, granted = entry.resident, False
        try:
            self._collect(entry, grant.shrinks, grant.total)
            if self.ledger.held(entry.name) >= grant.total:  # less if a model kept more than planned
                resident = self._opened(entry, grant)
                granted = True
        except BaseException as raised:
            error = strip(raised)
            if resident:
                with suppress(Exception):
                    resident.shut()
                resident = None
        with self.changed:
            held = self.ledger.held(entry.name)
            if resident is None:
                self._forget_open(entry)
                self.ledger.give_back(entry.name, held)
            else:
                entry.loads += entry.resident is None
                if entry.resident is not resident:
                    entry.resident, entry.counted, entry.timed = resident, 0, 0.0
                if granted:
                    self.ledger.give_back(entry.name, held - grant.total)
                    entry.budget, entry.pinned = grant.total, grant.pinned
            flight.granted = granted
            self._land(entry, error)

    def _opened(self, entry: Entry, grant: Grant) -> Resident:
        resident = entry.resident
        assert entry.needs
        assert entry.identity
        if resident and grant.pinned < entry.pinned and not _rested(resident, grant.pinned, entry.needs.least):
            with suppress(Exception):
                resident.shut()
            with self.changed:
                self._forget_open(entry)
            resident = None
        if resident is None:
            resident = self.files.open(entry.path, entry.identity, grant.total)
            resident.most, resident.grow = partial(self.most, entry), partial(self._grow, entry)
        else:
            resident.enlarge(grant.total)
        resident.lent = True
        return resident

    def _land(self, entry: Entry, error: BaseException | None) -> None:
        """End a load. Lock held."""
        flight = entry.flight
        assert flight
        entry.flight, entry.busy = None, False
        if isinstance(error, StaleHeaderError) and entry.replaced < _REPLACED:
            entry.replaced += 1
            error = None
            self.entries.know(entry, None)  # its header is read again
        if error is not None:
            self.failures += 1
            if entry.resident is None:
                self.entries.know(entry, None)
            entry.fail(error, self._runtime.now())
        elif flight.granted:
            entry.forget_failure()
            entry.leases += flight.waiters
        flight.done, flight.error = True, error
        if entry.resident and entry.leases == 0:
            self._to_idle(entry)
        self.settle(entry)
        self.changed.notify_all()

    def _collect(self, taker: Entry, shrinks: Sequence[Shrink], total: int) -> None:
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
        with self.changed:
            self._mark(shrinks, False)
            self.entries[shrinks[0].name].unloading = True
            for shrink in shrinks:
                self.settle(self.entries[shrink.name])
            self.changed.notify_all()

    def _shrink(self, taker: Entry, shrink: Shrink, total: int) -> None:
        victim = self.entries[shrink.name]
        kept = _shrunk(victim, shrink)
        with self.changed:
            gone = self.ledger.held(victim.name) - kept
            missing = max(0, total - self.ledger.held(taker.name))
            self.ledger.move(victim.name, taker.name, min(gone, missing))
            self.ledger.give_back(victim.name, gone - min(gone, missing))
            self.given_up += victim.pinned - min(kept, victim.pinned)
            victim.pinned, victim.busy = kept, False
            if kept and victim.resident:
                victim.budget = victim.resident.budget or 0
            else:
                self._forget_open(victim)
                self.evictions += 1
                self.policy.evicted(victim.name)
            self.settle(victim)
            self.changed.notify_all()

    def _forget_open(self, entry: Entry) -> None:
        """Note that its model is closed. Lock held."""
        entry.count_loaded()
        entry.resident, entry.counted, entry.timed, entry.pinned, entry.budget = None, 0, 0.0, 0, 0

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
                self._remove(entry)
            self.changed.notify_all()

    def _shut(self, entry: Entry) -> None:
        assert entry.resident
        with suppress(Exception):
            entry.resident.shut()
        with self.changed:
            self._forget_open(entry)
            self.ledger.give_back(entry.name, self.ledger.held(entry.name))
            self.entries.know(entry, None)  # a user may unload a model because its file was replaced
            entry.busy = False
            self.policy.evicted(entry.name)
            self.settle(entry)
            self.changed.notify_all()

    def _remove(self, entry: Entry) -> None:
        self.entries.remove(entry)
        self.policy.forget(entry.name)
        for name in self.past:
            self.past[name] += getattr(entry, name)
        self._pin_again()

    def most(self, entry: Entry) -> int:
        """The most bytes that ``entry`` can ever have, as things are."""
        with self.changed:
            return self.pins.capacity(entry)

    def _grow(self, entry: Entry, minimum: int, wait: bool = True) -> int:
        """Raise the budget of ``entry`` to at least ``minimum`` bytes during a call, in its thread; returns the budget.

        Unless it may ``wait`` for leased memory, the budget may be smaller: it then stays as it was.

        Raises:
            ModelTooLargeError, PoolBusyError: as `lease`.
        """
        try:
            self._take_for(entry, minimum, wait)
        finally:
            with self.changed:
                surplus = self.ledger.held(entry.name) - entry.budget
                if surplus > 0 and not entry.busy:  # a part of what was wanted; a thread that changes it settles all
                    self.ledger.give_back(entry.name, surplus)
                    self.changed.notify_all()
        return entry.budget

    def _take_for(self, entry: Entry, minimum: int, wait: bool) -> None:
        """As `_grow`. If the budget stays as it was, ``entry`` may hold more."""
        deadline = self._runtime.now() + self._timeout
        while True:
            with self.changed:
                if minimum > (most := self.pins.capacity(entry)):
                    raise too_large(entry, minimum, self.ledger.budget, most)
                while (shrinks := self._room_for(entry, minimum)) is None:
                    if not wait:
                        return
                    need = f"a call of {entry.name!r:.80} needs a budget of {minimum} bytes, and other memory is leased"
                    self._wait(deadline, f"{need}; gave up after the timeout of {self._timeout:g} s: try again later")
                missing = max(0, minimum - self.ledger.held(entry.name))
                self.ledger.take(entry.name, min(self.ledger.free, missing))
                self._mark(shrinks, True)
            self._collect(entry, shrinks, minimum)
            with self.changed:
                if self.ledger.held(entry.name) >= minimum:
                    entry.budget = self.ledger.held(entry.name)
                    return

    def _room_for(self, entry: Entry, total: int) -> tuple[Shrink, ...] | None:
        """The shrinks that give ``entry`` ``total`` bytes; None when idle models have too little. Lock held."""
        holdings = self._holdings(entry)
        missing = total - self.ledger.held(entry.name) - self.ledger.free
        idle = [name for name, holding in holdings.items() if name != entry.name and not holding.fixed]
        idle.sort(key=self.policy.worth)
        return make_room(holdings, idle, [name for name in idle if not holdings[name].kept], missing)

    def preload(self, name: str, future: Future[None]) -> None:
        """Lease a model and bring in the weights that it was granted. ``future`` gets None, or the error."""
        error: BaseException | None = None
        try:
            # The name may belong to another model since the prefetch was requested.
            entry = self.acquire(name, None, whole=True)
            with self.changed:
                entry.preloading += 1
            try:
                assert entry.resident
                entry.resident.preload()
            except BaseException as raised:
                error = strip(raised)
            finally:
                with self.changed:
                    entry.preloading -= 1
                self.release(entry, error)
        except BaseException as raised:
            error = strip(raised)
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _rested(resident: Resident, most: int | None, window: int) -> int:
    """Put an open model to rest; returns the bytes that it keeps. If 0, the caller closes it. No lock held."""
    try:
        return resident.rest(most, window)
    except Exception:  # any error: the caller closes the model, which frees its memory
        return 0


def _shrunk(victim: Entry, shrink: Shrink) -> int:
    """Shrink an idle model as ``shrink`` says, or close it; returns the bytes that it keeps. No lock held."""
    resident, needs = victim.resident, victim.needs
    assert resident
    assert needs
    most = shrink.pinned if shrink.pinned < resident.pinned else None
    kept = _rested(resident, most, needs.least) if shrink.pinned else 0
    if kept == 0 or kept > shrink.pinned:  # close it: the memory is promised to the model that waits for it
        with suppress(Exception):
            resident.shut()
        return 0
    return kept
