"""The clock, the lock and the threads that a pool uses. Tests have a simulated world instead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

from streamrt.host.yielding import guest
from streamrt.pool.workers import Workers

#: Seconds of the longest single wait: one day. Python's locks refuse to wait for 300 years or for infinity.
LONGEST_WAIT = 86400.0


class Condition(AbstractContextManager[object], Protocol):
    """The part of `threading.Condition` that the pool uses. It is reentrant."""

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock until a thread notifies, for at most ``timeout`` seconds, and take it again."""

    def notify_all(self) -> None:
        """Wake all threads that wait."""


class Runtime:
    """The clock, locks and threads of the process."""

    def __init__(self) -> None:
        self._workers = Workers()

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()

    def condition(self) -> Condition:
        """A new condition, with a lock of its own."""
        return threading.Condition()

    def lock(self) -> AbstractContextManager[object]:
        """A new lock, which is not reentrant. No thread waits for anything else while it has it."""
        return threading.Lock()

    def spawn(self, work: Callable[[], None]) -> None:
        """Run ``work`` in a thread that gives way to calls, and does not keep the process from ending.

        No other work runs in that thread meanwhile.

        Raises:
            RuntimeError: no thread can be started.
        """
        self._workers.run(partial(_as_guest, work))


def _as_guest(work: Callable[[], None]) -> None:
    with guest:
        work()
