"""The memory that a process may take beside its budget, and the cgroup with which tests limit it.

The processes that tests start import this module, too: it must import nothing but the standard library.
"""

from __future__ import annotations

import os
from pathlib import Path

MIB = 1 << 20


def slack(budget: int) -> int:
    """Bytes that a process may take beside a budget of ``budget`` bytes, counted from its base point.

    16 MiB, or 12.5 % of the budget if that is more. At the base point the process has imported its modules and run a
    model once. So the interpreter, NumPy, stacks of threads and buffers that are made once do not count.
    """
    return max(16 * MIB, budget // 8)


def enter(group: str) -> None:
    """Move this process into the memory cgroup in the folder ``group``, v1 or v2."""
    Path(group, "cgroup.procs").write_text(str(os.getpid()))


def limit(group: str, budget: int) -> int:
    """At the base point: limit the group to its present memory, the budget and slack. Returns the limit in bytes."""
    usage, bound = ("memory.usage_in_bytes", "memory.limit_in_bytes")
    if not Path(group, usage).exists():
        usage, bound = ("memory.current", "memory.max")
    allowed = int(Path(group, usage).read_text()) + budget + slack(budget)
    Path(group, bound).write_text(str(allowed))
    return allowed
