"""Pooling over windows, and over all positions of a channel."""

from __future__ import annotations

import math
from collections.abc import Callable

import streamrt._core as _core
from streamrt.ops.base import Array, Buffers, Call, Lowered, Run, operator
from streamrt.ops.window import Geometry

#: Every kernel treats a channel by itself, so samples and channels are one axis: (planes, height, width).
Planes = Callable[[Array, Array, _core.Window], None]


@operator("MaxPool")
def max_pool(call: Call) -> Lowered:
    """The largest value in each window; padding never wins."""
    return _pool(call, _core.max_pool)


@operator("AveragePool")
def average_pool(call: Call) -> Lowered:
    """The mean of each window, over the values of the input or, with ``count_include_pad``, the padding too."""
    include = call.flag("count_include_pad", False)
    return _pool(call, lambda x, y, window: _core.average_pool(x, y, window, include))


@operator("GlobalMaxPool")
def global_max_pool(call: Call) -> Lowered:
    """The largest value of each channel."""
    return _global(call, _core.row_max)


@operator("GlobalAveragePool")
def global_average_pool(call: Call) -> Lowered:
    """The mean of each channel."""
    return _global(call, _core.row_mean)


def _pool(call: Call, kernel: Planes) -> Lowered:
    call.expect((1, 1))
    x = call.shape(0)
    if len(x) not in (3, 4):
        raise call.fail(f"an input of shape {x}, expected 3 or 4 axes")
    shape = call.ints("kernel_shape", low=1, count=len(x) - 2)
    geometry = Geometry.read(call, x[2:], shape, ceil=call.flag("ceil_mode", False))
    if any(pad >= size for pad, size in zip(geometry.pads, geometry.kernel * 2, strict=True)):
        raise call.fail(f"pads {geometry.pads} as large as the window {shape}: it would cover nothing but padding")
    planes = x[0] * x[1]

    def bind(buffers: Buffers) -> Run:
        source = buffers.input(0).reshape(planes, *geometry.input)
        target = buffers.outputs[0].reshape(planes, *geometry.output)
        return lambda first, last: kernel(source, target, geometry.window)

    return Lowered(
        outputs=((*x[:2], *geometry.spatial),),
        bind=bind,
        flops=planes * geometry.positions * geometry.taps,
    )


def _global(call: Call, kernel: Callable[[Array, Array], None]) -> Lowered:
    call.expect((1, 1))
    x = call.shape(0)
    if len(x) < 3:
        raise call.fail(f"an input of shape {x}, expected at least 3 axes")
    planes = x[0] * x[1]

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0).reshape(planes, -1), buffers.outputs[0].reshape(planes)
        return lambda first, last: kernel(source, target)

    return Lowered(outputs=((*x[:2], *(1,) * (len(x) - 2)),), bind=bind, flops=math.prod(x))
