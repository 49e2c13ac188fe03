"""The time that reading and releasing blocks of 2 MiB take, step by step.

``beside`` says what another thread of the process does meanwhile. If it computes, unmapping pages has to interrupt its
processor. Only ``test_reading`` waits for a disk.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: Calls the function given to it many times, and records how long each takes.
Benchmark = Callable[..., Any]

BLOCK = 2 << 20
BLOCKS = 16
POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14


class File:
    """A mapped file of `BLOCKS` blocks. Each method does one step, such as reading, to the first ``count`` of them."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(BLOCKS * BLOCK))
        self._fd = os.open(path, os.O_RDONLY)
        os.fsync(self._fd)
        self.forget(BLOCKS)  # written pages are cached in small folios
        self._pages = mmap.mmap(self._fd, 0, prot=mmap.PROT_READ)
        for advice in (mmap.MADV_RANDOM, mmap.MADV_HUGEPAGE):
            self._pages.madvise(advice)

    def populate(self, count: int) -> None:
        for index in range(count):
            self._pages.madvise(POPULATE_READ, index * BLOCK, BLOCK)

    def unmap(self, count: int) -> None:
        self._pages.madvise(mmap.MADV_DONTNEED, 0, count * BLOCK)

    def forget(self, count: int) -> None:
        os.posix_fadvise(self._fd, 0, count * BLOCK, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        self._pages.close()
        os.close(self._fd)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    opened = File(tmp_path / "weights")
    yield opened
    opened.close()


@pytest.fixture(params=["alone", "computing"])
def beside(request: pytest.FixtureRequest) -> Iterator[None]:
    over = threading.Event()

    def compute() -> None:
        x = np.ones(1 << 20, np.float32)
        while not over.is_set():
            np.exp(x, out=np.empty_like(x))

    thread = threading.Thread(target=compute)
    if request.param == "computing":
        thread.start()
    yield
    over.set()
    if thread.ident:
        thread.join()


def steps(benchmark: Benchmark, step: Callable[[int], None], count: int, *before: Callable[[int], None]) -> None:
    """Measure one step on ``count`` blocks. The steps ``before`` are done anew each time, and not measured."""

    def setup() -> None:
        for each in before:
            each(count)

    benchmark.pedantic(step, (count,), setup=setup, rounds=100)


@pytest.mark.parametrize("count", [1, 4])
def test_reading(benchmark: Benchmark, file: File, count: int) -> None:
    steps(benchmark, file.populate, count, file.unmap, file.forget)


@pytest.mark.usefixtures("beside")
def test_mapping_cached_pages(benchmark: Benchmark, file: File) -> None:
    steps(benchmark, file.populate, 1, file.populate, file.unmap)


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("count", [1, 4, 16])
def test_unmapping(benchmark: Benchmark, file: File, count: int) -> None:
    steps(benchmark, file.unmap, count, file.populate)


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("count", [1, 4, 16])
def test_forgetting(benchmark: Benchmark, file: File, count: int) -> None:
    steps(benchmark, file.forget, count, file.populate, file.unmap)
