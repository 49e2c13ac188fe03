"""Inputs in mapped files: rows that later bands read come from the disk while this band is computed.

A page of a mapped file that is not in memory is read when it is touched. The thread that copies rows to a line buffer
would wait for the disk once for each few pages, and no other thread has work until then. In a memory cgroup that is
smaller than its inputs, that happens in each pass.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt.engine.inputs import Source
from streamrt.engine.mapped import address_of, owner_of

#: Bytes of rows that are fetched at once, or the rows of a band if they have more: 1 ms of a disk of 1 GB/s, which is
#: ten times the time that a disk takes to begin.
_FETCHED = 1 << 20


def fetched_ahead(array: Source) -> Source | RowsAhead:
    """Rows of ``array``, (1, C, H, W), for a section. If it lies in a mapped file, they are fetched ahead."""
    if not isinstance(array, np.ndarray) or min(array.strides) <= 0 or (owner := owner_of(array)) is None:
        return array
    return RowsAhead(array, owner)


class RowsAhead:
    """An input (1, C, H, W) in a mapping, of which a section reads rows in their order.

    Args:
        array: has positive strides, in any order.
        owner: the mapping.
    """

    def __init__(self, array: NDArray[Any], owner: mmap.mmap) -> None:
        self._array, self._owner = array, owner
        self._start = address_of(array) - address_of(np.frombuffer(owner, np.uint8))
        self._least = _FETCHED * array.shape[2] // array.nbytes  # rows
        self._read = self._fetched = 0  # rows

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Rows, or some columns of them. Half of the rows that were fetched are left when the next are fetched."""
        height, width = self._array.shape[2:]
        first, last, _ = index[2].indices(height)
        left, right, _ = index[3].indices(width) if len(index) > 3 else (0, width, 1)
        if first < self._read:  # another strip or section begins
            self._fetched = 0
        ahead = max(last - first, self._least)
        if self._fetched < min(height, last + ahead // 2):
            begin, self._fetched = max(first, self._fetched), min(height, last + ahead)
            self._fetch(slice(begin, self._fetched), slice(left, right))
        self._read = last
        return self._array[index]

    def __setitem__(self, index: tuple[slice, ...], rows: NDArray[Any]) -> None:
        raise TypeError("an input is not written")

    def _fetch(self, rows: slice, columns: slice) -> None:
        """Let the kernel read pages that are not in memory. It does not wait for them."""
        part = self._array[0, :, rows, columns]
        begin = self._start + address_of(part) - address_of(self._array)
        # Axes, from the one whose elements are the farthest apart; those that leave no gaps are one span.
        axes = sorted(zip(part.strides, part.shape, strict=True))
        span = part.itemsize
        while axes and axes[0][0] <= max(span, mmap.PAGESIZE):
            stride, extent = axes.pop(0)
            span += stride * (extent - 1)
        for place in product(*(range(0, stride * extent, stride) for stride, extent in axes)):
            at = begin + sum(place)
            page = at // mmap.PAGESIZE * mmap.PAGESIZE
            with suppress(OSError):  # no file has the pages
                self._owner.madvise(mmap.MADV_WILLNEED, page, at + span - page)
