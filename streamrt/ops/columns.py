"""Scratch memory of the kernels that multiply rows of weights with columns."""

from __future__ import annotations

import streamrt._core as _core
from streamrt.ops.scratch import Part, Scratch

#: Floats of columns that a thread is given: 256 KiB, half of the smallest second-level cache there is. With many
#: threads less, so that all have 2 MiB, but no less than the kernel needs.
_SEAT, _SEATS = 2**16, 2**19
#: Terms that are worth waking a thread for.
_SHARE = 2**20


def threads_for(terms: int) -> int:
    """How many threads take part in a product of so many terms."""
    return max(1, min(_core.threads(), terms // _SHARE))


def columns(scratch: Scratch, threads: int, inner: int, positions: int) -> Part:
    """Memory for ``positions`` columns of length ``inner``, which the threads work through in blocks."""
    depth = min(inner, _core.CONV_DEPTH)
    most = depth * -(-positions // _core.CONV_COLUMNS) * _core.CONV_COLUMNS
    return scratch.add(threads, max(min(_SEAT, _SEATS // threads, most), depth * _core.CONV_COLUMNS))
