"""Memory cgroups for tests: a child of the group that the tests run in, v1 or v2, where one can be made."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamrt.memory import PROC, group_folders


@dataclass(frozen=True)
class Cgroup:
    """A group with a limit; ``path / "cgroup.procs"`` is where a process enters it."""

    path: Path
    version: int

    def peak(self) -> int:
        """The most that was charged to it, page cache included."""
        return int((self.path / ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")).read_text())

    def times_full(self) -> int:
        """How often the limit was met, so that the kernel had to reclaim."""
        if self.version == 1:
            return int((self.path / "memory.failcnt").read_text())
        events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
        return int(events["max"])


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[Cgroup]:
    """A group limited to ``limit`` bytes; the test is skipped, with the reason, where none can be made."""
    for version, folder in group_folders(PROC):
        path = folder / f"streamrt-test-{os.getpid()}"
        try:
            path.mkdir()
        except OSError as error:
            pytest.skip(f"cannot make a memory cgroup in {folder}: {error}")
        try:
            (path / ("memory.limit_in_bytes" if version == 1 else "memory.max")).write_text(str(limit))
            yield Cgroup(path, version)
        except FileNotFoundError as error:
            pytest.skip(f"the memory controller is not enabled for children of {folder}: {error}")
        finally:
            for _ in range(100):  # the last process may still be on its way out
                with contextlib.suppress(OSError):
                    path.rmdir()
                    break
                time.sleep(0.05)
        return
    pytest.skip("no memory cgroup hierarchy is mounted")
