"""Results in mapped files. Where memory is short, rows are written to the file, and not through the mapping.

A page of a mapped file that is written takes memory until the kernel has written it to the disk. It is read before it
is written, with its neighbours. In a memory cgroup that is full, the kernel makes room with pages that passes need
again: those of pinned weights. Rows that are written to the file are never read. The kernel is told to write them to
the disk after some bands, and to drop them after later ones. Bands may have one row, and a disk takes as long for a
page as for many.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt.engine.inputs import Target
from streamrt.host import memory
from streamrt.host.cgroups import PROC

#: Memory is short if a result takes over half of what the process can still take. The kernel itself lets writers wait
#: when 20 % of that is to be written.
_SHORT = 2
#: Rows that the kernel has not been told to write take at most 1/16 of what the process can still take.
_HELD = 16
#: Where a mapping and writes to its file are the same pages. Over a network they may not be.
_LOCAL = frozenset({"ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs"})
#: The most buffers of one write: IOV_MAX of Linux.
_BUFFERS = 1024


@contextmanager
def in_files(results: Mapping[str, Target]) -> Iterator[dict[str, MappedRows]]:
    """Those of ``results``, arrays (1, C, H, W), that are written to their mapped files. They are closed at the end."""
    with ExitStack() as stack:
        found: dict[str, MappedRows] = {}
        for name, array in results.items():
            if (opened := _opened(array)) is not None:
                found[name] = stack.enter_context(opened)
        yield found


class MappedRows:
    """A result (1, C, H, W) that is mapped. Rows are read from the mapping, and written to the file.

    Args:
        array: is C-contiguous and float32, and shares the file.
        file: a descriptor of the file that can be written. It is closed at the end.
        begin: where the array begins in the file, in bytes.
        held: bytes of rows that may be in memory before the kernel is told to write them.
    """

    def __init__(self, array: NDArray[Any], file: int, begin: int, held: int) -> None:
        self._array, self._file, self._begin = array, file, begin
        _, channels, height, _ = array.shape
        self._step = max(1, held * height * channels // max(1, array.nbytes) // max(1, channels))  # rows

    def __enter__(self) -> MappedRows:
        return self

    def __exit__(self, *exception: object) -> None:
        self._forget(self._begin, self._begin + self._array.nbytes)
        os.close(self._file)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        return self._array[index]

    def __setitem__(self, index: tuple[slice, ...], rows: NDArray[Any]) -> None:
        """Write rows (1, C, R, W), or some columns of them.

        Raises:
            OSError: the file cannot be written, as on a full disk.
        """
        height, width = self._array.shape[2:]
        first, last, _ = index[2].indices(height)
        left, right, _ = index[3].indices(width) if len(index) > 3 else (0, width, 1)
        for channel, plane in enumerate(rows[0]):
            at = self._place(channel, first) + left * rows.itemsize
            if right - left == width:
                self._write([memoryview(row) for row in plane], at)
            else:
                for number, row in enumerate(plane):
                    self._write([memoryview(row)], at + number * width * rows.itemsize)
            if first // self._step < last // self._step or last == height:
                # Pages that have rows of another channel, or of a later band, stay.
                self._forget(self._place(channel, 0), self._place(channel, last))

    def _place(self, channel: int, row: int) -> int:
        """Where a row begins in the file, in bytes."""
        height, width = self._array.shape[2:]
        place: int = self._begin + (channel * height + row) * width * self._array.itemsize
        return place

    def _write(self, rows: Sequence[memoryview], at: int) -> None:
        for begin in range(0, len(rows), _BUFFERS):
            some = rows[begin : begin + _BUFFERS]
            size, done = sum(row.nbytes for row in some), os.pwritev(self._file, some, at)
            while done < size:  # a full disk writes a part, and then raises an error
                done += os.pwrite(self._file, b"".join(some)[done:], at + done)
            at += size

    def _forget(self, begin: int, end: int) -> None:
        """Begin to write whole pages to the disk, and drop those that have been written."""
        begin, end = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if begin < end:
            with suppress(OSError):  # a filesystem without this advice
                os.posix_fadvise(self._file, begin, end - begin, os.POSIX_FADV_DONTNEED)


def _opened(array: Target) -> MappedRows | None:
    """The rows of a result in a mapped file; None if it is none, or memory is not short, or the file is not found."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not array.flags.c_contiguous:
        return None
    owner = owner_of(array)
    room = _room()
    if owner is None or array.nbytes * _SHORT <= room or (place := _file_of(array)) is None:
        return None
    path, device, inode, begin = place
    try:
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    status = os.fstat(file)
    if (status.st_dev, status.st_ino) != (device, inode):  # another file has the name by now
        os.close(file)
        return None
    # Mapped pages cannot be dropped. A mapping that shares its file loses nothing: the file has its pages.
    first = address_of(array) - address_of(np.frombuffer(owner, np.uint8))
    inside = first % mmap.PAGESIZE
    with suppress(OSError):  # locked pages
        owner.madvise(mmap.MADV_DONTNEED, first - inside, inside + array.nbytes)
    return MappedRows(array, file, begin, int(room / _HELD))


def owner_of(array: NDArray[Any]) -> mmap.mmap | None:
    """The mapping of which an array is a view; None if there is none."""
    owner: object = array
    while isinstance(owner, (np.ndarray, memoryview)):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner if isinstance(owner, mmap.mmap) else None


def _room() -> float:
    """Bytes that the process can still take; infinity if that is not known."""
    try:
        return memory.available()
    except OSError:
        return math.inf


def _file_of(array: NDArray[Any], proc: Path = PROC) -> tuple[bytes, int, int, int] | None:
    """Path, device, inode and place in bytes of the file that has the array; None if the mapping is not shared with it.

    Other filesystems than `_LOCAL` give None, too.
    """
    first = address_of(array)
    try:
        mappings, mounts = (proc / "self" / "maps").read_bytes(), (proc / "self" / "mountinfo").read_bytes()
    except OSError:
        return None
    for line in mappings.splitlines():
        span, mode, offset, device, inode, *path = line.split(maxsplit=5)
        begin, end = (int(part, 16) for part in span.split(b"-"))
        if begin <= first and first + array.nbytes <= end and mode.startswith(b"rw") and mode.endswith(b"s") and path:
            major, minor = (int(part, 16) for part in device.split(b":"))
            if _kind(mounts, b"%d:%d" % (major, minor)) in _LOCAL:
                return path[0], os.makedev(major, minor), int(inode), int(offset, 16) + first - begin
    return None


def _kind(mounts: bytes, device: bytes) -> str:
    """The type of the filesystem of a device."""
    for line in mounts.splitlines():
        left, _, right = line.partition(b" - ")
        if device in left.split()[2:3]:
            return os.fsdecode(right.split()[0])
    return ""


def address_of(array: NDArray[Any]) -> int:
    """Where the first element of an array is in memory."""
    address: int = array.__array_interface__["data"][0]
    return address
