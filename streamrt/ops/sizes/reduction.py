"""Size nodes that combine elements along axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from streamrt.ops.sizes.registry import Array, Batch, SizeCall, size_operator

_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "ReduceMax": np.max,
    "ReduceMean": np.mean,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
}


@size_operator(*_REDUCTIONS, batch=Batch.COMBINED)
def reduce(call: SizeCall) -> Array:
    """The sum, product ... along the axes in input 1 (default: all), which stay with extent 1 if ``keepdims``."""
    call.expect((1, 2))
    x = call.array(0)
    axes = () if call.given(1) is None else tuple(call.axis_in(axis, x.ndim) for axis in call.integers(1))
    nothing = call.flag("noop_with_empty_axes", False)
    keepdims = call.flag("keepdims", True)
    if nothing and not axes:
        return x
    result = _REDUCTIONS[call.node.op](x, axis=axes or None, keepdims=keepdims)
    return np.asarray(result).astype(x.dtype)


@size_operator("ArgMax", "ArgMin", batch=Batch.COMBINED)
def arg(call: SizeCall) -> Array:
    """The index of the largest (smallest) element along ``axis``, the first of equal ones."""
    call.expect((1, 1))
    x = call.array(0)
    axis, keepdims = call.axis("axis", x.ndim, 0), call.flag("keepdims", True)
    function = np.argmax if call.node.op == "ArgMax" else np.argmin
    return np.asarray(function(x, axis=axis, keepdims=keepdims))


@size_operator("CumSum", batch=Batch.COMBINED)
def cum_sum(call: SizeCall) -> Array:
    """Sums of the elements up to each position along the axis that is input 1."""
    call.expect((2, 2))
    x = call.array(0)
    axes = call.integers(1)
    exclusive, backwards = call.flag("exclusive", False), call.flag("reverse", False)
    axis = call.axis_in(axes[0] if len(axes) == 1 else x.ndim, x.ndim)
    call.take(x.size)
    x = np.flip(x, axis) if backwards else x
    sums = np.cumsum(x, axis, dtype=x.dtype)
    sums = sums - x if exclusive else sums
    return np.flip(sums, axis) if backwards else sums


@size_operator("NonZero")
def non_zero(call: SizeCall) -> Array:
    """The positions of elements that are not 0: an axis of the input is a row of the result."""
    call.expect((1, 1))
    x = call.array(0)
    call.take(x.size * x.ndim)
    return np.array(np.nonzero(x), np.int64).reshape(x.ndim, -1)
