"""Operators that read or write single elements or slices at constant indices.

The positions in memory are computed when the node is lowered. They are few: an attribute has at most 4096 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from streamrt.ops.base import Array, Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.movement import copy_all
from streamrt.ops.registry import Traits, operator

#: What an update does to the value at its position.
_REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
Indices = NDArray[np.int64]


@operator("GatherElements", traits=Traits(integers=True))
def gather_elements(call: Call) -> Lowered:
    """At each position of ``indices``, the value at that position, with the index in place of its position on ``axis``.

    ``indices_shape`` is the shape of the result.
    """
    call.expect((1, 1))
    x = call.shape(0)
    indices = _elements(call, x)
    return _gathered(call, indices.shape, _positions(call, x, indices), (math.prod(x),), ())


@operator("GatherND", traits=Traits(integers=True))
def gather_nd(call: Call) -> Lowered:
    """The slices at ``indices``, whose last axis has an index for each of the first axes of the input.

    The first ``batch_dims`` axes of the input are axes of the indices, too.
    """
    call.expect((1, 1))
    x = call.shape(0)
    batch = call.int_("batch_dims", 0, 0, max(len(x) - 1, 0))
    indices = _indices(call)
    if indices.ndim <= batch or indices.shape[:batch] != x[:batch]:
        raise call.fail(f"indices of shape {indices.shape} and {batch} batch_dims do not fit an input of shape {x}")
    count = indices.shape[-1]
    rest = x[batch + count :]
    at = _flat(call, x[batch : batch + count], indices)
    if batch:
        samples = np.arange(math.prod(x[:batch])).reshape(*x[:batch], *(1,) * (at.ndim - batch))
        at += samples * math.prod(x[batch : batch + count])
    return _gathered(call, (*indices.shape[:-1], *rest), at, (math.prod(x[: batch + count]),), (math.prod(rest),))


def _gathered(call: Call, out: Shape, at: Indices, rows: Shape, inner: Shape) -> Lowered:
    at = at.reshape(-1)

    def bind(buffers: Buffers) -> Run:
        source = buffers.input(0).reshape(*rows, *inner)
        target = buffers.outputs[0].reshape(-1, *inner)

        def run(first: int, last: int) -> None:
            np.take(source, at, axis=0, out=target, mode="clip")  # in the default mode NumPy would copy

        return run

    return Lowered(outputs=(out,), bind=bind, batchwise=False, dtypes=(call.dtype(0),))


@operator("ScatterElements", traits=Traits(integers=True))
def scatter_elements(call: Call) -> Lowered:
    """Input 0 with the updates (input 1) at the positions that GatherElements reads: see `_scattered`."""
    call.expect((2, 2))
    x = call.shape(0)
    indices = _elements(call, x)
    if call.shape(1) != indices.shape:
        raise call.fail(f"updates of shape {call.shape(1)}, expected the shape of the indices, {indices.shape}")
    return _scattered(call, _positions(call, x, indices), ())


@operator("ScatterND", traits=Traits(integers=True))
def scatter_nd(call: Call) -> Lowered:
    """Input 0 with the updates (input 1) at the slices that GatherND reads: see `_scattered`."""
    call.expect((2, 2))
    x = call.shape(0)
    indices = _indices(call)
    if indices.ndim < 1:
        raise call.fail("indices without axes, expected at least one axis")
    count = indices.shape[-1]
    at = _flat(call, x[:count], indices)
    rest = x[count:]
    if call.shape(1) != (*at.shape, *rest):
        raise call.fail(f"updates of shape {call.shape(1)}, expected {(*at.shape, *rest)}")
    return _scattered(call, at, (math.prod(rest),))


def _scattered(call: Call, at: Indices, inner: Shape) -> Lowered:
    """An update replaces the value at its position. With ``reduction`` it is added (``add``) to it, and so on."""
    x = call.shape(0)
    reduction = call.text("reduction", "none", ("none", *_REDUCTIONS))
    at = at.reshape(-1)

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0), buffers.outputs[0]
        rows, updates = target.reshape(-1, *inner), buffers.input(1).reshape(-1, *inner)
        write = _writer(reduction, rows, updates, at)
        copy = copy_all([(target, source)] if target.ctypes.data != source.ctypes.data else [])

        def run(first: int, last: int) -> None:
            copy(0, 1)
            write()

        return run

    inplace = () if call.is_param(0) else (0,)
    return Lowered(
        outputs=(x,), bind=bind, inplace=inplace, batchwise=False, flops=math.prod(x), dtypes=(call.dtype(0, 1),)
    )


def _writer(reduction: str, rows: Array, updates: Array, at: Indices) -> Callable[[], None]:
    def write() -> None:
        for position, update in zip(at, updates, strict=True):
            rows[position] = update

    def reduce() -> None:
        function = _REDUCTIONS[reduction]
        for index, position in enumerate(at):
            row = rows[position : position + 1]
            function(row, updates[index : index + 1], out=row)

    return write if reduction == "none" else reduce


def _indices(call: Call) -> Indices:
    """The indices, in their shape."""
    values = call.ints("indices", low=-(2**40), high=2**40)
    shape = call.ints("indices_shape", (len(values),), 1)
    if math.prod(shape) != len(values):
        raise call.fail(f"{len(values)} indices, expected as many as shape {shape!s:.200} has elements")
    call.check("the indices", shape)
    return np.array(values, np.int64).reshape(shape)


def _elements(call: Call, x: Shape) -> Indices:
    """The indices of GatherElements: they have the rank of the input, and extents that are no larger."""
    indices = _indices(call)
    axis = call.axis("axis", len(x), 0)
    if indices.ndim != len(x) or any(extent > x[i] for i, extent in enumerate(indices.shape) if i != axis):
        raise call.fail(f"indices of shape {indices.shape} do not fit an input of shape {x}")
    return indices


def _positions(call: Call, x: Shape, indices: Indices) -> Indices:
    """The position in memory of each element that the indices name; it takes the memory of the indices."""
    axis = call.axis("axis", len(x), 0)
    at = indices
    _from_front(call, at, x[axis])
    at *= math.prod(x[axis + 1 :])
    for i, extent in enumerate(indices.shape):
        if i != axis:
            at += np.arange(extent).reshape(-1, *(1,) * (len(x) - i - 1)) * math.prod(x[i + 1 :])
    return at


def _flat(call: Call, extents: Shape, indices: Indices) -> Indices:
    """The position, in a tensor of shape ``extents``, of each tuple of indices along the last axis."""
    if indices.shape[-1] != len(extents):
        raise call.fail(f"{indices.shape[-1]} indices for a slice, more than the input has axes")
    at: Indices = np.zeros(indices.shape[:-1], np.int64)
    for i, extent in enumerate(extents):
        _from_front(call, indices[..., i], extent)
        at *= extent
        at += indices[..., i]
    return at


def _from_front(call: Call, indices: Indices, extent: int) -> None:
    """Count negative indices along an axis from the front, in place."""
    if indices.min() < -extent or indices.max() >= extent:
        raise call.fail(f"an index is out of range, expected {-extent} to {extent - 1}")
    np.add(indices, extent, out=indices, where=indices < 0)
