"""The processor's caches."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@cache
def largest_cache(folder: Path = _CPUS) -> float:
    """Bytes of the largest cache of the first processor that this process may use; infinity if the system tells none.

    Several processors may share it.
    """
    first = min(os.sched_getaffinity(0))
    sizes = (_bytes(path) for path in (folder / f"cpu{first}" / "cache").glob("index*/size"))
    return max(sizes, default=0) or math.inf


def _bytes(path: Path) -> int:
    try:
        text = path.read_text().strip()
        return int(text.rstrip("KMG")) * _UNITS.get(text[-1:], 1)
    except (OSError, ValueError):
        return 0
