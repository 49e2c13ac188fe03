"""Operators on truth values and indices: comparisons, logic, selection, and the index of the largest value.

Truth values are 1 and 0 in float32, and every number but 0 counts as true. Comparisons take two tensors of one type.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt.ops.base import FLOAT32, INT64, Array, Buffers, Lowered, Run
from streamrt.ops.call import Call
from streamrt.ops.movement import copy_all
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Scratch
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
#: The largest extent whose indices can be found as float32, which holds every integer up to here.
_MOST_INDICES = 2**24


@operator(*_BINARY, traits=Traits(moves_batch=True, integers=True))
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


@operator("Not", traits=Traits(integers=True))
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


@operator("Where", traits=Traits(moves_batch=True, integers=True))
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


@operator("ArgMax", "ArgMin", traits=Traits(integers=True))
def arg(call: Call) -> Lowered:
    """The index of the largest (smallest) value along ``axis``, which stays with extent 1 if ``keepdims``.

    If several values are equal, it is the index of the first, or with ``select_last_index`` of the last. With ``to``
    "int64" the result is int64. Without it the result is float32, as in files of before there were integers.
    """
    call.expect((1, 1))
    x = call.shape(0)
    function = np.argmax if call.node.op == "ArgMax" else np.argmin
    axis = call.axis("axis", len(x), 0)
    keepdims, from_end = call.flag("keepdims", True), call.flag("select_last_index", False)
    extent = x[axis]
    dtype = INT64 if call.text("to", "float32", ("float32", "int64")) == "int64" else FLOAT32
    if dtype == FLOAT32 and extent > _MOST_INDICES:
        raise call.fail(f"axis {axis} has extent {extent}, more than the {_MOST_INDICES} that float32 can count")
    others = (*x[:axis], *x[axis + 1 :])
    scratch = Scratch()
    found_part = scratch.add(math.prod(others), dtype=INT64) if dtype == FLOAT32 else None
    # NumPy would copy values that do not lie in rows.
    is_lying = axis == len(x) - 1 and not from_end
    rows = None if is_lying else scratch.add(*others, extent, dtype=call.operand(0).dtype)

    def bind(buffers: Buffers) -> Run:
        source = np.moveaxis(buffers.input(0), axis, -1)
        source = source[..., ::-1] if from_end else source
        target: NDArray[Any] = buffers.outputs[0].reshape(-1)
        found: NDArray[Any] = target if found_part is None else found_part.of(buffers.scratch)
        lying = source if rows is None else rows.of(buffers.scratch)
        flat = lying.reshape(-1, extent)
        copy = copy_all([] if rows is None else [(lying, source)])

        def run(first: int, last: int) -> None:
            copy(0, 1)
            function(flat, axis=1, out=found)
            if found is not target:
                np.copyto(target, found, casting="unsafe")
            if from_end:
                np.subtract(extent - 1, target, out=target)

        return run

    out = (*x[:axis], 1, *x[axis + 1 :]) if keepdims else others
    return Lowered(
        outputs=(out,),
        bind=bind,
        scratch=scratch.nbytes,
        batchwise=axis != 0,
        flops=math.prod(x),
        dtypes=(dtype,),
    )
