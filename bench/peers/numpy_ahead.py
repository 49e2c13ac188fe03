"""The strongest simple way: a memory map with huge pages, and a thread that brings pieces of it in ahead of NumPy.

Under a cap it keeps the first pieces, as many as fit, and releases the others behind it. The kernel by itself drops the
pages of a cyclic read just before they are needed again.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.models import Source, mlp
from bench.peers import Array, Opened, Setting, numpy_memmap

_MADV_POPULATE_READ = 22  # Linux 5.14 and later; the mmap module has no name for it
_PIECE = 32 << 20  # bytes: whole huge pages, and 10 ms or more of a disk
_AHEAD = 2  # pieces that are brought in before they are used
#: Bytes of a cap that no weights get: an interpreter with NumPy and its BLAS, and the caller's arrays.
_BESIDE = 96 << 20
_madvise = ctypes.CDLL(None, use_errno=True).madvise  # mmap's method keeps the interpreter's lock while it reads
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def kept(pieces: int, size: int, cap: int | None) -> int:
    """How many of ``pieces`` of ``size`` bytes stay in memory between passes, from the first on."""
    if cap is None:
        return pieces
    return min(pieces, max(0, (cap - _BESIDE) // size - _AHEAD - 1))


def _open(source: Source, folder: Path, setting: Setting) -> Opened:
    count, width = (shape := mlp.Shape.of(source)).layers, shape.width
    pages = np.memmap(mlp.weights_file(source), np.float32, "r")
    weights = pages[: count * width * width].reshape(count * width, width)  # the rows of all layers
    biases = pages[count * width * width :].reshape(count, width)
    rows = next(rows for rows in range(min(width, _PIECE // (4 * width)), 0, -1) if width % rows == 0)
    pieces = [weights[first : first + rows] for first in range(0, count * width, rows)]
    keep = kept(len(pieces), pieces[0].nbytes, setting.cap)
    file = os.open(mlp.weights_file(source), os.O_RDONLY)
    _advise(weights, mmap.MADV_HUGEPAGE)
    thread = ThreadPoolExecutor(1)

    def run(x: Array) -> Array:
        y, index = np.ascontiguousarray(x.T), 0
        coming = deque(thread.submit(_advise, piece, _MADV_POPULATE_READ) for piece in pieces[: _AHEAD + 1])
        for layer in range(count):
            out = np.empty((width, y.shape[1]), np.float32)
            for first in range(0, width, rows):
                coming.popleft().result()
                np.matmul(pieces[index], y, out=out[first : first + rows])
                if index >= keep:
                    _advise(pieces[index], mmap.MADV_DONTNEED)
                    os.posix_fadvise(file, 4 * width * rows * index, 4 * width * rows, os.POSIX_FADV_DONTNEED)
                index += 1
                coming += [thread.submit(_advise, it, _MADV_POPULATE_READ) for it in pieces[index + _AHEAD :][:1]]
            out += biases[layer][:, None]
            y = np.maximum(out, 0, out=out) if layer < count - 1 else out
        return y.T

    return Opened(run)


def _advise(piece: Array, advice: int) -> None:
    """Advise the kernel of the pages that hold ``piece``; the first and the last may hold more."""
    start = piece.ctypes.data - piece.ctypes.data % mmap.PAGESIZE
    if _madvise(start, piece.ctypes.data + piece.nbytes - start, advice) != 0:
        raise OSError(ctypes.get_errno(), "madvise")


PEERS = [replace(numpy_memmap.PEERS[0], name="numpy.memmap ahead", open=_open, optional=True)]
