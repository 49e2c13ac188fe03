"""Element-wise size nodes, and products."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from streamrt.ops.sizes.registry import Array, Batch, SizeCall, size_operator, weight

_UNARY: dict[str, Callable[..., Array]] = {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Exp": np.exp,
    "Floor": np.floor,
    "Log": np.log,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Reciprocal": np.reciprocal,
    "Round": np.rint,
    "Sign": np.sign,
    "Sin": np.sin,
    "Sqrt": np.sqrt,
}


def _divide(a: Array, b: Array) -> Array:
    """Integers are divided toward 0, as in C. A quotient by 0 is 0."""
    if a.dtype.kind == "i" and b.dtype.kind == "i":
        return np.asarray(np.floor_divide(a - np.fmod(a, b), b))
    return np.divide(a, b)


_BINARY: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "And": np.logical_and,
    "Div": _divide,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Mul": np.multiply,
    "Or": np.logical_or,
    "Pow": np.power,
    "Sub": np.subtract,
    "Xor": np.logical_xor,
}
_VARIADIC: dict[str, Callable[..., Array]] = {"Max": np.maximum, "Min": np.minimum, "Sum": np.add}


@size_operator(*_UNARY, batch=Batch.ELEMENTWISE)
def unary(call: SizeCall) -> Array:
    """``y = f(x)``."""
    call.expect((1, 1))
    call.take(call.array(0).size)
    return np.asarray(_UNARY[call.node.op](call.array(0)))


@size_operator(*_BINARY, batch=Batch.ELEMENTWISE)
def binary(call: SizeCall) -> Array:
    """``y = a op b``."""
    call.expect((2, 2))
    a, b = call.array(0), call.array(1)
    call.take_shape(np.broadcast_shapes(a.shape, b.shape))
    result = np.asarray(_BINARY[call.node.op](a, b))
    # NumPy makes float64 of float32 and int64; ONNX has one type for both.
    return result.astype(np.float32) if result.dtype == np.float64 and np.float32 in (a.dtype, b.dtype) else result


@size_operator("Mod", batch=Batch.ELEMENTWISE)
def mod(call: SizeCall) -> Array:
    """The remainder, with the sign of the divisor, or with ``fmod`` the sign of the dividend."""
    call.expect((2, 2))
    a, b = call.array(0), call.array(1)
    call.take_shape(np.broadcast_shapes(a.shape, b.shape))
    return np.fmod(a, b) if call.flag("fmod", False) else np.mod(a, b)


@size_operator(*_VARIADIC, batch=Batch.ELEMENTWISE)
def variadic(call: SizeCall) -> Array:
    """``y = a op b op ...``."""
    call.expect((1, 4096))
    arrays = [call.array(index) for index in range(len(call.arrays))]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    for _ in arrays:  # each may be added to a sum that has the whole shape already
        call.take_shape(shape)
    return reduce(_VARIADIC[call.node.op], arrays)


@size_operator("Clip", batch=Batch.ELEMENTWISE)
def clip(call: SizeCall) -> Array:
    """Input 0, at least input 1 and at most input 2, if these are given."""
    call.expect((1, 3))
    x, low, high = call.array(0), call.given(1), call.given(2)
    call.take(x.size)
    if any(bound is not None and bound.size != 1 for bound in (low, high)):
        raise call.fail("a bound is not one number")
    x = x if low is None else np.maximum(x, low.reshape(()))
    return x if high is None else np.minimum(x, high.reshape(()))


@size_operator("Where", batch=Batch.ELEMENTWISE)
def where(call: SizeCall) -> Array:
    """``y = a where condition else b``."""
    call.expect((3, 3))
    condition, a, b = (call.array(index) for index in range(3))
    call.take_shape(np.broadcast_shapes(condition.shape, a.shape, b.shape))
    return np.where(condition, a, b)


@size_operator("MatMul")
def matmul(call: SizeCall) -> Array:
    """NumPy's matmul."""
    call.expect((2, 2))
    a, b = call.array(0), call.array(1)
    if not a.ndim or not b.ndim:
        raise call.fail(f"inputs of shapes {a.shape} and {b.shape}, expected an axis or more")
    rows, columns = weight(a.shape[:-1]), weight((*b.shape[:-2], *b.shape[-1:])) if b.ndim > 1 else 1
    call.take(rows * columns * max(1, a.shape[-1]))
    return np.asarray(np.matmul(a, b))
