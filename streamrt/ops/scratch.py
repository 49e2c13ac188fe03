"""Dividing a node's scratch memory into float32 arrays, and the one that many nodes keep there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import streamrt._core as _core
from streamrt.ops.base import Array, Buffers, Shape

#: Every part begins on a cache line, as the scratch memory itself does.
_ALIGNMENT = 64
_FLOAT = 4

#: ``load(first)``: the whole bias (rows,) for the tile that begins at row ``first``, or None when there is no bias.
Load = Callable[[int], Array | None]


@dataclass(frozen=True, slots=True)
class Part:
    """One array of a `Scratch`: ``offset`` in bytes."""

    offset: int
    shape: Shape

    def of(self, memory: NDArray[np.uint8]) -> Array:
        """The array, in the scratch memory that the model handed out."""
        nbytes = math.prod(self.shape) * _FLOAT
        return memory[self.offset : self.offset + nbytes].view(np.float32).reshape(self.shape)


class Scratch:
    """Parts placed one after the other; ``nbytes`` is what they need together."""

    def __init__(self) -> None:
        self.nbytes = 0

    def add(self, *shape: int) -> Part:
        """A part for an array of ``shape``."""
        offset = -(-self.nbytes // _ALIGNMENT) * _ALIGNMENT
        self.nbytes = offset + math.prod(shape) * _FLOAT
        return Part(offset, shape)


class Bias:
    """The optional bias of a tiled node: kept in scratch, as only the first tile may read the parameter itself."""

    def __init__(self, scratch: Scratch, index: int, rows: int | None) -> None:
        self._index = index
        self._part = None if rows is None else scratch.add(rows)

    def kept(self, buffers: Buffers) -> Array | None:
        """What the tiles read; None when there is no bias."""
        return None if self._part is None else self._part.of(buffers.scratch)

    def keep_for(self, kernel: _core.Kernel, buffers: Buffers) -> None:
        """Have the first tile of ``kernel`` fill it."""
        kept = self.kept(buffers)
        if kept is not None:
            kernel.keep(buffers.input(self._index), kept)

    def bind(self, buffers: Buffers) -> Load:
        """What every tile calls once for the bias."""
        kept = self.kept(buffers)
        if kept is None:
            return lambda first: None
        source = buffers.input(self._index)

        def load(first: int) -> Array:
            if first == 0:
                np.copyto(kept, source)
            return kept

        return load
