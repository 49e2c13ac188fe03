"""Convolution by NumPy: windows become the columns of a matrix, and ``matmul`` multiplies weights with them.

The instruction set "numpy" uses it for every convolution. A block of windows is computed at a time, so that its columns
fit in scratch memory. The columns of a 1x1 window with stride 1 are the input itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import streamrt._core as _core
from streamrt.ops.base import Array, Shape
from streamrt.ops.epilogue import Epilogue
from streamrt.ops.scratch import Part, Scratch
from streamrt.ops.window import Geometry

#: The most floats of columns and of products, 1 MiB each, so that they stay in a cache. One window may need more.
_BLOCK = 2**18


class Scaling(NamedTuple):
    """The input is scaled first, to ``min(high, max(low, x * scale + shift))``: scale (N or 1, C), shift (C,)."""

    scale: Array
    shift: Array | None
    low: float
    high: float


class Arrays(NamedTuple):
    """The arrays of a convolution.

    x (N, G * C, [D,] H, W), w (G * OC, C, [KD,] KH, KW), bias (G * OC,) or None, residual of y's shape or None, and
    y (N, G * OC, [OD,] OH, OW). ``scratch`` is the node's scratch memory. The residual may be y.
    """

    x: Array
    w: Array
    bias: Array | None
    residual: Array | None
    y: Array
    scratch: NDArray[np.uint8]
    scaling: Scaling | None


#: Along one axis: a tap's index, outputs, and the inputs that it reads for them.
_Tap = tuple[int, slice, slice]


class _Block(NamedTuple):
    """Products that are computed together: the output channels, and the outputs along each spatial axis."""

    sample: int
    channels: slice
    groups: slice
    outputs: tuple[range, ...]


@dataclass(frozen=True, slots=True)
class MatmulConvolution:
    """A convolution that is cut into blocks.

    Attributes:
        geometry: where the windows lie.
        groups: groups of channels.
        channels: input channels of a group.
        outputs: output channels of a group.
        extents: the most outputs of a block along each spatial axis; with several rows they are whole, and so on.
        together: the most groups of a block.
        columns: memory for the columns of a block; None if they are the input itself.
        products: memory for the products of a block; None if they are written to the output.
    """

    geometry: Geometry
    groups: int
    channels: int
    outputs: int
    extents: Shape
    together: int
    columns: Part | None
    products: Part | None

    @classmethod
    def plan(
        cls,
        geometry: Geometry,
        groups: int,
        channels: int,
        outputs: int,
        *,
        residual: bool,
        scaled: bool,
        scratch: Scratch,
    ) -> MatmulConvolution:
        """Choose the blocks. The memory that they need is added to ``scratch``."""
        inner = 0 if geometry.is_pointwise and not scaled else channels * geometry.taps
        rows = outputs if residual else 0
        room = max(1, _BLOCK // max(inner, rows, 1))
        extents: Shape = ()
        for extent in reversed(geometry.output):
            extents = (max(1, min(extent, room)), *extents)
            room //= extent
        together = max(1, min(groups, room))
        size = together * math.prod(extents)
        columns = scratch.add(inner * size) if inner else None
        products = scratch.add(rows * size) if rows else None
        return cls(geometry, groups, channels, outputs, extents, together, columns, products)

    def run(self, arrays: Arrays, epilogue: Epilogue, first: int, last: int) -> None:
        """Compute the output channels ``first`` to ``last`` of all samples."""
        for block in self._blocks(len(arrays.x), first, last):
            self._compute(arrays, epilogue, block)

    def _blocks(self, samples: int, first: int, last: int) -> Iterator[_Block]:
        for sample in range(samples):
            for channels in self._spans(first, last):
                groups = slice(channels.start // self.outputs, -(-channels.stop // self.outputs))
                for outputs in _boxes(self.geometry.output, self.extents):
                    yield _Block(sample, channels, groups, outputs)

    def _spans(self, first: int, last: int) -> Iterator[slice]:
        """The ranges of output channels that are multiplied together: a part of one group, or whole groups."""
        while first < last:
            whole = min((last - first) // self.outputs, self.together)
            if first % self.outputs or not whole:
                end = min(last, (first // self.outputs + 1) * self.outputs)
            else:
                end = first + whole * self.outputs
            yield slice(first, end)
            first = end

    def _compute(self, arrays: Arrays, epilogue: Epilogue, block: _Block) -> None:
        groups, begin = block.groups.stop - block.groups.start, 0
        for outputs, extent in zip(block.outputs, self.geometry.output, strict=True):
            begin = begin * extent + outputs.start
        windows = slice(begin, begin + math.prod(map(len, block.outputs)))  # of a channel's outputs
        matrices = arrays.w[block.channels].reshape(groups, -1, self.channels * self.geometry.taps)
        rows = arrays.y[block.sample, block.channels].reshape(-1, self.geometry.positions)[:, windows]
        y = arrays.y[block.sample, block.channels].reshape(groups, -1, self.geometry.positions)[:, :, windows]
        columns = self._columns_of(arrays, block, windows)
        if arrays.residual is None:
            np.matmul(matrices, columns, out=y)
        else:
            assert self.products is not None
            products = self.products.of(arrays.scratch)[: y.size].reshape(y.shape)
            np.matmul(matrices, columns, out=products)
            np.add(products, arrays.residual[block.sample, block.channels].reshape(*y.shape[:2], -1)[..., windows], y)
        _core.bias_act(rows, None if arrays.bias is None else arrays.bias[block.channels], *epilogue)

    def _columns_of(self, arrays: Arrays, block: _Block, windows: slice) -> Array:
        """The columns of a block: (groups, terms of a sum, windows)."""
        channels = slice(block.groups.start * self.channels, block.groups.stop * self.channels)
        x, groups = arrays.x[block.sample, channels], block.groups.stop - block.groups.start
        if self.columns is None:
            return x.reshape(groups, self.channels, -1)[:, :, windows]
        count = windows.stop - windows.start
        shape = (len(x), *self.geometry.kernel, *map(len, block.outputs))
        columns = self.columns.of(arrays.scratch)[: len(x) * self.geometry.taps * count]
        if arrays.scaling:
            _scale(x.reshape(len(x), -1)[:, windows], arrays.scaling, block.sample, channels, columns)
        else:
            self._copy(x, block, columns.reshape(shape))
        return columns.reshape(groups, -1, count)

    def _copy(self, x: Array, block: _Block, columns: Array) -> None:
        """Copy the inputs of windows. x: (C, [D,] H, W); columns: (C, kernel, outputs), where padding is zero."""
        geometry = self.geometry
        if any(geometry.pads):
            columns.fill(0.0)
        for taps in _taps(geometry, block.outputs):
            at, outputs, inputs = zip(*taps, strict=True)
            np.copyto(columns[:, *at, *outputs], x[:, *inputs])


def _boxes(extents: Shape, most: Shape) -> Iterator[tuple[range, ...]]:
    """Cut positions into boxes with at most ``most`` positions along each axis."""
    if not extents:
        yield ()
        return
    for first in range(0, extents[0], most[0]):
        for others in _boxes(extents[1:], most[1:]):
            yield (range(first, min(first + most[0], extents[0])), *others)


def _taps(geometry: Geometry, outputs: tuple[range, ...], axis: int = 0) -> Iterator[tuple[_Tap, ...]]:
    """The taps that read inputs, and not padding alone, for some outputs: along each axis from ``axis`` on."""
    if axis == len(outputs):
        yield ()
        return
    for k in range(geometry.kernel[axis]):
        offset = k * geometry.dilations[axis] - geometry.pads[axis]
        inside = _tap(outputs[axis], geometry.strides[axis], offset, geometry.input[axis])
        if inside is not None:
            for others in _taps(geometry, outputs, axis + 1):
                yield ((k, *inside), *others)


def _tap(outputs: range, stride: int, offset: int, extent: int) -> tuple[slice, slice] | None:
    """The outputs that read an input and not padding, from the first of ``outputs`` on, and these inputs.

    Output o reads input ``o * stride + offset``. None: all read padding.
    """
    first, last = max(outputs.start, -(offset // stride)), min(outputs.stop, -((offset - extent) // stride))
    if first >= last:
        return None
    inputs = slice(first * stride + offset, (last - 1) * stride + offset + 1, stride)
    return slice(first - outputs.start, last - outputs.start), inputs


def _scale(x: Array, scaling: Scaling, sample: int, channels: slice, out: Array) -> None:
    """Write the scaled channels, x (C, windows), to ``out``."""
    scaled = out.reshape(x.shape)
    np.multiply(x, scaling.scale[sample % len(scaling.scale), channels, None], out=scaled)
    if scaling.shift is not None:
        np.add(scaled, scaling.shift[channels, None], out=scaled)
    np.clip(scaled, scaling.low, scaling.high, out=scaled)
