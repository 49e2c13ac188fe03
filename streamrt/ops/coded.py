"""Weights in fewer bytes than float32, for kernels that take only float32: rows are decoded to scratch memory.

The kernels of `Gemm` and `Conv` decode weights in cache, and need none of this. `streamrt.format` has the types.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamrt._core import Coded
from streamrt.ops.base import FLOAT32, INT64, Array, Buffers, Lowered, Operand, Param, Run, Table
from streamrt.ops.scratch import Scratch

#: The types of weights that products decode themselves.
TYPES = (FLOAT32, "F16", "BF16", "int8", "int4")


def decoded(lowered: Lowered, operands: Sequence[Operand | None]) -> Lowered:
    """``lowered``, which takes float32 alone, for operands that are stored in other types.

    Such an operand is decoded to scratch memory of its size as float32. A tiled operand is decoded a tile at a time.
    """
    scratch = Scratch(lowered.scratch)
    parts = {
        index: (scratch.add(operand.shape[0], math.prod(operand.shape[1:])), operand)
        for index, operand in enumerate(operands)
        if operand is not None and operand.dtype not in (FLOAT32, INT64)
    }
    if not parts:
        return lowered

    def bind(buffers: Buffers) -> Run:
        inputs = list(buffers.inputs)
        tiled: list[Run] = []
        whole: list[tuple[Run, int]] = []
        for index, (part, operand) in parts.items():
            floats = part.of(buffers.scratch)
            inputs[index] = floats.reshape(operand.shape)
            decode = _decoder(buffers.inputs[index], floats)
            if index in lowered.tiled:
                tiled.append(decode)
            else:
                whole.append((decode, operand.shape[0]))
        compute = lowered.bind(Buffers(tuple(inputs), buffers.outputs, buffers.scratch[: lowered.scratch]))
        return Decoding(tiled, whole, compute)

    return replace(lowered, bind=bind, scratch=scratch.nbytes)


@dataclass(frozen=True, slots=True)
class Decoding:
    """Decodes the weights of a tile, and computes it.

    Attributes:
        tiled: decode rows of operands of which a tile has the same rows.
        whole: decode other operands when the first tile is computed, with the number of their rows.
        compute: reads what was decoded.
    """

    tiled: Sequence[Run]
    whole: Sequence[tuple[Run, int]]
    compute: Run

    def __call__(self, first: int, last: int) -> None:
        """Compute rows ``first`` to ``last`` of the tiled operands: see `Run`."""
        for decode in self.tiled:
            decode(first, last)
        for decode, rows in self.whole if first == 0 else ():
            decode(0, rows)
        self.compute(first, last)


def _decoder(coded: Param | Table | None, floats: Array) -> Run:
    assert isinstance(coded, Coded)
    return lambda first, last: coded.decode(first, last, floats[first:last])
