"""Element-wise activations as nodes of their own, and PRelu, whose slope is a parameter."""

from __future__ import annotations

import math

import numpy as np

import streamrt._core as _core
from streamrt.ops.base import Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.epilogue import ACTIVATIONS, activation_of
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Scratch
from streamrt.ops.shapes import batch_of, broadcast, is_batchwise


@operator(*ACTIVATIONS, traits=Traits(activation=True, moves_batch=True, rowwise=True))
def unary(call: Call) -> Lowered:
    """``y = activation(x)``."""
    call.expect((1, 1))
    shape = call.shape(0)
    epilogue = activation_of(call)

    def bind(buffers: Buffers) -> Run:
        x, y = buffers.input(0).reshape(-1), buffers.outputs[0].reshape(-1)
        return lambda first, last: _core.unary(x, y, *epilogue)

    return Lowered(
        outputs=(shape,),
        bind=bind,
        inplace=() if call.is_param(0) else (0,),
        batchwise=len(shape) > 0,
        batch=call.batch() or 0,
        flops=math.prod(shape),
    )


@operator("PRelu", traits=Traits(params=("slope",), moves_batch=True, rowwise=True))
def prelu(call: Call) -> Lowered:
    """``y = x where x >= 0 else slope * x``; the slope broadcasts to the shape of ``x``."""
    call.expect((2, 2))
    shape, slope_shape = call.shape(0), call.shape(1)
    if broadcast(call, shape, slope_shape) != shape:
        raise call.fail(f"a slope of shape {slope_shape} does not broadcast to {shape}")
    folded = _fold(shape, slope_shape)
    scratch = Scratch()
    general = scratch.add(*shape) if folded is None else None

    def bind(buffers: Buffers) -> Run:
        x, slope, y = buffers.input(0), buffers.input(1), buffers.outputs[0]
        if folded is not None:
            x, slope, y = x.reshape(folded), slope.reshape(-1), y.reshape(folded)
            return lambda first, last: _core.prelu(x, slope, y)
        assert general is not None
        negative = general.of(buffers.scratch)

        def run(first: int, last: int) -> None:
            np.minimum(x, 0.0, out=negative)
            np.multiply(negative, slope, out=negative)
            np.maximum(x, 0.0, out=y)
            np.add(y, negative, out=y)

        return run

    return Lowered(
        outputs=(shape,),
        bind=bind,
        scratch=scratch.nbytes,
        inplace=() if call.is_param(0) else (0,),
        batchwise=is_batchwise(call, shape),
        batch=batch_of(call, shape),
        flops=math.prod(shape),
    )


def _fold(x: Shape, slope: Shape) -> Shape | None:
    """``x`` as (outer, slopes, inner), with slope i for index i of the middle axis; None if it has no such shape."""
    slope = (1,) * (len(x) - len(slope)) + slope
    wide = [axis for axis, extent in enumerate(slope) if extent != 1]
    if not wide:
        return (1, 1, math.prod(x))
    begin, end = wide[0], wide[-1] + 1
    if slope[begin:end] != x[begin:end]:
        return None
    return (math.prod(x[:begin]), math.prod(x[begin:end]), math.prod(x[end:]))
