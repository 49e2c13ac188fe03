"""The machine's limits, with which the results are compared. They are measured between the results."""

from __future__ import annotations

from collections.abc import Callable

from bench.limits import disk, fma, processor

#: By name, a function of the file to read (only the disk's limits have one) and of the number of threads. It returns
#: bytes or operations a second, or None if this machine lacks the means to measure it.
LIMITS: dict[str, Callable[[str | None, int], float | None]] = {
    "disk, mapped": disk.mapped,
    "disk, pread": disk.pread,
    "disk, O_DIRECT": disk.direct,
    "DRAM": processor.dram,
    "sgemm": processor.sgemm,
    "fma": fma.fma,
    "fma avx2": fma.fma_avx2,
}

#: Limits of a way of streamrt: they are measured beside it only.
OF_A_WAY = {"fma avx2": "streamrt avx2"}

#: The limits that read a file.
OF_A_FILE = frozenset(name for name in LIMITS if name.startswith("disk"))
