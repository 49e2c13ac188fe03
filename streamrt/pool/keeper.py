"""Leases of the models of a `ModelPool`, and the line of the requests that wait for memory.

`streamrt.pool.memory` has the rules of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from streamrt.errors import ModelClosedError, PoolBusyError, UnknownModelError, WeightsIOError
from streamrt.pool.admission import Grant
from streamrt.pool.entry import Entry, Flight
from streamrt.pool.failure import anew, strip
from streamrt.pool.giving import Giving
from streamrt.pool.loads import Loads
from streamrt.pool.memory import Memory, Situation
from streamrt.pool.policy import Policy
from streamrt.pool.refusals import too_large
from streamrt.pool.resident import Files
from streamrt.pool.runtime import LONGEST_WAIT, Runtime

#: Seconds after which a request that waits asks its user again whether the lease is still wanted.
_ASK_AGAIN = 0.1


@dataclass(eq=False, slots=True)
class _Asker:
    """A request for a lease.

    Attributes:
        whole: whether it waits until all weights have room, because the model is pinned.
        flight: the load that it waits for, if any.
        counted: whether the request was counted, so that the policy knows of it or is to be told.
        untold: bytes of the model and seconds of reading them, which the policy is to be told now, without the lock.
        situation: in which a grant is to be decided now, without the lock.
        decided: the last such situation, with the grant.
    """

    whole: bool = False
    flight: Flight | None = None
    counted: bool = False
    untold: tuple[int, float] | None = None
    situation: Situation | None = None
    decided: tuple[Situation, Grant | None] | None = None

    @property
    def thinks(self) -> bool:
        """Whether there is something to do without the lock before it is told whether the request has to wait."""
        return self.untold is not None or self.situation is not None


class Keeper:
    """Gives leases of the models of a pool.

    Args:
        budget: bytes for all models.
        policy: says which weights are worth their memory.
        files: opens models.
        runtime: has the clock, the lock and the threads.
        timeout: seconds that a request waits by default.

    Attributes:
        memory: of the pool.
        changed, entries, pins, ledger, counts: those of ``memory``.
        giving: makes models give memory up, and closes them.
        closed: whether new leases are refused.
    """

    def __init__(self, budget: int, policy: Policy, files: Files, runtime: Runtime, timeout: float) -> None:
        self.memory = memory = Memory(budget, policy, runtime, self._load_pinned)
        self.changed, self.entries, self.pins = memory.changed, memory.entries, memory.pins
        self.ledger, self.counts = memory.ledger, memory.counts
        self.giving = Giving(memory, runtime, timeout)
        self.closed = False
        self._loads = Loads(memory, self.giving, files, runtime)
        self._runtime = runtime
        self._timeout = timeout
        self._pid = os.getpid()
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
        asker, leased = _Asker(whole), False
        entry: Entry | None = None
        try:
            while entry is None or not leased:
                with self.changed:
                    if entry is None:
                        entry = self.entry(name)
                        entry.requests += 1
                    while True:
                        idled = self.memory.idled
                        leased = self._lease_now(entry, asker)
                        if leased or asker.thinks:
                            break
                        self._wait(entry, asker, idled, limit, deadline, wanted)
                    if leased:
                        self._leave_line(asker)
                self._think(entry, asker)
            return entry
        except BaseException:
            if entry is not None:
                with self.changed:
                    self._give_up(entry, asker, leased)
            raise

    def _wait(
        self,
        entry: Entry,
        asker: _Asker,
        idled: int,
        limit: float,
        deadline: float,
        wanted: Callable[[], bool] | None,
    ) -> None:
        """Wait for a change, at most until a request's deadline; for ``idled`` see `Memory.wait`. Lock held."""
        asker.decided = None
        if wanted is not None and not wanted():
            raise PoolBusyError(f"the lease of the model {entry.name!r:.80} is not wanted any more")
        what = "is loading" if asker.flight else "waits for memory, all of which is leased"
        reason = f"the model {entry.name!r:.80} {what}; gave up after the timeout of {limit:g} s: try again later"
        longest = LONGEST_WAIT if wanted is None else _ASK_AGAIN
        self.memory.wait(deadline, reason, idled, longest, loads=asker.flight is not None)

    def _think(self, entry: Entry, asker: _Asker) -> None:
        """Tell the policy of a request, and decide a grant. Both take long, and other requests go on. Lock not held."""
        if asker.untold:
            untold, asker.untold = asker.untold, None
            self.memory.policy.requested(entry.name, *untold)
        if asker.situation:
            situation, asker.situation = asker.situation, None
            asker.decided = situation, self.memory.decided(situation)

    def _give_up(self, entry: Entry, asker: _Asker, leased: bool) -> None:
        """End a request with an error. Lock held."""
        self._leave_line(asker)
        if leased or (asker.flight and asker.flight.granted):  # interrupted: there is a lease that nobody holds
            self._end_lease(entry)
        elif asker.flight:
            asker.flight.waiters -= 1
        if asker.counted and entry.name not in self.entries:  # the policy was told of it after it was unregistered
            self.memory.policy.forget(entry.name)

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
            self._loads.read_header(entry)
            return False
        if not asker.counted:
            asker.counted = True
            entry.hits += entry.resident is not None and entry.resident.complete
            asker.untold = entry.needs.weights, entry.cost()
        if entry.leases and self._lacks_weights(entry, asker):
            self._leave_line(asker)  # it gets more weights once it is idle
            return False
        if entry.leases:
            entry.leases += 1
            return True
        if asker not in self._line:
            self._line.append(asker)
        if self._line[0] is asker:
            if self._grant(entry, asker):
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
            if self._line:
                self.changed.notify_all()

    def _grant(self, entry: Entry, asker: _Asker) -> bool:
        """Lease an idle model, or begin to load it if there is memory. Returns whether it is leased. Lock held.

        If it has to be decided how much memory it gets, this is left to `_think`, and then carried out by another call.
        """
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
        if asker.untold:  # it is worth more by this request
            return False
        grant = self.memory.freely(entry) or self._decided(entry, asker)
        if grant is None:
            return False
        self.memory.note(grant)
        if entry.resident and not grant.shrinks and grant.total == entry.budget:
            self.ledger.take(entry.name, grant.total - held)
            entry.pinned = grant.pinned
            self._lend(entry)
            return True
        self._loads.load(entry, grant)
        return False

    def _decided(self, entry: Entry, asker: _Asker) -> Grant | None:
        """The grant that `_think` decided. None if it has to decide now, or the request has to wait. Lock held."""
        if asker.decided is None:
            asker.situation = self.memory.situation(entry, self._gets_whole(entry, asker))
            return None
        (situation, grant), asker.decided = asker.decided, None
        if grant is None or not self.memory.lasts(situation, grant):
            # With the lock memory does not change meanwhile, or only by the collector: see `Memory.idled`.
            grant = self.memory.decided(self.memory.situation(entry, self._gets_whole(entry, asker)))
        return grant

    def _measure_again(self, entry: Entry) -> None:
        """Find the needs of an idle model anew: whether it runs in bands depends on what it can have. Lock held."""
        if entry.resident:
            entry.unloading = True  # its needs are forgotten when it is closed
            self.giving.settle(entry)
        else:
            self._loads.read_header(entry)

    def _lend(self, entry: Entry) -> None:
        assert entry.resident
        entry.resident.lent = True
        entry.leases += 1

    def release(self, entry: Entry, error: BaseException | None) -> None:
        """End a lease. ``error`` is the error with which its user left, or None."""
        if self.memory.policy.mine:  # the finalizer of an abandoned lease, which runs within the policy
            with suppress(RuntimeError):  # no thread can be started
                self._runtime.spawn(partial(self.release, entry, error))
                return
        unreadable = anew(error) if isinstance(error, WeightsIOError) else None
        with self.changed:
            if unreadable and entry.error is None:
                entry.fail(unreadable, self._runtime.now())  # the open file may have changed: it is opened again
            self._end_lease(entry)

    def _end_lease(self, entry: Entry) -> None:
        """Count a lease less, and settle the model after its last lease. Lock held.

        Requests whose models load are not woken: thousands of leases may end meanwhile, and callers need the processor.
        """
        entry.leases -= 1
        if entry.leases == 0:
            self.memory.to_idle(entry)
            self.giving.settle(entry)
            if self.memory.seekers:
                self.changed.notify_all()

    # ---------------------------------------------------------------- loading ahead of a lease

    def _load_pinned(self, entry: Entry) -> None:
        """Begin to load a pinned model, for which there is memory again. Lock held."""
        with suppress(RuntimeError):  # no thread can be started: the next request loads its weights
            self._runtime.spawn(partial(self.preload, entry.name, Future()))

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
