"""Sampling of maps at computed positions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from streamrt.ops.base import Array, Buffers, Lowered, Run
from streamrt.ops.call import Call
from streamrt.ops.registry import operator
from streamrt.ops.scratch import Scratch
from streamrt.ops.weighted import cubic, linear

Floats = NDArray[np.float64]
#: For each position the index of a value along an axis, and its weight.
Tap = tuple[NDArray[np.int64], Floats]
#: Positions that are computed at once: 2 KiB as float64, so that the memory does not grow with the grid.
_PART = 256
#: The number of values along an axis, the index of the first counted from the position's floor, and the weights.
_MODES: dict[str, tuple[int, int, Callable[[Floats], Floats]]] = {
    "linear": (2, 0, linear),
    "cubic": (4, -1, partial(cubic, -0.75)),
}


@operator("GridSample")
def grid_sample(call: Call) -> Lowered:
    """The input at the positions of input 1, the grid; positions lie between -1 and 1 along each axis.

    The input is (samples, channels, *extents), the grid (samples, *output extents, axes), with the last axis first. -1
    and 1 are the outer borders of the first and the last value, or with ``align_corners`` these values. Beyond them
    values are 0 (``zeros``), that at the border (``border``), or mirrored (``reflection``).
    """
    call.expect((2, 2))
    x, grid = call.shape(0), call.shape(1)
    rank = len(x) - 2
    if rank not in (2, 3) or len(grid) != len(x) or grid[0] != x[0] or grid[-1] != rank:
        raise call.fail(f"an input of shape {x} and a grid of shape {grid}, expected (N, C, H, W) and (N, H2, W2, 2)")
    mode = call.text("mode", "linear", ("nearest", *_MODES))
    if mode == "cubic" and rank != 2:
        raise call.fail("mode 'cubic' of an input with 3 spatial axes, expected 2")
    padding = call.text("padding_mode", "zeros", ("zeros", "border", "reflection"))
    align = call.flag("align_corners", False)
    extents, count = x[2:], math.prod(grid[1:-1])
    out = (*x[:2], *grid[1:-1])
    scratch = Scratch()
    width = min(_PART, count)
    taken_part, sums_part = scratch.add(x[1] * width), scratch.add(x[1] * width)

    def bind(buffers: Buffers) -> Run:
        maps = buffers.input(0).reshape(*x[:2], -1)
        positions, target = buffers.input(1).reshape(x[0], count, rank), buffers.outputs[0].reshape(*x[:2], count)
        taken, sums = taken_part.of(buffers.scratch), sums_part.of(buffers.scratch)

        def run(first: int, last: int) -> None:
            for sample in range(x[0]):
                for start in range(0, count, _PART):
                    part = slice(start, min(start + _PART, count))
                    size = x[1] * (part.stop - part.start)
                    room, total = (memory[:size].reshape(x[1], -1) for memory in (taken, sums))
                    axes = [
                        _taps(mode, padding, align, extent, positions[sample, part, rank - 1 - axis])
                        for axis, extent in enumerate(extents)
                    ]
                    _sample(maps[sample], axes, extents, room, total)
                    np.copyto(target[sample, :, part], total)

        return run

    return Lowered(
        outputs=(out,),
        bind=bind,
        scratch=scratch.nbytes,
        batchwise=call.batch(0) == call.batch(1) == 0,
        flops=2 * math.prod(out) * {"nearest": 1, "linear": 2, "cubic": 4}[mode] ** rank,
    )


def _sample(maps: Array, axes: list[list[Tap]], extents: tuple[int, ...], room: Array, total: Array) -> None:
    """Write the weighted sums of the values at all combinations of the axes' taps to ``total`` (channels, part)."""
    total.fill(0)
    for taps in itertools.product(*axes):
        at, weight = taps[0]
        for (index, share), extent in zip(taps[1:], extents[1:], strict=True):
            at, weight = at * extent + index, weight * share
        np.take(maps, at, axis=1, out=room, mode="clip")
        np.multiply(room, weight.astype(np.float32), out=room)
        np.add(total, room, out=total)


def _taps(mode: str, padding: str, align: bool, extent: int, grid: Array) -> list[Tap]:
    """The values along an axis that the values at positions ``grid`` are made of."""
    at = (grid.astype(np.float64) + 1) / 2 * (extent - 1) if align else ((grid.astype(np.float64) + 1) * extent - 1) / 2
    low, high = (0.0, extent - 1.0) if align else (-0.5, extent - 0.5)
    at = _moved(padding, low, high, extent, at)
    if mode == "nearest":
        return [_tap(padding, extent, _moved(padding, low, high, extent, np.rint(at)), np.ones_like(at))]
    number, begin, kernel = _MODES[mode]
    floor = np.floor(at)
    found = []
    for tap in range(begin, begin + number):
        place = floor + tap
        found.append(_tap(padding, extent, _moved(padding, low, high, extent, place), kernel(place - at)))
    return found


def _moved(padding: str, low: float, high: float, extent: int, at: Floats) -> Floats:
    """Positions beyond ``low`` and ``high`` moved to the border, or mirrored there, unless values beyond it are 0."""
    if padding == "border":
        return np.where((at < low) | (at > high), np.clip(at, 0, extent - 1), at)
    if padding == "zeros":
        return at
    if high == low:
        return np.zeros_like(at)
    apart = np.abs(at - low)
    turns = np.floor(apart / (high - low))
    rest = apart - turns * (high - low)
    return np.where(turns % 2 == 0, low + rest, high - rest)


def _tap(padding: str, extent: int, place: Floats, weight: Floats) -> Tap:
    # fmin and fmax take the number of a number and NaN, so that every index is one.
    index = np.fmax(np.fmin(place, extent - 1), 0)
    if padding == "zeros":
        weight = np.where(index == place, weight, 0.0)
    return index.astype(np.int64), weight
