"""Processes that a test started, their children's children included; threads and open files of this process.

Threads that earlier tests left idle may end at any moment, and garbage of earlier tests may close its files. So a test
compares what is there with what was there before, and never their numbers.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def threads() -> set[int]:
    """Native ids of the threads of this process."""
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def descriptors() -> set[tuple[int, str]]:
    """The open descriptors of this process, each with the file that it is of."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of the folder that is listed
            found.add((int(path.name), str(path.readlink())))
    return found


def marked(mark: str) -> dict[int, str]:
    """Numbers and command lines of all processes that have ``mark`` in the environment that they started with."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended
            continue
    return found
