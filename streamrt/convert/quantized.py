"""Weights that a source has as integers with scales. They are stored with the same codes, scales and zero points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrt.convert import limits
from streamrt.convert.weights import AnyArray, Array, Weight, forget_mapped, row_groups
from streamrt.errors import FormatError, printable
from streamrt.format import BLOCK_STEP, MOST_INNER, UNCODED, Coding, stored_rows

#: The number that is subtracted from codes and zero points of a type, so that they are signed.
OFFSETS = {"int8": 0, "uint8": 128, "int4": 0, "uint4": 8}
#: Codes that are converted at once: 2 MiB as int16. A row may have more.
_AT_ONCE = 1 << 20

_Codes = NDArray[np.int8]


class Integers(NamedTuple):
    """Integers with scales: an element is ``(code - zero) * scale``, rounded once to float32.

    Attributes:
        kind: the type of the codes and of the zero points: a key of `OFFSETS`.
        codes: the codes, in the shape of the tensor.
        scales: one number; numbers along ``axis``; or, with ``block``, numbers in the shape of the codes, except that
            ``axis`` has one for each block.
        zeros: zero points in the shape of the scales; None if all are 0.
        axis: None for one scale.
        block: codes along ``axis`` that share a scale, of which the last may be fewer. None if each has its own.
    """

    kind: str
    codes: Weight
    scales: Weight
    zeros: Weight | None = None
    axis: int | None = None
    block: int | None = None

    @property
    def depth(self) -> int:
        """The number of nested calls in `load` of a part."""
        return max(part.depth for part in (self.codes, self.scales, self.zeros) if part is not None)


class Quantized(Weight):
    """A tensor that a source has as integers.

    It is a `Weight` of its elements. If its scales fit rows, `coding` has integers, and `stored` gives the bytes.

    Args:
        integers: the tensor.
        dtype: of the elements.
        factors: see `Weight.scaled`.
    """

    def __init__(self, integers: Integers, dtype: np.dtype[Any], factors: NDArray[np.float64] | None = None) -> None:
        shape, depth = integers.codes.shape, 1 + integers.depth
        super().__init__(self._elements, shape, dtype, factors, computed=True, depth=depth)
        self._integers = integers

    def _with(self, **parts: Any) -> Quantized:
        return Quantized(self._integers._replace(**parts), self.dtype, self._scale)

    @property
    def is_decoded(self) -> bool:
        """True: see `Weight.is_decoded`."""
        return True

    @property
    def coding(self) -> Coding:
        """Integers of the same bits, if each row or each block of a row has a scale; else float32."""
        integers, inner = self._integers, math.prod(self.shape[1:])
        if len(self.shape) < 2 or not 0 < inner <= MOST_INNER:
            return UNCODED
        block = integers.block
        if block is None:
            if integers.axis not in (None, 0):
                return UNCODED
        elif integers.axis != 1 or inner != self.shape[1]:
            return UNCODED
        elif block >= inner:
            block = None
        elif block % BLOCK_STEP:
            return UNCODED
        return Coding(integers.kind.removeprefix("u"), block, self._has_zeros)

    @property
    def _has_zeros(self) -> bool:
        zeros, offset = self._integers.zeros, OFFSETS[self._integers.kind]
        return offset != 0 if zeros is None else bool(np.any(zeros.load().astype(np.int16) != offset))

    def as_float32(self) -> Weight:
        """The same elements, of the type float32."""
        return Quantized(self._integers, np.dtype(np.float32), self._scale)

    def reshaped(self, shape: tuple[int, ...]) -> Weight:
        """The elements in another shape. They stay integers if the axis of the scales stays an axis."""
        if self._scale is not None and self.shape[:1] != shape[:1]:
            return super().reshaped(shape)
        codes, axis = self._integers.codes, self._integers.axis
        if axis is None:
            return self._with(codes=codes.reshaped(shape))
        before, extent = math.prod(self.shape[:axis]), self.shape[axis]
        for new in range(len(shape)) if self._integers.block is None else ():
            if shape[new] == extent and math.prod(shape[:new]) == before:
                return self._with(codes=codes.reshaped(shape), axis=new)
        return super().reshaped(shape)

    def permuted(self, axes: tuple[int, ...]) -> Weight:
        """The elements with axes in another order."""
        if self._scale is not None and axes[:1] != (0,):
            return super().permuted(axes)
        _, codes, scales, zeros, axis, block = self._integers
        if block is not None:
            scales, zeros = scales.permuted(axes), None if zeros is None else zeros.permuted(axes)
        new = None if axis is None else axes.index(axis)
        return self._with(codes=codes.permuted(axes), scales=scales, zeros=zeros, axis=new)

    def scaled(self, factors: NDArray[np.float64]) -> Weight:
        """The tensor with index i of axis 0 multiplied by ``factors[i]``: its scales are."""
        limits.current().hold(factors.nbytes)
        return Quantized(self._integers, self.dtype, factors if self._scale is None else self._scale * factors)

    def by_rows(
        self,
        axis: int,
        index: NDArray[np.intp],
        make: Callable[[NDArray[np.int16]], NDArray[np.int16]],
        shape: tuple[int, ...],
    ) -> Quantized | None:
        """The elements in another order, of ``shape``: row r has the scale of index ``index[r]`` of ``axis``.

        None if scales vary along another axis, or `scaled` was called.

        Args:
            axis: an axis of this tensor.
            index: one for each row of the result.
            make: rearranges codes less their zero points. It may add zeros.
            shape: of the result.
        """
        kind, codes, scales, zeros, old, block = self._integers
        if block is not None or self._scale is not None or old not in (None, axis):
            return None
        extent = self.shape[axis]

        def of_rows(part: Weight) -> AnyArray:
            return np.broadcast_to(part.load().reshape(-1), extent)[index]

        points = None if zeros is None else of_rows(zeros)

        def load() -> AnyArray:
            with limits.current().computing():
                limits.current().check_memory(6 * math.prod(shape))
                less = 0 if zeros is None else self._spread(zeros).astype(np.int16)
                made = make(codes.load().astype(np.int16) - less)
                if points is not None:
                    made += points.astype(np.int16).reshape((-1,) + (1,) * (len(shape) - 1))
                return made

        rows = Weight(load, shape, np.dtype(np.int16), computed=True, depth=self.depth + 1)
        points_ = None if points is None else Weight.of(points)
        return Quantized(Integers(kind, rows, Weight.of(of_rows(scales)), points_, axis=0), self.dtype)

    def blocks(self) -> Iterator[Array]:
        """The tensor in row-major order, as flat float32 arrays."""
        coding = self.coding
        if coding == UNCODED:
            yield from super().blocks()
            return
        for codes, scales, zeros in self._rows(coding):
            inner = codes.shape[1]
            values = codes.astype(np.float32)
            values -= np.repeat(zeros, coding.block or inner, axis=1)[:, :inner]
            values *= np.repeat(scales, coding.block or inner, axis=1)[:, :inner]
            yield values.reshape(-1)

    def stored(self, name: str) -> Iterator[NDArray[np.uint8]]:
        """The bytes of the tensor with `coding`, in pieces; ``name`` is for errors.

        Raises:
            FormatError: a scale is not finite.
        """
        coding = self.coding
        for codes, scales, zeros in self._rows(coding):
            if not np.isfinite(scales).all():
                value = scales[~np.isfinite(scales)][0]
                raise FormatError(f"weight {printable(name)!r:.80} has the scale {value}, expected finite numbers")
            yield stored_rows(coding, scales, zeros if coding.zeros else None, codes)

    def _rows(self, coding: Coding) -> Iterator[tuple[_Codes, Array, _Codes]]:
        """Some rows after the other: codes (rows, inner), scales and zero points (rows, blocks)."""
        kind, codes, scales, zeros = self._integers[:4]
        array, inner = codes.load(), math.prod(self.shape[1:])
        every_scale = self._of_rows(scales.load(), coding)
        every_zero = self._of_rows(np.zeros(1, np.uint8) if zeros is None else zeros.load(), coding)
        most = max(1, _AT_ONCE // inner)
        for first, flat in row_groups(array):
            rows = flat.reshape(-1, inner)
            for begin in range(0, len(rows), most):
                part = rows[begin : begin + most]
                at = slice(first + begin, first + begin + len(part))
                with np.errstate(over="ignore", invalid="ignore"):
                    scale = every_scale[at].astype(np.float32)
                    if self._scale is not None:
                        scale = (scale * self._scale[at, None]).astype(np.float32)
                yield _signed(part, kind), scale, _signed(every_zero[at], kind)
                forget_mapped(array)

    def _of_rows(self, part: AnyArray, coding: Coding) -> AnyArray:
        """Scales or zero points as (rows, blocks)."""
        rows, inner = self.shape[0], math.prod(self.shape[1:])
        blocks = 1 if coding.block is None else -(-inner // coding.block)
        return np.broadcast_to(part.reshape(1, 1) if part.size == 1 else part.reshape(rows, -1), (rows, blocks))

    def _elements(self) -> AnyArray:
        """The whole tensor in its own dtype, without the factors."""
        with limits.current().computing():
            limits.current().check_memory(4 * 4 * self.size)
            limits.current().check_time()
            values = self._integers.codes.load().astype(np.float32)
            if self._integers.zeros is not None:
                values -= self._spread(self._integers.zeros)
            with np.errstate(over="ignore", invalid="ignore"):  # as ONNX has it; `stored` refuses such scales
                values *= self._spread(self._integers.scales)
                return values.astype(self.dtype, copy=False)

    def _spread(self, part: Weight) -> Array:
        """Scales or zero points as float32, in a shape that broadcasts with the codes."""
        axis, block, array = self._integers.axis, self._integers.block, part.load().astype(np.float32)
        if axis is None:
            return array.reshape(())
        if block is not None:
            return np.repeat(array, block, axis)[(slice(None),) * axis + (slice(0, self.shape[axis]),)]
        return array.reshape((-1,) + (1,) * (len(self.shape) - 1 - axis))


def _signed(codes: AnyArray, kind: str) -> _Codes:
    return (codes.astype(np.int16) - OFFSETS[kind]).astype(np.int8)
