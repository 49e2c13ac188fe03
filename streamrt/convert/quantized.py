"""Weights that a source has as integers with scales. They are stored with the same codes, scales and zero points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrt.convert import limits
from streamrt.convert.weights import AnyArray, Array, Weight, forget_mapped, row_groups
from streamrt.errors import FormatError, printable
from streamrt.format import BLOCK_STEP, MOST_INNER, UNCODED, Coding, stored_rows

#: The number that is subtracted from codes and zero points of a type, so that they are signed.
OFFSETS = {"int8": 0, "uint8": 128, "int4": 0, "uint4": 8}
#: Elements that are computed at once, 4 MiB as float32. An index of axis 0 may have more.
_AT_ONCE = 1 << 20
#: Bytes of temporaries for each element that is computed at once.
_TEMPORARIES = 16


class Integers(NamedTuple):
    """Integers with scales: an element is ``(code - zero) * scale``, rounded once to float32.

    Attributes:
        kind: the type of the codes and of the zero points. The weights file has only those of `OFFSETS`.
        codes: the codes, in the shape of the tensor.
        scales: one number; numbers along ``axis``; or, with ``block``, numbers in the shape of the codes, except that
            ``axis`` has one for each block.
        zeros: zero points in the shape of the scales; None if all are ``zero``.
        axis: None for one scale.
        block: codes along ``axis`` that share a scale, at most all of them; the last block may have fewer. None if each
            has its own.
        zero: see ``zeros``.
    """

    kind: str
    codes: Weight
    scales: Weight
    zeros: Weight | None = None
    axis: int | None = None
    block: int | None = None
    zero: int = 0

    @property
    def depth(self) -> int:
        """The number of nested calls in `load` of a part."""
        return max(part.depth for part in (self.codes, self.scales, self.zeros) if part is not None)

    @property
    def coding(self) -> Coding:
        """How the same codes are stored, if each row or each block of a row has a scale; else float32."""
        shape = self.codes.shape
        inner, block = math.prod(shape[1:]), self.block
        by_rows = block is None and self.axis in (None, 0)
        by_blocks = block is not None and self.axis == 1 and inner == shape[1]
        if self.kind not in OFFSETS or len(shape) < 2 or not 0 < inner <= MOST_INNER or not (by_rows or by_blocks):
            return UNCODED
        if block is not None and block >= inner:
            block = None  # a block is a row
        if block is not None and block % BLOCK_STEP:
            return UNCODED
        return Coding(self.kind.removeprefix("u"), block, self._has_zeros())

    def _has_zeros(self) -> bool:
        offset = OFFSETS[self.kind]
        if self.zeros is None:
            return self.zero != offset
        array = np.atleast_1d(self.zeros.load())
        if not any(array.strides):
            array = array.reshape(-1)[:1] if array.size == 1 else array[(slice(0, 1),) * array.ndim]
        step = max(1, _AT_ONCE * len(array) // max(1, array.size))
        return any(bool(np.any(array[at : at + step].astype(np.int16) != offset)) for at in range(0, len(array), step))

    def strips(self) -> Iterator[tuple[int, AnyArray, AnyArray, AnyArray]]:
        """The tensor cut along axis 0: the first index, then codes, scales and zero points that broadcast."""
        codes, scales = self.codes.load(), self.scales.load()
        zeros = np.asarray(self.zero) if self.zeros is None else self.zeros.load()
        inner = math.prod(codes.shape[1:])
        height = max(1, _AT_ONCE // max(1, inner))
        if inner > _AT_ONCE:  # fewer do not count, as in `Weight.blocks`
            limits.current().check_memory(_TEMPORARIES * inner)
        for start, flat in row_groups(codes):
            group = flat.reshape(-1, *codes.shape[1:])
            for begin in range(0, len(group), height):
                limits.current().check_time()
                part = group[begin : begin + height]
                at = slice(start + begin, start + begin + len(part))
                yield at.start, part, self._of_strip(scales, at), self._of_strip(zeros, at)
                forget_mapped(codes)

    def _of_strip(self, part: AnyArray, at: slice) -> AnyArray:
        """Scales or zero points of the indices ``at`` of axis 0, in a shape that broadcasts with the codes."""
        axis, block, shape = self.axis, self.block, self.codes.shape
        if axis is None or not part.ndim:
            return part.reshape(())
        if block is None:
            numbers = part.reshape(-1)[at] if axis == 0 else part.reshape(-1)
            return numbers.reshape((-1,) + (1,) * (len(shape) - 1 - axis))
        if axis == 0:
            spread: AnyArray = part[np.arange(at.start, at.stop) // block]
            return spread
        spread = np.repeat(part[at], block, axis)
        return spread[(slice(None),) * axis + (slice(0, shape[axis]),)]


class Quantized(Weight):
    """A tensor that a source has as integers.

    It is a `Weight` of its elements. If its scales fit rows, `coding` has integers, and `stored` gives the bytes.

    Args:
        integers: the tensor, of one element or more and one axis or more.
        dtype: of the elements. Only `load` rounds them to a type of fewer bits than float32.
        factors: see `Weight.scaled`.
    """

    def __init__(self, integers: Integers, dtype: np.dtype[Any], factors: NDArray[np.float64] | None = None) -> None:
        load = partial(_elements, integers, dtype)  # no bound method, which would keep this object alive
        super().__init__(load, integers.codes.shape, dtype, factors, computed=True, depth=1 + integers.depth)
        self._integers = integers
        self._found: Coding | None = None

    def _with(self, **parts: Any) -> Quantized:
        return Quantized(self._integers._replace(**parts), self.dtype, self._scale)

    @property
    def is_from_fewer_bytes(self) -> bool:
        """See `Weight.is_from_fewer_bytes`. An integer of more than 8 bits is not stored as such."""
        return self._integers.kind in OFFSETS

    @property
    def coding(self) -> Coding:
        """Integers of the same bits, if each row or each block of a row has a scale; else float32."""
        if self._found is None:
            self._found = self._integers.coding
        return self._found

    def as_float32(self) -> Weight:
        """The same elements, of the type float32."""
        return Quantized(self._integers, np.dtype(np.float32), self._scale)

    def reshaped(self, shape: tuple[int, ...]) -> Weight:
        """The elements in another shape. They stay integers if the axis of the scales stays an axis."""
        if shape == self.shape:
            return self
        if self._scale is not None and self.shape[:1] != shape[:1]:
            return super().reshaped(shape)
        _, codes, scales, zeros, axis, block, _ = self._integers
        if axis is None:
            return self._with(codes=codes.reshaped(shape))
        before, extent = math.prod(self.shape[:axis]), self.shape[axis]
        for new in range(len(shape)):
            if shape[new] == extent and math.prod(shape[:new]) == before:
                if block is not None:
                    blocked = (*shape[:new], scales.shape[axis], *shape[new + 1 :])
                    scales, zeros = scales.reshaped(blocked), None if zeros is None else zeros.reshaped(blocked)
                return self._with(codes=codes.reshaped(shape), scales=scales, zeros=zeros, axis=new)
        return super().reshaped(shape)

    def permuted(self, axes: tuple[int, ...]) -> Weight:
        """The elements with axes in another order."""
        if self._scale is not None and axes[:1] != (0,):
            return super().permuted(axes)
        _, codes, scales, zeros, axis, block, _ = self._integers
        if block is not None:
            scales, zeros = scales.permuted(axes), None if zeros is None else zeros.permuted(axes)
        new = None if axis is None else axes.index(axis)
        return self._with(codes=codes.permuted(axes), scales=scales, zeros=zeros, axis=new)

    def scaled(self, factors: NDArray[np.float64]) -> Weight:
        """The tensor with index i of axis 0 multiplied by ``factors[i]``: its scales are."""
        limits.current().hold(factors.nbytes)
        return Quantized(self._integers, self.dtype, factors if self._scale is None else self._scale * factors)

    def as_rows(
        self,
        axis: int,
        repeats: int,
        tiles: int,
        make: Callable[[NDArray[np.int16]], NDArray[np.int16]],
        shape: tuple[int, ...],
    ) -> Quantized | None:
        """The elements in another order, of ``shape``, whose rows have the scales of the indices of ``axis``.

        None if scales vary along another axis, or `scaled` was called.

        Args:
            axis: an axis of this tensor.
            repeats: rows of each scale that follow each other.
            tiles: how often the scales are repeated.
            make: rearranges codes less their zero points. It may add zeros.
            shape: of the result.
        """
        integers = self._integers
        if integers.block is not None or self._scale is not None or integers.axis not in (None, axis):
            return None

        def of_rows(part: Weight) -> Weight:
            def load() -> AnyArray:
                limits.current().check_memory(2 * shape[0] * part.dtype.itemsize)
                return np.tile(np.repeat(part.load().reshape(-1), repeats), tiles)

            one = integers.axis is None
            return part if one else Weight(load, shape[:1], part.dtype, computed=True, depth=part.depth + 1)

        scales, zeros = of_rows(integers.scales), None if integers.zeros is None else of_rows(integers.zeros)

        def load() -> AnyArray:
            with limits.current().computing():
                limits.current().check_memory(6 * math.prod(shape))
                less = np.empty(integers.codes.shape, np.int16)
                for first, part, _, points in integers.strips():
                    less[first : first + len(part)] = part.astype(np.int16) - points.astype(np.int16)
                made = make(less)
                points = np.asarray(integers.zero) if zeros is None else zeros.load()
                made += points.astype(np.int16).reshape((-1,) + (1,) * (len(shape) - 1))
                return made

        codes = Weight(load, shape, np.dtype(np.int16), computed=True, depth=self.depth + 1)
        new = None if integers.axis is None else 0
        return self._with(codes=codes, scales=scales, zeros=zeros, axis=new)

    def blocks(self) -> Iterator[Array]:
        """The tensor in row-major order, as flat float32 arrays."""
        for first, codes, scales, zeros in self._integers.strips():
            yield _values(codes, self._factored(first, codes, scales), zeros).reshape(-1)

    def stored(self, name: str) -> Iterator[NDArray[np.uint8]]:
        """The bytes of the tensor with `coding`, in pieces; ``name`` is for errors.

        Raises:
            FormatError: a scale is not finite.
        """
        coding, inner, offset = self.coding, math.prod(self.shape[1:]), OFFSETS[self._integers.kind]
        step = coding.block or inner
        for first, part, scales, zeros in self._integers.strips():
            rows = len(part)
            codes = np.subtract(part.reshape(rows, inner), offset, dtype=np.int16, casting="unsafe").astype(np.int8)
            factored = self._factored(first, part, scales)
            if not np.isfinite(factored).all():
                value = factored[~np.isfinite(factored)].reshape(-1)[0]
                raise FormatError(f"weight {printable(name)!r:.80} has the scale {value}, expected finite numbers")
            points = np.subtract(zeros.astype(np.int16), offset).astype(np.int8)
            spread = [_by_rows(each, rows, inner)[:, ::step] for each in (factored, points)]
            yield stored_rows(coding, spread[0], spread[1] if coding.zeros else None, codes)

    def _factored(self, first: int, codes: AnyArray, scales: AnyArray) -> Array:
        """The scales of a strip times the factors, as float32."""
        with np.errstate(over="ignore", invalid="ignore"):
            if self._scale is None:
                return scales.astype(np.float32)
            factors = self._scale[first : first + len(codes)].reshape((-1,) + (1,) * (codes.ndim - 1))
            return (scales.astype(np.float32) * factors).astype(np.float32)


def _by_rows(part: AnyArray, rows: int, inner: int) -> AnyArray:
    """Numbers that broadcast with rows of codes, as (rows, inner)."""
    if part.ndim < 2 or part.shape[1:] == (1,) * (part.ndim - 1):
        return np.broadcast_to(part.reshape(-1, 1), (rows, inner))
    return part.reshape(rows, inner)


def _elements(integers: Integers, dtype: np.dtype[Any]) -> AnyArray:
    """The whole tensor."""
    with limits.current().computing():
        limits.current().check_memory(math.prod(integers.codes.shape) * dtype.itemsize)
        out = np.empty(integers.codes.shape, dtype)
        with np.errstate(over="ignore"):  # a type of fewer bits
            for first, codes, scales, zeros in integers.strips():
                out[first : first + len(codes)] = _values(codes, scales.astype(np.float32), zeros)
        return out


def _values(codes: AnyArray, scales: Array, zeros: AnyArray) -> Array:
    values = codes.astype(np.float32)
    values -= zeros.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # as ONNX has it; `stored` refuses such scales
        values *= scales
    return values
