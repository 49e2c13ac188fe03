"""Windows for the tests, and a slow reference that gathers the input elements of each window in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Window

Lengths = tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """A window over planes, with two lengths, or over volumes, with three.

    The output has a value for each whole window; with ``ceil`` it is as large as by ONNX's ceil_mode.
    """

    input: Lengths
    kernel: Lengths
    strides: Lengths = ()
    dilations: Lengths = ()
    pads: Lengths = ()
    ceil: bool = False
    output: Lengths = field(init=False)

    def __post_init__(self) -> None:
        output = []
        for name, default in (("strides", 1), ("dilations", 1), ("pads", 0)):
            if not getattr(self, name):
                object.__setattr__(self, name, (default,) * (self.axes * (2 if name == "pads" else 1)))
        for axis in range(self.axes):
            extent = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            before, after = self.pads[axis], self.pads[axis + self.axes]
            room = self.input[axis] + before + after - extent
            steps = -(-room // self.strides[axis]) if self.ceil else room // self.strides[axis]
            if self.ceil and steps * self.strides[axis] >= self.input[axis] + before:
                steps -= 1  # the last window must not begin in the padding at the end
            output.append(max(0, steps + 1))
        object.__setattr__(self, "output", tuple(output))

    @property
    def axes(self) -> int:
        """Two for planes, three for volumes."""
        return len(self.input)

    def window(self) -> Window:
        return Window(self.kernel, self.strides, self.dilations, self.pads, self.input, self.output)

    def rows(self, axis: int) -> NDArray[np.int64]:
        """Indices of the input (output, kernel) along one axis. Those outside the input are padding."""
        o, k = np.ogrid[: self.output[axis], : self.kernel[axis]]
        return o * self.strides[axis] - self.pads[axis] + k * self.dilations[axis]

    def gather(self, x: NDArray[np.float32], fill: float) -> NDArray[np.float64]:
        """x (..., [d,] h, w) -> (..., [od,] oh, ow, [kd,] kh, kw), with ``fill`` for padding."""
        axes = self.axes
        if 0 in self.input:
            return np.full((*x.shape[:-axes], *self.output, *self.kernel), fill)
        inside, index = np.ones((1,) * (2 * axes), bool), []
        for axis, extent in enumerate(self.input):
            shape = [1] * (2 * axes)
            shape[axis], shape[axes + axis] = self.output[axis], self.kernel[axis]
            at = self.rows(axis).reshape(shape)
            inside = inside & (at >= 0) & (at < extent)
            index.append(at.clip(0, extent - 1))
        return np.where(inside, x.astype(np.float64)[(..., *index)], fill)

    def taps(self, x: NDArray[np.float32], fill: float) -> NDArray[np.float64]:
        """x (..., [d,] h, w) -> (..., [od,] oh, ow, taps): as `gather`, with the values of a window in one axis."""
        return self.gather(x, fill).reshape(*x.shape[: -self.axes], *self.output, int(np.prod(self.kernel)))

    def counts(self, include_pad: bool) -> NDArray[np.int64]:
        """Elements of each window ([od,] oh, ow) that lie in the input, or in the padded input."""
        per_axis = []
        for axis in range(self.axes):
            index = self.rows(axis)
            low, high = 0, self.input[axis]
            if include_pad:
                low, high = -self.pads[axis], high + self.pads[axis + self.axes]
            per_axis.append(((index >= low) & (index < high)).sum(1))
        return reduce(np.multiply.outer, per_axis)


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
    Geometry((17, 65), (3, 3), (2, 2), (2, 1)),
    Geometry((17, 65), (3, 3), (4, 2)),
    Geometry((13, 300), (3, 3), (2, 2), pads=(1, 1, 1, 1)),
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

#: Windows over volumes: padding on every side, strides, dilations, and planes of which a vector holds several.
VOLUMES = [
    Geometry((1, 1, 1), (1, 1, 1)),
    Geometry((4, 7, 9), (3, 3, 3), pads=(1,) * 6),
    Geometry((5, 6, 33), (3, 3, 3), (2, 2, 2), pads=(1,) * 6),
    Geometry((6, 5, 70), (2, 2, 2), (2, 2, 2)),
    Geometry((7, 5, 19), (2, 3, 3), (2, 2, 2), ceil=True),
    Geometry((9, 4, 10), (3, 1, 1), (2, 1, 1), pads=(1, 0, 0, 1, 0, 0)),
    Geometry((3, 9, 17), (1, 3, 3), pads=(0, 1, 1, 0, 1, 1)),
    Geometry((5, 9, 17), (1, 3, 3), (2, 2, 2), pads=(0, 1, 1, 0, 1, 1)),
    Geometry((1, 7, 7), (1, 3, 3), pads=(0, 1, 1, 0, 1, 1)),
    Geometry((3, 7, 7), (1, 3, 3), pads=(0, 1, 1, 0, 1, 1)),
    Geometry((3, 6, 8), (1, 1, 1)),
    Geometry((5, 6, 8), (1, 1, 1), (2, 1, 1)),
    Geometry((4, 6, 7), (1, 3, 3), pads=(1, 1, 1, 2, 1, 1)),
    Geometry((1, 6, 17), (1, 3, 3), (1, 2, 2), pads=(1, 1, 1, 2, 1, 1)),
    Geometry((6, 7, 11), (3, 2, 3), (1, 2, 3), (2, 1, 2), pads=(2, 0, 1, 1, 2, 3)),
    Geometry((7, 3, 4), (5, 5, 5), pads=(2,) * 6),
    Geometry((40, 1, 2), (4, 1, 2), pads=(2, 0, 1, 1, 0, 0)),
    Geometry((8, 2, 3), (3, 2, 2), (3, 1, 2), (2, 1, 1), pads=(4, 1, 0, 2, 0, 1)),
    Geometry((2, 4, 5), (7, 7, 7), pads=(3,) * 6),
    Geometry((3, 3, 3), (3, 3, 3)),
    Geometry((0, 2, 2), (1, 1, 1), pads=(1, 0, 0, 1, 0, 0)),
    Geometry((2, 3, 3), (3, 1, 1)),
]
