"""The peak of the multiply-add units: a loop in C that is compiled for this machine each time that it is measured."""

from __future__ import annotations

import ctypes
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.limits.compiled import loaded

_SOURCE = Path(__file__).with_name("fma.c")
#: Steps of every chain in one try: 2^17 steps of 24 chains take 1 ms where a cycle takes 0.3 ns and begins one. That is
#: shorter than a time slice, so that some tries run undisturbed on a machine that does other work, too.
_TURNS = 1 << 17
#: Seconds in which the threads try.
_SECONDS = 0.5
#: Bytes of the loop's result: the largest vector.
_RESULT = 64


def fma(file: str | None, threads: int) -> float | None:
    """Floating-point operations a second of all threads together; None if no C compiler builds the loop."""
    return _measured(threads, "-march=native")


def fma_avx2(file: str | None, threads: int) -> float | None:
    """As `fma`, with vectors of AVX2, which the processor must have; None also for other processors than x86-64."""
    return _measured(threads, "-mavx2", "-mfma")


def _measured(threads: int, *instructions: str) -> float | None:
    library = loaded(_SOURCE, *instructions)
    if library is None:
        return None
    loop = library.multiply_add
    loop.argtypes, loop.restype = (ctypes.c_long, ctypes.c_float, ctypes.c_void_p), ctypes.c_double

    def speed(until: float) -> float:
        """The fastest try of a thread, because noise only makes a try slower. The others compute all the while."""
        result, fastest = ctypes.create_string_buffer(_RESULT), 0.0
        while not fastest or time.perf_counter() < until:
            start = time.perf_counter()
            operations = loop(_TURNS, 0.5, result)
            fastest = max(fastest, operations / (time.perf_counter() - start))
        return fastest

    busy = min(threads, len(os.sched_getaffinity(0)))  # threads that share a processor add nothing to its speed
    with ThreadPoolExecutor(busy) as pool:
        return sum(pool.map(speed, [time.perf_counter() + _SECONDS] * busy))
