"""float32 numbers into the bytes of a coding: the inverse of `streamrt.format.coding.values`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from streamrt.errors import FormatError, printable
from streamrt.format.coding import UNCODED, Coding

_Floats = NDArray[np.float32]
_Bytes = NDArray[np.uint8]

#: The largest float16.
_HALF_MAX = 65504.0
#: The most float32 numbers that are encoded at once, 1 MiB, so that temporaries stay in cache. A row may have more.
_AT_ONCE = 1 << 18
#: The scales that are tried for a block of int4, as numbers by which its element of the largest magnitude is divided.
#: The one with the smallest sum of squared errors is taken. The first gives this element the code -8.
_INT4_STEPS = (-8.0, -7.5, -7.0, 7.0)
#: The largest groups of int8 whose errors are balanced like those of a window, and by sorting. These are the fastest.
_WINDOW = 32
_SORTED = 512


def encoded(coding: Coding, name: str, shape: Sequence[int], arrays: Iterable[_Floats]) -> Iterator[_Floats | _Bytes]:
    """The bytes of a tensor in pieces, as `streamrt.format.Source` yields them.

    Numbers are rounded to the nearest, but for int8 see `_balanced`. Codes of int8 are from -127 to 127; a scale is the
    largest magnitude of its block / 127. For codes of int4 see `_INT4_STEPS`.

    Args:
        coding: how to store the tensor; without zero points.
        name: of the tensor, for errors.
        shape: its logical shape.
        arrays: its elements in row-major order, as flat float32 arrays.

    Raises:
        FormatError: a number is beyond the type; or it is not finite, and the type has no infinities.
    """
    if coding == UNCODED:
        yield from arrays
        return
    encode = {"F16": _halves, "BF16": _bfloats}.get(coding.dtype)
    if encode is not None:
        for array in arrays:
            for begin in range(0, array.size, _AT_ONCE):
                yield encode(name, array[begin : begin + _AT_ONCE])
        return
    inner, window = math.prod(shape[1:]), math.prod(shape[2:])
    for rows in _rows(inner, arrays):
        yield _integers(coding, name, rows, window)


def _rows(inner: int, arrays: Iterable[_Floats]) -> Iterator[_Floats]:
    """The same elements as matrices with rows of ``inner``."""
    if inner == 0:
        return
    most = max(1, _AT_ONCE // inner) * inner
    parts: list[_Floats] = []  # of a row that is not complete
    size = 0
    for array in arrays:
        parts.append(array)
        size += array.size
        if size < inner:
            parts[-1] = array.copy()
            continue
        flat = np.concatenate(parts) if len(parts) > 1 else array
        whole = size // inner * inner
        for begin in range(0, whole, most):
            yield flat[begin : min(begin + most, whole)].reshape(-1, inner)
        parts, size = [flat[whole:].copy()], size - whole


def _halves(name: str, array: _Floats) -> _Bytes:
    magnitude = np.abs(array)
    beyond = np.isfinite(array) & (magnitude > _HALF_MAX)
    if beyond.any():
        raise _beyond(name, "float16", array[beyond][0], _HALF_MAX)
    with np.errstate(invalid="ignore"):  # some processors raise the flag for a NaN
        return array.astype("<f2").view(np.uint8)


def _bfloats(name: str, array: _Floats) -> _Bytes:
    bits = array.view(np.uint32)
    nan = np.isnan(array)
    rounded = bits + (0x7FFF + (bits >> 16 & 1))  # to the nearest; of two equally near, to the even one
    upper = np.where(nan, bits >> 16 | 0x40, rounded >> 16).astype("<u2")
    beyond = np.isfinite(array) & (upper & 0x7FFF == 0x7F80)
    if beyond.any():
        raise _beyond(name, "bfloat16", array[beyond][0], float(np.uint32(0x7F7F0000).view(np.float32)))
    return upper.view(np.uint8)


def _beyond(name: str, type_: str, value: np.float32, most: float) -> FormatError:
    return FormatError(
        f"weight {printable(name)!r:.80} has the value {value:g}, which is beyond {type_}: expected at most {most:g}"
    )


def _integers(coding: Coding, name: str, rows: _Floats, window: int) -> _Bytes:
    """The bytes of some rows (count, inner), as (count, bytes of a row). A channel has ``window`` weights of a row."""
    count, inner = rows.shape
    if not np.isfinite(rows).all():
        value = rows[~np.isfinite(rows)][0]
        raise FormatError(
            f"weight {printable(name)!r:.80} has the value {value}, expected finite numbers for {coding.dtype}"
        )
    block = inner if coding.block is None else coding.block
    blocks = -(-inner // block)
    if inner % block == 0:
        cut = rows.reshape(count * blocks, block)
    else:
        filled = np.zeros((count, blocks * block), np.float32)
        filled[:, :inner] = rows
        cut = filled.reshape(count * blocks, block)
    if coding.dtype == "int8":
        scales, codes = _int8(cut, window if window > 1 and block % window == 0 else block)
    else:
        scales, codes = _int4(cut)
    return stored_rows(coding, scales.reshape(count, blocks), None, codes.reshape(count, -1)[:, :inner])


def stored_rows(coding: Coding, scales: _Floats, zeros: NDArray[np.int8] | None, codes: NDArray[np.int8]) -> _Bytes:
    """The bytes of rows of integers, as (rows, bytes of a row).

    Args:
        coding: int8 or int4.
        scales: (rows, blocks).
        zeros: the zero points (rows, blocks), if ``coding`` has them.
        codes: (rows, weights of a row), from -128 to 127, or from -8 to 7.
    """
    parts = [np.ascontiguousarray(scales, "<f4").view(np.uint8)]
    if zeros is not None:
        parts.append(zeros.view(np.uint8))
    parts.append(codes.view(np.uint8) if coding.dtype == "int8" else _nibbles(codes))
    out = np.zeros(coding.stored(codes.shape)[1], np.uint8)
    end = 0
    for part in parts:
        begin, end = end, end + part.shape[1]
        out[:, begin:end] = part
    return out


def _nibbles(codes: NDArray[np.int8]) -> _Bytes:
    """Codes of int4 (count, inner), two in a byte: of each 32 the first 16 in the lower halves."""
    count, inner = codes.shape
    groups = np.zeros((count, -(-inner // 32), 2, 16), np.uint8)
    flat = groups.reshape(count, -1)
    np.add(codes, 8, out=flat[:, :inner], casting="unsafe")
    both: _Bytes = groups[:, :, 0] | groups[:, :, 1] << 4
    return both.reshape(count, -1)[:, : inner // 32 * 16 + min(16, inner % 32)]


def _int8(blocks: _Floats, group: int) -> tuple[_Floats, NDArray[np.int8]]:
    """The scale of each block (count, size), and its codes. The errors of each ``group`` codes are balanced."""
    scales = np.maximum(blocks.max(axis=1), -blocks.min(axis=1)) / np.float32(127)
    values = blocks / _divisors(scales)[:, None]
    np.clip(values, -127, 127, out=values)  # a subnormal scale may be much rounded
    codes = _balanced(values.reshape(-1, group)).reshape(blocks.shape)
    return scales, np.clip(codes, -127, 127, out=codes).astype(np.int8)


def _balanced(values: _Floats) -> _Floats:
    """Whole numbers near ``values`` (groups, size), of which each group has about the same sum as its values.

    Numbers are rounded to the nearest, but those nearest to a half are rounded to the other side until the errors of
    their group add up to about 0. The inputs that a group is multiplied with are often alike: neighbouring pixels, or
    results of a Relu, which are not negative. What they have in common is multiplied with the sum of the errors. So the
    errors of outputs become smaller, although those of weights become slightly larger.

    Of several numbers that are equally near to a half none is rounded to the other side, rather than too many.
    """
    size = values.shape[1]
    if size <= _WINDOW:
        return _balanced_windows(values)
    whole = np.rint(values)
    errors = values - whole
    sums = errors.sum(axis=1)
    if size > _SORTED:  # as many numbers change sides as are needed if errors are spread evenly
        np.add(values, (sums / np.float32(size))[:, None], out=whole)
        return np.rint(whole, out=whole)
    count = np.clip(np.rint(sums), 1 - size, size - 1).astype(np.intp)[:, None]
    sign = np.sign(count).astype(np.float32)
    errors *= sign
    limit = np.take_along_axis(np.sort(errors, axis=1), size - 1 - np.abs(count), axis=1)
    whole += (errors > limit) * sign
    return whole


def _balanced_windows(values: _Floats) -> _Floats:
    """As `_balanced`, but one number of a group changes sides at most."""
    columns = np.ascontiguousarray(values.T)  # operations along short rows are slow
    whole = np.rint(columns)
    errors = columns - whole
    sign = np.sign(np.rint(errors.sum(axis=0)))
    errors *= sign
    chosen = errors == errors.max(axis=0)
    chosen &= chosen.sum(axis=0) == 1
    whole += chosen * sign
    return whole.T


def _int4(blocks: _Floats) -> tuple[_Floats, NDArray[np.int8]]:
    """As `_int8`. The scales may be negative."""
    high, low = blocks.max(axis=1), blocks.min(axis=1)
    largest = np.where(high >= -low, high, low)
    unit = blocks / _divisors(largest)[:, None]  # at most 1, so that no square overflows
    best = np.full(len(blocks), np.inf, np.float32)
    scales, codes = np.zeros_like(best), np.zeros(blocks.shape, np.int8)
    for step in map(np.float32, _INT4_STEPS):
        values = unit * step
        np.clip(np.rint(values, out=values), -8, 7, out=values)
        error = values / step
        error -= unit
        sums = np.einsum("ij,ij->i", error, error)
        better = sums < best
        best[better], scales[better] = sums[better], (largest / step)[better]
        codes[better] = values[better]
    return scales, codes


def _divisors(scales: _Floats) -> _Floats:
    """Numbers that blocks are divided by; 1 instead of 0."""
    return np.where(scales == 0, np.float32(1), scales)
