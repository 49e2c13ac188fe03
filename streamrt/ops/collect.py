"""Results that need all rows of a plane, computed from rows that come one band after the other: see `Collects`.

A result has the same bits whichever bands the rows come in, and whether they come in bands at all. In strips of columns
the last bit of a sum may differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import streamrt._core as _core
from streamrt.ops.base import INT64, Array, Run, Shape
from streamrt.ops.scratch import Part, Scratch

#: Computes a result from the sums of all channels (C, numbers).
_Finish = Callable[[NDArray[np.float64], Array], None]


@dataclass(frozen=True, slots=True)
class Sums:
    """Results of the sum of each channel, or of that and the sum of squares (see `streamrt._core.plane_sums`).

    Attributes:
        shape: of the planes (C, H, W).
        numbers: of each channel: 1, or 3 with the sum of squares.
        finish: computes the result.
        in_parts: see `Collects`.
    """

    shape: Shape
    numbers: int
    finish: _Finish
    in_parts: bool = True

    @property
    def width(self) -> int:
        """See `Collects`."""
        return self.shape[2]

    @property
    def step(self) -> int:
        """See `Collects`."""
        return _core.rows_together(self.shape[2])

    @property
    def nbytes(self) -> int:
        """Bytes of scratch memory."""
        return self._state()[1].nbytes

    def scratch(self, rows: int) -> int:
        """See `Collects`."""
        return self.nbytes

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8], *, begins: bool, ends: bool) -> Run:
        """See `Collects`."""
        return self._bind(x.transpose(1, 0, 2), y, memory, begins, ends)

    def bind_whole(self, x: Array, y: Array, memory: NDArray[np.uint8]) -> Run:
        """Binds computing the result ``y`` of whole planes (C, H, W)."""
        return self._bind(x, y, memory, True, True)

    def _bind(self, x: Array, y: Array, memory: NDArray[np.uint8], begins: bool, ends: bool) -> Run:
        state = self._state()[0].of(memory).view(np.float64)

        def run(_first: int, _last: int) -> None:
            _core.plane_sums(x, state, begins)
            if ends:
                self.finish(state, y)

        return run

    def _state(self) -> tuple[Part, Scratch]:
        scratch = Scratch()
        return scratch.add(self.shape[0], self.numbers, dtype=INT64), scratch


def means(shape: Shape, *, sums: bool = False) -> Sums:
    """The mean of each channel, or the sum, of planes (C, H, W)."""
    divisor = 1 if sums else shape[1] * shape[2]

    def finish(state: NDArray[np.float64], y: Array) -> None:
        np.divide(state[:, 0], divisor, out=y.reshape(-1), casting="same_kind")

    return Sums(shape, 1, finish)


def moments(shape: Shape, groups: int, epsilon: float) -> Sums:
    """The mean, and ``1 / sqrt(variance + epsilon)``, of each of some groups of neighbouring channels."""

    def finish(state: NDArray[np.float64], y: Array) -> None:
        count = shape[0] // groups * shape[1] * shape[2]
        mean, square = state[:, :2].reshape(groups, -1, 2).sum(axis=1).T / count
        deviation = np.sqrt(np.maximum(square - mean * mean, 0) + epsilon)
        y.reshape(2, groups)[:] = mean, 1 / deviation

    return Sums(shape, 3, finish)


@dataclass(frozen=True, slots=True)
class Extremes:
    """The largest or the smallest value of each channel.

    Attributes:
        channels: of the planes.
        width: of the planes.
        of_rows: binds computing those of rows (N, W).
        join: finds that of several values.
        step, in_parts: see `Collects`.
    """

    channels: int
    width: int
    of_rows: Callable[[Array, Array], Run]
    join: np.ufunc
    step: int = 1
    in_parts: bool = True

    def scratch(self, rows: int) -> int:
        """See `Collects`."""
        return self._parts(rows)[1].nbytes

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8], *, begins: bool, ends: bool) -> Run:
        """See `Collects`. The result has the values of what was read so far."""
        rows, channels, width = x.shape
        (each_part, new_part), _ = self._parts(rows)
        each, new, found = each_part.of(memory), new_part.of(memory), y.reshape(-1)
        of_rows = self.of_rows(x.reshape(rows * channels, width), each.reshape(-1))

        def run(_first: int, _last: int) -> None:
            of_rows(0, 1)
            self.join.reduce(each, axis=0, out=found if begins else new)
            if not begins:
                self.join(found, new, out=found)

        return run

    def _parts(self, rows: int) -> tuple[tuple[Part, Part], Scratch]:
        """The values of each row of a band, and those of all its rows."""
        scratch = Scratch()
        return (scratch.add(rows, self.channels), scratch.add(self.channels)), scratch


def maxima(shape: Shape) -> Extremes:
    """The largest value of each channel of planes (C, H, W)."""
    return Extremes(shape[0], shape[2], _core.RowMax, np.maximum)


def minima(shape: Shape) -> Extremes:
    """The smallest value of each channel of planes (C, H, W)."""
    return Extremes(shape[0], shape[2], _row_minima, np.minimum)


def _row_minima(x: Array, y: Array) -> Run:
    def run(first: int, last: int) -> None:
        np.minimum.reduce(x, axis=1, out=y)

    return run
