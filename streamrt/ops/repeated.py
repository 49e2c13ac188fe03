"""Rows of tensors whose channels or columns are those of the input, one time after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamrt.ops.base import Array, Lowered, Run, Shape
from streamrt.ops.movement import copy_all
from streamrt.ops.strip import Columns


def with_rows(lowered: Lowered, x: Shape) -> Lowered:
    """A node that repeats an input of shape ``x``, with how it computes rows, if it does not repeat rows."""
    out = lowered.outputs[0]
    if len(x) != 4 or len(out) != 4 or (x[0], x[2]) != (out[0], out[2]):
        return lowered
    columns = out[3] // x[3]
    return replace(lowered, by_rows=_Repeated(columns), columns=Columns() if columns == 1 else None)


@dataclass(frozen=True, slots=True)
class _Repeated:
    """See `ByRows`.

    Attributes:
        columns: how often the columns of the input are repeated. So are its channels as often as the output has them.
    """

    columns: int

    def reads(self, first: int, last: int) -> tuple[int, int]:
        return first, last

    def scratch(self, rows: int) -> int:
        return 0

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8]) -> Run:
        rows, channels, width = x.shape
        return copy_all([(y.reshape(rows, -1, channels, self.columns, width), x[:, None, :, None])])

    def narrowed(self, before: int, after: int) -> _Repeated:
        return self
