"""Memory that the machine has and that this process holds, read from /proc and the memory cgroups.

Every function that reads a pseudo file takes its folder as an argument, so that tests can pass a folder of their own.
Linux only. Nothing here is cached, since all values change.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamrt.host.cgroups import PROC, group_folders, number

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
    for version, folder in group_folders("memory", proc):
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


def _read_v1(folder: Path) -> Group | None:
    most = number(folder / "memory.limit_in_bytes")
    usage = number(folder / "memory.usage_in_bytes")
    if most is None or usage is None or most >= _NO_LIMIT:
        return None
    return Group(folder, most, usage, _stat(folder, "total_active_file", "total_inactive_file"))


def _read_v2(folder: Path) -> Group | None:
    limits = [number(folder / name) for name in ("memory.max", "memory.high")]
    usage = number(folder / "memory.current")
    known = [value for value in limits if value is not None]
    if not known or usage is None:
        return None
    return Group(folder, min(known), usage, _stat(folder, "active_file", "inactive_file"))


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
