"""Arithmetic by NumPy: functions of one tensor, and of several with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from streamrt.ops.base import INT64, Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.movement import same_memory
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Scratch
from streamrt.ops.shapes import batch_of, broadcast, is_batchwise

_UNARY: dict[str, Callable[..., object]] = {
    "Abs": np.absolute,
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Exp": np.exp,
    "Floor": np.floor,
    "Log": np.log,
    "Reciprocal": np.reciprocal,
    "Round": np.rint,
    "Sign": np.sign,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Softplus": partial(np.logaddexp, np.float32(0)),
    "Sqrt": np.sqrt,
    "Tan": np.tan,
}
#: Of these, the functions that int64 has, too. Sums and products that are too large wrap, as in other runtimes.
_UNARY_INTEGER = ("Abs", "Sign")
_BINARY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power}
_VARIADIC = {"Sum": np.add, "Max": np.maximum, "Min": np.minimum}
#: The most inputs of a variadic operator: a node can have no more.
_MOST_TERMS = 4096


@operator(*(name for name in _UNARY if name not in _UNARY_INTEGER), traits=Traits(moves_batch=True, rowwise=True))
@operator(*_UNARY_INTEGER, traits=Traits(moves_batch=True, integers=True, rowwise=True))
def unary(call: Call) -> Lowered:
    """``y = f(x)``."""
    call.expect((1, 1))
    function, shape = _UNARY[call.node.op], call.shape(0)

    def bind(buffers: Buffers) -> Run:
        x, y = buffers.input(0), buffers.outputs[0]

        def run(first: int, last: int) -> None:
            function(x, out=y)

        return run

    return Lowered(
        outputs=(shape,),
        bind=bind,
        inplace=_inplace(call, (shape,), shape),
        batchwise=len(shape) > 0,
        batch=call.batch() or 0,
        flops=math.prod(shape),
        dtypes=(call.dtype(0),),
    )


@operator("Add", "Sub", "Mul", "Div", traits=Traits(fuses=True, moves_batch=True, integers=True, rowwise=True))
@operator("Pow", traits=Traits(moves_batch=True, rowwise=True))
def binary(call: Call) -> Lowered:
    """``y = a op b``. A quotient of integers is rounded toward zero."""
    call.expect((2, 2))
    dtype = call.dtype(0, 1)
    if call.node.op == "Div" and dtype == INT64:
        return _quotient(call)
    return _elementwise(call, _BINARY[call.node.op], dtype)


@operator("Mod", traits=Traits(moves_batch=True, integers=True))
def mod(call: Call) -> Lowered:
    """The remainder of ``a / b``, with the sign of b, or with ``fmod`` with the sign of a."""
    call.expect((2, 2))
    return _elementwise(call, np.fmod if call.flag("fmod", False) else np.remainder, call.dtype(0, 1))


def _elementwise(call: Call, function: Callable[..., object], dtype: str) -> Lowered:
    """``y = function(a, b)`` of two tensors of one type."""
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
        batch=batch_of(call, out),
        flops=math.prod(out),
        dtypes=(dtype,),
    )


def _quotient(call: Call) -> Lowered:
    """The quotient of integers, rounded toward zero; 0 where b is 0. NumPy rounds quotients down."""
    shapes = call.shape(0), call.shape(1)
    out = broadcast(call, *shapes)
    scratch = Scratch()
    part = scratch.add(*out, dtype=INT64)

    def bind(buffers: Buffers) -> Run:
        a, b, y = buffers.input(0), buffers.input(1), buffers.outputs[0]
        exact = part.of(buffers.scratch)

        def run(first: int, last: int) -> None:
            np.fmod(a, b, out=exact)
            np.subtract(a, exact, out=exact)
            np.floor_divide(exact, b, out=y)

        return run

    return Lowered(
        outputs=(out,),
        bind=bind,
        scratch=scratch.nbytes,
        inplace=_inplace(call, shapes, out),
        batchwise=is_batchwise(call, out),
        batch=batch_of(call, out),
        flops=3 * math.prod(out),
        dtypes=(INT64,),
    )


@operator(*_VARIADIC, traits=Traits(fuses=True, moves_batch=True, integers=True, rowwise=True))
def variadic(call: Call) -> Lowered:
    """``y = a op b op ...``."""
    call.expect((1, _MOST_TERMS))
    function = _VARIADIC[call.node.op]
    shapes = tuple(call.shape(index) for index in range(len(call.operands)))
    out, dtypes = broadcast(call, *shapes), (call.dtype(),)
    if len(shapes) == 1:
        return same_memory(call, out, batchwise=len(out) > 0, batch=call.batch() or 0)

    def bind(buffers: Buffers) -> Run:
        a, b, *rest = (buffers.input(index) for index in range(len(shapes)))
        y = buffers.outputs[0]

        def run(first: int, last: int) -> None:
            function(a, b, out=y)
            for term in rest:
                function(y, term, out=y)

        return run

    return Lowered(
        outputs=(out,),
        bind=bind,
        # The first two terms are read before the output is written; later terms are read after.
        inplace=_inplace(call, shapes[:2], out),
        batchwise=is_batchwise(call, out),
        batch=batch_of(call, out),
        flops=(len(shapes) - 1) * math.prod(out),
        dtypes=dtypes,
    )


def _inplace(call: Call, shapes: tuple[Shape, ...], out: Shape) -> tuple[int, ...]:
    return tuple(i for i, shape in enumerate(shapes) if shape == out and not call.is_param(i))
