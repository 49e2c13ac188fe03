"""Operators that change spatial extents without weights: resampling, and depth to space and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from streamrt.ops.base import Array, Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.movement import copies, same_memory
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Part, Scratch
from streamrt.ops.shapes import borrowed, keeps_batch
from streamrt.ops.weighted import Taps, cubic, weighted
from streamrt.ops.weighted import linear as linear_kernel

_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
#: Maps positions along an axis of the result to positions along that axis of the input, which may lie between values.
Positions = Callable[[NDArray[np.float64]], NDArray[np.float64]]
#: Rounds positions that lie between values to positions of values.
Rounded = Callable[[NDArray[np.float64]], NDArray[np.float64]]
#: Positions that are computed at once: 8 KiB as float64, so that the memory does not grow with the axis.
_PART = 1024
#: The most values that a value of the result is made of along an axis. It bounds the time for few values of a result.
_MOST_TAPS = 4096
_NEAREST: dict[str, Rounded] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@operator("DepthToSpace", traits=Traits(fuses=True))
def depth_to_space(call: Call) -> Lowered:
    """Moves channels to blocks of positions; ``blocksize`` has one extent for each spatial axis.

    Along the input's channels, the position in the block varies slowest in mode ``DCR``, the output channel in ``CRD``.
    """
    x, blocks = _blocks(call)
    crd = call.text("mode", "DCR", ("DCR", "CRD")) == "CRD"
    spatial, size = x[2:], math.prod(blocks)
    if x[1] % size:
        raise call.fail(f"{x[1]} channels, expected a multiple of {size} for blocks of {blocks}")
    channels, count = x[1] // size, len(blocks)
    out = (x[0], channels, *(extent * block for extent, block in zip(spatial, blocks, strict=True)))
    inside = (x[0], channels, *blocks, *spatial) if crd else (x[0], *blocks, channels, *spatial)
    first = 2 if crd else 1
    perm = (0, 1 if crd else 1 + count, *(axis for i in range(count) for axis in (2 + count + i, first + i)))
    apart = tuple(part for pair in zip(spatial, blocks, strict=True) for part in pair)

    def pairs(x: Array, y: Array) -> list[tuple[Array, Array]]:
        return [(y.reshape(out[0], channels, *apart), x.reshape(inside).transpose(perm))]

    return copies(call, out, pairs, batchwise=True)


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Lowered:
    """The inverse of DepthToSpace."""
    x, blocks = _blocks(call)
    crd = call.text("mode", "DCR", ("DCR", "CRD")) == "CRD"
    spatial, count = x[2:], len(blocks)
    if any(extent % block for extent, block in zip(spatial, blocks, strict=True)):
        raise call.fail(f"spatial extents {spatial}, expected multiples of the blocks' {blocks}")
    few = tuple(extent // block for extent, block in zip(spatial, blocks, strict=True))
    apart = tuple(part for pair in zip(few, blocks, strict=True) for part in pair)
    inside = tuple(3 + 2 * i for i in range(count))
    perm = (0, *((1, *inside) if crd else (*inside, 1)), *(2 + 2 * i for i in range(count)))
    out = (x[0], x[1] * math.prod(blocks), *few)

    def pairs(x: Array, y: Array) -> list[tuple[Array, Array]]:
        source = x.reshape(*x.shape[:2], *apart).transpose(perm)
        return [(y.reshape(source.shape), source)]

    return copies(call, out, pairs, batchwise=True)


def _blocks(call: Call) -> tuple[Shape, Shape]:
    call.expect((1, 1))
    x = call.shape(0)
    if len(x) not in (3, 4, 5):
        raise call.fail(f"an input of shape {x}, expected 3 to 5 axes")
    return x, call.ints("blocksize", low=1, count=len(x) - 2)


@operator("Resize", traits=Traits(fuses=True))
def resize(call: Call) -> Lowered:
    """Resampling to ``sizes`` (one for each axis; 0 keeps it) or by ``scales``, axis by axis.

    Sizes may also be extents of another input (see `borrowed`). A value of the result is the nearest value of the
    input, or is interpolated between two (``linear``) or four (``cubic``) values. With ``antialias`` it is a mean of
    all values near it. Beyond the border it is the value at the border. ``coordinate_transformation_mode``,
    ``nearest_mode``, ``cubic_coeff_a`` and ``exclude_outside`` are ONNX's.
    """
    x = call.shape(0)
    taken = borrowed(call, len(x))
    mode = call.text("mode", "nearest", ("nearest", "linear", "cubic"))
    linear = mode != "nearest"
    antialias, exclude = call.flag("antialias", False), call.flag("exclude_outside", False)
    kernel = partial(cubic, call.float_("cubic_coeff_a", -0.75)) if mode == "cubic" else linear_kernel
    is_weighted = mode == "cubic" or (linear and antialias)
    coordinates = call.text("coordinate_transformation_mode", "half_pixel", _COORDINATES)
    nearest = call.text("nearest_mode", "round_prefer_floor", tuple(_NEAREST))
    if call.has("sizes"):
        sizes = call.ints("sizes", low=0, high=2**40, count=len(x))
        out = tuple(taken.get(axis) or size or x[axis] for axis, size in enumerate(sizes))
        scales = tuple(size / extent for size, extent in zip(out, x, strict=True))
    else:
        if taken:
            raise call.fail("the node has both attributes 'scales' and 'extents', expected one of them")
        scales = call.floats("scales", len(x))
        if any(not 0 < scale * extent < 2**40 for scale, extent in zip(scales, x, strict=True)):
            raise call.fail(f"scales {scales} of an input of shape {x}, expected extents of 1 to 2**40 as the result")
        out = tuple(math.floor(extent * scale) for extent, scale in zip(x, scales, strict=True))
    # Axes that shrink come first, so that later axes have fewer values to resample.
    axes = sorted((axis for axis in range(len(x)) if scales[axis] != 1.0), key=lambda axis: scales[axis])
    batchwise = len(x) > 0 and 0 not in axes and 0 not in taken and keeps_batch(call, taken)
    if not axes:
        return same_memory(call, x, batchwise)
    call.check("the result", out)
    scratch, shape, steps = Scratch(), x, []
    table = _Table(scratch, max(out[axis] for axis in axes), 1 + is_weighted if linear else 0)
    taps = {
        axis: Taps(kernel, 2 if mode == "cubic" else 1, scales[axis], antialias, exclude)
        for axis in axes
        if is_weighted
    }
    if any(tap.end - tap.first > _MOST_TAPS for tap in taps.values()):
        raise call.fail(f"scales {scales} with antialias, expected no scale below {4 / _MOST_TAPS}")
    for axis in axes:
        shape = (*shape[:axis], out[axis], *shape[axis + 1 :])
        between = scratch.add(*shape) if axis != axes[-1] else None
        other = scratch.add(*shape) if linear else None
        positions = partial(_positions, coordinates, x[axis], out[axis], scales[axis])
        steps.append(_Axis(axis, out[axis], x[axis] - 1, positions, between, other))

    def bind(buffers: Buffers) -> Run:
        source, runs = buffers.input(0), []
        for step in steps:
            target = buffers.outputs[0] if step.between is None else step.between.of(buffers.scratch)
            if step.axis in taps:
                runs.append(_weigh(step, taps[step.axis], table, source, target, buffers))
            elif step.other is None:
                runs.append(_take(step, table, source, target, buffers, _NEAREST[nearest]))
            else:
                runs.append(_interpolate(step, table, source, target, step.other.of(buffers.scratch), buffers))
            source = target

        def run(first: int, last: int) -> None:
            for resample in runs:
                resample()

        return run

    return Lowered(
        outputs=(out,),
        bind=bind,
        scratch=scratch.nbytes,
        batchwise=batchwise,
        flops=(4 if linear else 1) * math.prod(out)
        + sum(2 * (tap.end - tap.first) for tap in taps.values()) * math.prod(out),
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis to resample.

    Attributes:
        axis: its index.
        count: its extent in the result.
        last: the last position along it in the input.
        positions: where each value of the result lies in the input.
        between: memory for the result; None for the last axis, whose result is the node's output.
        other: memory for the second of two values to interpolate; None in mode ``nearest``.
    """

    axis: int
    count: int
    last: int
    positions: Positions
    between: Part | None
    other: Part | None


class _Table:
    """For each position of the result along an axis, the index of its source value, in scratch memory.

    It is computed for each axis in every run, one part after the other, so that its memory does not grow with the axis.
    """

    def __init__(self, scratch: Scratch, most: int, shares: int) -> None:
        self._index = scratch.add(2 * most)  # 64 bits each
        self._shares = [scratch.add(most) for _ in range(shares)]

    def indices(self, step: _Axis, buffers: Buffers) -> NDArray[np.intp]:
        """The indices of the source values, (count,)."""
        return self._index.of(buffers.scratch).view(np.intp)[: step.count]

    def shares(self, step: _Axis, buffers: Buffers, which: int = 0) -> Array:
        """Weights of values, (count,)."""
        return self._shares[which].of(buffers.scratch)[: step.count]


def _fill(step: _Axis, rounded: Rounded, index: NDArray[np.intp], share: Array | None = None) -> None:
    for first in range(0, step.count, _PART):
        part = slice(first, min(first + _PART, step.count))
        at = step.positions(np.arange(part.start, part.stop, dtype=np.float64))
        whole = rounded(at)
        index[part] = np.clip(whole, 0, step.last)
        if share is not None:
            share[part] = at - whole


def _positions(mode: str, before: int, after: int, scale: float, new: NDArray[np.float64]) -> NDArray[np.float64]:
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


def _take(
    step: _Axis, table: _Table, source: Array, target: Array, buffers: Buffers, rounded: Rounded
) -> Callable[[], None]:
    index = table.indices(step, buffers)

    def run() -> None:
        _fill(step, rounded, index)
        # In the default mode, NumPy writes to a temporary copy first.
        np.take(source, index, step.axis, out=target, mode="clip")

    return run


def _interpolate(
    step: _Axis, table: _Table, source: Array, target: Array, other: Array, buffers: Buffers
) -> Callable[[], None]:
    index, flat = table.indices(step, buffers), table.shares(step, buffers)
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


def _weigh(
    step: _Axis, taps: Taps, table: _Table, source: Array, target: Array, buffers: Buffers
) -> Callable[[], None]:
    assert step.other is not None
    other, index = step.other.of(buffers.scratch), table.indices(step, buffers)
    weight, total = (table.shares(step, buffers, which) for which in (0, 1))
    return weighted(taps, step.axis, step.positions, source, target, other, index, weight, total)


def _above(at: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.floor(at) + 1
