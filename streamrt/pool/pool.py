"""`ModelPool`: many models under one budget of bytes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Self

from streamrt.errors import InputError
from streamrt.host.budget import Budget, parse_budget
from streamrt.pool.adaptive import POLICIES
from streamrt.pool.entry import Entry, ModelStatus
from streamrt.pool.failure import told
from streamrt.pool.keeper import Keeper, no_thread, too_large
from streamrt.pool.lease import Lease
from streamrt.pool.policy import PolicyFactory
from streamrt.pool.resident import Files, WeightsFiles
from streamrt.pool.runtime import Runtime
from streamrt.pool.stats import PoolStats


class ModelPool:
    """Many models under one budget of bytes, which is a cache of their weights.

    A model is leased to be called. What of its weights is in memory stays there as long as it is worth more than what
    others would do with the memory; what is not streams through a small window while it computes, so that nobody is
    refused who can be served slowly. Any number of threads may use a pool and its models.

    Args:
        budget: bytes that weights, windows and workspaces of all models may take together, as `Model` takes it.
        policy: which weights are worth their memory: ``"adaptive"``, ``"gdsf"``, ``"lru"``, or a function that makes a
            `Policy` for a budget in bytes.
        timeout: seconds that a lease waits, unless it says otherwise.
        threads, io, verify: of every model, as `Model` takes them.

    Raises:
        InputError: an argument is not of these forms.
    """

    def __init__(
        self,
        budget: Budget = "auto",
        *,
        policy: str | PolicyFactory = "adaptive",
        timeout: float = 30.0,
        threads: int | None = None,
        io: str = "auto",
        verify: str | None = None,
        _files: Files | None = None,
        _runtime: Runtime | None = None,
    ) -> None:
        if isinstance(policy, str) and policy not in POLICIES:
            raise InputError(f"policy: expected one of {', '.join(POLICIES)} or a function, found {policy!r:.40}")
        if not timeout >= 0:
            raise InputError(f"timeout: expected seconds, found {timeout!r:.40}")
        size = parse_budget(budget)
        if size is None:
            raise InputError("budget: a pool needs bytes, a size such as '512MiB', a fraction or 'auto', found None")
        self._pid = os.getpid()
        self._runtime = _runtime or Runtime()
        self._files = _files or WeightsFiles(threads, io, verify)
        make = POLICIES[policy] if isinstance(policy, str) else policy
        self._keeper = Keeper(size, make(size), self._files, self._runtime, timeout)

    # ---------------------------------------------------------------- models

    @property
    def budget(self) -> int:
        """Bytes."""
        return self._keeper.ledger.budget

    def register(self, name: str, path: str | os.PathLike[str], pin: bool = False) -> None:
        """Make a model known. Its file is first read when it is asked for.

        With ``pin`` its weights are to stay in memory: the file's header is read now, and loading begins at once, in
        another thread; `index` tells how that went.

        Raises:
            InputError: the name is taken, or none.
            ModelTooLargeError: ``pin``, and it does not fit beside what is pinned already.
            FormatError, WeightsIOError: ``pin``, and the file is no weights file, or cannot be read.
            ModelClosedError: the pool is closed, or was made before a fork.
        """
        if not isinstance(name, str) or not name:
            raise InputError(f"name: expected a text, found {name!r:.40}")
        entry = Entry(name, os.fspath(path), pin)
        if pin:
            entry.needs, entry.identity = self._files.measure(entry.path)
        with self._keeper.changed:
            self._keeper.require_open()
            if name in self._keeper.entries:
                raise InputError(f"the pool has a model named {name!r:.80} already")
            if entry.needs and entry.needs.full > (most := self._keeper.capacity(entry)):
                raise too_large(entry, entry.needs.full, self.budget, most)
            self._keeper.entries[name] = entry
        if pin:
            self.prefetch(name)

    def unregister(self, name: str, wait: bool = True) -> None:
        """Forget a model. Nobody gets a new lease of it; its memory is given back when those that are there have ended.

        Args:
            name: of the model, which is free again when this has happened.
            wait: for that.

        Raises:
            UnknownModelError: there is none of that name.
            ModelClosedError: see `register`.
        """
        self._keeper.require_open()
        with self._keeper.changed:
            entry = self._keeper.entry(name)
            entry.removed = entry.unloading = True
            self._keeper.settle(entry)
            self._keeper.changed.notify_all()
            while wait and self._keeper.entries.get(name) is entry:
                self._keeper.changed.wait()

    def unload(self, name: str, wait: bool = True) -> None:
        """Give back all memory of a model when its leases have ended. The next lease loads it again.

        A model that could not be loaded is tried again at once by the next lease: its file may have been mended.

        Args:
            name: of the model.
            wait: for that. A thread that has a lease of it itself would wait for ever.

        Raises:
            UnknownModelError, ModelClosedError: see `unregister`.
        """
        self._keeper.require_open()
        with self._keeper.changed:
            entry = self._keeper.entry(name)
            entry.unloading = True
            self._keeper.settle(entry)
            self._keeper.changed.notify_all()
            while wait and entry.unloading and self._keeper.entries.get(name) is entry:
                self._keeper.changed.wait()

    def index(self) -> list[ModelStatus]:
        """State of every model, in the order in which they were registered."""
        with self._keeper.changed:
            return [self._status(entry) for entry in self._keeper.entries.values()]

    def stats(self) -> PoolStats:
        """What the pool holds and has done."""
        keeper = self._keeper
        with keeper.changed:
            entries = keeper.entries.values()
            for entry in entries:
                entry.count_loaded()
            return PoolStats(
                budget=keeper.ledger.budget,
                held=keeper.ledger.total,
                peak=keeper.ledger.peak,
                models=len(entries),
                open=sum(entry.resident is not None for entry in entries),
                leases=sum(entry.leases for entry in entries),
                requests=keeper.past["requests"] + sum(entry.requests for entry in entries),
                hits=keeper.past["hits"] + sum(entry.hits for entry in entries),
                loads=keeper.past["loads"] + sum(entry.loads for entry in entries),
                failures=keeper.failures,
                evictions=keeper.evictions,
                bytes_loaded=keeper.past["loaded"] + sum(entry.loaded for entry in entries),
                bytes_given_up=keeper.given_up,
                busy=keeper.busy,
            )

    # ---------------------------------------------------------------- leases

    @contextmanager
    def lease(self, name: str, timeout: float | None = None) -> Iterator[Lease]:
        """A context in which the model of that name can be called; all leases of it share its memory.

        It is never evicted meanwhile. Keep it short: what it holds nobody else can have.

        Args:
            name: of a registered model.
            timeout: seconds to wait for memory or for a load that somebody else began; None is the pool's.

        Raises:
            InputError: ``timeout`` is no number.
            UnknownModelError: there is none of that name.
            PoolBusyError: the time was over. All memory is leased, or the model is still loading.
            ModelTooLargeError: not even a window fits beside what is pinned; ``minimum`` is the smallest budget.
            FormatError, WeightsIOError: it cannot be loaded. It is tried again after a pause, which grows with every
                failure; until then everybody gets the same error, each as an object of their own without frames of
                others: its cause tells where it came from.
            ModelClosedError: see `register`.
        """
        if timeout is not None and math.isnan(timeout):
            raise InputError(f"timeout: expected seconds, found {timeout}")
        entry = self._keeper.acquire(name, timeout)
        end: Callable[[], None] | None = None
        error: BaseException | None = None
        try:
            assert entry.resident
            lease, end = entry.resident.lend()
            yield lease
        except BaseException as raised:
            error = raised
            raise
        finally:
            try:
                if end is not None:
                    end()
            finally:
                self._keeper.release(entry, error)
                error = None

    def prefetch(self, name: str) -> Future[None]:
        """Begin to load a model, in another thread. It counts as a request, and gets as much memory as one.

        Returns:
            A future that is done when what the model was granted is in memory, or has the error that a lease raises.

        Raises:
            UnknownModelError, ModelClosedError: see `unregister`.
        """
        self._keeper.require_open()
        with self._keeper.changed:
            self._keeper.entry(name)  # there is one
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        try:
            self._runtime.spawn(partial(self._keeper.preload, name, future))
        except RuntimeError:
            future.set_exception(no_thread(name))
        return future

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Refuse new leases, wait until those that are there have ended, and close all models. Idempotent."""
        if os.getpid() != self._pid:
            return  # the models belong to the parent
        with self._keeper.changed:
            self._keeper.closed = True
            for entry in list(self._keeper.entries.values()):
                entry.unloading = entry.removed = True
                self._keeper.settle(entry)
            self._keeper.changed.notify_all()
            while self._keeper.entries:
                self._keeper.changed.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        keeper = self._keeper
        state = "closed" if keeper.closed else f"{len(keeper.entries)} models, {keeper.ledger.total} bytes held"
        return f"<streamrt.ModelPool, budget {self.budget}, {state}>"

    def _status(self, entry: Entry) -> ModelStatus:
        entry.count_loaded()
        return ModelStatus(
            name=entry.name,
            path=entry.path,
            state=entry.state,
            reason="" if entry.error is None else told(entry.error),
            pin=entry.pin,
            leases=entry.leases,
            held=self._keeper.ledger.held(entry.name),
            weights=entry.needs.weights if entry.needs else None,
            requests=entry.requests,
            hits=entry.hits,
            loads=entry.loads,
            bytes_loaded=entry.loaded,
        )
