"""Results that need all rows of a plane, computed from rows that come one band after the other: see `Collects`.

Each row gives some numbers. Those of all rows of a channel are joined in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import streamrt._core as _core
from streamrt.ops.base import INT64, Array, Run
from streamrt.ops.scratch import Part, Scratch

_Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Collector:
    """Implements `Collects`.

    Attributes:
        height: rows of the plane.
        channels: of the plane.
        numbers: that each row gives.
        of_rows: computes them for rows (N, W), first in float32 (N, ``numbers``), then in float64.
        join: joins the numbers of two rows.
        finish: computes the result from the numbers (C, ``numbers``) of all rows, their count and their length.
    """

    height: int
    channels: int
    numbers: int
    of_rows: Callable[[Array, Array, _Doubles], None]
    join: np.ufunc
    finish: Callable[[_Doubles, int, int, Array], None]

    def scratch(self, rows: int) -> int:
        """See `Collects`."""
        return self._parts(rows)[1].nbytes

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8]) -> Run:
        """See `Collects`."""
        rows, channels, width = x.shape
        (state_part, new_part, double_part, single_part), _ = self._parts(rows)
        state, new, double = (part.of(memory).view(np.float64) for part in (state_part, new_part, double_part))
        single, lines = single_part.of(memory), x.reshape(rows * channels, width)
        apart = double.reshape(rows, channels, self.numbers)

        def run(_first: int, _last: int) -> None:
            self.of_rows(lines, single, double)
            self.join.reduce(apart, axis=0, out=new if first else state)
            if first:
                self.join(state, new, out=state)
            if first + rows == self.height:
                self.finish(state, self.height, width, y)

        return run

    @property
    def of_planes(self) -> Collector:
        """The same for whole planes: each is one row."""
        return replace(self, height=1)

    def _parts(self, rows: int) -> tuple[tuple[Part, ...], Scratch]:
        """The joined numbers, which stay, and those of a band in its channels, in its rows, and in float32."""
        scratch, numbers = Scratch(), self.numbers
        shapes = (self.channels, numbers), (self.channels, numbers), (rows * self.channels, numbers)
        doubles = [scratch.add(*shape, dtype=INT64) for shape in shapes]
        return (*doubles, scratch.add(rows * self.channels, numbers)), scratch


def means(channels: int, height: int, *, sums: bool = False) -> Collector:
    """The mean of each channel, or the sum."""

    def finish(state: _Doubles, rows: int, width: int, y: Array) -> None:
        np.multiply(state[:, 0], width if sums else 1 / rows, out=y.reshape(-1), casting="same_kind")

    return Collector(height, channels, 1, _row_means, np.add, finish)


def maxima(channels: int, height: int) -> Collector:
    """The largest value of each channel."""
    return Collector(height, channels, 1, _row_maxima, np.maximum, _as_they_are)


def minima(channels: int, height: int) -> Collector:
    """The smallest value of each channel."""
    return Collector(height, channels, 1, _row_minima, np.minimum, _as_they_are)


def moments(channels: int, height: int, groups: int, epsilon: float) -> Collector:
    """The mean, and ``1 / sqrt(variance + epsilon)``, of each of some groups of neighbouring channels."""

    def finish(state: _Doubles, rows: int, width: int, y: Array) -> None:
        mean, square = state.reshape(groups, -1, 2).mean(axis=1).T / rows
        deviation = np.sqrt(np.maximum(square - mean * mean, 0) + epsilon)
        y.reshape(2, groups)[:] = mean, 1 / deviation

    return Collector(height, channels, 2, _row_moments, np.add, finish)


def _as_they_are(state: _Doubles, rows: int, width: int, y: Array) -> None:
    y.reshape(-1)[:] = state[:, 0]


def _row_means(x: Array, single: Array, double: _Doubles) -> None:
    _core.row_mean(x, single.reshape(-1))
    np.copyto(double, single)


def _row_maxima(x: Array, single: Array, double: _Doubles) -> None:
    _core.row_max(x, single.reshape(-1))
    np.copyto(double, single)


def _row_minima(x: Array, single: Array, double: _Doubles) -> None:
    np.minimum.reduce(x, axis=1, out=single.reshape(-1))
    np.copyto(double, single)


def _row_moments(x: Array, single: Array, double: _Doubles) -> None:
    """The mean and the mean square of each row, in float64: the mean square alone would lose digits in float32."""
    _core.row_moments(x, single)
    mean, variance = single[:, 0], single[:, 1]
    double[:, 0] = mean
    np.multiply(double[:, 0], double[:, 0], out=double[:, 1])
    double[:, 1] += variance
