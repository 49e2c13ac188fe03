"""Time, waiting and threads, as the pool uses them; tests put a simulated world in their place."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from streamrt.host.yielding import guest

#: Seconds for which a condition is waited for at a time, a day: locks refuse to wait for infinity, or for 300 years.
LONGEST_WAIT = 86400.0


class Condition(AbstractContextManager[object], Protocol):
    """What of `threading.Condition` the pool uses; reentrant."""

    def wait(self, timeout: float | None = None) -> bool:
        """Give the lock up until somebody notifies, but not for longer than ``timeout`` seconds."""

    def notify_all(self) -> None:
        """Wake everybody who waits."""


class Runtime:
    """The real thing."""

    def now(self) -> float:
        """Seconds, never backwards."""
        return time.monotonic()

    def condition(self) -> Condition:
        """A new one."""
        return threading.Condition()

    def spawn(self, work: Callable[[], None]) -> None:
        """Run ``work`` in a thread of its own, which gives way to callers and does not keep the process from ending.

        Unlike `threading.Thread.start` it does not wait until that thread runs: who spawns may have a lock.

        Raises:
            RuntimeError: no thread can be had.
        """
        _thread.start_new_thread(_as_guest, (work,))


def _as_guest(work: Callable[[], None]) -> None:
    with guest:
        work()
