"""Convolution by NumPy: windows become the columns of a matrix, and ``matmul`` multiplies weights with them.

The instruction set "numpy" uses it for every convolution. A block of windows is computed at a time, so that its columns
fit in scratch memory. The columns of a 1x1 window with stride 1 are the input itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import streamrt._core as _core
from streamrt.ops.base import Array
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

    x (N, G * C, H, W), w (G * OC, C, KH, KW), bias (G * OC,) or None, residual of y's shape or None, and
    y (N, G * OC, OH, OW). ``scratch`` is the node's scratch memory. The residual may be y.
    """

    x: Array
    w: Array
    bias: Array | None
    residual: Array | None
    y: Array
    scratch: NDArray[np.uint8]
    scaling: Scaling | None


class _Block(NamedTuple):
    """Products that are computed together: the output channels and the windows."""

    sample: int
    channels: slice
    groups: slice
    rows: range
    cols: range


@dataclass(frozen=True, slots=True)
class MatmulConvolution:
    """A convolution that is cut into blocks.

    Attributes:
        geometry: where the windows lie.
        groups: groups of channels.
        channels: input channels of a group.
        outputs: output channels of a group.
        height: the most output rows of a block; with several rows they are whole.
        width: the most output columns of a block.
        together: the most groups of a block.
        columns: memory for the columns of a block; None if they are the input itself.
        products: memory for the products of a block; None if they are written to the output.
    """

    geometry: Geometry
    groups: int
    channels: int
    outputs: int
    height: int
    width: int
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
        alike = geometry.kernel == geometry.strides == (1, 1) and not any(geometry.pads)
        inner = 0 if alike and not scaled else channels * geometry.taps
        rows = outputs if residual else 0
        windows = max(1, _BLOCK // max(inner, rows, 1))
        width = min(geometry.output[1], windows)
        height = max(1, min(geometry.output[0], windows // geometry.output[1]))
        together = max(1, min(groups, windows // (height * width)))
        size = together * height * width
        columns = scratch.add(inner * size) if inner else None
        products = scratch.add(rows * size) if rows else None
        return cls(geometry, groups, channels, outputs, height, width, together, columns, products)

    def run(self, arrays: Arrays, epilogue: Epilogue, first: int, last: int) -> None:
        """Compute the output channels ``first`` to ``last`` of all samples."""
        for block in self._blocks(len(arrays.x), first, last):
            self._compute(arrays, epilogue, block)

    def _blocks(self, samples: int, first: int, last: int) -> Iterator[_Block]:
        high, wide = self.geometry.output
        for sample in range(samples):
            for channels in self._spans(first, last):
                groups = slice(channels.start // self.outputs, -(-channels.stop // self.outputs))
                for row in range(0, high, self.height):
                    rows = range(row, min(row + self.height, high))
                    for col in range(0, wide, self.width):
                        yield _Block(sample, channels, groups, rows, range(col, min(col + self.width, wide)))

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
        groups, count = block.groups.stop - block.groups.start, len(block.rows) * len(block.cols)
        begin = block.rows.start * self.geometry.output[1] + block.cols.start
        windows = slice(begin, begin + count)  # in a plane of outputs
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
        shape = (len(x), *self.geometry.kernel, len(block.rows), len(block.cols))
        columns = self.columns.of(arrays.scratch)[: len(x) * self.geometry.taps * count]
        if arrays.scaling:
            _scale(x.reshape(len(x), -1)[:, windows], arrays.scaling, block.sample, channels, columns)
        else:
            self._copy(x, block, columns.reshape(shape))
        return columns.reshape(groups, -1, count)

    def _copy(self, x: Array, block: _Block, columns: Array) -> None:
        """Copy the inputs of windows. x: (C, H, W); columns: (C, KH, KW, rows, cols), where padding is zero."""
        geometry = self.geometry
        top, left = geometry.pads[:2]
        if any(geometry.pads):
            columns.fill(0.0)
        for i in range(geometry.kernel[0]):
            down = _tap(block.rows, geometry.strides[0], i * geometry.dilations[0] - top, geometry.input[0])
            for j in range(geometry.kernel[1]):
                right = _tap(block.cols, geometry.strides[1], j * geometry.dilations[1] - left, geometry.input[1])
                if down and right:
                    np.copyto(columns[:, i, j, down[0], right[0]], x[:, down[1], right[1]])


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
