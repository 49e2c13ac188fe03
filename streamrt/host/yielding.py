"""Who should have the interpreter's lock: work in the background hands it on often while others call models.

A call needs the lock again after each kernel that ran without it. Whoever has it then is asked for it only after
`sys.getswitchinterval`, some milliseconds, in which a small model would have answered fifty times; and opening and
planning a model is Python that never waits for anything. Whoever does that for a pool is a guest, and gives way.
"""

from __future__ import annotations

import math
import os
import threading
from time import perf_counter, sleep

#: Seconds for which a guest keeps the lock: about as long as a small model computes.
_STRETCH = 1e-4
#: Seconds for which it then sleeps. They become some 50 us, which is what it takes to wake somebody up: who releases
#: the lock and takes it again at once has it before those who wait for it have noticed.
_HANDOVER = 1e-6


class _Guest(threading.local):
    """A context, which may be entered again, in which a thread gives way."""

    def __init__(self) -> None:
        self.until = math.inf  # when it is time to
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
        self.threads: set[int] = set()  # each adds and removes itself, in one step

    def __enter__(self) -> None:
        self.threads.add(threading.get_ident())

    def __exit__(self, *raised: object) -> None:
        self.threads.discard(threading.get_ident())


guest = _Guest()
calling = _Calling()
os.register_at_fork(after_in_child=calling.threads.clear)


def give_way() -> None:
    """Let others have the lock, if this thread is a guest that has had it for a while and others call models."""
    if perf_counter() > guest.until:
        if len(calling.threads) > (threading.get_ident() in calling.threads):
            sleep(_HANDOVER)
        guest.until = perf_counter() + _STRETCH
