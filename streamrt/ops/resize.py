"""Operators that change spatial extents without weights: resampling, and depth to space and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import numpy as np
from numpy.typing import NDArray

from streamrt.ops.base import Array, Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.movement import copies, copy_all, same_memory
from streamrt.ops.ratio import columns_of_scale
from streamrt.ops.registry import Traits, operator
from streamrt.ops.resample import NEAREST, Axis, Resampler, RowsOf, positions_of
from streamrt.ops.shapes import borrowed, keeps_batch
from streamrt.ops.strip import Columns
from streamrt.ops.weighted import Taps, cubic
from streamrt.ops.weighted import linear as linear_kernel

_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
#: The most values that a value of the result is made of along an axis. It bounds the time for few values of a result.
_MOST_TAPS = 4096


@operator("DepthToSpace", traits=Traits(fuses=True, integers=True))
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

    lowered = copies(call, out, pairs, batchwise=True)
    if count != 2:
        return lowered
    return replace(lowered, by_rows=_Blocks(blocks, crd), columns=Columns(Fraction(1, blocks[1])))


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Rows of a DepthToSpace: see `ByRows`. The rows of a block may be computed one by one."""

    blocks: Shape
    crd: bool

    def reads(self, first: int, last: int) -> tuple[int, int]:
        height = self.blocks[0]
        return first // height, -(-last // height)

    def scratch(self, rows: int) -> int:
        return 0

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8]) -> Run:
        (height, width), (count, channels, columns) = self.blocks, x.shape
        channels //= height * width
        inside = (count, channels, height, width, columns) if self.crd else (count, height, width, channels, columns)
        apart = x.reshape(inside).transpose(*((0, 2, 1, 4, 3) if self.crd else (0, 1, 3, 4, 2)))
        targets = y.reshape(len(y), channels, columns, width)
        if first % height == 0 and len(y) % height == 0:
            return copy_all([(targets.reshape(-1, height, *targets.shape[1:]), apart)])
        pairs = []
        for row in range(height):
            begin = (row - first) % height  # the first row of y that is this row of a block
            part = targets[begin::height]
            skipped = (first + begin) // height - first // height
            pairs.append((part, apart[skipped : skipped + len(part), row]))
        return copy_all(pairs)

    def narrowed(self, before: int, after: int) -> _Blocks:
        return self


@operator("SpaceToDepth", traits=Traits(integers=True))
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

    lowered = copies(call, out, pairs, batchwise=True)
    if count != 2:
        return lowered
    columns = Columns(Fraction(blocks[1]), high=Fraction(blocks[1] - 1))
    return replace(lowered, by_rows=_Blocked(blocks, crd), columns=columns)


@dataclass(frozen=True, slots=True)
class _Blocked:
    """Rows of a SpaceToDepth: see `ByRows`."""

    blocks: Shape
    crd: bool

    def reads(self, first: int, last: int) -> tuple[int, int]:
        return first * self.blocks[0], last * self.blocks[0]

    def scratch(self, rows: int) -> int:
        return 0

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8]) -> Run:
        (height, width), channels = self.blocks, x.shape[1]
        apart = x.reshape(len(y), height, channels, -1, width)
        source = apart.transpose(*((0, 2, 1, 4, 3) if self.crd else (0, 1, 4, 2, 3)))
        return copy_all([(y.reshape(source.shape), source)])

    def narrowed(self, before: int, after: int) -> _Blocked:
        return self


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
    nearest = call.text("nearest_mode", "round_prefer_floor", tuple(NEAREST))
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
    taps = {
        axis: Taps(kernel, 2 if mode == "cubic" else 1, scales[axis], antialias, exclude)
        for axis in axes
        if is_weighted
    }
    if any(tap.end - tap.first > _MOST_TAPS for tap in taps.values()):
        raise call.fail(f"scales {scales} with antialias, expected no scale below {4 / _MOST_TAPS}")
    along = [
        Axis(axis, out[axis], partial(positions_of, coordinates, x[axis], out[axis], scales[axis])) for axis in axes
    ]
    rounded = None if linear else NEAREST[nearest]
    resampler = Resampler(x, along, rounded, taps)
    by_rows = RowsOf(x, along, rounded, taps) if len(x) == 4 and min(axes) >= 2 else None
    beside = (taps[3].first, taps[3].end - 1) if 3 in taps else (0, 1)

    def bind(buffers: Buffers) -> Run:
        return resampler.bind(buffers.input(0), buffers.outputs[0], buffers.scratch)

    return Lowered(
        outputs=(out,),
        bind=bind,
        scratch=resampler.nbytes,
        batchwise=batchwise,
        flops=(4 if linear else 1) * math.prod(out)
        + sum(2 * (tap.end - tap.first) for tap in taps.values()) * math.prod(out),
        by_rows=by_rows,
        columns=columns_of_scale(x[3], out[3], scales[3], coordinates, None if linear else nearest, beside)
        if by_rows
        else None,
    )
