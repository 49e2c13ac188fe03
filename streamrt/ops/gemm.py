"""Products with a matrix of weights: Gemm, and MatMul with ``transB``.

Weights are (rows, inner). A tile is a range of rows, which are outputs. For few samples a special kernel reads the
weights once, as they lie. For more samples the product is a 1 x 1 convolution with samples as positions. BLAS computes
products for many samples if the kernels are plain C, and all products with the instruction set "numpy". It computes
``(rows, inner) @ (inner, batch)``, which is up to twice as fast as ``(batch, inner) @ (inner, rows)``.
docs/measurements.md has the times of each way. The kernels decode weights that are stored in fewer bytes; for BLAS
they are decoded to scratch memory, a block of rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

import streamrt._core as _core
from streamrt._core import Coded
from streamrt.ops.base import FLOAT32, Array, Buffers, Lowered, Param, Run
from streamrt.ops.call import Call
from streamrt.ops.coded import TYPES
from streamrt.ops.columns import columns, threads_for
from streamrt.ops.epilogue import Epilogue, epilogue_of
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Bias, Load, Scratch

#: The most floats in a block of the product: 1 MiB, so that the block is still in cache when it is transposed.
_BLOCK = 2**18
#: The most columns (samples) of a block. The block has as many rows as fit beside them.
_MOST_COLUMNS = 1024
#: The fewest rows of a block: with fewer rows BLAS is slower.
_LEAST_ROWS = 64


class Dense:
    """``y = activation(x @ w.T + bias)``: inputs 0 to 2 and the output of a node, seen as matrices.

    x is (batch, inner), w (rows, inner), bias (rows,) and y (batch, rows). ``dtype`` is the type of w. The memory that
    it needs is added to ``scratch``.
    """

    def __init__(
        self, batch: int, inner: int, rows: int, *, dtype: str, has_bias: bool, epilogue: Epilogue, scratch: Scratch
    ) -> None:
        self.batch, self.inner, self.rows = batch, inner, rows
        self._epilogue = epilogue
        self._bias = Bias(scratch, 2, rows if has_bias else None)
        self._columns = min(batch, _MOST_COLUMNS)
        self._height = min(rows, max(_LEAST_ROWS, _BLOCK // self._columns))
        self._packed = self._block = self._panels = self._floats = None
        if batch <= min(_core.DENSE_BATCH, _core.dense_most(inner * rows)):
            self._packed = scratch.add(batch, -(-inner // _core.DENSE_CHUNK) * _core.DENSE_CHUNK)
        elif batch <= _core.dense_most(inner * rows):
            self._packed = scratch.add(inner, _core.DENSE_WIDE)
        else:
            self._block = scratch.add(self._height * self._columns)
            if _core.gemm_pays():
                self._panels = columns(scratch, threads_for(batch * rows * inner), inner, self._columns)
            elif dtype != FLOAT32:
                self._floats = scratch.add(self._height, inner)

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiply-add counts as two."""
        return 2 * self.batch * self.inner * self.rows

    def bind(self, buffers: Buffers) -> Run:
        """The function that computes columns ``first`` to ``last`` of y from the same rows of w."""
        x = buffers.input(0).reshape(self.batch, self.inner)
        w = buffers.weights(1).reshape(self.rows, self.inner)
        y = buffers.outputs[0].reshape(self.batch, self.rows)
        if self._panels is not None:
            return self._bind_kernels(x, w, y, buffers)
        if self._packed is not None:
            return self._bind_few(x, w, y, self._packed.of(buffers.scratch), buffers)
        assert self._block is not None
        bias, block = self._bias.bind(buffers), self._block.of(buffers.scratch)
        return self._bind_blocks(x.T, self._rows_for_blas(w, buffers), y, bias, block)

    def _bind_few(self, x: Array, w: Param, y: Array, packed: Array, buffers: Buffers) -> Run:
        wide = self.batch > _core.DENSE_BATCH
        packing = _core.Copies(_packing_wide(x, packed) if wide else _packing(x, packed))
        kernel = _core.Dense(w, packed, y, self._bias.kept(buffers), *self._epilogue, wide=wide, packing=packing)
        self._bias.keep_for(kernel, buffers)
        return kernel

    def _rows_for_blas(self, w: Param, buffers: Buffers) -> Callable[[int, int], Array]:
        """The function that gives at most ``_height`` rows of w as float32, until it is called again."""
        if not isinstance(w, Coded):
            return lambda begin, end: w[begin:end]
        assert self._floats is not None
        floats = self._floats.of(buffers.scratch)

        def rows(begin: int, end: int) -> Array:
            w.decode(begin, end, floats[: end - begin])
            return floats[: end - begin]

        return rows

    def _bind_kernels(self, x: Array, w: Param, y: Array, buffers: Buffers) -> Run:
        assert self._block is not None
        assert self._panels is not None
        block, panels = self._block.of(buffers.scratch), self._panels.of(buffers.scratch)
        bias = self._bias.kept(buffers)

        def kernel(begin: int, end: int) -> _core.Gemm:
            made = _core.Gemm(x[begin:end], w, bias, y[begin:end], block, panels, *self._epilogue)
            if begin == 0:
                self._bias.keep_for(made, buffers)
            return made

        if self.batch <= self._columns:
            return kernel(0, self.batch)

        def run(first: int, last: int) -> None:
            for begin, end in self._parts():  # not bound beforehand: a large batch has many
                kernel(begin, end)(first, last)

        return run

    def _parts(self) -> Iterator[tuple[int, int]]:
        """The ranges of samples that are multiplied together, as (first, end)."""
        for begin in range(0, self.batch, self._columns):
            yield begin, min(begin + self._columns, self.batch)

    def _bind_blocks(
        self, samples: Array, rows: Callable[[int, int], Array], y: Array, bias: Load, block: Array
    ) -> Run:
        epilogue, height = self._epilogue, self._height

        def run(first: int, last: int) -> None:
            offset = bias(first)
            for begin in range(first, last, height):
                end = min(begin + height, last)
                part_offset = None if offset is None else offset[begin:end]
                w = rows(begin, end)
                for left, right in self._parts():
                    product = block[: (end - begin) * (right - left)].reshape(end - begin, right - left)
                    np.matmul(w, samples[:, left:right], out=product)
                    _core.transpose_bias_act(product, y[left:right, begin:end], part_offset, *epilogue)

        return run


def _packing(x: Array, packed: Array) -> list[tuple[Array, Array]]:
    """Pairs of target and source; copying them gives ``packed`` the matrix x in the order that `_core.Dense` reads."""
    whole, rest = divmod(x.shape[1], _core.DENSE_CHUNK)
    copies: list[tuple[Array, Array]] = []
    for begin in range(0, len(x), _core.DENSE_GROUP):
        source = x[begin : begin + _core.DENSE_GROUP]
        samples = len(source)
        target = packed[begin : begin + samples].reshape(whole + (rest > 0), samples, _core.DENSE_CHUNK)
        chunks = source[:, : whole * _core.DENSE_CHUNK].reshape(samples, whole, _core.DENSE_CHUNK)
        copies.append((target[:whole], chunks.transpose(1, 0, 2)))
        if rest:
            copies += [(target[whole, :, :rest], source[:, -rest:]), _zeros(target[whole, :, rest:])]
    return copies


def _packing_wide(x: Array, packed: Array) -> list[tuple[Array, Array]]:
    """As `_packing`, in the order of a ``wide`` `_core.Dense`."""
    return [(packed[:, : len(x)], x.T), _zeros(packed[:, len(x) :])]


def _zeros(target: Array) -> tuple[Array, Array]:
    """``target`` and as many zeros."""
    return target, np.broadcast_to(np.float32(0), target.shape)


@operator("Gemm", traits=Traits(fuses=True, row_axis=-1, dtypes={1: TYPES}))
def gemm(call: Call) -> Lowered:
    """``y = x @ w.T + bias`` for x (batch, inner) and parameters w (rows, inner) and bias (rows,)."""
    call.expect((2, 3))
    if len(call.shape(0)) != 2:
        raise call.fail(f"input 0 has shape {call.shape(0)}, expected two axes")
    return dense(call)


def dense(call: Call) -> Lowered:
    """A product with rows of weights, for an input with any leading axes."""
    x, w = call.computed(0), call.param(1)
    if not x or len(w) != 2 or w[1] != x[-1]:
        raise call.fail(f"weights of shape {w} and an input of shape {x}, expected (rows, inner) and (..., inner)")
    scratch = Scratch()
    dense = Dense(
        batch=math.prod(x[:-1]),
        inner=w[1],
        rows=w[0],
        dtype=call.operand(1).dtype,
        has_bias=call.bias(2, w[0]),
        epilogue=epilogue_of(call),
        scratch=scratch,
    )
    return Lowered(
        outputs=((*x[:-1], w[0]),),
        bind=dense.bind,
        scratch=scratch.nbytes,
        tiled=(1,),
        rows=w[0],
        batchwise=(call.batch() or 0) < len(x) - 1,
        batch=call.batch() or 0,
        flops=dense.flops,
    )
