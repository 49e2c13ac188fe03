"""Processors that this process may use: those it may run on, within the quota of its cgroups.

Under a quota of 1.5 processors a process may use 150 ms of processor time in each 100 ms, and is stopped until the next
period when that is used up.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import streamrt._core as _core
from streamrt.host.cgroups import PROC, group_folders, number


@cache
def usable_threads() -> int:
    """Threads that kernels use unless a caller limits them: the processors of the process, whole ones under a quota.

    The first call, at the end of this module, sets up the kernels for the quota: one thread for each processor of it,
    rounded up.
    """
    most = quota()
    if most < math.inf:
        _core.set_threads(min(_core.threads(), max(1, math.ceil(most))))
    return _core.threads()


def quota(proc: Path = PROC) -> float:
    """Seconds of processor time that this process may use in a second: the lowest quota of its cgroups, or infinity."""
    return min((_quota(version, folder) for version, folder in group_folders("cpu", proc)), default=math.inf)


def _quota(version: int, folder: Path) -> float:
    if version == 1:
        most, period = number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us")
    else:
        try:
            first, second = (folder / "cpu.max").read_text().split()
            most, period = None if first == "max" else int(first), int(second)
        except (OSError, ValueError):
            return math.inf
    return most / period if most and period and most > 0 and period > 0 else math.inf


usable_threads()  # so that kernels which run before a model is opened obey the quota, too
