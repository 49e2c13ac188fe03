"""Files whose bytes depend on their offsets, and functions that open them."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Mapping, Prefetcher

PAGE = mmap.PAGESIZE
BLOCK = 2 << 20

#: Makes a file ``name`` with ``size`` bytes of ``content``. Unless ``cold=False``, they are not in the page cache.
MakeFile = Callable[..., Path]


def content(offset: int, length: int) -> bytes:
    """The bytes of every file from ``offset`` on. The byte at offset o of the file, in page p, is (o + 7 p) % 251."""
    return _pattern()[offset : offset + length].tobytes()


@cache
def _pattern() -> NDArray[np.uint8]:
    at = np.arange(16 << 20, dtype=np.uint32)  # no test asks for more than 16 MiB
    return ((at + 7 * (at // PAGE)) % 251).astype(np.uint8)


def until(condition: Callable[[], bool], state: Callable[[], object] = str) -> None:
    """Waits until another thread or the kernel has made the condition true, but at most 60 s; then tells the state."""
    give_up = time.monotonic() + 60
    while not condition():  # once is enough: pages that are counted while they change may be counted twice
        assert time.monotonic() < give_up, state()
        time.sleep(0.001)


def cached(mapping: Mapping) -> list[int]:
    """The pages of a mapping that are in the page cache."""
    return [page for page in range(-(-mapping.size // PAGE)) if mapping.resident(page * PAGE, 1)]


def evict(path: Path) -> None:
    """Takes the file out of the page cache."""

    def drop() -> None:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def dropped() -> bool:
        drop()  # again, because pages stay while the file system's journal uses them
        with Mapping(path) as mapping:
            return mapping.resident() <= PAGE  # opening may read the first page

    fd = os.open(path, os.O_RDONLY)
    until(dropped)
    drop()
    os.close(fd)


@contextmanager
def opened(path: Path, io: str = "mmap") -> Iterator[tuple[Mapping, Prefetcher]]:
    """A mapping of the file and a prefetcher of it, closed afterwards."""
    with Mapping(path, io) as mapping, Prefetcher(mapping) as prefetcher:
        yield mapping, prefetcher
