"""How long a pool holds its locks, by locks that measure it. Only this process has such locks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np

from bench.pool.inside import Registered
from streamrt.pool.runtime import Condition, Runtime


class TimedLock:
    """A lock that notes for how long it was held. If it is reentrant, only the outermost entry and the last exit count.

    Args:
        inner: the lock that it passes everything on to.
        held: gets the seconds, one number each time that the lock is given back.
    """

    def __init__(self, inner: AbstractContextManager[object], held: list[float]) -> None:
        self._lock, self._held = inner, held
        self._depth, self._since = 0, 0.0  # guarded by the lock itself

    def __enter__(self) -> object:
        entered = self._lock.__enter__()
        if self._depth == 0:
            self._since = perf_counter()
        self._depth += 1
        return entered

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._depth -= 1
        if self._depth == 0:
            self._held.append(perf_counter() - self._since)
        return self._lock.__exit__(kind, error, trace)


class TimedCondition(TimedLock):
    """A condition that notes for how long its lock was held. Waits are not included."""

    def __init__(self, inner: Condition, held: list[float]) -> None:
        super().__init__(inner, held)
        self._inner = inner

    def wait(self, timeout: float | None = None) -> bool:
        self._held.append(perf_counter() - self._since)
        depth, self._depth = self._depth, 0
        try:
            return self._inner.wait(timeout)
        finally:
            self._depth, self._since = depth, perf_counter()

    def notify_all(self) -> None:
        self._inner.notify_all()


class TimedRuntime(Runtime):
    """The runtime of a pool, with locks that measure; ``held`` has the seconds of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[float] = []

    def condition(self) -> Condition:
        return TimedCondition(super().condition(), self.held)

    def lock(self) -> AbstractContextManager[object]:
        return TimedLock(super().lock(), self.held)


def held(registered: Registered, trace: Sequence[int], callers: Sequence[int]) -> dict[str, Any]:
    """Seconds that a lock of the pool is held each time, by number of callers, which share the requests of a trace.

    The lock is the pool's or its policy's. Among these are hits, misses, and loads in threads of the pool's own. The
    time includes that in which another thread has the interpreter or the processor, because other callers wait for the
    lock meanwhile, too.
    """
    runtime = TimedRuntime()
    with registered.pool(_runtime=runtime) as pool:
        request = registered.request(pool)
        found = {}
        for count in callers:
            runtime.held.clear()
            _share(request, trace, count)
            times = list(runtime.held)
            p50, p99 = np.percentile(times, (50, 99))
            found[str(count)] = {"median": float(p50), "p99": float(p99), "most": max(times), "count": len(times)}
    return found


def _share(request: Callable[[int], None], trace: Sequence[int], callers: int) -> None:
    """Make the requests of a trace in so many threads."""
    errors: list[BaseException] = []

    def work(which: int) -> None:
        try:
            for index in trace[which::callers]:
                request(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
