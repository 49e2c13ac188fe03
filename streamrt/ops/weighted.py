"""Resampling along an axis as weighted sums of neighbouring values: cubic interpolation, and any with antialiasing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from streamrt.ops.base import Array

#: The weight of a value by its distance from the position, in steps of the kernel; 0 from its support on.
Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]
#: Where the values of the result lie along the input's axis, which may be between values.
Positions = Callable[[NDArray[np.float64]], NDArray[np.float64]]
#: Positions that are computed at once: 8 KiB as float64, so that the memory does not grow with the axis.
_PART = 1024


def linear(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights of linear interpolation; their support is 1."""
    weights: NDArray[np.float64] = np.maximum(1 - np.abs(distance), 0)
    return weights


def cubic(a: float, distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights of cubic interpolation with the coefficient ``a``; their support is 2."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


class Taps:
    """The values that a value of the result is made of, one after the other.

    Args:
        kernel: the weights.
        support: the distance from which on weights are 0, in steps of the kernel.
        scale: the extent of the result as a multiple of that of the input.
        antialias: whether the kernel is as wide as the values of the result lie apart, if that is wider.
        exclude_outside: whether values beyond the border count nothing; otherwise they are those at the border.
    """

    def __init__(
        self, kernel: Kernel, support: int, scale: float, antialias: bool = False, exclude_outside: bool = False
    ) -> None:
        self._kernel = kernel
        self._step = min(scale, 1.0) if antialias else 1.0
        self._exclude = exclude_outside
        reach = math.ceil(support / self._step)
        #: The first value and the one behind the last, counted from the value before the position.
        self.first, self.end = 1 - reach, 1 + reach

    def fill(self, positions: Positions, tap: int, extent: int, index: NDArray[np.intp] | None, weight: Array) -> None:
        """Write the indices of the values, if wanted, and their weights for each position of the result."""
        for first in range(0, len(weight), _PART):
            part = slice(first, min(first + _PART, len(weight)))
            at = positions(np.arange(part.start, part.stop, dtype=np.float64))
            place = np.floor(at) + tap
            weights = self._kernel((place - at) * self._step)
            if self._exclude:
                weights[(place < 0) | (place >= extent)] = 0
            weight[part] = weights
            if index is not None:
                index[part] = np.clip(place, 0, extent - 1)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.end))


def weighted(
    taps: Taps,
    axis: int,
    positions: Positions,
    source: Array,
    target: Array,
    other: Array,
    index: NDArray[np.intp],
    weight: Array,
    total: Array,
) -> Callable[[], None]:
    """The function that resamples ``source`` along ``axis`` to ``target``.

    ``other`` has the shape of ``target``. ``index``, ``weight`` and ``total`` have a value for each position.
    """
    along = (-1, *(1,) * (source.ndim - axis - 1))

    def run() -> None:
        total.fill(0)
        for tap in taps:
            taps.fill(positions, tap, source.shape[axis], None, weight)
            np.add(total, weight, out=total)
        target.fill(0)
        for tap in taps:
            taps.fill(positions, tap, source.shape[axis], index, weight)
            np.divide(weight, total, out=weight)
            np.take(source, index, axis, out=other, mode="clip")
            np.multiply(other, weight.reshape(along), out=other)
            np.add(target, other, out=target)

    return run
