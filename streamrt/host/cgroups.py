"""The cgroups of this process, v1 and v2: where their files are.

Every function that reads a pseudo file takes its folder as an argument, so that tests can pass a folder of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc")


def group_folders(controller: str, proc: Path = PROC) -> Iterator[tuple[int, Path]]:
    """``(version, folder)`` of each cgroup of the process with ``controller``, from its own up to the mount point."""
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
        elif controller in controllers.split(","):
            version = 1
        else:
            continue
        if (mount := _mount(mounts, version, controller)) is None:
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


def _mount(mounts: list[str], version: int, controller: str) -> tuple[str, Path] | None:
    """The path of the group that is mounted as the top of the hierarchy, and the folder of the mount."""
    for line in mounts:
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if (kind[0] == "cgroup2") if version == 2 else (kind[0] == "cgroup" and controller in kind[2].split(",")):
            return _unescape(fields[3]), Path(_unescape(fields[4]))
    return None


def _unescape(text: str) -> str:
    r"""Undo mountinfo's escapes: a space is written ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def number(path: Path) -> int | None:
    """The number in a file of one line; None if there is no file, or it says ``max``."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
