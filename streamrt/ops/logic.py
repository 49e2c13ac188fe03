"""Operators on truth values: comparisons, logic and selection.

Truth values are 1 and 0 in float32, and every number but 0 counts as true. Comparisons take two tensors of one type.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from streamrt.ops.base import Array, Buffers, Lowered, Run
from streamrt.ops.call import Call
from streamrt.ops.movement import copy_all
from streamrt.ops.registry import Traits, operator
from streamrt.ops.shapes import batch_of, broadcast, is_batchwise

_BINARY: dict[str, Callable[..., object]] = {
    "And": np.logical_and,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}


@operator(*_BINARY, traits=Traits(moves_batch=True, integers=True, rowwise=True))
def binary(call: Call) -> Lowered:
    """``y = 1 if a op b else 0``."""
    call.expect((2, 2))
    call.dtype(0, 1)
    function = _BINARY[call.node.op]
    out = broadcast(call, call.shape(0), call.shape(1))

    def bind(buffers: Buffers) -> Run:
        a, b, y = buffers.input(0), buffers.input(1), buffers.outputs[0]

        def run(first: int, last: int) -> None:
            function(a, b, out=y)

        return run

    # Not in place: NumPy would copy an input that overlaps an output of another type.
    return Lowered(
        outputs=(out,), bind=bind, batchwise=is_batchwise(call, out), batch=batch_of(call, out), flops=math.prod(out)
    )


@operator("Not", traits=Traits(integers=True, rowwise=True))
def not_(call: Call) -> Lowered:
    """``y = 1 if x == 0 else 0``."""
    call.expect((1, 1))
    return _test(call, np.logical_not)


@operator("IsNaN")
def is_nan(call: Call) -> Lowered:
    """``y = 1 if x is no number else 0``."""
    call.expect((1, 1))
    return _test(call, np.isnan)


@operator("IsInf")
def is_inf(call: Call) -> Lowered:
    """``y = 1 if x is infinite else 0``, of the signs for which ``detect_positive`` and ``detect_negative`` are 1."""
    call.expect((1, 1))
    positive, negative = call.flag("detect_positive", True), call.flag("detect_negative", True)
    if positive and negative:
        return _test(call, np.isinf)
    if not positive and not negative:
        return _test(call, _never)
    return _test(call, partial(np.equal, np.float32(np.inf if positive else -np.inf)))


def _never(x: Array, out: Array) -> None:
    out.fill(0)


def _test(call: Call, function: Callable[..., object]) -> Lowered:
    shape = call.shape(0)

    def bind(buffers: Buffers) -> Run:
        x, y = buffers.input(0), buffers.outputs[0]

        def run(first: int, last: int) -> None:
            function(x, out=y)

        return run

    return Lowered(outputs=(shape,), bind=bind, batchwise=len(shape) > 0, flops=math.prod(shape))


@operator("Where", traits=Traits(moves_batch=True, integers=True, rowwise=True))
def where(call: Call) -> Lowered:
    """``y = a where condition != 0 else b``."""
    call.expect((3, 3))
    dtype = call.dtype(1, 2)
    condition = call.shape(0)
    out = broadcast(call, condition, call.shape(1), call.shape(2))

    def bind(buffers: Buffers) -> Run:
        wanted, a, b = (buffers.input(index) for index in range(3))
        y, chosen = buffers.outputs[0], buffers.scratch.view(np.bool_).reshape(condition)
        copy = copy_all([(y, b)])

        def run(first: int, last: int) -> None:
            np.not_equal(wanted, 0, out=chosen)
            copy(0, 1)
            np.copyto(y, a, where=chosen)

        return run

    return Lowered(
        outputs=(out,),
        bind=bind,
        scratch=math.prod(condition),
        batchwise=is_batchwise(call, out),
        batch=batch_of(call, out),
        flops=math.prod(out),
        dtypes=(dtype,),
    )
