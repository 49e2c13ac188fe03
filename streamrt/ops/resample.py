"""Resampling along axes: each value of the result is the nearest value of the input, or a weighted sum of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from streamrt.ops.base import Array, Run, Shape
from streamrt.ops.movement import copy_all
from streamrt.ops.scratch import Part, Scratch
from streamrt.ops.weighted import Taps, weighted

#: Maps positions along an axis of the result to positions along that axis of the input, which may lie between values.
Positions = Callable[[NDArray[np.float64]], NDArray[np.float64]]
#: Rounds positions that lie between values to positions of values.
Rounded = Callable[[NDArray[np.float64]], NDArray[np.float64]]
#: Positions that are computed at once: 8 KiB as float64, so that the memory does not grow with the axis.
_PART = 1024
#: The longest axis of which all positions are looked at when a node is bound. Looking takes 0.5 ms.
_MOST_COMPARED = 2**14
#: How the nearest value is found, by ONNX's names.
NEAREST: dict[str, Rounded] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis to resample.

    Attributes:
        axis: its index.
        count: its extent in the result.
        positions: where each value of the result lies in the input.
    """

    axis: int
    count: int
    positions: Positions


@dataclass(frozen=True, slots=True)
class _Step:
    """Resampling along one axis.

    Attributes:
        axis: its index.
        count: its extent in the result.
        last: the last position along it in the input.
        positions: where each value of the result lies in the input.
        between: memory for the result; None for the last axis, whose result is the node's output.
        other: memory for the second of two values to interpolate; None for the nearest value.
    """

    axis: int
    count: int
    last: int
    positions: Positions
    between: Part | None
    other: Part | None


class Resampler:
    """Resampling of arrays of ``shape`` along some axes, one after the other.

    Args:
        shape: of the input.
        axes: their order, and where the values of the result lie.
        rounded: takes the nearest value; None interpolates between two values, or by ``taps``.
        taps: of the axes along which more values count.

    Attributes:
        nbytes: of scratch memory.
    """

    def __init__(
        self, shape: Shape, axes: Sequence[Axis], rounded: Rounded | None, taps: Mapping[int, Taps] | None = None
    ) -> None:
        scratch, self._rounded, self._taps = Scratch(), rounded, taps or {}
        shares = 0 if rounded else 2 if taps else 1
        most = max(axis.count for axis in axes)
        # The index and the weights of each position of the result along an axis. They are computed for each axis in
        # every run, one part after the other.
        self._index = scratch.add(2 * most)  # 64 bits each
        self._shares = [scratch.add(most) for _ in range(shares)]
        self._steps = []
        for axis in axes:
            last = shape[axis.axis] - 1
            shape = (*shape[: axis.axis], axis.count, *shape[axis.axis + 1 :])
            between = scratch.add(*shape) if axis is not axes[-1] else None
            other = None if rounded else scratch.add(*shape)
            self._steps.append(_Step(axis.axis, axis.count, last, axis.positions, between, other))
        self.nbytes = scratch.nbytes

    def bind(self, source: Array, target: Array, memory: NDArray[np.uint8]) -> Run:
        """The function that resamples ``source`` to ``target`` with ``memory``, ``nbytes`` of scratch."""
        if self._is_repeated():
            return _repeat(source, target)
        runs = []
        for step in self._steps:
            into = target if step.between is None else step.between.of(memory)
            index = self._index.of(memory).view(np.intp)[: step.count]
            shares = [share.of(memory)[: step.count] for share in self._shares]
            if step.other is None:
                assert self._rounded is not None
                runs.append(_take(step, self._rounded, source, into, index))
            elif taps := self._taps.get(step.axis):
                other = step.other.of(memory)
                runs.append(weighted(taps, step.axis, step.positions, source, into, other, index, *shares))
            else:
                runs.append(_interpolate(step, source, into, step.other.of(memory), index, shares[0]))
            source = into

        def run(first: int, last: int) -> None:
            for resample in runs:
                resample()

        return run

    def _is_repeated(self) -> bool:
        """Whether every value is repeated equally often along each axis."""
        return self._rounded is not None and all(
            step.count <= _MOST_COMPARED and _is_repeated(step.count, step.last, step.positions, self._rounded)
            for step in self._steps
        )


@lru_cache(64)  # all bands of a picture have the same columns
def _is_repeated(count: int, last: int, positions: Positions, rounded: Rounded) -> bool:
    times, rest = divmod(count, last + 1)
    if rest:
        return False
    for first in range(0, count, _PART):
        part = np.arange(first, min(first + _PART, count))
        nearest = np.clip(rounded(positions(part.astype(np.float64))), 0, last)
        if not np.array_equal(nearest, part // times):
            return False
    return True


def _repeat(source: Array, target: Array) -> Run:
    single = [part for extent in source.shape for part in (extent, 1)]
    times = [part for pair in zip(source.shape, target.shape, strict=True) for part in (pair[0], pair[1] // pair[0])]
    return copy_all([(target.reshape(times), source.reshape(single))])


def _fill(step: _Step, rounded: Rounded, index: NDArray[np.intp], share: Array | None = None) -> None:
    for first in range(0, step.count, _PART):
        part = slice(first, min(first + _PART, step.count))
        at = step.positions(np.arange(part.start, part.stop, dtype=np.float64))
        whole = rounded(at)
        index[part] = np.clip(whole, 0, step.last)
        if share is not None:
            share[part] = at - whole


def _take(step: _Step, rounded: Rounded, source: Array, target: Array, index: NDArray[np.intp]) -> Callable[[], None]:
    def run() -> None:
        _fill(step, rounded, index)
        # In the default mode, NumPy writes to a temporary copy first.
        np.take(source, index, step.axis, out=target, mode="clip")

    return run


def _interpolate(
    step: _Step, source: Array, target: Array, other: Array, index: NDArray[np.intp], flat: Array
) -> Callable[[], None]:
    share = flat.reshape(-1, *(1,) * (source.ndim - step.axis - 1))

    def run() -> None:
        _fill(step, np.floor, index, flat)
        np.take(source, index, step.axis, out=target, mode="clip")
        _fill(step, _above, index)
        np.take(source, index, step.axis, out=other, mode="clip")
        np.subtract(other, target, out=other)
        np.multiply(other, share, out=other)
        np.add(target, other, out=target)

    return run


def _above(at: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.floor(at) + 1


class RowsOf:
    """Resampling by rows of a tensor (1, C, H, W), along the rows or the columns or both: see `ByRows`.

    Args:
        shape: of the tensor.
        axes: as of a `Resampler`, of the four axes; 2 and 3 alone.
        rounded, taps: as of a `Resampler`.
    """

    def __init__(
        self, shape: Shape, axes: Sequence[Axis], rounded: Rounded | None, taps: Mapping[int, Taps] | None = None
    ) -> None:
        self._shape, self._axes, self._rounded, self._taps = shape, axes, rounded, taps or {}
        self._positions = next((axis.positions for axis in axes if axis.axis == 2), None)

    def reads(self, first: int, last: int) -> tuple[int, int]:
        """The input rows that the output rows ``first`` to ``last`` need."""
        if self._positions is None:
            return first, last
        begin, end = self._positions(np.array([[first], [last - 1]], np.float64))
        low, high = (self._rounded or np.floor)(begin), (self._rounded or _above)(end)
        most = self._shape[2] - 1
        if taps := self._taps.get(2):
            low, high = low + taps.first, high + (taps.end - 2)  # of the taps, 0 and 1 are around the position
        return int(low.clip(0, most).item()), int(high.clip(0, most).item()) + 1

    def scratch(self, rows: int) -> int:
        """Bytes of scratch memory for so many output rows."""
        most = rows
        if self._positions is not None:
            begin, end = self._positions(np.array([0, rows - 1], np.float64)).tolist()
            taps = self._taps.get(2)
            most = min(self._shape[2], math.ceil(end - begin) + (taps.end - taps.first if taps else 2) + 1)
        return self._resampler(0, 0, most, rows).nbytes

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8]) -> Run:
        """Binds resampling of rows ``x`` (rows, C, W) to ``y`` (rows, C, W), the output rows from ``first`` on."""
        begin = self.reads(first, first + len(y))[0]
        return self._resampler(first, begin, len(x), len(y)).bind(x, y, memory)

    def narrowed(self, before: int, after: int) -> RowsOf:
        """The same of a picture with ``before`` columns less, whose output has ``after`` less."""
        shape = (*self._shape[:3], self._shape[3] - before)
        axes = [replace(axis, count=axis.count - after) if axis.axis == 3 else axis for axis in self._axes]
        return RowsOf(shape, axes, self._rounded, self._taps)

    def _resampler(self, first: int, begin: int, before: int, after: int) -> Resampler:
        """For ``before`` rows from ``begin`` on, and ``after`` rows of the result from ``first`` on."""
        axes = [
            Axis(0, after, partial(_shifted, axis.positions, first, begin))
            if axis.axis == 2
            else Axis(2, axis.count, axis.positions)
            for axis in self._axes
        ]
        taps = {0 if axis == 2 else 2: taps for axis, taps in self._taps.items()}
        return Resampler((before, self._shape[1], self._shape[3]), axes, self._rounded, taps)


def _shifted(positions: Positions, first: int, begin: int, new: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions within rows. Nothing is rounded: the numbers lie in steps of those of the whole axis."""
    return positions(new + first) - begin


def positions_of(mode: str, before: int, after: int, scale: float, new: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where positions ``new`` along an axis of extent ``after`` lie along the input's axis of extent ``before``."""
    if mode == "asymmetric":
        return new / scale
    if mode == "align_corners":
        return new * ((before - 1) / (scale * before - 1) if after > 1 else 0.0)
    if mode == "pytorch_half_pixel" and after == 1:
        return new
    at = (new + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        at += before / 2 * (1 - after / (scale * before))
    return at
