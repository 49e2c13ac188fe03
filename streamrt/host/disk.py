"""How fast a disk delivers a file, measured without the core, and whether a folder lies on a disk at all."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from streamrt.host.cgroups import PROC

_CHUNK = 16 << 20  # bytes of one read: larger reads were no faster on the disks that were tried
_MADV_POPULATE_READ = 22  # Linux 5.14 and later; the mmap module has no name for it
#: Types of filesystems whose files are memory.
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}


def in_memory(folder: Path, proc: Path = PROC) -> bool:
    """Whether ``folder`` lies on a filesystem whose files are memory, so that reading one does not read a disk."""
    device = folder.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = (proc / "self" / "mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        found = re.match(r"\S+ \S+ (\S+) .* - (\S+)", line)
        if found and found[1] == name:
            return found[2] in _IN_MEMORY
    return False


def drop_cache(path: Path) -> None:
    """Empty the page cache of a file: write its dirty pages to the disk, then drop every page that is not mapped."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sequential_speed(path: Path, seconds: float = 2.0) -> tuple[float, str]:
    """Read ``path`` from its start in three ways, each with an empty page cache and for at most ``seconds``.

    Returns:
        Bytes per second of the fastest way, and the name of that way.

    Raises:
        OSError: the file cannot be read.
    """
    found = []
    for name, read in (("mapped", _populate), ("direct", _direct), ("pread", _pread)):
        drop_cache(path)
        with contextlib.suppress(OSError), path.open("rb") as file:
            # A filesystem or a kernel may not support one of the ways; pread works everywhere.
            found.append((read(file.fileno(), seconds), name))
    drop_cache(path)
    if not found:
        raise OSError(f"{path}: cannot be read, neither mapped nor by direct reads nor by pread")
    return max(found)


def _populate(fd: int, seconds: float) -> float:
    """Read through a mapping; each chunk is released before the next is read."""
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED) as pages:

        def read(offset: int, length: int) -> int:
            pages.madvise(_MADV_POPULATE_READ, offset, length)
            pages.madvise(mmap.MADV_DONTNEED, offset, length)
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
            return length

        return _rate(read, len(pages), seconds)


def _direct(fd: int, seconds: float) -> float:
    """Read into a buffer, past the page cache."""
    direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, _CHUNK) as buffer:
            # A direct read must ask for a multiple of the disk's block size, so the last read asks for a whole chunk.
            return _rate(lambda offset, _: os.preadv(direct, [buffer], offset), os.fstat(fd).st_size, seconds)
    finally:
        os.close(direct)


def _pread(fd: int, seconds: float) -> float:
    """Read through the page cache, which copies into a buffer."""
    buffer = memoryview(bytearray(_CHUNK))
    return _rate(lambda offset, length: os.preadv(fd, [buffer[:length]], offset), os.fstat(fd).st_size, seconds)


def _rate(read: Callable[[int, int], int], size: int, seconds: float) -> float:
    start = time.perf_counter()
    offset = 0
    while offset < size and time.perf_counter() - start < seconds:
        got = read(offset, min(_CHUNK, size - offset))
        if got <= 0:
            raise OSError("the file ends early")
        offset += got
    return offset / max(time.perf_counter() - start, 1e-9)
