"""Files whose content tells where it was read from, and ways to open them."""

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

#: Makes a file of so many bytes of ``content``: cold unless ``cold=False``, called ``name``.
MakeFile = Callable[..., Path]


def content(offset: int, length: int) -> bytes:
    """What the files hold there: the byte at offset o of page p is (o + 7 p) % 251."""
    return _pattern()[offset : offset + length].tobytes()


@cache
def _pattern() -> NDArray[np.uint8]:
    at = np.arange(16 << 20, dtype=np.uint32)  # as much as any test asks for
    return ((at + 7 * (at // PAGE)) % 251).astype(np.uint8)


def until(condition: Callable[[], bool]) -> None:
    """Waits for what another thread or the kernel does in its own time, but not for ever."""
    give_up = time.monotonic() + 60
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.001)
    assert condition()


def evict(path: Path) -> None:
    """Takes the file out of the page cache."""

    def drop() -> None:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def dropped() -> bool:
        drop()  # again: pages that the file system's journal still uses stay
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
