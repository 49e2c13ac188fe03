"""Pictures of which some rows are in memory, and kernels that compute them band by band."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.geometry import Geometry
from streamrt._core import Band, Sliding

Floats = NDArray[np.float32]
#: Makes a kernel that is bound to arrays x, residual and y with samples and channels; residual may be None.
Bind = Callable[[Floats, "Floats | None", Floats], Sliding]

#: How rows lie in memory: without gaps; with gaps between rows, or between planes; the same rows of all channels side
#: by side, for one sample.
LAYOUTS = ("dense", "rows apart", "planes apart", "channels within rows")


@dataclass(frozen=True)
class Room:
    """Memory for some rows of planes, full of NaN.

    Attributes:
        memory: all of it.
        rows: the array that kernels get (n, channels, rows, width).
        at: the row of ``rows`` that is used first.
    """

    memory: Floats
    rows: Floats
    at: int

    @classmethod
    def make(cls, shape: tuple[int, int, int, int], layout: str, spare: int) -> Room:
        """Room for planes of ``shape``, and for ``spare`` rows more before them and behind them."""
        n, channels, count, width = shape
        count += 2 * spare
        if layout == "rows apart":
            memory = np.full((n, channels, count, width + 3), np.nan, np.float32)
            rows = memory[..., 1 : 1 + width]
        elif layout == "planes apart":
            memory = np.full((n, channels, count * width + 5), np.nan, np.float32)
            rows = memory[..., : count * width].reshape(n, channels, count, width)
            assert rows.size == 0 or np.shares_memory(memory, rows)
        elif layout == "channels within rows":
            assert n == 1
            memory = np.full((count, channels, width), np.nan, np.float32)
            rows = memory.transpose(1, 0, 2)[None]
        else:
            memory = rows = np.full((n, channels, count, width), np.nan, np.float32)
        return cls(memory, rows, spare)

    def part(self, count: int) -> Floats:
        """The rows that are used."""
        return self.rows[:, :, self.at : self.at + count]


@dataclass(frozen=True)
class Cut:
    """How a picture is computed: the heights of its bands, and how its rows lie in memory.

    Attributes:
        heights: of the bands, over and over.
        layouts: of x, the residual and y.
        spare: rows of room before and behind those that are used.
        more: input rows in memory before and behind those that are read.
    """

    heights: tuple[int, ...]
    layouts: tuple[str, str, str] = ("dense",) * 3
    spare: int = 0
    more: int = 0

    def bands(self, rows: int) -> Iterator[tuple[int, int]]:
        """The first row of each band, and the row after its last."""
        first = number = 0
        while first < rows:
            last = min(rows, first + self.heights[number % len(self.heights)])
            yield first, last
            first, number = last, number + 1


def by_bands(bind: Bind, geometry: Geometry, cut: Cut, x: Floats, residual: Floats | None, channels: int) -> Floats:
    """The output (n, channels, oh, ow) of a kernel, computed band by band. Each band has no row in memory but its own.

    Asserts that nothing else is written. Each band is computed in two ranges of channels.
    """
    window, (height, width) = geometry.window(), geometry.output
    y = np.empty((len(x), channels, height, width), np.float32)
    for first, last in cut.bands(height):
        read = window.rows_read(first, last)
        held = (max(0, read[0] - cut.more), min(geometry.input[0], read[1] + cut.more))
        inputs = Room.make((*x.shape[:2], held[1] - held[0], x.shape[3]), cut.layouts[0], cut.spare)
        inputs.part(held[1] - held[0])[...] = x[:, :, held[0] : held[1]]
        added = None
        if residual is not None:
            added = Room.make((*y.shape[:2], last - first, width), cut.layouts[1], cut.spare + 1)
            added.part(last - first)[...] = residual[:, :, first:last]
        outputs = Room.make((*y.shape[:2], last - first, width), cut.layouts[2], cut.spare)
        kernel = bind(inputs.rows, added.rows if added else None, outputs.rows)
        band = Band(kernel, first, last, held, x=inputs.at, y=outputs.at, residual=added.at if added else 0)
        half = channels // 2
        band(0, half)
        band(half, channels)
        y[:, :, first:last] = outputs.part(last - first)
        outputs.part(last - first)[...] = np.nan
        assert np.isnan(outputs.memory).all()
    return y
