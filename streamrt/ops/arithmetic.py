"""Arithmetic of two or more tensors, with NumPy's broadcasting."""

from __future__ import annotations

import math

import numpy as np

from streamrt.ops.base import Buffers, Call, Lowered, Run, Shape, operator
from streamrt.ops.layout import same_memory
from streamrt.ops.shapes import broadcast, is_batchwise

_FUNCTIONS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
_MOST_TERMS = 4096


@operator("Add", "Sub", "Mul", "Div")
def binary(call: Call) -> Lowered:
    """``y = a op b``."""
    call.expect((2, 2))
    function = _FUNCTIONS[call.node.op]
    shapes = call.shape(0), call.shape(1)
    out = broadcast(call, *shapes)

    def bind(buffers: Buffers) -> Run:
        a, b, y = buffers.input(0), buffers.input(1), buffers.outputs[0]

        def run(first: int, last: int) -> None:
            function(a, b, out=y)

        return run

    return Lowered(
        outputs=(out,),
        bind=bind,
        inplace=_inplace(call, shapes, out),
        batchwise=is_batchwise(call, out),
        flops=math.prod(out),
    )


@operator("Sum")
def sum_(call: Call) -> Lowered:
    """``y = a + b + ...``."""
    call.expect((1, _MOST_TERMS))
    shapes = tuple(call.shape(index) for index in range(len(call.shapes)))
    out = broadcast(call, *shapes)
    if len(shapes) == 1:
        return same_memory(call, out, batchwise=len(out) > 0)

    def bind(buffers: Buffers) -> Run:
        a, b, *rest = (buffers.input(index) for index in range(len(shapes)))
        y = buffers.outputs[0]

        def run(first: int, last: int) -> None:
            np.add(a, b, out=y)
            for term in rest:
                np.add(y, term, out=y)

        return run

    return Lowered(
        outputs=(out,),
        bind=bind,
        # The first two terms are read before anything is written; a later one is not.
        inplace=_inplace(call, shapes[:2], out),
        batchwise=is_batchwise(call, out),
        flops=(len(shapes) - 1) * math.prod(out),
    )


def _inplace(call: Call, shapes: tuple[Shape, ...], out: Shape) -> tuple[int, ...]:
    return tuple(i for i, shape in enumerate(shapes) if shape == out and not call.is_param[i])
