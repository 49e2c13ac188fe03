"""Memory that the machine has and that this process holds, read from /proc and the memory cgroups.

Every function that reads a pseudo file takes its folder as an argument, so that tests can pass a folder of their own.
Linux only. Nothing here is cached, since all values change.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PROC = Path("/proc")

#: A limit of at least this many bytes counts as no limit. cgroup v1 writes "no limit" as the largest multiple of the
#: page size below 2**63, and no machine has 2**60 bytes.
_NO_LIMIT = 2**60


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes that a model and its process hold at one moment.

    Attributes:
        budget: the limit on ``weights + workspace``, or None.
        weights: weights that are in memory for the model now, pinned and streamed.
        workspace: activations and scratch.
        file_resident: bytes of the weights file in the page cache, including pages that other processes read. To a
            process that does not own the file the kernel reports every page as resident.
        anonymous: anonymous memory of the whole process (``RssAnon``), the workspace included.
    """

    budget: int | None
    weights: int
    workspace: int
    file_resident: int
    anonymous: int


@dataclass(frozen=True, slots=True)
class Group:
    """A memory cgroup that has a limit. Sizes are bytes, and include its descendants.

    Attributes:
        path: its folder.
        limit: the most that it may hold; for v2 the lower of ``memory.max`` and ``memory.high``.
        usage: memory that is charged to it, file cache included.
        reclaimable: the file cache in ``usage`` that the kernel can drop or write back. It is on the active or
            inactive file list, so it is neither tmpfs nor locked memory.
    """

    path: Path
    limit: int
    usage: int
    reclaimable: int

    @property
    def room(self) -> int:
        """Bytes that it can still take: ``limit - (usage - reclaimable)``, at least 0."""
        return max(0, self.limit - (self.usage - self.reclaimable))


def groups(proc: Path = PROC) -> list[Group]:
    """The memory cgroups, v1 and v2, that limit this process: its own and every visible ancestor."""
    found = []
    for version, folder in group_folders(proc):
        group = _read_v1(folder) if version == 1 else _read_v2(folder)
        if group is not None:
            found.append(group)
    return found


def limit(proc: Path = PROC) -> int:
    """The most memory, in bytes, that this process can ever have: the lowest limit or the machine's memory.

    Raises:
        OSError: /proc/meminfo cannot be read.
    """
    return min([_meminfo("MemTotal", proc), *(group.limit for group in groups(proc))])


def available(proc: Path = PROC) -> int:
    """Bytes that this process can still take now without swapping: the least room of any group or the machine.

    Raises:
        OSError: /proc/meminfo cannot be read.
    """
    return min([_meminfo("MemAvailable", proc), *(group.room for group in groups(proc))])


def anonymous_bytes(proc: Path = PROC) -> int:
    """Bytes of anonymous memory that this process has in RAM.

    Raises:
        OSError: /proc/self/status cannot be read, or has no line about it.
    """
    return _kilobytes(proc / "self" / "status", "RssAnon")


def group_folders(proc: Path) -> Iterator[tuple[int, Path]]:
    """``(version, folder)`` of each memory cgroup of the process, from its own up to the mount point."""
    try:
        memberships = os.fsdecode((proc / "self" / "cgroup").read_bytes()).splitlines()
        mounts = os.fsdecode((proc / "self" / "mountinfo").read_bytes()).splitlines()
    except OSError:
        return
    for line in memberships:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            version = 2
        elif "memory" in controllers.split(","):
            version = 1
        else:
            continue
        if (mount := _mount(mounts, version)) is None:
            continue
        root, point = mount
        inner = PurePosixPath(path)
        # In a container without a cgroup namespace the path may lie outside the mounted part of the hierarchy. The top
        # of the mount is then the nearest visible group.
        visible = inner.is_relative_to(root) and ".." not in inner.parts
        folder = point / inner.relative_to(root) if visible else point
        yield version, folder
        while folder != point:
            folder = folder.parent
            yield version, folder


def _mount(mounts: list[str], version: int) -> tuple[str, Path] | None:
    """The path of the group that is mounted as the top of the memory hierarchy, and the folder of the mount."""
    for line in mounts:
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if (kind[0] == "cgroup2") if version == 2 else (kind[0] == "cgroup" and "memory" in kind[2].split(",")):
            return _unescape(fields[3]), Path(_unescape(fields[4]))
    return None


def _unescape(text: str) -> str:
    r"""Undo mountinfo's escapes: a space is written ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _read_v1(folder: Path) -> Group | None:
    most = _number(folder / "memory.limit_in_bytes")
    usage = _number(folder / "memory.usage_in_bytes")
    if most is None or usage is None or most >= _NO_LIMIT:
        return None
    return Group(folder, most, usage, _stat(folder, "total_active_file", "total_inactive_file"))


def _read_v2(folder: Path) -> Group | None:
    limits = [_number(folder / name) for name in ("memory.max", "memory.high")]
    usage = _number(folder / "memory.current")
    known = [value for value in limits if value is not None]
    if not known or usage is None:
        return None
    return Group(folder, min(known), usage, _stat(folder, "active_file", "inactive_file"))


def _number(path: Path) -> int | None:
    """The number in a file of one line; None if there is no file, or it says ``max``."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _stat(folder: Path, *names: str) -> int:
    """The sum of the named lines of ``memory.stat``; a missing line counts as 0."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    values = dict(line.split(maxsplit=1) for line in lines if " " in line)
    return sum(int(values.get(name, 0)) for name in names)


def _meminfo(name: str, proc: Path) -> int:
    return _kilobytes(proc / "meminfo", name)


def _kilobytes(path: Path, name: str) -> int:
    """The value in bytes of a line ``Name:  123 kB``."""
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise OSError(f"{path} has no line {name!r}")
