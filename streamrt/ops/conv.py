"""Convolution, computed in one of four ways that depend on its geometry.

* If the window is the whole input, it is a Gemm.
* If each group has one input channel, it is a compiled loop over the windows (depthwise).
* If the window of a plane is 3x3 with stride 1, it is Winograd's algorithm, unless the map is too small or the result
  must be exact.
* Otherwise it is a compiled product with the windows as columns, a block of columns at a time.

With the instruction set "numpy" NumPy computes it instead: see `streamrt.ops.conv_numpy`. For NumPy and for depthwise
convolutions, weights that are stored in fewer bytes are decoded to scratch memory.

Weights are (output channels, input channels of a group, window). A tile is a range of output channels; it may hold a
part of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import streamrt._core as _core
from streamrt.ops.base import Array, Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.coded import TYPES, decoded
from streamrt.ops.columns import columns, threads_for
from streamrt.ops.conv_numpy import Arrays, MatmulConvolution, Scaling
from streamrt.ops.epilogue import Epilogue, epilogue_of
from streamrt.ops.gemm import Dense
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Bias, Part, Scratch
from streamrt.ops.window import Geometry, with_axes

#: The most columns behind the last whole vector that are dot products (`simd/dots.h`): their sums have another order.
_MOST_DOTS = 4
#: Output rows of a tile of Winograd's algorithm, F(4x4, 3x3).
_WINOGRAD_ROWS = 4


@operator("Conv", traits=Traits(fuses=True, row_axis=1, dtypes={1: TYPES}))
def conv(call: Call) -> Lowered:
    """Convolution of x (N, C, [[D,] H,] W) with weights (OC, C / group, [[KD,] KH,] KW) and an optional bias (OC,).

    The optional input 3, of the output's shape, is added before the activation, as in ONNX Runtime's FusedConv.

    If the window is one value with stride 1 and no padding, x can be scaled first: to ``x * scale + shift``, limited to
    ``input_min`` to ``input_max``. The scale is input 4, a parameter (C,) or computed (N, C, [[1,] 1,] 1). The shift is
    input 5, an optional parameter (C,).
    """
    call.expect((2, 6))
    x, w = call.computed(0), call.param(1)
    if len(x) not in (3, 4, 5) or len(w) != len(x):
        raise call.fail(f"an input of shape {x} and weights of shape {w}, expected both with 3, 4 or 5 axes")
    groups = call.int_("group", 1, 1)
    if x[1] != w[1] * groups or w[0] % groups:
        raise call.fail(
            f"weights of shape {w} in {groups} groups and an input of shape {x}, "
            f"expected {w[1] * groups} input channels and a multiple of {groups} output channels"
        )
    if call.ints("kernel_shape", w[2:]) != w[2:]:
        raise call.fail(f"attribute 'kernel_shape' differs from the weights' window, expected {w[2:]}")
    geometry = Geometry.read(call, x[2:], w[2:])
    has_bias, epilogue, scratch = call.bias(2, w[0]), epilogue_of(call), Scratch()
    output = (x[0], w[0], *geometry.spatial)
    call.check("output 0", output)
    residual = call.optional(3) is not None
    if residual and call.computed(3) != output:
        raise call.fail(f"input 3 has shape {call.shape(3)}, expected the output's {output}")
    scaling = _Scaling.read(call, geometry, scratch, x)
    bind: Callable[[Buffers], Run]
    takes_coded, in_bands, roomy, small, band_step = True, False, False, False, 1
    if groups == 1 and geometry.covers_input and not residual and not scaling:
        bind = Dense(
            batch=x[0],
            inner=w[1] * geometry.taps,
            rows=w[0],
            dtype=call.operand(1).dtype,
            has_bias=has_bias,
            epilogue=epilogue,
            scratch=scratch,
        ).bind
    else:
        bias = Bias(scratch, 2, w[0] if has_bias else None)
        if not _core.products_pay():
            blocks = MatmulConvolution.plan(
                *(geometry, groups, w[1], w[0] // groups), residual=residual, scaled=bool(scaling), scratch=scratch
            )
            bind, takes_coded = partial(_bind_numpy, blocks, bias, scaling, epilogue), False
        elif w[1] == 1 and groups > 1 and not residual and not scaling:
            bind, takes_coded = partial(_bind_depthwise, geometry, bias, epilogue), False
            in_bands = len(x) == 4
        else:
            inner, outputs = w[1] * geometry.taps, w[0] // groups
            threads = threads_for(x[0] * w[0] * geometry.positions * inner)
            winograd = not call.exact and not scaling
            seat = _core.winograd_seat(x[0], w[1], outputs, geometry.window, threads) if winograd else 0
            band_step = _WINOGRAD_ROWS if seat else 1
            panels = scratch.add(threads, seat) if seat else columns(scratch, threads, inner, geometry.positions)
            # Memory for sums only makes the kernel faster, so a lean program, which is exact, does without.
            alone = seat or threads == 1 or call.exact
            halves = _core.conv_sums(x[0], groups, inner, outputs, geometry.window)
            small = halves > 0
            sums = scratch.add(halves) if halves and not alone else None
            roomy = bool(seat or sums)
            bind = partial(_bind_product, bool(seat), geometry, groups, bias, scaling, panels, sums, epilogue)
            in_bands = len(x) == 4
    lowered = Lowered(
        outputs=(output,),
        bind=bind,
        scratch=scratch.nbytes,
        roomy=roomy,
        inplace=(3,) if residual else (),
        tiled=(1,),
        rows=w[0],
        batchwise=all(
            call.batch(index) == call.batch(0) or call.is_param(index) for index in (3, 4) if call.optional(index)
        ),
        flops=2 * x[0] * w[0] * w[1] * geometry.taps * geometry.positions,
        window=geometry.window if in_bands else None,
        small=small,
        columns=geometry.columns._replace(ends=_MOST_DOTS),
        band_step=band_step,
    )
    return lowered if takes_coded else decoded(lowered, (None, call.operand(1)))


@dataclass(frozen=True, slots=True)
class _Scaling:
    """The scaling of a convolution's input: see `conv`."""

    scale: Bias
    shift: Bias
    low: float
    high: float

    @classmethod
    def read(cls, call: Call, geometry: Geometry, scratch: Scratch, x: Shape) -> _Scaling | None:
        """The scaling that inputs 4 and 5 and the attributes ask for; None if input 4 is left out."""
        shape = call.optional(4)
        if shape is None:
            if call.optional(5) is not None:
                raise call.fail("input 5 (shift) is there and input 4 (scale) is left out, expected both")
            return None
        expected = (x[1],) if call.is_param(4) else (*x[:2], *(1,) * (len(x) - 2))
        if not geometry.is_pointwise or shape != expected:
            raise call.fail(
                f"input 4 has shape {shape}, expected {expected}; the windows are {geometry.kernel} with strides "
                f"{geometry.strides} and pads {geometry.pads}, expected one value with stride 1 and no padding"
            )
        shift = call.bias(5, x[1])
        low, high = call.float_("input_min", -math.inf), call.float_("input_max", math.inf)
        scale = Bias(scratch, 4, x[1] if call.is_param(4) else None)
        return cls(scale, Bias(scratch, 5, x[1] if shift else None), low, high)

    def bind(self, buffers: Buffers) -> dict[str, Any]:
        """The scaling as keyword arguments of `_core.Convolution`."""
        gate = buffers.input(4)
        scale = gate.reshape(len(gate), -1) if gate.ndim > 1 else self.scale.kept(buffers)
        return {"scale": scale, "shift": self.shift.kept(buffers), "low": self.low, "high": self.high}


def _bind_numpy(
    blocks: MatmulConvolution, bias: Bias, scaling: _Scaling | None, epilogue: Epilogue, buffers: Buffers
) -> Run:
    """A convolution as NumPy's matrix products."""
    extra = scaling.bind(buffers) if scaling else {}
    if scaling:
        extra["scale"] = np.atleast_2d(extra["scale"])
    arrays = Arrays(
        x=with_axes(buffers.input(0), blocks.geometry.input),
        w=with_axes(buffers.input(1), blocks.geometry.kernel),
        bias=bias.kept(buffers),
        residual=_residual(buffers, blocks.geometry),
        y=with_axes(buffers.outputs[0], blocks.geometry.output),
        scratch=buffers.scratch,
        scaling=Scaling(**extra) if scaling else None,
    )
    loads = [kept.bind(buffers) for kept in _kept(bias, scaling)]

    def run(first: int, last: int) -> None:
        for load in loads:
            load(first)
        blocks.run(arrays, epilogue, first, last)

    return run


def _residual(buffers: Buffers, geometry: Geometry) -> Array | None:
    """Input 3, as planes; None if it is left out."""
    residual = buffers.optional(3)
    return None if residual is None else with_axes(residual, geometry.output)


def _kept(bias: Bias, scaling: _Scaling | None) -> tuple[Bias, ...]:
    """The vectors that the first tile copies to scratch memory."""
    return (bias, scaling.scale, scaling.shift) if scaling else (bias,)


def _bind_depthwise(geometry: Geometry, bias: Bias, epilogue: Epilogue, buffers: Buffers) -> Run:
    """A convolution in which each group has one input channel: a loop over windows instead of a matrix product."""
    x = with_axes(buffers.input(0), geometry.input)
    filters = with_axes(buffers.input(1), geometry.kernel)[:, 0]
    y = with_axes(buffers.outputs[0], geometry.output)
    kernel = _core.Depthwise(x, filters, bias.kept(buffers), y, geometry.window, *epilogue)
    bias.keep_for(kernel, buffers)
    return kernel


def _bind_product(
    winograd: bool,
    geometry: Geometry,
    groups: int,
    bias: Bias,
    scaling: _Scaling | None,
    panels: Part,
    sums: Part | None,
    epilogue: Epilogue,
    buffers: Buffers,
) -> Run:
    """A convolution as a product of rows of weights with columns of the input, or by Winograd's algorithm."""
    x = with_axes(buffers.input(0), geometry.input)
    w = with_axes(buffers.weights(1), geometry.kernel)
    y = with_axes(buffers.outputs[0], geometry.output)
    extra = scaling.bind(buffers) if scaling else {}
    residual = _residual(buffers, geometry)
    kernel = _core.Convolution(
        *(x, w, bias.kept(buffers), residual, y, geometry.window, groups, panels.of(buffers.scratch)),
        *epilogue,
        winograd=winograd,
        sums=sums.of(buffers.scratch) if sums else None,
        **extra,
    )
    for kept in _kept(bias, scaling):
        kept.keep_for(kernel, buffers)
    return kernel
