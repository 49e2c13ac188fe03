"""Weights that are not in memory yet: their source, and how they are read in blocks.

A model larger than memory is packed one tensor at a time. So a `Weight` knows its shape from the beginning. It gets its
array when it is written: by mapping a file, by copying a tensor from a protobuf message, or by computing it.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Mapping
from streamrt.convert import limits
from streamrt.errors import FormatError
from streamrt.format import INT64, UNCODED, Coding
from streamrt.graph import TYPES

Array = NDArray[np.float32]
AnyArray = NDArray[Any]

#: The most bytes of float32 in a block. Scaling a block in float64 takes 3 times as many bytes for a moment.
BLOCK = 8 << 20
#: Bytes of the rows of a transposed matrix that are gathered at once.
_STRIP = 64 << 20
#: The fewest bytes that a strip takes from each row of a mapped file: a page, since the kernel reads whole pages.
_PIECE = 4096


class Weight:
    """A tensor that is read when it is needed, as float32 or int64.

    Args:
        load: returns the whole tensor in its own dtype and memory order; called each time that the tensor is read.
        shape: the shape of this array.
        dtype: the dtype of this array.
        scale: float64 factors, one for each index of axis 0, applied when blocks are read.
        computed: whether ``load`` makes a new array.
        depth: the number of nested calls in ``load``.
        coding: how the tensor can be stored without a loss, if its dtype does not say it.
    """

    def __init__(
        self,
        load: Callable[[], AnyArray],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        scale: NDArray[np.float64] | None = None,
        computed: bool = False,
        depth: int = 0,
        coding: Coding | None = None,
    ) -> None:
        self._load = load
        self.shape = shape
        self.dtype = dtype
        self.computed = computed
        self.depth = depth
        self._scale = scale
        self._coding = coding

    @classmethod
    def of(cls, array: AnyArray) -> Weight:
        """An array that exists: in memory, or mapped."""
        return cls(lambda: array, array.shape, array.dtype)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in its own dtype."""
        return self.size * self.dtype.itemsize

    @property
    def is_from_fewer_bytes(self) -> bool:
        """Whether the source has the tensor in fewer bytes than its dtype says."""
        return self._coding is not None

    @property
    def coding(self) -> Coding:
        """How the tensor can be stored without a loss: float16 and bfloat16 as they are, all others as float32."""
        if self._coding is not None:
            return self._coding
        halves = {"float16": Coding("F16"), "bfloat16": Coding("BF16")}
        return UNCODED if self._scale is not None else halves.get(self.dtype.name, UNCODED)

    def is_float(self) -> bool:
        """Whether the elements are real numbers of a floating-point type (float16 to float64, bfloat16)."""
        return is_float(self.dtype)

    def view(self, shape: tuple[int, ...], rearrange: Callable[[AnyArray], AnyArray]) -> Weight:
        """The tensor as a view: ``rearrange`` makes a view of shape ``shape`` of an array."""
        source = self
        if self._scale is not None:
            source = Weight(self.array, self.shape, np.dtype(np.float32), computed=True, depth=self.depth)

        def load() -> AnyArray:
            array = source.load()
            with limits.current().computing():  # ``rearrange`` may copy
                limits.current().check_time()
                return rearrange(array)

        coding = source._coding
        return Weight(load, shape, source.dtype, computed=source.computed, depth=self.depth + 1, coding=coding)

    def reshaped(self, shape: tuple[int, ...]) -> Weight:
        """The same elements in another shape."""
        return self.view(shape, lambda array: array.reshape(shape))

    def permuted(self, axes: tuple[int, ...]) -> Weight:
        """The tensor with its axes in another order: axis i of the result is axis ``axes[i]``."""
        return self.view(tuple(self.shape[axis] for axis in axes), lambda array: array.transpose(axes))

    def transposed(self) -> Weight:
        """The transpose of a matrix."""
        return self.permuted((1, 0))

    def as_float32(self) -> Weight:
        """The elements as float32. `coding` stays as it is, since float32 has all numbers of the smaller types."""
        dtype = np.dtype(np.float32)
        return Weight(self.array, self.shape, dtype, computed=True, depth=self.depth + 1, coding=self.coding)

    def scaled(self, factors: NDArray[np.float64]) -> Weight:
        """The tensor with index i of axis 0 multiplied by ``factors[i]``."""
        limits.current().hold(factors.nbytes)
        scale = factors if self._scale is None else self._scale * factors
        return Weight(self._load, self.shape, self.dtype, scale, self.computed, self.depth)

    def load(self) -> AnyArray:
        """The whole tensor in its own dtype; mapped tensors are returned mapped."""
        if self._scale is not None:
            return self.array()
        array = self._load()
        if array.shape != self.shape:
            raise FormatError(f"a weight has shape {array.shape}, expected {self.shape}")
        return array

    def array(self) -> Array:
        """The whole tensor as a new float32 array."""
        limits.current().check_memory(4 * self.size)
        out = np.empty(self.shape, np.float32)
        flat = out.reshape(-1)
        at = 0
        for block in self.blocks():
            flat[at : at + block.size] = block
            at += block.size
        return out

    def float64(self) -> NDArray[np.float64]:
        """A small tensor as a whole, as float64; counts as held."""
        limits.current().hold(8 * self.size)
        return self.array().astype(np.float64)

    def blocks(self) -> Iterator[Array]:
        """The tensor in row-major order as flat float32 arrays of at most `BLOCK` bytes."""
        array = self._load()
        if array.shape != self.shape:
            raise FormatError(f"a weight has shape {array.shape}, expected {self.shape}")
        per_block = BLOCK // 4
        inner = math.prod(self.shape[1:])
        for first, flat in row_groups(array):
            for start in range(0, flat.size, per_block):
                with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite
                    block = flat[start : start + per_block].astype(np.float32)
                    if self._scale is not None and inner:
                        block = _scaled(block, first * inner + start, inner, self._scale)
                yield block
                forget_mapped(array)

    def as_integers(self) -> Weight:
        """A tensor of integers of any size, to be stored as int64."""
        return Weight(self._load, self.shape, self.dtype, None, self.computed, self.depth, INT64)

    def integer_blocks(self) -> Iterator[NDArray[np.int64]]:
        """The tensor in row-major order as flat int64 arrays of at most `BLOCK` bytes."""
        array = self.load()
        for _, flat in row_groups(array):
            for start in range(0, flat.size, BLOCK // 8):
                yield flat[start : start + BLOCK // 8].astype("<i8")
                forget_mapped(array)


def _scaled(block: Array, begin: int, inner: int, scale: NDArray[np.float64]) -> Array:
    """A block that begins at element ``begin`` of a tensor, with each row of ``inner`` elements times its factor."""
    rows = np.arange(begin // inner, (begin + block.size - 1) // inner + 1)
    counts = np.full(rows.size, inner)
    counts[0] = min(inner - begin % inner, block.size)
    counts[-1] = block.size - counts[:-1].sum()
    return (block * np.repeat(scale[rows], counts)).astype(np.float32)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is a floating-point type, which is stored as float32."""
    return dtype.name in ("float16", "float32", "float64", "bfloat16")


def is_integer(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is an integer type of which int64 holds every number."""
    return dtype.kind in "iu" and dtype.name in TYPES


def row_groups(array: AnyArray) -> Iterator[tuple[int, AnyArray]]:
    """Groups of rows in row-major order: the index of the first row, and a flat array of the values.

    An array that lies in row-major order is one group, which is a view. Rows of other arrays are copied to a strip of
    memory, which the next group overwrites.
    """
    if array.ndim < 2 or array.size == 0 or array.flags.c_contiguous:
        yield 0, array.reshape(-1)
        return
    if not any(array.strides):  # one value
        yield 0, np.broadcast_to(array[(0,) * array.ndim], array.size)
        return
    row = array.nbytes // array.shape[0]
    least = _PIECE // array.itemsize if _owner_of_mapping(array) is not None else 1
    height = min(array.shape[0], max(least, _STRIP // row))
    if height * row > _STRIP:
        limits.current().check_memory(height * row)
    strip = np.empty((height, *array.shape[1:]), array.dtype)
    # Pages of the file are unmapped after each part, because they would take memory beside the strip.
    width = max(1, BLOCK * array.shape[1] // (height * row))
    for first in range(0, array.shape[0], height):
        rows = array[first : first + height]
        for begin in range(0, array.shape[1], width):
            strip[: len(rows), begin : begin + width] = rows[:, begin : begin + width]
            forget_mapped(array)
        yield first, strip[: len(rows)].reshape(-1)


def forget_mapped(array: AnyArray) -> None:
    """Unmap the pages of a mapped array that were read, so that a source is never in memory as a whole.

    An `np.memmap` is unmapped only if it shares the file: a private mapping would lose changes.
    """
    owner = _owner_of_mapping(array)
    if isinstance(owner, Mapping):
        owner.unload()
    elif owner is not None and owner.mode in ("r", "r+", "w+") and hasattr(mmap, "MADV_DONTNEED"):
        owner.base.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]


def _owner_of_mapping(array: AnyArray) -> np.memmap[Any, Any] | Mapping | None:
    """The `np.memmap` or the mapping of a file of which an array is a view; None if there is none."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and isinstance(owner.base, mmap.mmap):
            return owner
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    return owner if isinstance(owner, Mapping) else None
