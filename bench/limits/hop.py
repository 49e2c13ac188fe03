"""How far apart two processors are: the time in which a cache line gets from one to the other.

A host may run the processors of a virtual machine on cores that share a cache, or on cores that do not, and change that
at any moment. Threads that share the layers of a network then take up to 1.4 times as long.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

from bench.limits.compiled import loaded

_SOURCE = Path(__file__).with_name("hop.c")
#: Ways of one try: it takes 0.2 to 1 ms, which is shorter than a time slice.
_COUNT = 4096
#: The fastest try counts, because noise only makes a try slower.
_TRIES = 5


def hop() -> float | None:
    """Seconds of one way between the first and the last processor that this process may use.

    None with one processor, or if no C compiler builds the loop.
    """
    processors, library = sorted(os.sched_getaffinity(0)), _library()
    if len(processors) < 2 or library is None:
        return None
    library.hop.argtypes, library.hop.restype = (ctypes.c_int, ctypes.c_int, ctypes.c_long), ctypes.c_double
    found = min(library.hop(processors[0], processors[-1], _COUNT) for _ in range(_TRIES))
    return found if found > 0 else None


@cache
def _library() -> ctypes.CDLL | None:
    return loaded(_SOURCE, "-pthread")
