"""Inputs in mapped files: rows that later bands read come from the disk while this band is computed.

A page of a mapped file that is not in memory is read when it is touched. The thread that copies rows to a line buffer
would wait for the disk once for each few pages, and no other thread has work until then. In a memory cgroup that is
smaller than its inputs, that happens in each pass.
"""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt.engine.inputs import Source
from streamrt.engine.mapped import address_of, owner_of

#: Bytes that are fetched ahead, or the rows of a band: 1 ms of a disk of 1 GB/s, which takes 0.1 ms to begin.
_FETCHED = 1 << 20
#: Bytes of one request. The kernel cuts a larger one to what the disk takes at once, which is as little as this.
_REQUEST = 128 << 10
#: Rows that lie in more pieces are not fetched, because each request takes 2 us: columns may be the outermost axis.
_MOST_PIECES = 512


def fetched_ahead(array: Source) -> Source | RowsAhead:
    """Rows of ``array``, (1, C, H, W), for a section. If it lies in a mapped file, they are fetched ahead."""
    if not isinstance(array, np.ndarray) or min(array.strides[1:]) < 0 or (owner := owner_of(array)) is None:
        return array
    return RowsAhead(array, owner)


class RowsAhead:
    """An input (1, C, H, W) in a mapping, of which a section reads rows in their order.

    Args:
        array: has no negative strides; its axes may be in any order.
        owner: the mapping.
    """

    def __init__(self, array: NDArray[Any], owner: mmap.mmap) -> None:
        self._array, self._owner = array, owner
        self._start = address_of(array) - address_of(np.frombuffer(owner, np.uint8))
        self._read = self._fetched = 0  # rows

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Rows, or some columns of them. The next are fetched when half of those that were fetched ahead are read."""
        _, channels, height, width = self._array.shape
        first, last, _ = index[2].indices(height)
        left, right, _ = index[3].indices(width) if len(index) > 3 else (0, width, 1)
        if first < self._read:  # another strip or section begins
            self._fetched = 0
        ahead = max(last - first, _FETCHED // (channels * (right - left) * self._array.itemsize))
        if self._fetched < min(height, last + (ahead + 1) // 2):
            begin, self._fetched = max(first, self._fetched), min(height, last + ahead)
            self._fetch(slice(begin, self._fetched), slice(left, right))
        self._read = last
        return self._array[index]

    def __setitem__(self, index: tuple[slice, ...], rows: NDArray[Any]) -> None:
        raise TypeError("an input is not written")

    def _fetch(self, rows: slice, columns: slice) -> None:
        """Let the kernel read pages that are not in memory. It does not wait for the disk."""
        part = self._array[0, :, rows, columns]
        begin = self._start + address_of(part) - address_of(self._array)
        # Axes whose elements lie close together are one piece. Those that remain leave gaps of over a page.
        axes = sorted(zip(part.strides, part.shape, strict=True))
        size = part.itemsize
        while axes and axes[0][0] <= max(size, mmap.PAGESIZE):
            stride, extent = axes.pop(0)
            size += stride * (extent - 1)
        if math.prod(extent for _, extent in axes) > _MOST_PIECES:
            return
        for place in product(*(range(0, stride * extent, stride) for stride, extent in axes)):
            at = begin + sum(place)
            for start in range(at // mmap.PAGESIZE * mmap.PAGESIZE, at + size, _REQUEST):
                with suppress(OSError):  # no file has the pages
                    self._owner.madvise(mmap.MADV_WILLNEED, start, min(_REQUEST, at + size - start))
