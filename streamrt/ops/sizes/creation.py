"""Size nodes that make a tensor of a shape that is a value: filled, counted up, or repeated."""

from __future__ import annotations

import math

import numpy as np

from streamrt.ops.sizes.registry import Array, Batch, SizeCall, size_operator

#: Types by the names that ``Cast`` and ``Constant`` give them. Integers are int64.
_TYPES = {
    **dict.fromkeys(("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"), np.int64),
    **dict.fromkeys(("float32", "float16", "bfloat16"), np.float32),
    "float64": np.float64,
    "bool": np.bool_,
}


@size_operator("Identity", batch=Batch.MOVED)
def identity(call: SizeCall) -> Array:
    """``y = x``."""
    call.expect((1, 1))
    return call.array(0)


@size_operator("Cast", batch=Batch.ELEMENTWISE)
def cast(call: SizeCall) -> Array:
    """``x`` in the type ``to``. Numbers with a fraction are cut off toward 0."""
    call.expect((1, 1))
    dtype = _TYPES[call.text("to", "", tuple(_TYPES))]
    call.take(call.array(0).size)
    return call.array(0).astype(dtype)


@size_operator("ConstantOfShape")
def constant_of_shape(call: SizeCall) -> Array:
    """A tensor of the shape that is input 0, filled with ``value``, of type ``dtype``; it takes no memory."""
    call.expect((1, 1))
    value = call.float_("value", 0.0)
    dtype = _TYPES[call.text("dtype", "float32", tuple(_TYPES))]
    return np.broadcast_to(np.array(value).astype(dtype), call.take_shape(call.integers(0)))


@size_operator("Expand")
def expand(call: SizeCall) -> Array:
    """Input 0, broadcast with the shape that is input 1; it takes no memory."""
    call.expect((2, 2))
    x, shape = call.array(0), call.take_shape(call.integers(1))
    return np.broadcast_to(x, call.take_shape(np.broadcast_shapes(x.shape, shape)))


@size_operator("Range")
def range_(call: SizeCall) -> Array:
    """Numbers from input 0 up to input 1, which is not included, in steps of input 2."""
    call.expect((3, 3))
    start, limit, delta = (call.array(index) for index in range(3))
    if any(number.size != 1 for number in (start, limit, delta)):
        raise call.fail("its inputs are not three numbers")
    first, end, step = start.item(), limit.item(), delta.item()
    if not all(map(math.isfinite, (first, end, step))) or step == 0:
        raise call.fail(f"a range from {first} to {end} in steps of {step}, expected finite numbers and no step of 0")
    # The quotient of integers is rounded up exactly.
    span = (end - first, step)
    count = -(-span[0] // span[1]) if all(isinstance(n, int) for n in span) else math.ceil(span[0] / span[1])
    call.take(max(0, count))
    dtype = np.result_type(start, limit, delta)
    numbers = np.arange(max(0, count), dtype=np.int64 if dtype.kind == "i" else np.float64)
    numbers *= step
    numbers += first
    return numbers.astype(dtype, copy=False)


@size_operator("Tile", batch=Batch.MOVED)
def tile(call: SizeCall) -> Array:
    """Input 0, repeated along each axis as often as input 1 says."""
    call.expect((2, 2))
    x, repeats = call.array(0), call.integers(1)
    if len(repeats) != x.ndim or any(count < 0 for count in repeats):
        raise call.fail(
            f"repeats {repeats!s:.200} of an input of shape {x.shape}, expected one from 0 on for each axis"
        )
    call.take_shape(tuple(extent * count for extent, count in zip(x.shape, repeats, strict=True)))
    return np.tile(x, repeats)


@size_operator("EyeLike")
def eye_like(call: SizeCall) -> Array:
    """1 on diagonal ``k`` of a matrix of the shape of input 0, and 0 elsewhere; of type ``dtype``."""
    call.expect((1, 1))
    shape = call.array(0).shape
    if len(shape) != 2:
        raise call.fail(f"an input of shape {shape}, expected two axes")
    dtype = _TYPES[call.text("dtype", "float32", tuple(_TYPES))]
    call.take_shape(shape)
    return np.eye(*shape, k=call.int_("k", 0), dtype=dtype)


@size_operator("OneHot")
def one_hot(call: SizeCall) -> Array:
    """The second of the values in input 2 where index and position along ``axis`` are equal, else the first."""
    call.expect((3, 3))
    indices, depth, values = call.array(0), call.array(1), call.array(2)
    if depth.size != 1 or values.shape != (2,):
        raise call.fail(f"a depth of shape {depth.shape} and values of shape {values.shape}, expected one and two")
    count = int(depth.item())
    axis = call.axis_in(call.int_("axis", -1), indices.ndim + 1)
    call.take_shape((*indices.shape[:axis], count, *indices.shape[axis:]))
    positions = np.arange(count).reshape(count, *(1,) * (indices.ndim - axis))
    wrapped = np.where(indices < 0, indices + count, indices)
    return np.asarray(np.where(np.expand_dims(wrapped, axis) == positions, values[1], values[0]))


@size_operator("Trilu")
def trilu(call: SizeCall) -> Array:
    """The upper (lower if not ``upper``) triangle of the last two axes, from diagonal input 1 on; 0 elsewhere."""
    call.expect((1, 2))
    x, diagonal = call.array(0), call.given(1)
    if x.ndim < 2 or (diagonal is not None and diagonal.size != 1):
        raise call.fail(f"an input of shape {x.shape}, expected two axes or more, and one number as the diagonal")
    far = max(x.shape[-2:])
    k = 0 if diagonal is None else max(-far, min(far, int(diagonal.item())))
    call.take_shape(x.shape)
    return np.asarray(np.triu(x, k) if call.flag("upper", True) else np.tril(x, k))
