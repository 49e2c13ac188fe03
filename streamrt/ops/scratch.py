"""Dividing a node's scratch memory into arrays; and the bias, which tiled nodes keep there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import streamrt._core as _core
from streamrt.ops.base import FLOAT32, NUMPY_TYPES, Array, Buffers, Shape

#: Every part begins on a multiple of this, bytes: a cache line. The scratch memory itself does, too.
_ALIGNMENT = 64
#: ``load(first)``: the whole bias (rows,), for the tile that begins at row ``first``; None if the node has no bias.
Load = Callable[[int], Array | None]


@dataclass(frozen=True, slots=True)
class Part:
    """One array in scratch memory, which begins at ``offset``, bytes."""

    offset: int
    shape: Shape
    dtype: str = FLOAT32

    def of(self, memory: NDArray[np.uint8]) -> Array:
        """The array in ``memory``, the node's scratch memory."""
        dtype = NUMPY_TYPES[self.dtype]
        nbytes = math.prod(self.shape) * dtype.itemsize
        return memory[self.offset : self.offset + nbytes].view(dtype).reshape(self.shape)


class Scratch:
    """The scratch memory that a node needs: parts one after the other, ``nbytes`` together."""

    def __init__(self, nbytes: int = 0) -> None:
        self.nbytes = nbytes

    def add(self, *shape: int, dtype: str = FLOAT32) -> Part:
        """Add a part for an array of ``shape``."""
        offset = -(-self.nbytes // _ALIGNMENT) * _ALIGNMENT
        self.nbytes = offset + math.prod(shape) * NUMPY_TYPES[dtype].itemsize
        return Part(offset, shape, dtype)


class Bias:
    """The optional bias of a tiled node. It is kept in scratch, as only the first tile may read the parameter."""

    def __init__(self, scratch: Scratch, index: int, rows: int | None) -> None:
        self._index = index
        self._part = None if rows is None else scratch.add(rows)

    def kept(self, buffers: Buffers) -> Array | None:
        """The copy of the bias that all tiles read; None if there is no bias."""
        return None if self._part is None else self._part.of(buffers.scratch)

    def keep_for(self, kernel: _core.ArrayKernel, buffers: Buffers) -> None:
        """Make the first tile of ``kernel`` copy the bias to scratch."""
        kept = self.kept(buffers)
        if kept is not None:
            kernel.keep(buffers.input(self._index), kept)

    def bind(self, buffers: Buffers) -> Load:
        """The function that every tile calls once to get the bias."""
        kept = self.kept(buffers)
        if kept is None:
            return lambda first: None
        source = buffers.input(self._index)

        def load(first: int) -> Array:
            if first == 0:
                np.copyto(kept, source)
            return kept

        return load
