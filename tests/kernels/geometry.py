"""Windows for the tests, and a slow reference that gathers the input elements of each window in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Window

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """A window. The output has a value for each whole window; with ``ceil`` it is as large as by ONNX's ceil_mode."""

    input: Pair
    kernel: Pair
    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    ceil: bool = False
    output: Pair = field(init=False)

    def __post_init__(self) -> None:
        output = []
        for axis in range(2):
            extent = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            before, after = self.pads[axis], self.pads[axis + 2]
            room = self.input[axis] + before + after - extent
            steps = -(-room // self.strides[axis]) if self.ceil else room // self.strides[axis]
            if self.ceil and steps * self.strides[axis] >= self.input[axis] + before:
                steps -= 1  # the last window must not begin in the padding at the end
            output.append(max(0, steps + 1))
        object.__setattr__(self, "output", tuple(output))

    def window(self) -> Window:
        return Window(self.kernel, self.strides, self.dilations, self.pads, self.input, self.output)

    def rows(self, axis: int) -> NDArray[np.int64]:
        """Indices of the input (output, kernel) along one axis. Those outside the input are padding."""
        o, k = np.ogrid[: self.output[axis], : self.kernel[axis]]
        return o * self.strides[axis] - self.pads[axis] + k * self.dilations[axis]

    def gather(self, x: NDArray[np.float32], fill: float) -> NDArray[np.float64]:
        """x (..., h, w) -> (..., oh, ow, kh, kw), with ``fill`` for padding."""
        iy, ix = self.rows(0), self.rows(1)
        height, width = self.input
        if height == 0 or width == 0:
            return np.full((*x.shape[:-2], *self.output, *self.kernel), fill)
        inside = (((iy >= 0) & (iy < height))[:, None, :, None]) & (((ix >= 0) & (ix < width))[None, :, None, :])
        y = iy.clip(0, height - 1)[:, None, :, None]
        values = x.astype(np.float64)[..., y, ix.clip(0, width - 1)[None, :, None, :]]
        return np.where(inside, values, fill)

    def counts(self, include_pad: bool) -> NDArray[np.int64]:
        """Elements of each window (oh, ow) that lie in the input, or in the padded input."""
        per_axis = []
        for axis in range(2):
            index = self.rows(axis)
            low, high = 0, self.input[axis]
            if include_pad:
                low, high = -self.pads[axis], high + self.pads[axis + 2]
            per_axis.append(((index >= low) & (index < high)).sum(1))
        return per_axis[0][:, None] * per_axis[1][None, :]


#: Sizes around the vector lengths, every access pattern, and ends within a vector.
GEOMETRIES = [
    Geometry((1, 1), (1, 1)),
    Geometry((7, 7), (3, 3), pads=(1, 1, 1, 1)),
    Geometry((14, 14), (3, 3), pads=(1, 1, 1, 1)),
    Geometry((5, 65), (3, 3), pads=(1, 1, 1, 1)),
    Geometry((9, 33), (3, 3), (2, 2), pads=(1, 1, 1, 1)),
    Geometry((8, 70), (3, 3), (2, 2), pads=(0, 0, 1, 1)),
    Geometry((9, 64), (5, 5), (2, 2), pads=(2, 2, 2, 2)),
    Geometry((13, 40), (5, 5), pads=(2, 2, 2, 2)),
    Geometry((13, 40), (7, 7), (2, 2), pads=(3, 3, 3, 3)),
    Geometry((6, 31), (1, 1), (2, 2)),
    Geometry((6, 37), (2, 2), (2, 2), ceil=True),
    Geometry((6, 39), (3, 3), (2, 2), ceil=True, pads=(0, 1, 0, 0)),
    Geometry((17, 65), (3, 3), (3, 3), pads=(1, 0, 2, 1)),
    Geometry((17, 65), (3, 2), (4, 5), ceil=True),
    Geometry((17, 65), (3, 3), dilations=(2, 3), pads=(2, 3, 2, 3)),
    Geometry((17, 65), (3, 3), (2, 2), (3, 2), pads=(4, 0, 1, 2)),
    Geometry((17, 65), (3, 3), (1, 2), pads=(1, 1, 1, 1)),
    Geometry((17, 65), (3, 3), (2, 1), pads=(1, 1, 1, 1)),
    Geometry((1, 100), (1, 9), pads=(0, 4, 0, 4)),
    Geometry((1, 100), (1, 40), pads=(0, 3, 0, 3)),
    Geometry((3, 100), (2, 50), (1, 2), pads=(0, 30, 1, 30)),
    Geometry((100, 1), (9, 1), pads=(4, 0, 4, 0)),
    Geometry((4, 4), (3, 3), pads=(4, 5, 6, 7)),
    Geometry((2, 3), (7, 7), pads=(3, 3, 3, 3)),
    Geometry((7, 7), (7, 7)),
    Geometry((33, 3), (3, 3), pads=(1, 1, 1, 1)),
    Geometry((4, 20), (2, 2), pads=(1, 0, 0, 1)),
    Geometry((0, 0), (1, 1), pads=(1, 1, 1, 1)),
    Geometry((3, 3), (4, 4)),
]
