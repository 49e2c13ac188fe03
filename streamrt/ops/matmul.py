"""Products of computed tensors: MatMul in any rank.

All pairs of matrices that follow each other in memory go to one call of the kernel: an axis of pairs is its groups, an
axis along which only the left matrices vary is more rows, and an axis along which only the right matrices vary is its
samples. Other axes are a loop. Where the kernels are plain C, BLAS computes the products.
"""

from __future__ import annotations

import math

import numpy as np

import streamrt._core as _core
from streamrt.ops.base import Array, Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.coded import TYPES, decoded
from streamrt.ops.columns import columns, threads_for
from streamrt.ops.epilogue import IDENTITY, Epilogue, epilogue_of
from streamrt.ops.gemm import dense
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Scratch
from streamrt.ops.shapes import broadcast

#: The kernel takes fewer columns than this.
_MOST_COLUMNS = 2**30


class Product:
    """``y = activation(a @ b)``: a (..., rows, inner), b (..., inner, columns), or (..., columns, inner) if transposed.

    Args:
        left, right: the leading extents of a and b, as many of each; an extent of 1 broadcasts.
        scratch: gets the memory that the product needs.
    """

    def __init__(
        self,
        left: Shape,
        right: Shape,
        rows: int,
        inner: int,
        columns_: int,
        *,
        transposed: bool,
        epilogue: Epilogue,
        scratch: Scratch,
    ) -> None:
        self._ends = rows, inner, columns_
        self._transposed, self._epilogue = transposed, epilogue
        self._left, self._right = left, right
        self._out = tuple(max(pair) for pair in zip(left, right, strict=True))
        self._panels = None
        if is_compiled(columns_):
            terms = math.prod(self._out) * rows * inner * columns_
            self._panels = columns(scratch, threads_for(terms), inner, columns_)

    def bind(self, a: Array, b: Array, y: Array, buffers: Buffers) -> Run:
        """The function that computes y from a and b, which are in the order of the shapes."""
        rows, inner, columns_ = self._ends
        last = (columns_, inner) if self._transposed else (inner, columns_)
        if self._panels is None:
            lefts, rights = a.reshape(*self._left, rows, inner), b.reshape(*self._right, *last)
            return self._bind_blas(lefts, rights, y.reshape(*self._out, rows, columns_))
        scratch = self._panels.of(buffers.scratch)
        outer, samples, groups, more = _cut(self._left, self._right)
        rows *= more
        lefts = a.reshape(*(extent for extent, _ in outer), groups, rows, inner)
        rights = b.reshape(*(extent for _, extent in outer), samples, groups, *last)
        extents = tuple(max(pair) for pair in outer)
        results = y.reshape(*extents, samples, groups, rows, columns_)

        def kernel(index: Shape) -> _core.Matrices:
            left, right = (
                part[tuple(i if extents[side] > 1 else 0 for i, extents in zip(index, outer, strict=True))]
                for side, part in enumerate((lefts, rights))
            )
            return _core.Matrices(left, right, results[index], self._transposed, scratch, *self._epilogue)

        if not outer:
            return kernel(())

        def run(first: int, last: int) -> None:
            for index in np.ndindex(extents):  # not bound beforehand: there may be many
                kernel(index)(0, 1)

        return run

    def _bind_blas(self, a: Array, b: Array, y: Array) -> Run:
        right, flat = b.swapaxes(-1, -2) if self._transposed else b, y.reshape(-1)
        epilogue = self._epilogue

        def run(first: int, last: int) -> None:
            np.matmul(a, right, out=y)
            if epilogue != IDENTITY:
                _core.unary(flat, flat, *epilogue)

        return run


def is_compiled(most_columns: int) -> bool:
    """Whether the compiled kernel multiplies computed matrices with this many columns."""
    return _core.gemm_pays() and most_columns < _MOST_COLUMNS


def _cut(left: Shape, right: Shape) -> tuple[list[tuple[int, int]], int, int, int]:
    """The leading axes of a product as (outer, samples, groups, more): see the module's docstring.

    ``outer`` has pairs of extents, of the left and of the right operand. ``more`` is a factor of the rows.
    """
    axes: list[tuple[int, int]] = []
    for one, other in zip(left, right, strict=True):
        if one == other == 1:
            continue
        if axes and [extent > 1 for extent in axes[-1]] == [one > 1, other > 1]:
            one, other = axes[-1][0] * one, axes.pop()[1] * other
        axes.append((one, other))
    more = axes.pop()[0] if axes and axes[-1][1] == 1 else 1
    groups = axes.pop()[0] if axes and axes[-1][0] == axes[-1][1] else 1
    samples = axes.pop()[1] if axes and axes[-1][0] == 1 else 1
    return axes, samples, groups, more


@operator("MatMul", traits=Traits(fuses=True, row_axis=-1, moves_batch=True, dtypes={1: TYPES}))
def matmul(call: Call) -> Lowered:
    """NumPy's matmul. With ``transB=1`` the last two axes of input 1, of two at least, are swapped first.

    A parameter with ``transB=1`` has two axes: the node is a Gemm over the last axis of x, which may have any axes
    before that, and may have a bias.
    """
    transposed = call.flag("transB", False)
    if transposed and call.is_param(1):
        call.expect((2, 3))
        return dense(call)
    call.expect((2, 2))
    a, b = call.shape(0), call.shape(1)
    if not a or not b or (transposed and len(b) < 2):
        raise call.fail(f"inputs of shapes {a} and {b}, expected an axis each, and two to transpose")
    if transposed:
        b = (*b[:-2], b[-1], b[-2])
    out, flops = _product(call, a, b)
    rank = max(len(a), len(b), 2) - 2
    scratch = Scratch()
    product = Product(
        (1,) * (rank - len(a[:-2])) + a[:-2],
        (1,) * (rank - len(b[:-2])) + b[:-2],
        a[-2] if len(a) > 1 else 1,
        a[-1],
        b[-1] if len(b) > 1 else 1,
        transposed=transposed or len(b) == 1,
        epilogue=epilogue_of(call),
        scratch=scratch,
    )

    def bind(buffers: Buffers) -> Run:
        return product.bind(buffers.input(0), buffers.input(1), buffers.outputs[0], buffers)

    lowered = Lowered(
        outputs=(out,), bind=bind, scratch=scratch.nbytes, batchwise=_is_batchwise(call, a, b, out), flops=flops
    )
    return decoded(lowered, (None, call.operand(1)))


def _product(call: Call, a: Shape, b: Shape) -> tuple[Shape, int]:
    """The shape of ``a @ b`` and its floating-point operations."""
    rows, columns_ = a[-2:-1], b[-1:] if len(b) > 1 else ()
    if a[-1] != (b[-2] if len(b) > 1 else b[0]):
        raise call.fail(f"inputs of shapes {a} and {b} cannot be multiplied: expected equal inner extents")
    out = broadcast(call, a[:-2], b[:-2]) + rows + columns_
    return out, 2 * math.prod(out) * a[-1]


def _is_batchwise(call: Call, a: Shape, b: Shape, out: Shape) -> bool:
    """Whether axis 0 of the output is axis 0 of every input that is not fixed.

    Axis 0 of the output is axis 0 of a left operand with as many axes: its rows, or its batch of matrices. It is axis 0
    of a right operand only if that is a batch of matrices. A fixed input must not vary along axis 0 of the output.
    """
    if not out or not {call.batch(0), call.batch(1)} <= {0, None}:
        return False
    left_spans = len(a) >= 2 and len(a) >= len(b) and a[0] == out[0]
    right_spans = len(b) >= 3 and len(b) >= len(a) and b[0] == out[0]
    left_varies = len(a) >= max(2, len(b)) and (len(a) == 2 or a[0] != 1)
    right_varies = len(b) >= 3 and len(b) >= len(a) and b[0] != 1
    left = not left_varies if call.batch(0) is None else left_spans
    right = not right_varies if call.batch(1) is None else right_spans
    return left and right
