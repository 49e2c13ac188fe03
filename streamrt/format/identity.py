"""Which file a path leads to, and whether that file was changed or replaced later."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A file in the state in which it was found. Two identities are equal if the file is the same, and unchanged.

    A rewrite in place that keeps size and modification time is not noticed. Checksums tell contents apart.

    Attributes:
        device: number of the file's device.
        inode: number of the file on that device.
        size: bytes.
        modified: nanoseconds since the epoch.
    """

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Self:
        """The identity of the file that a path leads to.

        Raises:
            OSError: there is none.
        """
        return cls.of_status(Path(path).stat())

    @classmethod
    def of_status(cls, status: os.stat_result) -> Self:
        """The identity of the file that has this status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def is_at(self, path: str | os.PathLike[str]) -> bool:
        """Whether ``path`` leads to this file, unchanged; False if it leads to none."""
        try:
            return self == type(self).of(path)
        except OSError:
            return False
