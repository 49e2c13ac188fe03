"""Arrays beside pages that cannot be touched, and a process that may die of touching them."""

from __future__ import annotations

import ctypes
import mmap
import os
import traceback
from collections.abc import Callable

import numpy as np

from streamrt import _core

PAGE = mmap.PAGESIZE
PROT_NONE = 0


class Fenced:
    """Makes arrays of ones that begin just after, or end just before, a forbidden page."""

    def __init__(self, at_end: bool) -> None:
        self.at_end = at_end
        self.memory: list[mmap.mmap] = []

    def __call__(self, *shape: int) -> np.ndarray:
        size = 4 * int(np.prod(shape))
        inside = -(-size // PAGE) * PAGE
        memory = mmap.mmap(-1, inside + 2 * PAGE)
        self.memory.append(memory)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for fence in (address, address + PAGE + inside):
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(fence), PAGE, PROT_NONE) == 0
        offset = PAGE + (inside - size if self.at_end else 0)
        array = np.frombuffer(memory, np.float32, size // 4, offset).reshape(shape)
        array[...] = 1
        return array


def planes_of(fenced: Fenced, channels: int, rows: int, width: int, gap: int) -> np.ndarray:
    """Planes with gaps between their rows. The gap at the fence is left out of the array."""
    memory = fenced(1, channels, rows, width + gap)
    return memory[..., gap:] if fenced.at_end else memory[..., :width]


def weights_in(fenced: Fenced, coding: tuple[str, int | None, bool], *shape: int) -> _core.Coded:
    """Weights of any bytes. They end at a fence only if they are whole floats."""
    dtype, block, zeros = coding
    inner = int(np.prod(shape[1:]))
    size = shape[0] * _core.row_bytes(dtype, inner, (block or inner) if dtype.startswith("int") else 0, zeros)
    return _core.Coded(fenced(-(-size // 4)).view(np.uint8)[:size], dtype, shape, block, zeros)


def exit_code_of(run: Callable[[], None]) -> int:
    """Run something in a child, which alone dies of a stray access, and return how the child ended; 0 is well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            code = 0
        except BaseException:
            traceback.print_exc()  # no exception passes from the child to the test
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
