"""How much freed memory the C library keeps at the end of its heap."""

from __future__ import annotations

import ctypes
import os

#: Blocks of at least 4 MiB are mapped, and given back at once, unless a free part of the heap has room for them.
#: Smaller ones, such as most bodies, come from the heap.
_MAPPED = 4 << 20
#: Free memory at the end of the heap that is kept. If it were given back, every body would be read into new pages,
#: which the kernel has to clear: this took a third of the time of receiving 600 KB. Without `_MAPPED` and this, glibc
#: keeps twice the size of the largest block under 32 MiB that was freed.
_KEPT = 8 << 20
#: What is set, by the environment variable that a user may set instead: the number of glibc's parameter, and the value.
_PARAMETERS = {
    "MALLOC_ARENA_MAX": (-8, 1),  # a heap for each thread would keep free memory of its own
    "MALLOC_MMAP_THRESHOLD_": (-3, _MAPPED),
    "MALLOC_TRIM_THRESHOLD_": (-1, _KEPT),
}


def keep_little() -> None:
    """Bound the free memory that glibc keeps. Other C libraries are left as they are.

    Heaps that threads have already made stay.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    for variable, (parameter, value) in _PARAMETERS.items():
        if variable not in os.environ:
            mallopt(parameter, value)
