"""Quantisation of activations: to integers, and back to real numbers.

Integers are float32 numbers here. Rounding is to the nearest integer, half to even. Integers beyond the type become its
least or its largest. `QuantizeDequantizeLinear`, which is an activation (`streamrt.ops.epilogue`), is both steps with
one scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from streamrt.ops.base import Array, Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.epilogue import QUANTIZED
from streamrt.ops.registry import Traits, operator

_PARAMS = Traits(params=("scale", "zero_point"))
#: The largest integer of uint8, to which DynamicQuantizeLinear quantises.
_MOST = QUANTIZED["uint8"][1]


@operator("QuantizeLinear", traits=_PARAMS)
def quantize(call: Call) -> Lowered:
    """``y = limited(rounded(x / scale) + zero_point)``.

    The scale and the optional zero point have one element, or one for each index of ``axis``. ``dtype`` is the type of
    the integers.
    """
    least, most = QUANTIZED[call.text("dtype", "uint8", tuple(QUANTIZED))]
    spread = _spread(call)

    def bind(buffers: Buffers) -> Run:
        x, y = buffers.input(0), buffers.outputs[0]
        scale, zero = _params(buffers, spread)

        def run(first: int, last: int) -> None:
            np.divide(x, scale, out=y)
            np.rint(y, out=y)
            if zero is not None:
                np.add(y, zero, out=y)
            np.clip(y, least, most, out=y)

        return run

    return _elementwise(call, spread, bind)


@operator("DequantizeLinear", traits=_PARAMS)
def dequantize(call: Call) -> Lowered:
    """``y = (x - zero_point) * scale``. Scale and zero point are as in `quantize`."""
    spread = _spread(call)

    def bind(buffers: Buffers) -> Run:
        x, y = buffers.input(0), buffers.outputs[0]
        scale, zero = _params(buffers, spread)

        def run(first: int, last: int) -> None:
            if zero is None:
                np.multiply(x, scale, out=y)
            else:
                np.subtract(x, zero, out=y)
                np.multiply(y, scale, out=y)

        return run

    return _elementwise(call, spread, bind)


@operator("DynamicQuantizeLinear")
def dynamic_quantize(call: Call) -> Lowered:
    """Integers from 0 to 255 with the scale and the zero point that fit the values of x; all three are outputs.

    They are for the range from the least to the largest value, and 0. If all values are 0, the scale is 1.
    """
    call.expect((1, 1), (3, 3))
    shape = call.shape(0)

    def bind(buffers: Buffers) -> Run:
        x, (y, scale, zero) = buffers.input(0), buffers.outputs

        def run(first: int, last: int) -> None:
            low, high = np.minimum(x.min(), np.float32(0)), np.maximum(x.max(), np.float32(0))
            step = np.float32(1) if low == high else (high - low) / np.float32(_MOST)
            point = np.clip(np.rint(-low / step), 0, _MOST)
            np.divide(x, step, out=y)
            np.rint(y, out=y)
            np.add(y, point, out=y)
            np.clip(y, 0, _MOST, out=y)
            scale[...], zero[...] = step, point

        return run

    inplace = () if call.is_param(0) else (0,)
    return Lowered(outputs=(shape, (), ()), bind=bind, inplace=inplace, batchwise=False, flops=4 * math.prod(shape))


def _spread(call: Call) -> Shape:
    """The shape in which scales broadcast with the input: one number, or numbers along ``axis``."""
    call.expect((2, 3))
    x, scale = call.shape(0), call.param(1)
    if call.optional(2) is not None and call.param(2) != scale:
        raise call.fail(f"a scale of shape {scale} and a zero point of shape {call.shape(2)}, expected the same shape")
    axis = call.axis("axis", len(x), 0) if x else call.int_("axis", 0)
    if math.prod(scale) == 1:
        return ()
    if not x or scale != (x[axis],):
        raise call.fail(f"a scale of shape {scale} for axis {axis} of an input of shape {x}, expected one or {x}")
    return (scale[0], *(1,) * (len(x) - 1 - axis))


def _params(buffers: Buffers, spread: Shape) -> tuple[Array, Array | None]:
    """Scale and zero point in a shape that broadcasts with the input."""
    zero = buffers.optional(2)
    return buffers.input(1).reshape(spread), None if zero is None else zero.reshape(spread)


def _elementwise(call: Call, spread: Shape, bind: Callable[[Buffers], Run]) -> Lowered:
    x = call.shape(0)
    return Lowered(
        outputs=(x,),
        bind=bind,
        inplace=() if call.is_param(0) else (0,),
        batchwise=len(x) > len(spread),  # else there is a scale for each sample
        flops=math.prod(x),
    )
