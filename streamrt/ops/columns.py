"""Scratch memory of the kernels that multiply rows of weights with columns."""

from __future__ import annotations

import streamrt._core as _core
from streamrt.ops.scratch import Part, Scratch

#: The most floats of columns for one thread: 256 KiB, half of the smallest second-level cache.
_SEAT = 2**16
#: The most floats of columns for all threads together: 2 MiB, which counts as workspace. More threads than have the
#: floats that the kernel needs do not take part, so that the least budget does not grow with the processors: more than
#: 28 for products of 576 terms and more.
_SEATS = 2**19
#: Wake one more thread for each 2**20 multiply-adds of a product: for fewer, waking takes longer than it saves.
_SHARE = 2**20


def threads_for(terms: int) -> int:
    """The number of threads that take part in a product of ``terms`` multiply-adds."""
    return max(1, min(_core.threads(), terms // _SHARE))


def columns(scratch: Scratch, threads: int, inner: int, positions: int) -> Part:
    """Scratch memory (threads, floats) for ``positions`` columns of length ``inner``, a block of columns at a time.

    It has parts for at most ``threads`` threads.
    """
    block = min(inner, _core.CONV_DEPTH) * _core.CONV_COLUMNS
    threads = min(threads, _SEATS // block)
    most = block * -(-positions // _core.CONV_COLUMNS)
    return scratch.add(threads, max(min(_SEAT, _SEATS // threads, most), block))
