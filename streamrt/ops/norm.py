"""Normalisation: by stored statistics, across channels, and to probabilities."""

from __future__ import annotations

import math

import numpy as np

import streamrt._core as _core
from streamrt.ops.base import Buffers, Call, Lowered, Run, Shape, operator
from streamrt.ops.scratch import Layout


@operator("BatchNormalization")
def batch_normalization(call: Call) -> Lowered:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` for each channel, axis 1."""
    call.expect((5, 5))
    x = call.shape(0)
    folded = _channels(call, x)
    for index in range(1, 5):
        if call.param(index) != (x[1],):
            raise call.fail(f"input {index} has shape {call.shape(index)}, expected ({x[1]},)")
    epsilon = call.float_("epsilon", 1e-5)
    epilogue = call.epilogue()
    layout = Layout()
    factor_part, shift_part = layout.add(x[1]), layout.add(x[1])

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0).reshape(folded), buffers.outputs[0].reshape(folded)
        scale, bias, mean, var = (buffers.input(index) for index in range(1, 5))
        factor, shift = factor_part.of(buffers.scratch), shift_part.of(buffers.scratch)

        def run(first: int, last: int) -> None:
            np.add(var, epsilon, out=factor)
            np.sqrt(factor, out=factor)
            np.divide(scale, factor, out=factor)
            np.multiply(mean, factor, out=shift)
            np.subtract(bias, shift, out=shift)
            _core.scale_shift_act(source, factor, shift, target, *epilogue)

        return run

    return Lowered(
        outputs=(x,),
        bind=bind,
        scratch=layout.nbytes,
        inplace=() if call.is_param[0] else (0,),
        flops=2 * math.prod(x),
    )


@operator("LRN")
def lrn(call: Call) -> Lowered:
    """``x / (bias + alpha / size * s) ** beta``, s the sum of the squares of ``size`` channels around."""
    call.expect((1, 1))
    x = call.shape(0)
    folded = _channels(call, x)
    size = call.int_("size", low=1)
    alpha, beta, bias = call.float_("alpha", 1e-4), call.float_("beta", 0.75), call.float_("bias", 1.0)

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0).reshape(folded), buffers.outputs[0].reshape(folded)
        return lambda first, last: _core.lrn(source, target, size, alpha, beta, bias)

    return Lowered(outputs=(x,), bind=bind, flops=math.prod(x) * min(size, x[1]))


@operator("Softmax", "LogSoftmax")
def softmax(call: Call) -> Lowered:
    """``exp(x) / sum(exp(x))`` along ``axis``, or its logarithm.

    With ``coerce`` the sum runs over all axes from ``axis`` on together, as ONNX had it before opset 13.
    """
    call.expect((1, 1))
    x = call.shape(0)
    coerce = call.flag("coerce", False)
    axis = call.axis("axis", len(x), 1 if coerce else -1)
    end = len(x) if coerce else axis + 1
    folded = (math.prod(x[:axis]), math.prod(x[axis:end]), math.prod(x[end:]))
    log = call.node.op == "LogSoftmax"

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0).reshape(folded), buffers.outputs[0].reshape(folded)
        return lambda first, last: _core.softmax(source, target, log)

    return Lowered(
        outputs=(x,),
        bind=bind,
        inplace=() if call.is_param[0] else (0,),
        batchwise=axis != 0,
        flops=3 * math.prod(x),
    )


def _channels(call: Call, x: Shape) -> Shape:
    """``x`` as (samples, channels, positions)."""
    if len(x) < 2:
        raise call.fail(f"an input of shape {x}, expected at least 2 axes")
    return (x[0], x[1], math.prod(x[2:]))
