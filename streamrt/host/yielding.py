"""Background work gives way: it often releases the interpreter's lock while other threads call models.

A call needs the lock again after each kernel that ran without it. Python asks the thread that has the lock for it only
after `sys.getswitchinterval`, 5 ms by default. A small model could answer 50 times meanwhile. Opening and planning a
model is Python code that never waits. A thread that does this for a pool is a guest, and gives way.
"""

from __future__ import annotations

import math
import os
import threading
from time import perf_counter, sleep

#: Seconds for which a guest keeps the lock: 100 us, about the time in which a small model computes.
_STRETCH = 1e-4
#: Seconds for which a guest then asks to sleep: 1 us. The kernel makes it about 50 us, enough for another thread to
#: wake up. A guest that released the lock without sleeping would take it again before another thread was awake.
_HANDOVER = 1e-6


class _Guest(threading.local):
    """A context in which a thread gives way. It may be entered again inside itself."""

    def __init__(self) -> None:
        self.until = math.inf  # when this thread is to give way next, by `perf_counter`
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1
        self.until = perf_counter() + _STRETCH

    def __exit__(self, *raised: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.until = math.inf


class _Calling:
    """A context in which a thread calls a model, so that guests give way to it."""

    def __init__(self) -> None:
        self.threads: set[int] = set()  # each thread adds and removes its own identifier, in one step

    def __enter__(self) -> None:
        self.threads.add(threading.get_ident())

    def __exit__(self, *raised: object) -> None:
        self.threads.discard(threading.get_ident())


guest = _Guest()
calling = _Calling()
os.register_at_fork(after_in_child=calling.threads.clear)


def give_way() -> None:
    """Release the lock for a moment, if this thread is a guest that has had it for 100 us and others call models."""
    if perf_counter() > guest.until:
        if len(calling.threads) > (threading.get_ident() in calling.threads):
            sleep(_HANDOVER)
        guest.until = perf_counter() + _STRETCH
