"""Geometry of sliding windows, for convolution and pooling.

The geometry has two or three dimensions: an operator with one spatial axis has height 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import streamrt._core as _core
from streamrt.ops.base import Array, Param, Shape
from streamrt.ops.call import Call
from streamrt.ops.strip import Columns

Tensor = TypeVar("Tensor", Array, Param)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where windows lie: lengths along (height, width) or (depth, height, width).

    Pads are before the input along each axis, then behind it. ``spatial`` has the output's extents along the operator's
    spatial axes; ``output`` has also the height 1 of an operator with one.
    """

    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: Shape
    input: Shape
    output: Shape
    spatial: Shape
    window: _core.Window

    @classmethod
    def read(cls, call: Call, extents: Shape, kernel: Shape, ceil: bool = False) -> Geometry:
        """The windows over an input of these spatial extents, from the node's attributes.

        Reads ``strides``, ``dilations``, ``pads`` and ``auto_pad``. With ``ceil``, a last window may reach beyond the
        padding after the input, if it begins in the input or in the padding before it.

        Raises:
            FormatError: attributes are out of range, or no window fits.
        """
        rank = len(extents)
        if rank not in (1, 2, 3):
            raise call.fail(f"{rank} spatial dimensions, expected 1 to 3")
        ones = (1,) * rank
        strides = call.ints("strides", ones, 1, count=rank)
        dilations = call.ints("dilations", ones, 1, count=rank)
        pads = call.ints("pads", (0,) * (2 * rank), 0, count=2 * rank)
        auto = call.text("auto_pad", "NOTSET", ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
        along = [
            _along(extents[i], (kernel[i] - 1) * dilations[i] + 1, strides[i], pads[i], pads[rank + i], auto, ceil)
            for i in range(rank)
        ]
        spatial = tuple(count for count, _, _ in along)
        if min(spatial) < 1:
            raise call.fail(f"a window of {kernel} does not fit an input of extents {extents}")
        before = _high(tuple(begin for _, begin, _ in along), 0)
        behind = _high(tuple(end for _, _, end in along), 0)
        lengths = (_high(kernel, 1), _high(strides, 1), _high(dilations, 1), (*before, *behind))
        ends = (_high(extents, 1), _high(spatial, 1))
        try:
            window = _core.Window(*lengths, *ends)
        except (ValueError, OverflowError) as error:
            raise call.fail(str(error)) from None
        return cls(*lengths, *ends, spatial, window)

    @property
    def positions(self) -> int:
        """The number of windows of a channel."""
        return math.prod(self.output)

    @property
    def taps(self) -> int:
        """The number of values in a window."""
        return math.prod(self.kernel)

    @property
    def columns(self) -> Columns:
        """The columns of a plane that a window reads."""
        before = self.pads[len(self.kernel) - 1]
        reach = (self.kernel[-1] - 1) * self.dilations[-1]
        return Columns(Fraction(self.strides[-1]), Fraction(-before), Fraction(reach - before))

    @property
    def covers_input(self) -> bool:
        """Whether there is one window, which is the whole input."""
        return self.kernel == self.input and not any(self.pads)

    @property
    def is_pointwise(self) -> bool:
        """Whether each window is one value, and the windows are all values of the input."""
        return set(self.kernel) == set(self.strides) == {1} and not any(self.pads)


def with_axes(array: Tensor, extents: Shape) -> Tensor:
    """An input, weights or an output as a tensor with the spatial axes of a geometry.

    An array that has these axes is returned as it is, whatever its extents: it may have room for some of the rows.
    """
    return array if len(array.shape) == 2 + len(extents) else array.reshape(*array.shape[:2], *extents)


def _along(extent: int, reach: int, stride: int, begin: int, end: int, auto: str, ceil: bool) -> tuple[int, int, int]:
    """Windows along one axis, each over ``reach`` positions: their number, and the padding before and after."""
    if auto.startswith("SAME"):
        count = -(-extent // stride)
        total = max(0, (count - 1) * stride + reach - extent)
        small, large = total // 2, total - total // 2
        return (count, small, large) if auto == "SAME_UPPER" else (count, large, small)
    if auto == "VALID":
        return (extent - reach) // stride + 1, 0, 0
    room = extent + begin + end - reach
    count = room // stride + 1
    if ceil and room % stride and count * stride < extent + begin:
        count += 1
    return count, begin, end


def _high(values: Shape, fill: int) -> Shape:
    """Lengths along the spatial axes, with one for the height if there is only a width."""
    return (fill, *values) if len(values) == 1 else values
