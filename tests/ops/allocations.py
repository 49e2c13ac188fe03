"""Counts memory that is allocated, by an operator beside its scratch memory: NumPy reports it to tracemalloc."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

#: The most bytes that a call may allocate: views, tuples, and a buffer of 8192 values for each operand that NumPy
#: broadcasts.
BOUND = 96 << 10


@contextmanager
def bounded(what: str, bound: int = BOUND) -> Iterator[None]:
    """Fail if more than ``bound`` bytes are allocated at any moment inside the ``with`` statement.

    The garbage collector waits: it would run finalizers of objects of other tests, and what they allocate would count.
    """
    collecting = gc.isenabled()
    gc.disable()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        if collecting:
            gc.enable()
    assert peak - before < bound, f"{what} allocates {peak - before} bytes, expected < {bound}"
