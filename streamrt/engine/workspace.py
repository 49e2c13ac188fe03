"""Memory for a workspace: activations and scratch of one program."""

from __future__ import annotations

import mmap
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from streamrt.program.arena import ALIGNMENT

#: A workspace of at least 1 MiB has a mapping of its own, so that the system gets the memory back when it is deleted.
#: The heap may keep freed memory; below 1 MiB that is little.
_MAPPED = 1 << 20


def new_workspace(size: int) -> NDArray[np.uint8]:
    """``size`` bytes that begin at a multiple of `ALIGNMENT`.

    Raises:
        MemoryError: there is no memory.
    """
    memory = _allocated(size + ALIGNMENT)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def _allocated(size: int) -> NDArray[np.uint8]:
    if size < _MAPPED:
        return np.empty(size, np.uint8)
    try:
        region = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(
            f"no memory for a workspace (activations and scratch) of {size} bytes: use a smaller batch or a budget"
        ) from error
    with suppress(OSError):  # advice that may fail; NumPy gives it for its arrays, too
        region.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(region, np.uint8)
