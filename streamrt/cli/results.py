"""Results that are written to a .npy file while they are computed, so that no memory holds them."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt.engine.foreign import Index
from streamrt.format.files import SETTLE_EVERY, Replacement


class NpyRows:
    """An array in a .npy file, to be the result of a call. It can only be written.

    Args:
        file: a new file; gets the header.
        shape: of the array.
        dtype: of the array.

    Raises:
        WeightsIOError: the file cannot be written, or has no space for the array.
    """

    def __init__(self, file: Replacement, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._file = file
        header = io.BytesIO()
        about = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, about)
        self._begin = len(header.getvalue())
        file.check_space(self._begin + math.prod(shape) * self.dtype.itemsize)
        file.write(header.getvalue(), 0)
        self._steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]  # elements of a step along each axis
        self._unsettled = 0

    def __getitem__(self, index: Index) -> NDArray[Any]:
        """The values are not read again."""
        raise io.UnsupportedOperation("these results can only be written")

    def __setitem__(self, index: Index, values: NDArray[Any]) -> None:
        """Write values, C-contiguous and of the array's type, in as few pieces as are contiguous in the file.

        Raises:
            WeightsIOError: the file cannot be written.
        """
        parts = () if index is ... else index if isinstance(index, tuple) else (index,)
        first = self._element(part.indices(extent)[0] for part, extent in zip(parts, self.shape, strict=False))
        partial = max((axis for axis, extent in enumerate(self.shape) if values.shape[axis] < extent), default=0)
        outer, inner = values.shape[:partial], values.shape[partial:]
        pieces = values.reshape(math.prod(outer), math.prod(inner)).view(np.uint8)
        for piece, place in zip(pieces, np.ndindex(outer), strict=True):
            self._file.write(piece.data, self._begin + (first + self._element(place)) * self.dtype.itemsize)
        self._unsettled += values.nbytes
        if self._unsettled >= SETTLE_EVERY:
            self._file.settle()
            self._unsettled = 0

    def _element(self, place: Iterable[int]) -> int:
        """The number of an element before which there are so many along the first axes."""
        return sum(count * step for count, step in zip(place, self._steps, strict=False))
