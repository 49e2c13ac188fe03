"""The speed of reading memory and of multiplying, by NumPy's BLAS."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

_TRIES = 7  # repetitions of a product; the fastest counts
_ROWS, _COLUMNS = 16384, 8192  # 512 MiB, far beyond any cache
_SIDE = 2048  # rows and columns of the matrices of the product: 16 MiB each


def dram(file: str | None, threads: int) -> float:
    """Bytes a second read from memory: the best of several matrix-vector products, which read each byte once."""
    matrix = np.ones((_ROWS, _COLUMNS), np.float32)
    vector, out = np.ones(_COLUMNS, np.float32), np.empty(_ROWS, np.float32)
    return matrix.nbytes / _best(lambda: np.matmul(matrix, vector, out=out), threads)


def sgemm(file: str | None, threads: int) -> float:
    """Floating-point operations a second of a large matrix product."""
    a, b = (np.ones((_SIDE, _SIDE), np.float32) for _ in range(2))
    out = np.empty_like(a)
    return 2 * _SIDE**3 / _best(lambda: np.matmul(a, b, out=out), threads)


def _best(work: Callable[[], object], threads: int) -> float:
    """Seconds of the fastest of several tries, because noise only makes a try slower."""
    times = []
    with threadpool_limits(threads):
        for _ in range(_TRIES):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
    return min(times)
