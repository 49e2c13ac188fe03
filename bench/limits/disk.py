"""Reading a file from end to end in three ways, with nothing else to do. The file is cold when each begins.

It is a file of its own. A host that caches what its guests read would answer for a model's file from its memory.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np

_CHUNK = 16 << 20  # bytes of a pread; larger requests are not faster
_HUGE = 2 << 20  # bytes of a huge page
_STRETCH = 256 << 20  # bytes for one measurement of the speed: 0.1 s of a fast disk
_MADV_POPULATE_READ = 22  # Linux 5.14 and later; the mmap module has no name for it
_DEPTH = 8  # direct reads in flight
_DIRECT_CHUNK = 4 << 20  # bytes of each


def make(file: Path, size: int) -> None:
    """Write ``size`` bytes of noise, which no disk compresses, unless the file has them."""
    if file.exists() and file.stat().st_size == size:
        return
    unfinished, noise = file.with_suffix(".unfinished"), np.random.default_rng(0)
    with unfinished.open("wb") as target:
        for at in range(0, size, _CHUNK):
            target.write(noise.bytes(min(_CHUNK, size - at)))
        os.fsync(target.fileno())
    unfinished.rename(file)


def mapped(file: str | None, threads: int) -> float:
    """Bytes a second into a mapping, one huge page at a time, each released at once, without any code of streamrt."""
    assert file
    with _mapping(file) as (source, pages):
        return _speed(source, pages, 0, len(pages))


def stretches(file: str) -> Iterator[float]:
    """The disk's present speed: bytes a second, as by `mapped`, of one stretch of the file after another, for ever."""
    with _mapping(file) as (source, pages):
        length = min(_STRETCH, len(pages))
        for index in count():
            start = index % (len(pages) // length) * length
            yield _speed(source, pages, start, start + length)


@contextmanager
def _mapping(file: str) -> Iterator[tuple[BinaryIO, mmap.mmap]]:
    with Path(file).open("rb") as source, mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as pages:
        for advice in (mmap.MADV_RANDOM, mmap.MADV_HUGEPAGE):  # a fault then reads exactly one huge page
            pages.madvise(advice)
        yield source, pages


def _speed(source: BinaryIO, pages: mmap.mmap, start: int, stop: int) -> float:
    began = time.perf_counter()
    for at in range(start, stop, _HUGE):
        length = min(_HUGE, stop - at)
        pages.madvise(_MADV_POPULATE_READ, at, length)
        pages.madvise(mmap.MADV_DONTNEED, at, length)
        os.posix_fadvise(source.fileno(), at, length, os.POSIX_FADV_DONTNEED)
    return (stop - start) / (time.perf_counter() - began)


def pread(file: str | None, threads: int) -> float:
    """Bytes a second by pread, which copies from the page cache."""
    assert file
    buffer = memoryview(bytearray(_CHUNK))
    with Path(file).open("rb", buffering=0) as source:
        start, read = time.perf_counter(), 0
        while got := os.preadv(source.fileno(), [buffer], read):
            read += got
        return read / (time.perf_counter() - start)


def direct(file: str | None, threads: int) -> float:
    """Bytes a second past the page cache, eight requests in flight."""
    assert file
    size = Path(file).stat().st_size
    descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT)
    buffers = [mmap.mmap(-1, _DIRECT_CHUNK) for _ in range(_DEPTH)]  # page-aligned, as O_DIRECT asks

    def read(lane: int) -> None:
        for at in range(lane * _DIRECT_CHUNK, size, _DEPTH * _DIRECT_CHUNK):
            if os.preadv(descriptor, [buffers[lane]], at) != min(_DIRECT_CHUNK, size - at):
                raise OSError(f"{file}: a direct read returned fewer bytes than it asked for")

    for buffer in buffers:
        buffer.write(bytes(_DIRECT_CHUNK))
    with ThreadPoolExecutor(_DEPTH) as lanes:
        start = time.perf_counter()
        list(lanes.map(read, range(_DEPTH)))
        return size / (time.perf_counter() - start)
