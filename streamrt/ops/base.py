"""The definition of an operator: a pure lowering from shapes to a kernel that can be bound to memory.

An operator is one function. It gets a node with the shapes of its inputs. It checks the attributes, infers the output
shapes and states how much memory a run needs. It allocates nothing and reads no weight:

    @operator("Relu")
    def relu(call: Call) -> Lowered: ...

The program then places all activations in one arena and calls ``bind`` once for each set of input shapes. ``bind``
returns the function that a pass runs: ``run(first, last)`` computes the output rows from ``first`` to ``last``. Of the
tiled parameters it reads only these rows. A node that is not tiled gets ``run(0, rows)``.

Inside a pass a kernel uses the memory that ``bind`` got. It may allocate nothing that grows with the model.

Most operators need not know the node's ``activation``: `lower` applies it to their result. An operator whose kernel can
apply it as a last step asks `epilogue_of` for it. Views and tiled operators must do so, as `lower` cannot wrap them.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Coded, Window
from streamrt.graph import Node
from streamrt.ops.strip import Columns

Shape = tuple[int, ...]
#: The types of computed tensors, by the names that the weights file gives them. Truth values are 1 and 0 in float32.
FLOAT32, INT64 = "F32", "I64"
#: The NumPy types of computed tensors.
NUMPY_TYPES: Mapping[str, np.dtype[Any]] = {FLOAT32: np.dtype(np.float32), INT64: np.dtype(np.int64)}
Array = NDArray[np.float32]


class Table(Protocol):
    """A parameter that is not in memory, of which a pass reads single rows."""

    def gather(self, index: NDArray[np.int64], out: Array, scratch: NDArray[np.uint8]) -> None:
        """Copy rows to ``out``, decoded.

        Args:
            index: the rows; each is within the table, or counts from its end. It has one axis.
            out: (len(index), elements of a row), float32 or int64.
            scratch: the node's scratch memory, `table_scratch` bytes.

        Raises:
            WeightsIOError: a row cannot be read, or does not match its checksum.
        """


#: Rows of a table that are read ahead, so that a disk has several requests at a time.
TABLE_AHEAD = 16


def table_scratch(row_bytes: int) -> int:
    """Bytes of scratch for a node that reads rows of at most ``row_bytes`` stored bytes of a `Table`.

    A row is stored in no more bytes than it takes in the arena, as float32 or int64. The scratch also stands for the
    pages of the file in which `TABLE_AHEAD` rows lie until they were copied. A row may begin and end within a page.
    """
    return TABLE_AHEAD * (row_bytes + 2 * mmap.PAGESIZE)


#: A parameter as it is stored.
Param = Array | Coded
#: ``run(first, last)``: compute output rows ``first`` to ``last``.
Run = Callable[[int, int], None]

#: The most axes of a tensor that an operator reads or computes. Layers have fewer. The limit bounds work that grows
#: exponentially with the axes. A file may describe tensors of more dimensions (`streamrt.format.layout.MAX_DIMS`).
MAX_RANK = 8
#: A tensor has fewer elements than this, so that byte counts and indices that are computed from a shape fit in 64 bits.
_MAX_SIZE = 2**40


class Operand(NamedTuple):
    """An input of a node as its lowering knows it.

    Attributes:
        shape: its extents.
        dtype: how its elements are stored, by the name that the weights file gives it. A computed tensor is `FLOAT32`
            or `INT64`.
        is_param: whether it is a parameter, which is a tensor of the weights file.
        batch: the axis along which samples lie; None if all samples have the same values, as of a parameter. Samples
            are the outermost part of this axis: its extent may be a multiple of their number. A tensor of windows of
            pictures is an example.
    """

    shape: Shape
    dtype: str = FLOAT32
    is_param: bool = False
    batch: int | None = 0

    @property
    def fixed(self) -> bool:
        """Whether all samples have the same values."""
        return self.is_param or self.batch is None


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that is computed from sizes alone, so that it is known when a graph is lowered.

    Attributes:
        array: its elements: int64, float32, float64 or bool. Nobody writes to it.
        from_batch: which elements are computed from the number of samples, in the array's shape; None if none are.
        batch: an axis whose extent is a multiple of the number of samples, along which all values are equal, or None.
        resized: whether other extents may be computed from the number of samples, too. Then all elements count as
            computed from it.
    """

    array: NDArray[Any]
    from_batch: NDArray[np.bool_] | None = None
    batch: int | None = None
    resized: bool = False

    @property
    def depends_on_batch(self) -> bool:
        """Whether another number of samples could give other elements or another shape."""
        return self.from_batch is not None or self.batch is not None


class Buffers(NamedTuple):
    """The memory of one node. Every array is C-contiguous; ``None`` is an input left out.

    Arrays are float32. An input of type `INT64` is an int64 array, and so is an output of that type.

    A parameter that is stored in another type is `Coded`. Only inputs for which the operator's traits have such types
    can be.

    ``scratch`` has ``Lowered.scratch`` bytes and begins on a 64-byte boundary. It keeps its content from the first tile
    of a node to the last one, not longer.
    """

    inputs: tuple[Param | Table | None, ...]
    outputs: tuple[Array, ...]
    scratch: NDArray[np.uint8]

    def input(self, index: int) -> Array:
        """The array of an input that is there."""
        array = self.inputs[index]
        assert array is not None
        assert isinstance(array, np.ndarray)
        return array

    def integers(self, index: int) -> NDArray[np.int64]:
        """The array of an int64 input that is there."""
        return self.input(index).view(np.int64)

    def optional(self, index: int) -> Array | None:
        """The array of an input, or None if it was left out."""
        return self.input(index) if self.inputs[index:] and self.inputs[index] is not None else None

    def weights(self, index: int) -> Param:
        """A parameter that is there, as it is stored."""
        weights = self.inputs[index]
        assert isinstance(weights, (np.ndarray, Coded))
        return weights

    def rows(self, index: int) -> Param | Table:
        """An input that is there, of which the node reads rows."""
        rows = self.inputs[index]
        assert rows is not None
        return rows


class ByRows(Protocol):
    """How an operator computes some rows of an output (1, C, H, W) from rows of input 0 that lie elsewhere.

    No other input is read.
    """

    def reads(self, first: int, last: int) -> tuple[int, int]:
        """The input rows (from, to) that the output rows ``first`` to ``last`` need."""

    def scratch(self, rows: int) -> int:
        """Bytes of scratch memory for computing so many rows at once."""

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8]) -> Run:
        """Binds computing the rows ``y`` (rows, C, W), from row ``first`` on, of the rows ``x`` (rows, C, W)."""

    def narrowed(self, before: int, after: int) -> Self:
        """The same of a picture with ``before`` columns less, whose output has ``after`` less."""


class Collects(Protocol):
    """How an operator computes its output from all rows of input 0 (1, C, H, W), which come one band after the other.

    No other input is read. Bands begin and end at multiples of ``step`` rows, or with the picture. Then the output has
    the same bits whatever the bands.
    """

    @property
    def step(self) -> int:
        """Rows, as above."""

    @property
    def width(self) -> int:
        """Columns of input 0."""

    @property
    def in_parts(self) -> bool:
        """Whether a band may have some of the columns."""

    def scratch(self, rows: int) -> int:
        """Bytes of scratch memory for so many rows at once. Its content stays from the first band to the last."""

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8], *, begins: bool, ends: bool) -> Run:
        """Binds reading rows ``x`` (rows, C, W), from row ``first`` on, or some of their columns.

        The band that ``begins`` is the first, and the one that ``ends`` completes the output ``y``. Both have parts of
        all rows, one part after the other.
        """


@dataclass(frozen=True, slots=True)
class Lowered:
    """A node, lowered for given input shapes.

    Attributes:
        outputs: shape of each output.
        bind: takes the `Buffers`, returns the function that a pass runs.
        scratch: bytes of scratch memory.
        roomy: whether it takes scratch memory only to be faster, so that lowering for ``exact`` results takes less.
        view_of: index of the input whose memory ``outputs[0]`` shares, byte for byte (as in Reshape). ``run`` then does
            nothing.
        inplace: indices of the inputs whose memory ``outputs[0]`` may take over, because the kernel gives the same
            result if both are one buffer. Only inputs of the output's shape and type.
        joins: whether ``outputs[0]`` is the inputs one after the other, byte for byte. ``run`` copies only the inputs
            that were not computed there already.
        tiled: indices of the parameters that ``run`` reads by rows: axis 0 of each is ``rows / passes`` long. Every
            other parameter is read only by the call with ``first == 0``, which copies to scratch the values that later
            tiles need.
        window: the window of a `streamrt._core.Sliding`, if ``bind`` returns one that computes bands; else None.
            ``bind`` then also takes inputs and outputs (N, C, R, W) with room for some of the rows. They may have gaps
            between rows and between planes. Bands are `streamrt._core.Band` objects of the kernel.
        band_step: bands of ``window`` begin and end at multiples of this many output rows, or with the picture. Then a
            row has the same bits in every band.
        by_rows: how the operator computes some rows, if it can and neither ``window`` nor a trait says so.
        small: whether sums are made in another order than for a larger picture.
        columns: which columns of input 0 an output of ``window`` or ``by_rows`` needs; None if no rule says it.
        collects: how it computes its output from bands of rows, if it can; else None.
        rowwise: as of the operator's traits. An operator that is so along some axes says it here.
        parts: nodes that compute the same in bands, if the node cannot. A node that needs all rows of its input before
            it computes one has two, of hidden operators: the first collects, and the second is ``rowwise``.
        indexed: indices of the parameters of which ``run`` reads single rows. Such an input may be a `Table`.
        rows: length of the axis along which the node can be cut.
        passes: how often the node reads all tiled parameters, one time after the other, as a recurrent layer does for
            each step. Row r of the node needs their row ``r % (rows / passes)``. A tile may reach over several passes.
        row_step: the node is cut only at multiples of this many rows.
        batchwise: whether sample n of each output depends only on sample n of the inputs that are not fixed.
        batch: the axis along which samples lie in each output, if it is ``batchwise``.
        fixed: whether all samples have the same outputs, because no input differs between them.
        flops: floating-point operations of a run, for the planner: a multiply-add counts as two.
        dtypes: type of each output, `FLOAT32` or `INT64`; empty if all are float32.
    """

    outputs: tuple[Shape, ...]
    bind: Callable[[Buffers], Run]
    scratch: int = 0
    roomy: bool = False
    view_of: int | None = None
    inplace: tuple[int, ...] = ()
    joins: bool = False
    tiled: tuple[int, ...] = ()
    rows: int = 1
    passes: int = 1
    row_step: int = 1
    batchwise: bool = True
    batch: int = 0
    fixed: bool = False
    flops: int = 0
    dtypes: tuple[str, ...] = ()
    indexed: tuple[int, ...] = ()
    window: Window | None = None
    band_step: int = 1
    by_rows: ByRows | None = None
    small: bool = False
    columns: Columns | None = None
    collects: Collects | None = None
    rowwise: bool = False
    parts: tuple[Node, ...] = ()

    def dtype(self, index: int) -> str:
        """The type of output ``index``."""
        return self.dtypes[index] if self.dtypes else FLOAT32


def computed_type(dtype: str) -> str:
    """The type of the tensor that holds values of a NumPy type: `INT64` for integers, else `FLOAT32`."""
    return INT64 if np.dtype(dtype).kind in "iu" else FLOAT32


@lru_cache(4096)  # a graph may read one tensor thousands of times
def size_problem(shape: Shape) -> str | None:
    """Why a tensor of ``shape`` is refused: it is empty, or its size is out of bounds. None if it is accepted."""
    if len(shape) > MAX_RANK:
        return f"has {len(shape)} axes, more than the {MAX_RANK} allowed"
    if not all(1 <= extent < _MAX_SIZE for extent in shape) or math.prod(shape) >= _MAX_SIZE:
        return f"has shape {shape}, expected 1 to 2**40 - 1 elements"
    return None
