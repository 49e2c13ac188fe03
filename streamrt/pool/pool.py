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
from streamrt.pool.keeper import Keeper
from streamrt.pool.lease import Lease
from streamrt.pool.policy import PolicyFactory
from streamrt.pool.refusals import no_thread
from streamrt.pool.resident import Files, WeightsFiles
from streamrt.pool.runtime import Runtime
from streamrt.pool.stats import PoolStats


class ModelPool:
    """Many models under one budget of bytes. The memory is a cache of their weights.

    A model is leased to be called. Its weights stay in memory while they are worth more than the weights of other
    models that need the memory. Weights that are not in memory stream through a small window while the model computes.
    So a request that can be served slowly is never refused. Any number of threads may use a pool and its models.

    Args:
        budget: bytes that weights, windows and workspaces of all models may take together. As for `Model`, but not
            None.
        policy: says which weights are worth their memory: ``"adaptive"``, ``"gdsf"``, ``"lru"``, or a function that
            makes a `Policy` for a budget in bytes.
        timeout: seconds that a lease waits if it has no timeout of its own.
        threads, io, verify: of every model, as for `Model`.

    Raises:
        InputError: an argument is not one of these values.
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
            raise InputError(f"timeout: expected seconds, 0 or more, found {timeout!r:.40}")
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
        """The budget in bytes."""
        return self._keeper.ledger.budget

    def register(self, name: str, path: str | os.PathLike[str], pin: bool = False) -> None:
        """Add a model. Its file is first read when the model is requested, unless it is pinned.

        With ``pin`` its weights are to stay in memory, as with `pin`. The file's header is then read now, and loading
        begins at once in another thread; `ModelPool.index` tells whether it succeeded.

        Raises:
            InputError: a model has this name already, or the name is not a text, or is empty.
            PinError: ``pin``, and the model does not fit beside the models that are pinned already.
            FormatError, WeightsIOError: ``pin``, and the file is not a weights file, or cannot be read.
            ModelClosedError: the pool is closed, or was made before a fork.
        """
        if not isinstance(name, str) or not name:
            raise InputError(f"name: expected a text that is not empty, found {name!r:.40}")
        entry = Entry(name, os.fspath(path))
        if pin:
            entry.most = self._keeper.memory.most(entry)
            entry.needs, entry.identity = self._files.measure(entry.path, entry.most)
        with self._keeper.changed:
            self._keeper.require_open()
            if name in self._keeper.entries:
                raise InputError(f"the pool has a model named {name!r:.80} already: unregister it, or use another name")
            if entry.needs:
                self._keeper.pins.pin(entry, entry.needs)
            self._keeper.entries.add(entry)
        if pin:
            self.prefetch(name)

    def pin(self, name: str) -> Future[None]:
        """Keep all weights of a model in memory from now on: they are loaded, and no other model takes their memory.

        Other models get the rest of the budget. A pinned model that is unloaded, or whose file was replaced, stays
        pinned: the next lease loads it again. If its new file does not fit beside other pinned models, it is served as
        an ordinary model until it fits (`ModelStatus.kept`).

        Returns:
            As `prefetch`. If loading fails or takes too long, the model is pinned nevertheless, and leases load it.

        Raises:
            PinError: it does not fit beside the models that are pinned already.
            FormatError, WeightsIOError: its file is not a weights file, or cannot be read.
            UnknownModelError, ModelClosedError: see `unregister`.
        """
        keeper = self._keeper
        while True:
            keeper.require_open()
            with keeper.changed:
                entry = keeper.entry(name)
                needs = entry.needs
            if needs is None:
                most = keeper.memory.most(entry)
                needs, identity = self._files.measure(entry.path, most)
                with keeper.changed:
                    if entry.needs is None and not entry.busy:
                        entry.identity, entry.most = identity, most
                        keeper.entries.know(entry, needs)
            with keeper.changed:
                if keeper.entry(name) is entry:
                    keeper.pins.pin(entry, entry.needs or needs)
                    break
        return self.prefetch(name)

    def unpin(self, name: str) -> None:
        """Make a pinned model an ordinary one. Its weights stay in memory until others need it.

        Raises:
            UnknownModelError, ModelClosedError: see `unregister`.
        """
        self._keeper.require_open()
        with self._keeper.changed:
            self._keeper.pins.unpin(self._keeper.entry(name))
            self._keeper.changed.notify_all()

    def unregister(self, name: str, wait: bool = True) -> None:
        """Remove a model. It gets no new leases, and its memory is given back when its leases have ended.

        Args:
            name: of the model. The name can be registered again after the memory was given back.
            wait: return after the memory was given back, instead of at once.

        Raises:
            UnknownModelError: no model has this name.
            ModelClosedError: see `register`.
        """
        self._keeper.require_open()
        with self._keeper.changed:
            entry = self._keeper.entry(name)
            entry.removed = entry.unloading = True
            self._keeper.giving.settle(entry)
            self._keeper.changed.notify_all()
            while wait and self._keeper.entries.get(name) is entry:
                self._keeper.changed.wait()

    def unload(self, name: str, wait: bool = True) -> None:
        """Give back all memory of a model when its leases have ended. The next lease loads it again.

        After a failed load, the next lease tries again at once, because the file may have been repaired.

        Args:
            name: of the model.
            wait: return after the memory was given back, instead of at once. A thread that has a lease of the model
                would wait for ever.

        Raises:
            UnknownModelError, ModelClosedError: see `unregister`.
        """
        self._keeper.require_open()
        with self._keeper.changed:
            entry = self._keeper.entry(name)
            entry.unloading = True
            self._keeper.giving.settle(entry)
            self._keeper.changed.notify_all()
            while wait and entry.unloading and self._keeper.entries.get(name) is entry:
                self._keeper.changed.wait()

    def index(self) -> list[ModelStatus]:
        """The state of every model, in the order in which they were registered."""
        with self._keeper.changed:
            return [self._status(entry) for entry in self._keeper.entries.values()]

    def holds(self, name: str) -> bool:
        """Whether a model is open, and its plan keeps all weights in memory: a lease of it probably reads nothing.

        They may still be on their way. This takes no lock, so it may be outdated at once.
        """
        entry = self._keeper.entries.get(name)
        resident = entry.resident if entry else None
        return resident is not None and resident.complete

    def stats(self) -> PoolStats:
        """Memory that the pool holds, and counts of its requests and loads."""
        keeper, counts = self._keeper, self._keeper.counts
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
                requests=counts.requests + sum(entry.requests for entry in entries),
                hits=counts.hits + sum(entry.hits for entry in entries),
                loads=counts.loads + sum(entry.loads for entry in entries),
                failures=counts.failures,
                evictions=counts.evictions,
                bytes_loaded=counts.loaded + sum(entry.loaded for entry in entries),
                bytes_given_up=counts.given_up,
                busy=counts.busy,
                pins=sum(entry.reserved is not None for entry in entries),
                pinned=sum(min(entry.pinned, keeper.ledger.held(entry.name)) for entry in entries if entry.reserved),
            )

    # ---------------------------------------------------------------- leases

    @contextmanager
    def lease(
        self, name: str, timeout: float | None = None, *, wanted: Callable[[], bool] | None = None
    ) -> Iterator[Lease]:
        """A context in which the model of this name can be called. All leases of a model share its memory.

        A leased model is never evicted. Keep leases short: other models cannot have its memory meanwhile.

        Args:
            name: of a registered model.
            timeout: seconds to wait for memory or for a load to end; None is the pool's timeout.
            wanted: tells whether anybody still wants the lease. It is asked every 0.1 s while the lease waits, under
                the pool's lock, so it must not wait for anything.

        Raises:
            InputError: ``timeout`` is not a number.
            UnknownModelError: no model has this name.
            PoolBusyError: the timeout has passed. All memory is leased, or the model is still loading. Or ``wanted``
                has said no.
            ModelTooLargeError: not even the smallest window fits beside the pinned models. ``minimum`` is the smallest
                budget of a pool that is enough.
            FormatError, WeightsIOError: it cannot be loaded. The load is tried again after a pause, which grows with
                every failure. Until then every lease raises this error, each time as a new object; its cause has the
                text of the first traceback.
            ModelClosedError: see `register`.
        """
        if timeout is not None and math.isnan(timeout):
            raise InputError(f"timeout: expected seconds, found {timeout}")
        entry = self._keeper.acquire(name, timeout, wanted)
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
        """Begin to load a model in another thread. It counts as a request, and gets as much memory as a lease.

        Returns:
            A future that is done when the weights that the model was granted are in memory. On failure it has the
            error that a lease raises.

        Raises:
            UnknownModelError, ModelClosedError: see `unregister`.
        """
        self._keeper.require_open()
        with self._keeper.changed:
            self._keeper.entry(name)  # raises if there is none
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        try:
            self._runtime.spawn(partial(self._keeper.preload, name, future))
        except RuntimeError:
            future.set_exception(no_thread(name))
        return future

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Refuse new leases, wait until all leases have ended, and close all models. A closed pool stays closed."""
        if os.getpid() != self._pid:
            return  # the models belong to the parent process
        with self._keeper.changed:
            self._keeper.closed = True
            for entry in list(self._keeper.entries.values()):
                entry.unloading = entry.removed = True
                self._keeper.giving.settle(entry)
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
            kept=entry.reserved is not None,
            leases=entry.leases,
            held=self._keeper.ledger.held(entry.name),
            weights=entry.needs.weights if entry.needs else None,
            requests=entry.requests,
            hits=entry.hits,
            loads=entry.loads,
            bytes_loaded=entry.loaded,
            identity=entry.identity if entry.resident else None,
        )
