"""How the elements of a tensor are stored: as float32, or in fewer bytes. The package's docstring has the bytes.

A `Coding` is a fact of one tensor. It says nothing of its shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Coded, row_bytes
from streamrt.errors import FormatError

#: Bytes of an element, by the names that safetensors gives to types. Padding is U8, and so are rows of integers.
SIZES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1}
#: The types whose elements are stored one by one, by the names that safetensors gives them.
SINGLES = ("F32", "F16", "BF16", "I64")
#: The types whose rows are scales and codes, by the names of their layouts.
INTEGERS = ("int8", "int4")
#: A block of weights that share a scale is a multiple of this number, or a whole row.
BLOCK_STEP = 16
#: The most elements of a row of integers. A row is decoded and encoded as a whole: 16 MiB of float32.
MOST_INNER = 2**22
#: Elements that are decoded at once, 4 MiB of float32; a row may have more.
_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Coding:
    """How a tensor is stored.

    Attributes:
        dtype: one of `SINGLES` or `INTEGERS`.
        block: for integers the weights of a row that share a scale; None if a row is one block. Otherwise None.
        zeros: for integers whether each block has a zero point. Otherwise False.
    """

    dtype: str = "F32"
    block: int | None = None
    zeros: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether rows are scales and codes."""
        return self.dtype in INTEGERS

    def stored(self, shape: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """The dtype and the shape that the header has for a tensor of ``shape``.

        Raises:
            FormatError: the coding does not fit the shape.
        """
        if self.dtype not in ("F32", "I64") and not shape:
            raise FormatError(f"{self.dtype} without dimensions, expected F32 or I64")
        if not self.is_integer:
            return self.dtype, tuple(shape)
        if len(shape) < 2:
            raise FormatError(f"{self.dtype} needs rows: shape {tuple(shape)!s:.80}, expected two dimensions or more")
        inner = math.prod(shape[1:])
        if inner > MOST_INNER:
            raise FormatError(f"{self.dtype} with rows of {inner} elements, expected at most 2**22")
        block = max(inner, 1) if self.block is None else self.block
        try:
            return "U8", (shape[0], row_bytes(self.dtype, inner, block, self.zeros))
        except ValueError as error:
            raise FormatError(f"{self.dtype} of shape {tuple(shape)!s:.80}: {error}") from None

    def to_json(self, shape: Sequence[int]) -> dict[str, Any]:
        """The value of ``streamrt.layouts`` for a tensor of integers of ``shape``."""
        layout: dict[str, Any] = {"layout": self.dtype, "shape": list(shape)}
        if self.block is not None:
            layout["block"] = self.block
        if self.zeros:
            layout["zeros"] = 1
        return layout

    @classmethod
    def from_json(cls, layout: Mapping[str, Any]) -> Coding:
        """The inverse of `to_json`, for a layout whose name is one of `INTEGERS`.

        Raises:
            FormatError: a key or a value is not one that `to_json` writes.
        """
        if unknown := layout.keys() - {"layout", "shape", "block", "zeros"}:
            raise FormatError(f"unknown keys {sorted(unknown)!r:.80}, expected layout, shape, block and zeros")
        block, zeros = layout.get("block"), layout.get("zeros", 0)
        if block is not None and (type(block) is not int or not 0 < block <= MOST_INNER or block % BLOCK_STEP):
            raise FormatError(f"block is {block!r:.40}, expected a multiple of {BLOCK_STEP} up to 2**22")
        if type(zeros) is not int or zeros not in (0, 1):
            raise FormatError(f"zeros is {zeros!r:.40}, expected 0 or 1")
        return cls(layout["layout"], block, bool(zeros))


#: float32, as it is computed with.
UNCODED = Coding()
#: int64, for operators on integers.
INT64 = Coding("I64")


def values(coding: Coding, shape: Sequence[int], pieces: Iterable[memoryview]) -> Iterator[NDArray[np.float32]]:
    """The elements of a tensor in row-major order, as flat float32 arrays of at most 16 MiB; integers are rounded.

    Args:
        coding: how the tensor is stored.
        shape: its logical shape.
        pieces: its bytes, cut anywhere. A piece is used before the next is taken.
    """
    inner = math.prod(shape[1:]) if coding.is_integer else 1
    dtype, stored = coding.stored((1, inner))
    each = SIZES[dtype] * stored[1]
    if not each:
        return  # rows without elements
    most = max(1, _AT_ONCE // inner) * each
    rest = bytearray()
    for piece in pieces:
        rest += piece
        whole = len(rest) // each * each
        for begin in range(0, whole, most):
            data = rest[begin : min(begin + most, whole)]
            yield _decoded(coding, inner, data, len(data) // each)
        del rest[:whole]


def _decoded(coding: Coding, inner: int, data: bytearray, rows: int) -> NDArray[np.float32]:
    if coding == UNCODED:
        return np.frombuffer(data, "<f4")
    if coding == INT64:
        return np.frombuffer(data, "<i8").astype(np.float32)
    shape = (rows, inner) if coding.is_integer else (1, rows * inner)  # one row of floats, not one for each number
    out = np.empty(shape, np.float32)
    Coded(data, coding.dtype, shape, coding.block, coding.zeros).decode(0, shape[0], out)
    return out.reshape(-1)
