"""The pages of files in the page cache: counting them, and dropping all of them."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterable
from pathlib import Path

_CACHESTAT = 451  # the number of the system call on all architectures except alpha; Linux 6.5
_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


class NotColdError(RuntimeError):
    """Pages of a file stay in the page cache: a process has them mapped, or the filesystem is memory."""


def cached_bytes(paths: Iterable[Path]) -> int:
    """Bytes of these files in the page cache, brought in by any process.

    For a file of another user the kernel does not report cached pages, and every page counts.

    Raises:
        OSError: it cannot be opened or looked at.
    """
    return sum(_cached(path) for path in paths if path.exists())


def make_cold(paths: Iterable[Path]) -> None:
    """Write back and drop every page of these files, and check that none is left.

    Raises:
        NotColdError: pages are left after several tries.
    """
    paths = [path for path in paths if path.exists()]
    for _ in range(20):
        for path in paths:
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        left = {path: size for path in paths if (size := _cached(path))}
        if not left:
            return
        time.sleep(0.05)  # a process that has them mapped may be ending
    others = f" and {len(left) - 1} other files" if len(left) > 1 else ""
    raise NotColdError(f"{sum(left.values())} bytes of {next(iter(left)).name}{others} stay in the page cache")


def _cached(path: Path) -> int:
    with path.open("rb") as file:
        extent = (ctypes.c_uint64 * 2)(0, 0)  # offset, and length 0 for the whole file
        counts = (ctypes.c_uint64 * 5)()  # cached, dirty, under writeback, evicted, recently evicted
        if _libc.syscall(_CACHESTAT, file.fileno(), ctypes.byref(extent), ctypes.byref(counts), 0) == 0:
            return counts[0] * _PAGE
        return _mincore(file.fileno())


def _mincore(fd: int) -> int:
    """Bytes in the page cache, on kernels without cachestat."""
    size = os.fstat(fd).st_size
    if size == 0:
        return 0
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as pages:
        flags = (ctypes.c_ubyte * -(-size // _PAGE))()
        start = ctypes.c_char.from_buffer(pages)  # ctypes takes the address of writable memory only
        try:
            address = ctypes.c_void_p(ctypes.addressof(start))
            if _libc.mincore(address, ctypes.c_size_t(size), flags) != 0:
                raise OSError(ctypes.get_errno(), "mincore")
        finally:
            del start
        return sum(flag & 1 for flag in flags) * _PAGE
