"""Memory cgroups, v1 and v2: a child of the group that this process runs in, with a limit.

It uses only the standard library, because the driver must not import streamrt.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_numbers = itertools.count()


class NoCgroupError(OSError):
    """No memory cgroup can be made; the text has the reason."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A group with a limit; a process enters it by writing to `procs`."""

    path: Path
    version: int

    @property
    def procs(self) -> Path:
        return self.path / "cgroup.procs"

    def peak(self) -> int | None:
        """The most bytes ever charged to it, page cache included; None on kernels whose v2 has no ``memory.peak``."""
        try:
            return int((self.path / ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")).read_text())
        except FileNotFoundError:
            return None

    def kills(self) -> int:
        """How many of its processes the kernel killed because the group had no memory left."""
        return self._number("memory.oom_control" if self.version == 1 else "memory.events", "oom_kill")

    def _number(self, file: str, key: str) -> int:
        lines = (line.split() for line in (self.path / file).read_text().splitlines())
        return int(dict(line for line in lines if len(line) == 2).get(key, 0))


def own_peak() -> int | None:
    """The most bytes ever charged to the group that this process is in; None if the kernel does not tell."""
    try:
        version, path = _own_group(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    except NoCgroupError:
        return None
    return Cgroup(path, version).peak()


@contextlib.contextmanager
def memory_cgroup(limit: int | None) -> Iterator[Cgroup]:
    """A group limited to ``limit`` bytes, or without a limit for None; removed at the end.

    Raises:
        NoCgroupError: no group can be made in either hierarchy.
    """
    version, own = _own_group(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    parent = own if version == 1 else _delegating(own)
    path = parent / f"streamrt-bench-{os.getpid()}-{next(_numbers)}"
    try:
        path.mkdir()
    except OSError as error:
        raise NoCgroupError(f"cannot make a memory cgroup in {parent}: {error.strerror}") from error
    try:
        try:
            _limit(path, version, limit)
        except OSError as error:
            raise NoCgroupError(f"cannot limit the memory of children of {parent}: {error.strerror}") from error
        yield Cgroup(path, version)
    finally:
        for _ in range(200):  # the last process may still be ending
            with contextlib.suppress(OSError):
                path.rmdir()
                break
            time.sleep(0.05)


def _limit(path: Path, version: int, limit: int | None) -> None:
    """Set the limit, and forbid swap, because with swap the group could hold more."""
    if version == 2:
        (path / "memory.max").write_text("max" if limit is None else str(limit))
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap accounting
            (path / "memory.swap.max").write_text("0")
    else:
        (path / "memory.limit_in_bytes").write_text("-1" if limit is None else str(limit))
        (path / "memory.swappiness").write_text("0")


def _delegating(folder: Path) -> Path:
    """The nearest v2 group from ``folder`` up that gives its children the memory controller.

    A group that holds processes cannot do so. The group of this process therefore seldom does.
    """
    for group in (folder, *folder.parents):
        try:
            if "memory" in (group / "cgroup.subtree_control").read_text().split():
                return group
        except OSError:
            break
    raise NoCgroupError(f"the memory controller is not enabled for children of {folder} or of any group above it")


def _own_group(own: str, mounts: str) -> tuple[int, Path]:
    """The version and folder of this process's memory cgroup. If both versions are mounted, v1 has the controller.

    ``own`` and ``mounts`` are the contents of ``/proc/self/cgroup`` and ``/proc/self/mountinfo``.
    """
    memberships = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            memberships[2 if controllers == "" else 1] = PurePosixPath(path)
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        kind, *_, options = right.split()  # the mount's source, between the two, may be empty
        version = {"cgroup": 1, "cgroup2": 2}.get(kind)
        if version not in memberships or (version == 1 and "memory" not in options.split(",")):
            continue
        if version == 2 and 1 in memberships:
            continue
        root, point = (re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field) for field in left.split()[3:5])
        inner = memberships[version]
        visible = inner.is_relative_to(root) and ".." not in inner.parts
        return version, Path(point) / (inner.relative_to(root) if visible else "")
    raise NoCgroupError("no memory cgroup hierarchy is mounted")
