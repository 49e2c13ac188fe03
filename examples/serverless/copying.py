"""Copies a large file while memory is scarce."""

from __future__ import annotations

import os
from pathlib import Path

#: Bytes that are written before they are waited for. Written pages count as memory of the function until they are on
#: the disk, and a function that only writes could reach its limit with them.
_PART = 8 << 20


def copy(source: Path, target: Path) -> None:
    """Copy ``source`` to ``target``, which appears when it is complete. At most 16 MiB are in memory at any time.

    Raises:
        OSError: the source cannot be read, or there is no space for the target.
    """
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        with source.open("rb", buffering=0) as reading, unfinished.open("wb", buffering=0) as writing:
            begin = 0
            while part := reading.read(_PART):
                if writing.write(part) != len(part):
                    raise OSError(f"{target}: the file system took only a part of the model")
                os.fdatasync(writing.fileno())
                for file in (reading, writing):  # neither file is read again soon
                    os.posix_fadvise(file.fileno(), begin, len(part), os.POSIX_FADV_DONTNEED)
                begin += len(part)
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)
