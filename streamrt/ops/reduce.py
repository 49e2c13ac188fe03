"""Reductions along axes."""

from __future__ import annotations

import math

import numpy as np

import streamrt._core as _core
from streamrt.ops.base import INT64, Buffers, Collects, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.collect import maxima, means, minima
from streamrt.ops.registry import Traits, operator

#: By operator: the kernel for the last axes, which lie in rows, or None; and NumPy's function for all other axes.
_FUNCTIONS = {
    "ReduceMean": (_core.RowMean, np.add),
    "ReduceSum": (None, np.add),
    "ReduceMax": (_core.RowMax, np.maximum),
    "ReduceMin": (None, np.minimum),
    "ReduceProd": (None, np.multiply),
}


@operator("ReduceMean", traits=Traits(fuses=True, moves_batch=True))
@operator(
    *(name for name in _FUNCTIONS if name != "ReduceMean"), traits=Traits(fuses=True, moves_batch=True, integers=True)
)
def reduce(call: Call) -> Lowered:
    """The mean, sum, product, maximum or minimum along ``axes`` (default: all).

    With ``keepdims`` the axes stay, with extent 1.
    """
    call.expect((1, 1))
    kernel, function = _FUNCTIONS[call.node.op]
    dtype = call.dtype(0)
    kernel = None if dtype == INT64 else kernel
    x = call.shape(0)
    axes = call.axes("axes", len(x), ()) or tuple(range(len(x)))
    keepdims = call.flag("keepdims", True)
    kept = tuple(1 if axis in axes else extent for axis, extent in enumerate(x))
    out = kept if keepdims else tuple(extent for axis, extent in enumerate(x) if axis not in axes)
    begin = min((axis for axis in axes if x[axis] != 1), default=len(x))
    is_trailing = all(axis in axes or x[axis] == 1 for axis in range(begin, len(x)))
    # Means and sums of planes are added up as bands of rows add them up: see `streamrt.ops.collect`.
    of_planes = len(x) == 4 and set(axes) == {2, 3} and dtype != INT64
    sums = means((x[0] * x[1], *x[2:]), sums=True) if of_planes and call.node.op == "ReduceSum" else None
    # A row by itself is reduced along channels as the whole is, value by value, unless it has one value.
    of_channels = keepdims and len(x) == 4 and set(axes) == {1} and x[3] > 1
    outer = math.prod(x[:begin])
    folded = (outer, *x[2:]) if of_planes and call.node.op == "ReduceMean" else (outer, math.prod(x[begin:]))

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0), buffers.outputs[0]
        if sums is not None:
            return sums.bind_whole(source.reshape(sums.shape), target, buffers.scratch)
        if kernel is not None and is_trailing:
            return kernel(source.reshape(folded), target.reshape(-1))
        whole, count = target.reshape(kept), math.prod(x[axis] for axis in axes)

        def run(first: int, last: int) -> None:
            function.reduce(source, axis=axes, out=whole, keepdims=True)
            if call.node.op == "ReduceMean":
                np.divide(whole, count, out=whole)

        return run

    batch = call.batch() or 0
    return Lowered(
        outputs=(out,),
        bind=bind,
        batchwise=len(x) > 0 and batch not in axes,
        batch=batch if keepdims else batch - sum(axis < batch for axis in axes),
        flops=math.prod(x),
        dtypes=(dtype,),
        scratch=sums.nbytes if sums else 0,
        collects=_collects(call.node.op, x[1:]) if of_planes else None,
        rowwise=of_channels,
    )


def _collects(op: str, planes: Shape) -> Collects | None:
    """How a reduction of rows and columns reads bands of rows of ``planes`` (C, H, W)."""
    match op:
        case "ReduceMean" | "ReduceSum":
            return means(planes, sums=op == "ReduceSum")
        case "ReduceMax":
            return maxima(planes)
        case "ReduceMin":
            return minima(planes)
        case _:
            return None
