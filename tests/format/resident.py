"""Bytes of a file that the page cache holds."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import numpy as np


def resident_bytes(path: Path) -> int:
    """Bytes of the pages of ``path`` in the page cache. The file must be ours, and must not be empty."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        view = np.frombuffer(mapping, np.uint8)
        pages = np.zeros(-(-view.size // mmap.PAGESIZE), np.uint8)
        failed = libc.mincore(
            ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(view.size), ctypes.c_void_p(pages.ctypes.data)
        )
        del view
    if failed:
        raise OSError(ctypes.get_errno(), "mincore failed", str(path))
    return int(np.count_nonzero(pages & 1)) * mmap.PAGESIZE
