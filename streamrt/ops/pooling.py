"""Pooling over windows, and over all positions of a channel."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import streamrt._core as _core
from streamrt.ops.base import Array, Buffers, Collects, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.collect import maxima, means
from streamrt.ops.epilogue import IDENTITY
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Scratch
from streamrt.ops.window import Geometry, with_axes

#: Binds a kernel: input, output, window and scratch memory. The arrays have samples, channels, and the axes of a
#: geometry: (N, C, height, width), or (N, C, depth, height, width).
Planes = Callable[[Array, Array, _core.Window, NDArray[np.uint8]], Run]


@operator("MaxPool", traits=Traits(fuses=True))
def max_pooling(call: Call) -> Lowered:
    """The largest value in each window. Padding does not count."""
    return _pooling(call, lambda x, y, window, memory: _core.MaxPool(x, y, window))


@operator("AveragePool", traits=Traits(fuses=True))
def average_pooling(call: Call) -> Lowered:
    """The mean of the values in each window. Padding counts, as zeros, only with ``count_include_pad``."""
    include = call.flag("count_include_pad", False)
    return _pooling(call, lambda x, y, window, memory: _core.AveragePool(x, y, window, include))


@operator("LpPool")
def lp_pooling(call: Call) -> Lowered:
    """The norm of each window: ``sum(abs(x) ** p) ** (1 / p)``. The sum is a depthwise convolution with ones."""
    p = call.int_("p", 2, 1)
    shape, scratch = call.ints("kernel_shape", low=1), Scratch()
    powers, ones = scratch.add(*call.shape(0)), scratch.add(1, *((1,) if len(shape) == 1 else ()), *shape)

    def bind(x: Array, y: Array, window: _core.Window, memory: NDArray[np.uint8]) -> Run:
        terms, weights = powers.of(memory).reshape(x.shape), ones.of(memory)
        # Each plane is the one channel of a sample.
        source, target = terms.reshape(-1, 1, *x.shape[2:]), y.reshape(-1, 1, *y.shape[2:])
        kernel = _core.Depthwise(source, weights, None, target, window, *IDENTITY)

        def run(first: int, last: int) -> None:
            _power(x, p, terms)
            weights.fill(1.0)
            kernel(0, 1)
            _root(y, p)

        return run

    return _pooling(call, bind, scratch.nbytes, in_bands=False)


@operator("GlobalMaxPool", traits=Traits(fuses=True))
def global_max_pooling(call: Call) -> Lowered:
    """The largest value of each channel."""
    return _global(call, lambda x, y, memory: _core.RowMax(x, y), collects=maxima)


@operator("GlobalAveragePool", traits=Traits(fuses=True))
def global_average_pooling(call: Call) -> Lowered:
    """The mean of each channel."""
    return _global(call, lambda x, y, memory: _core.RowMean(x, y), of_planes=True, collects=means)


@operator("GlobalLpPool")
def global_lp_pooling(call: Call) -> Lowered:
    """The norm of each channel: ``sum(abs(x) ** p) ** (1 / p)``."""
    p = call.int_("p", 2, 1)
    scratch = Scratch()
    powers = scratch.add(*call.shape(0))

    def bind(x: Array, y: Array, memory: NDArray[np.uint8]) -> Run:
        terms = powers.of(memory).reshape(x.shape)

        def run(first: int, last: int) -> None:
            _power(x, p, terms)
            np.add.reduce(terms, axis=1, out=y)
            _root(y, p)

        return run

    return _global(call, bind, scratch.nbytes)


def _power(x: Array, p: int, out: Array) -> None:
    """``abs(x) ** p``."""
    if p == 2:
        np.square(x, out=out)
    else:
        np.absolute(x, out=out)
        if p != 1:
            np.power(out, np.float32(p), out=out)


def _root(x: Array, p: int) -> None:
    """Replace ``x`` by ``x ** (1 / p)``."""
    if p == 2:
        np.sqrt(x, out=x)
    elif p != 1:
        np.power(x, np.float32(1 / p), out=x)


def _pooling(call: Call, kernel: Planes, scratch: int = 0, in_bands: bool = True) -> Lowered:
    call.expect((1, 1))
    x = call.shape(0)
    if len(x) not in (3, 4, 5):
        raise call.fail(f"an input of shape {x}, expected 3 to 5 axes")
    shape = call.ints("kernel_shape", low=1, count=len(x) - 2)
    geometry = Geometry.read(call, x[2:], shape, ceil=call.flag("ceil_mode", False))
    if any(pad >= size for pad, size in zip(geometry.pads, geometry.kernel * 2, strict=True)):
        raise call.fail(
            f"pads {geometry.pads} for a window of {shape}, expected smaller pads: a window would hold only padding"
        )

    def bind(buffers: Buffers) -> Run:
        source = with_axes(buffers.input(0), geometry.input)
        target = with_axes(buffers.outputs[0], geometry.output)
        return kernel(source, target, geometry.window, buffers.scratch)

    return Lowered(
        outputs=((*x[:2], *geometry.spatial),),
        bind=bind,
        scratch=scratch,
        flops=x[0] * x[1] * geometry.positions * geometry.taps,
        window=geometry.window if in_bands and len(x) == 4 else None,
        columns=geometry.columns,
    )


def _global(
    call: Call,
    bind_rows: Callable[[Array, Array, NDArray[np.uint8]], Run],
    scratch: int = 0,
    of_planes: bool = False,
    collects: Callable[[Shape], Collects] | None = None,
) -> Lowered:
    """``bind_rows`` gets rows (P, K), or planes (P, H, W) if ``of_planes`` and there are such; results (P,); memory."""
    call.expect((1, 1))
    x = call.shape(0)
    if len(x) < 3:
        raise call.fail(f"an input of shape {x}, expected at least 3 axes")
    planes = x[0] * x[1]
    folded = (planes, *x[2:]) if of_planes and len(x) == 4 else (planes, math.prod(x[2:]))

    def bind(buffers: Buffers) -> Run:
        return bind_rows(buffers.input(0).reshape(folded), buffers.outputs[0].reshape(planes), buffers.scratch)

    out = (*x[:2], *(1,) * (len(x) - 2))
    of_rows = collects(x[1:]) if collects and len(x) == 4 else None
    return Lowered(outputs=(out,), bind=bind, scratch=scratch, flops=math.prod(x), collects=of_rows)
