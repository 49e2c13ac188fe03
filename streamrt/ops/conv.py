"""Convolution, in one of four ways that the geometry decides.

* the window is the whole input: a Gemm;
* one input channel for each group: a compiled loop over the windows (depthwise);
* 1x1 with stride 1: a product with the input as it is;
* else a product with the windows laid out as columns (im2col), a block of columns at a time.

Weights are (output channels, input channels of a group, window): a tile is some of the output channels, and
may hold a part of a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

import streamrt._core as _core
from streamrt.ops.base import Array, Buffers, Call, Lowered, Run, operator
from streamrt.ops.epilogue import IDENTITY, Epilogue
from streamrt.ops.gemm import Dense
from streamrt.ops.scratch import Bias, Layout
from streamrt.ops.window import Geometry

#: Floats of a block of columns: 2 MiB, about a core's own cache.
_BLOCK = 2**19
#: BLAS slows down below this many columns, however long they are.
_LEAST_COLUMNS = 16


@operator("Conv")
def conv(call: Call) -> Lowered:
    """Convolution of x (N, C, [H,] W) with weights (OC, C / group, [KH,] KW) and an optional bias (OC,)."""
    call.expect((2, 3))
    x, w = call.computed(0), call.param(1)
    if len(x) not in (3, 4) or len(w) != len(x):
        raise call.fail(f"an input of shape {x} and weights of shape {w}, expected both with 3 or 4 axes")
    groups = call.int_("group", 1, 1)
    if x[1] != w[1] * groups or w[0] % groups:
        raise call.fail(f"weights of shape {w} in {groups} groups do not fit an input of shape {x}")
    if call.ints("kernel_shape", w[2:]) != w[2:]:
        raise call.fail(f"attribute 'kernel_shape' differs from the weights' shape {w}")
    geometry = Geometry.read(call, x[2:], w[2:])
    has_bias, epilogue, layout = call.bias(2, w[0]), call.epilogue(), Layout()
    if groups == 1 and geometry.covers_input:
        bind = Dense(
            batch=x[0], inner=w[1] * geometry.taps, rows=w[0], has_bias=has_bias, epilogue=epilogue, layout=layout
        ).bind
    else:
        bias = Bias(layout, 2, w[0] if has_bias else None)
        common = _Conv(x[0], groups, w[1], w[0] // groups, geometry, bias, epilogue)
        if w[1] == 1 and groups > 1:
            bind = partial(_bind_depthwise, common)
        elif geometry.is_pointwise:
            bind = partial(_bind_pointwise, common)
        else:
            bind = _Columns(common, layout).bind
    return Lowered(
        outputs=((x[0], w[0], *geometry.spatial),),
        bind=bind,
        scratch=layout.nbytes,
        tiled=(1,),
        rows=w[0],
        flops=2 * x[0] * w[0] * w[1] * geometry.taps * geometry.positions,
    )


@dataclass(frozen=True, slots=True)
class _Conv:
    """What all ways but the Gemm have in common. ``channels`` and ``outputs`` are those of one group."""

    samples: int
    groups: int
    channels: int
    outputs: int
    geometry: Geometry
    bias: Bias
    epilogue: Epilogue

    @property
    def rows(self) -> int:
        """Output channels of all groups."""
        return self.groups * self.outputs

    @property
    def inner(self) -> int:
        """Length of a column, which is that of a row of weights."""
        return self.channels * self.geometry.taps

    def parts(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Output channels ``first`` to ``last`` by group: (group, first, last)."""
        for group in range(first // self.outputs, -(-last // self.outputs)):
            yield group, max(first, group * self.outputs), min(last, (group + 1) * self.outputs)

    def matrices(self, buffers: Buffers) -> tuple[Array, Array]:
        """The weights as (output channels, inner), and the output as (samples, output channels, positions)."""
        w = buffers.input(1).reshape(self.rows, self.inner)
        return w, buffers.outputs[0].reshape(self.samples, self.rows, self.geometry.positions)

    def finish(self, y: Array, bias: Array | None, first: int, last: int) -> None:
        """Add the bias of output channels ``first`` to ``last`` to y (channels, any), and apply the activation."""
        if bias is not None:
            _core.bias_act(y, bias[first:last], *self.epilogue)
        elif self.epilogue != IDENTITY:
            _core.bias_act(y, None, *self.epilogue)


def _bind_depthwise(this: _Conv, buffers: Buffers) -> Run:
    """One input channel for each group: there are no matrices to multiply."""
    geometry, epilogue = this.geometry, this.epilogue
    x = buffers.input(0).reshape(this.samples, this.groups, *geometry.input)
    w = buffers.input(1).reshape(this.rows, *geometry.kernel)
    y = buffers.outputs[0].reshape(this.samples, this.rows, *geometry.output)
    bias = this.bias.bind(buffers)

    def run(first: int, last: int) -> None:
        _core.depthwise(x, w, bias(first), y, geometry.window, first, last, *epilogue)

    return run


def _bind_pointwise(this: _Conv, buffers: Buffers) -> Run:
    """1x1 with stride 1: the input is its own columns."""
    w, y = this.matrices(buffers)
    x = buffers.input(0).reshape(this.samples, this.groups, this.inner, this.geometry.positions)
    bias = this.bias.bind(buffers)

    def run(first: int, last: int) -> None:
        offset = bias(first)
        for sample in range(this.samples):
            for group, begin, end in this.parts(first, last):
                np.matmul(w[begin:end], x[sample, group], out=y[sample, begin:end])
            this.finish(y[sample, first:last], offset, first, last)

    return run


class _Columns:
    """Every window laid out as a column.

    When all columns fit a block they are laid out once, by the first tile. Otherwise every tile lays them out
    again, a block of one group at a time.
    """

    def __init__(self, common: _Conv, layout: Layout) -> None:
        self._common = common
        positions = common.geometry.positions
        self._once = common.samples * common.groups * common.inner * positions <= _BLOCK
        if self._once:
            self._block = layout.add(common.samples, common.groups, common.inner, positions)
        else:
            blocks = -(-positions // max(_LEAST_COLUMNS, _BLOCK // common.inner))
            self._width = -(-positions // blocks)
            self._block = layout.add(common.inner * self._width)

    def bind(self, buffers: Buffers) -> Run:
        """``run(first, last)`` computes those output channels."""
        return self._bind_once(buffers) if self._once else self._bind_blocks(buffers)

    def _bind_once(self, buffers: Buffers) -> Run:
        this = self._common
        window, positions = this.geometry.window, this.geometry.positions
        w, y = this.matrices(buffers)
        x = buffers.input(0).reshape(this.samples, this.groups * this.channels, *this.geometry.input)
        columns = self._block.of(buffers.scratch)
        flat = columns.reshape(this.samples, this.groups * this.inner, positions)
        bias = this.bias.bind(buffers)

        def run(first: int, last: int) -> None:
            offset = bias(first)
            for sample in range(this.samples):
                if first == 0:
                    _core.im2col(x[sample], flat[sample], window, 0, positions)
                for group, begin, end in this.parts(first, last):
                    np.matmul(w[begin:end], columns[sample, group], out=y[sample, begin:end])
                this.finish(y[sample, first:last], offset, first, last)

        return run

    def _bind_blocks(self, buffers: Buffers) -> Run:
        this, width = self._common, self._width
        window, positions = this.geometry.window, this.geometry.positions
        w, y = this.matrices(buffers)
        x = buffers.input(0).reshape(this.samples, this.groups, this.channels, *this.geometry.input)
        block = self._block.of(buffers.scratch)
        bias = this.bias.bind(buffers)

        def run(first: int, last: int) -> None:
            offset = bias(first)
            for sample in range(this.samples):
                for left in range(0, positions, width):
                    right = min(left + width, positions)
                    columns = block[: this.inner * (right - left)].reshape(this.inner, right - left)
                    for group, begin, end in this.parts(first, last):
                        _core.im2col(x[sample, group], columns, window, left, right)
                        np.matmul(w[begin:end], columns, out=y[sample, begin:end, left:right])
                    this.finish(y[sample, first:last, left:right], offset, first, last)

        return run
