"""Conversion between the types of tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt.graph import TYPES
from streamrt.ops.base import INT64, Array, Buffers, Lowered, Run, computed_type
from streamrt.ops.call import Call
from streamrt.ops.movement import same_memory
from streamrt.ops.registry import Traits, operator


@operator("Cast", traits=Traits(moves_batch=True, integers=True))
def cast(call: Call) -> Lowered:
    """The input as the type ``to``: a type of a graph's inputs, such as "int32".

    Integers of all sizes are int64. Those that are smaller in ``to`` keep the values that they would have there: their
    highest bits are dropped. A floating-point number is rounded toward zero to an integer. All floating-point types are
    float32, with its precision. A truth value is 1 in float32 for every number but 0.
    """
    call.expect((1, 1))
    x, source = call.shape(0), call.dtype(0)
    to = call.text("to", "", TYPES)
    target = computed_type(to)
    bits = 8 * np.dtype(to).itemsize
    is_cut = target == INT64 and bits < 64
    if source == target and to != "bool" and not is_cut:
        return same_memory(call, x, batchwise=len(x) > 0, batch=call.batch() or 0)

    def bind(buffers: Buffers) -> Run:
        given, y = buffers.input(0), buffers.outputs[0]

        def run(first: int, last: int) -> None:
            if to == "bool":
                np.not_equal(given, 0, out=y)
                return
            np.copyto(y, given, casting="unsafe")
            if is_cut:
                _cut(y, bits, signed=np.dtype(to).kind == "i")

        return run

    inplace = (0,) if source == target and target == INT64 and not call.is_param(0) else ()
    return Lowered(
        outputs=(x,),
        bind=bind,
        inplace=inplace,
        batchwise=len(x) > 0,
        batch=call.batch() or 0,
        flops=math.prod(x),
        dtypes=(target,),
    )


def to_integers(given: Array, target: NDArray[Any]) -> None:
    """Write numbers to an array of integers, as `cast` makes them. NumPy has buffers of a few thousand values."""
    if given.dtype.kind != "f":
        np.copyto(target, given, casting="unsafe")
        return
    with np.errstate(invalid="ignore"):
        np.positive(given, out=target, dtype=np.int64, casting="unsafe")  # then the highest bits are dropped


def _cut(y: Array, bits: int, signed: bool) -> None:
    """Keep the lowest ``bits`` of int64 numbers, as signed or unsigned integers of this size."""
    if signed:
        np.left_shift(y, 64 - bits, out=y)
        np.right_shift(y, 64 - bits, out=y)
    else:
        np.bitwise_and(y, (1 << bits) - 1, out=y)
