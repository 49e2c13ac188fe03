"""Size nodes that move elements without changing them."""

from __future__ import annotations

import itertools
import math

import numpy as np

from streamrt.ops.base import MAX_RANK
from streamrt.ops.sizes.registry import Array, Batch, SizeCall, size_operator


@size_operator("Gather", batch=Batch.MOVED)
def gather(call: SizeCall) -> Array:
    """The elements of input 0 at the indices that are input 1, along ``axis``."""
    call.expect((2, 2))
    x, indices = call.array(0), call.array(1)
    axis = call.axis("axis", x.ndim, 0)
    call.take_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    return np.asarray(np.take(x, indices, axis))


@size_operator("GatherElements", batch=Batch.MOVED)
def gather_elements(call: SizeCall) -> Array:
    """For each index of input 1 the element of input 0 that has it as its position along ``axis``."""
    call.expect((2, 2))
    x, indices = call.array(0), call.array(1)
    axis = call.axis("axis", x.ndim, 0)
    call.take_shape(indices.shape)
    if indices.ndim != x.ndim:
        raise call.fail(f"indices of shape {indices.shape} into an input of shape {x.shape}, expected as many axes")
    within = tuple(slice(None) if at == axis else slice(extent) for at, extent in enumerate(indices.shape))
    return np.take_along_axis(x[within], indices, axis)


@size_operator("GatherND", batch=Batch.MOVED)
def gather_nd(call: SizeCall) -> Array:
    """The parts of input 0 at the positions that the last axis of input 1 holds."""
    call.expect((2, 2))
    x, indices = call.array(0), call.array(1)
    if call.int_("batch_dims", 0) != 0:
        raise call.fail("attribute 'batch_dims' is not 0")
    depth = indices.shape[-1] if indices.ndim else 0
    if not 1 <= depth <= x.ndim:
        raise call.fail(f"indices of shape {indices.shape} into an input of shape {x.shape}")
    call.take_shape((*indices.shape[:-1], *x.shape[depth:]))
    return np.asarray(x[tuple(np.moveaxis(indices, -1, 0))])


@size_operator("Slice", batch=Batch.MOVED)
def slice_(call: SizeCall) -> Array:
    """Every step-th element from starts to ends. Inputs 1 to 4 are starts, ends, axes and steps."""
    call.expect((3, 5))
    x, starts, ends = call.array(0), call.integers(1), call.integers(2)
    axes = tuple(range(len(starts))) if call.given(3) is None else call.integers(3)
    steps = (1,) * len(starts) if call.given(4) is None else call.integers(4)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise call.fail("starts, ends, axes and steps are not equally many, or a step is 0")
    key = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        at = call.axis_in(axis, x.ndim)
        ranged = range(x.shape[at])[start:end:step]
        key[at] = slice(ranged.start, ranged.stop if ranged.stop >= 0 else None, ranged.step)
    return x[tuple(key)]


@size_operator("Split", batch=Batch.MOVED)
def split(call: SizeCall) -> list[Array]:
    """Parts along ``axis`` of the extents that are input 1, or as many parts as there are outputs."""
    call.expect((1, 2), (1, 4096))
    x = call.array(0)
    axis, count = call.axis("axis", x.ndim, 0), len(call.node.outputs)
    call.int_("num_outputs", count)
    each = -(-x.shape[axis] // count)
    extents = tuple(min(each, max(0, x.shape[axis] - each * i)) for i in range(count))
    if call.given(1) is not None:
        extents = call.integers(1)
    if len(extents) != count or sum(extents) != x.shape[axis] or min(extents) < 0:
        raise call.fail(f"parts {extents!s:.200} of axis {axis} of an input of shape {x.shape}")
    ends = itertools.accumulate(extents)
    before = (slice(None),) * axis
    return [x[(*before, slice(end - extent, end))] for extent, end in zip(extents, ends, strict=True)]


@size_operator("Concat", batch=Batch.MOVED, every=True)
def concat(call: SizeCall) -> Array:
    """The inputs one after the other along ``axis``."""
    call.expect((1, 4096))
    arrays = [call.array(index) for index in range(len(call.arrays))]
    call.take(sum(array.size for array in arrays))
    return np.concatenate(arrays, call.axis("axis", arrays[0].ndim))


@size_operator("Squeeze", batch=Batch.MOVED)
def squeeze(call: SizeCall) -> Array:
    """Removes the axes that are input 1, or all axes of extent 1."""
    call.expect((1, 2))
    x = call.array(0)
    axes = None if call.given(1) is None else tuple(call.axis_in(axis, x.ndim) for axis in call.integers(1))
    return x.squeeze(axes)


@size_operator("Unsqueeze", batch=Batch.MOVED)
def unsqueeze(call: SizeCall) -> Array:
    """Inserts axes of extent 1, so that they are the axes in input 1 of the output."""
    call.expect((2, 2))
    x, axes = call.array(0), call.integers(1)
    if x.ndim + len(axes) > MAX_RANK:
        raise call.fail(f"a result of {x.ndim + len(axes)} axes, expected up to {MAX_RANK}")
    return np.expand_dims(x, axes)


@size_operator("Reshape", batch=Batch.MOVED)
def reshape(call: SizeCall) -> Array:
    """Input 0 in the shape that is input 1, where 0 keeps an extent and -1 is the extent that remains."""
    call.expect((2, 2))
    x, wanted = call.array(0), call.integers(1)
    if not call.flag("allowzero", False):
        if any(extent == 0 and axis >= x.ndim for axis, extent in enumerate(wanted)):
            raise call.fail(f"shape {wanted!s:.200} has a 0 for an axis that an input of shape {x.shape} does not have")
        wanted = tuple(extent or x.shape[axis] for axis, extent in enumerate(wanted))
    call.take(x.size)
    return x.reshape(wanted)


@size_operator("Flatten", batch=Batch.MOVED)
def flatten(call: SizeCall) -> Array:
    """Two axes: all axes before ``axis`` as one, and the others as one."""
    call.expect((1, 1))
    x = call.array(0)
    axis = call.int_("axis", 1, -x.ndim, x.ndim)
    axis += x.ndim if axis < 0 else 0
    call.take(x.size)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@size_operator("Transpose", batch=Batch.MOVED)
def transpose(call: SizeCall) -> Array:
    """Axis i of the output is axis ``perm[i]`` of the input (default: reversed)."""
    call.expect((1, 1))
    x = call.array(0)
    return x.transpose(call.ints("perm", tuple(reversed(range(x.ndim))), 0, count=x.ndim))


@size_operator("ScatterND")
def scatter_nd(call: SizeCall) -> Array:
    """Input 0 with the parts at the positions in input 1 replaced by those of input 2."""
    call.expect((3, 3))
    x, indices, updates = call.array(0), call.array(1), call.array(2)
    call.text("reduction", "none", ("none",))
    depth = indices.shape[-1] if indices.ndim else 0
    if not 1 <= depth <= x.ndim or updates.shape != (*indices.shape[:-1], *x.shape[depth:]):
        raise call.fail(f"updates of shape {updates.shape} at indices of shape {indices.shape} of {x.shape}")
    call.take(x.size)
    result = x.copy()
    result[tuple(np.moveaxis(indices, -1, 0))] = updates
    return result


@size_operator("ScatterElements")
def scatter_elements(call: SizeCall) -> Array:
    """Input 0 with the elements at the indices in input 1, along ``axis``, replaced by those of input 2."""
    call.expect((3, 3))
    x, indices, updates = call.array(0), call.array(1), call.array(2)
    axis = call.axis("axis", x.ndim, 0)
    call.text("reduction", "none", ("none",))
    call.take(x.size)
    result = x.copy()
    np.put_along_axis(result, indices, updates, axis)
    return result
