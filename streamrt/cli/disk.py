"""How fast a file can be read from its disk, measured without the core, and whether there is a disk at all."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from streamrt.host.memory import PROC

_CHUNK = 16 << 20  # where larger requests stop being faster on the disks that were tried
_MADV_POPULATE_READ = 22  # Linux 5.14; the mmap module does not name it
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}


def in_memory(folder: Path, proc: Path = PROC) -> bool:
    """Whether ``folder`` lies on a filesystem that is itself memory, where nothing can be read from a disk."""
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
    """Let the page cache forget a file: write back what is dirty, then drop every page that nobody has mapped."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_speed(path: Path, seconds: float = 2.0) -> tuple[float, str]:
    """Read ``path`` from start to end in three plain ways, each cold and for at most ``seconds``.

    Returns:
        Bytes per second of the fastest, and its name.

    Raises:
        OSError: the file cannot be read.
    """
    found = []
    for name, read in (("mapped", _populate), ("direct", _direct), ("pread", _pread)):
        drop_cache(path)
        with contextlib.suppress(OSError), path.open("rb") as file:
            # A filesystem or kernel that lacks one way leaves the others; pread works everywhere.
            found.append((read(file.fileno(), seconds), name))
    drop_cache(path)
    if not found:
        raise OSError(f"{path}: cannot be read")
    return max(found)


def _populate(fd: int, seconds: float) -> float:
    """Through a mapping, a chunk at a time, giving each back before the next."""
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED) as pages:

        def read(offset: int, length: int) -> int:
            pages.madvise(_MADV_POPULATE_READ, offset, length)
            pages.madvise(mmap.MADV_DONTNEED, offset, length)
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
            return length

        return _rate(read, len(pages), seconds)


def _direct(fd: int, seconds: float) -> float:
    """Past the page cache, into a buffer of its own."""
    direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, _CHUNK) as buffer:
            # A whole chunk is asked for even at the end: a direct read's length must be a multiple of the block.
            return _rate(lambda offset, _: os.preadv(direct, [buffer], offset), os.fstat(fd).st_size, seconds)
    finally:
        os.close(direct)


def _pread(fd: int, seconds: float) -> float:
    """Through the page cache, copied into a buffer."""
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
