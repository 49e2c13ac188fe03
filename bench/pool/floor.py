"""The floor of a pool: the same misses as plain reads, and the same computing.

It replays one real run, request by request. A request for which the pool brought in ``n`` bytes becomes a plain read of
``n`` bytes of that model's file, in the same order. The time of the model's layers with all weights in memory is added.
So the floor decides nothing, plans nothing, opens and evicts nothing, and takes no lock.

The floor is fair to the pool: it reads no byte less than the pool did, so a policy that loads too much does not lower
it. Its reads are past the page cache (`O_DIRECT`) where the file system can do that, in large parts, into one buffer
that is in memory already. The same disk is asked in the same order in the same round. It is not a lower bound: a pool
that computes while it reads can be faster. The other way, the floor has an advantage: its layers compute again and
again with one model's weights, so that the processor's caches may hold small models.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from bench.pool import inside
from bench.process import pagecache

_PAGE = mmap.PAGESIZE  # direct reads begin and end at multiples of the device's blocks, which are not larger
_CHUNK = 16 << 20  # bytes of a read; larger reads are not faster
_CALLS = 5  # calls of a model whose median is its time


def floor(paths: Sequence[Path], widths: Sequence[int], trace: Sequence[int], brought: Sequence[int]) -> dict[str, Any]:
    """Seconds of the floor, and of its two parts; ``brought`` has the bytes that each request of ``trace`` reads."""
    used = sorted(set(trace))
    computing = {index: _computing(paths[index], widths[index]) for index in used}
    pagecache.make_cold(paths[index] for index in used)
    before, reading = inside.from_device(), list[float]()
    with Reader() as reader:
        for index in used:
            reader.open(paths[index])
        for index, size in zip(trace, brought, strict=True):
            start = perf_counter()
            reader.read(paths[index], size)
            reading.append(perf_counter() - start)
            reader.forget(paths[index])
    times = [seconds + computing[index] for index, seconds in zip(trace, reading, strict=True)]
    return {
        "seconds": sum(times),
        "reading": sum(reading),
        "computing": sum(computing[index] for index in trace),
        "loaded": sum(brought),
        "device": inside.from_device() - before,
        "hit_ratio": sum(size == 0 for size in brought) / len(trace),
        "direct": reader.direct,
    } | inside.percentiles(times)


def _computing(path: Path, width: int) -> float:
    """Seconds of a call of the open model, with all weights in memory."""
    import streamrt

    x = inside.ones([width])[width]
    with streamrt.Model(path, None) as model:
        for _ in range(2):  # the first call loads the weights; after it, the plan may be made anew
            model(x)
        times = []
        for _ in range(_CALLS):
            start = perf_counter()
            model(x)
            times.append(perf_counter() - start)
    return median(times)


class Reader:
    """Reads files from their beginning into one buffer.

    Attributes:
        direct: whether all files are read past the page cache.
    """

    def __init__(self) -> None:
        self.direct = True
        self._files: dict[Path, tuple[int, int]] = {}  # descriptor and bytes
        self._buffer = mmap.mmap(-1, _CHUNK)  # page-aligned, as O_DIRECT asks
        self._buffer.write(bytes(_CHUNK))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor, _ in self._files.values():
            os.close(descriptor)
        self._buffer.close()

    def open(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            descriptor, self.direct = os.open(path, os.O_RDONLY), False
        self._files[path] = descriptor, os.fstat(descriptor).st_size

    def read(self, path: Path, size: int) -> None:
        """Read ``size`` bytes, rounded up to pages. After the end of the file it goes on at the beginning.

        Raises:
            OSError: the file cannot be read, or became shorter.
        """
        descriptor, end = self._files[path]
        for at, length in parts(size, end):
            with memoryview(self._buffer)[: -(-length // _PAGE) * _PAGE] as buffer:
                if os.preadv(descriptor, [buffer], at) < length:
                    raise OSError(f"{path}: a read returned fewer bytes than it asked for")

    def forget(self, path: Path) -> None:
        """Drop the file's pages, if it was read through the page cache."""
        if not self.direct:
            os.posix_fadvise(self._files[path][0], 0, 0, os.POSIX_FADV_DONTNEED)


def parts(size: int, end: int) -> Iterable[tuple[int, int]]:
    """Offsets and lengths of the reads for ``size`` bytes of a file of ``end`` bytes."""
    at = 0
    while size > 0 and end > 0:
        length = min(size, _CHUNK, end - at)
        yield at, length
        size -= length
        at = (at + length) % end
