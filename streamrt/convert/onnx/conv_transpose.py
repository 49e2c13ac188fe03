"""Conversion of ConvTranspose to a convolution whose channels are rearranged to space.

Along one axis, with stride s, ``y[n * s + k] += x[n] * w[k]``. Write ``n * s + k = q * s + r`` with r below s. Then all
``y[q * s + r]`` of one r use the weights ``w[r], w[r + s] ...``. A convolution of stride 1 with these ceil(K / s)
weights, in reverse order, computes them. The s convolutions for all r are one convolution with s times the channels.
So no zeros are inserted and multiplied, and the weights are tiled and streamed like those of any other convolution.
Source: Shi et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamrt.convert import limits
from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.convert.quantized import Quantized
from streamrt.convert.weights import AnyArray, Weight
from streamrt.graph import Attr


@dataclass(frozen=True, slots=True)
class _Axis:
    """One spatial axis: stride, dilation, kernel, and how many values are cut off at each end of the result.

    Nothing here depends on the extent of the input.
    """

    stride: int
    dilation: int
    kernel: int
    begin: int
    end: int  # output_padding is subtracted, so it may be negative

    @property
    def reach(self) -> int:
        """The extent of the dilated kernel."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def taps(self) -> int:
        """The extent of the convolution's kernel."""
        return -(-self.reach // self.stride)

    @property
    def skipped(self) -> int:
        """Values at the beginning that the convolution does not compute, because they would be cut off."""
        return min(self.begin // self.stride, self.taps - 1)

    @property
    def pads(self) -> tuple[int, int]:
        """The pads of the convolution, before and after."""
        return self.taps - 1 - self.skipped, max(0, -(-(self.reach - self.end) // self.stride) - 1)

    @property
    def crop(self) -> tuple[int, int]:
        """Values of the result that are cut off at the beginning and at the end."""
        return (
            self.begin - self.skipped * self.stride,
            (self.pads[1] + 1) * self.stride - self.reach + self.end,
        )


@converts("ConvTranspose")
def conv_transpose(node: OnnxNode) -> None:
    """Transposed convolution with constant weights (input channels, output channels of a group, window)."""
    weight = node.weight(1, "W")
    spatial = len(weight.shape) - 2
    if spatial not in (1, 2, 3):
        raise node.problem(f"weights of shape {weight.shape}, expected 3 to 5 axes: only 1-D, 2-D and 3-D convolutions")
    groups = node.int_("group", 1)
    if groups < 1 or weight.shape[0] % groups:
        raise node.attribute_problem("group", f"is {groups}, but the weights have shape {weight.shape}")
    axes = _axes(node, weight.shape[2:])
    strides = tuple(axis.stride for axis in axes)
    taps = tuple(axis.taps for axis in axes)
    made = (weight.shape[1] * groups * math.prod(strides), weight.shape[0] // groups, *taps)
    # The new weights, and a copy of the model's weights with zeros between them.
    limits.current().check_memory(2 * math.prod(made) * weight.dtype.itemsize)
    change = f"transposed {strides} {[axis.dilation for axis in axes]} {groups}"
    inputs = [
        node.operand(0),
        node.derived(1, "W", change, lambda w: _transposed(w, axes, groups, made)),
    ]
    if node.given(2):
        count = math.prod(strides)
        bias = node.weight(2, "B")
        if bias.shape != (weight.shape[1] * groups,):
            raise node.problem(f"input 2 (B) has shape {bias.shape}, expected one value for each output channel")
        limits.current().hold(bias.nbytes * count)
        repeated = node.derived(2, "B", f"repeated {count}", lambda b: Weight.of(np.repeat(b.load(), count)))
        inputs.append(repeated)
    attrs: dict[str, Attr] = {"group": groups, "kernel_shape": taps}
    pads = (*(axis.pads[0] for axis in axes), *(axis.pads[1] for axis in axes))
    if any(pads):
        attrs["pads"] = pads
    crop = (0, 0, *(-axis.crop[0] for axis in axes), 0, 0, *(-axis.crop[1] for axis in axes))
    spread, cropped = max(strides) > 1, any(crop)
    found = node.emit("Conv", inputs, attrs, [node.temporary("phases")] if spread or cropped else None)
    if spread:
        attrs = {"blocksize": strides, "mode": "CRD"}
        found = node.emit("DepthToSpace", [found], attrs, [node.temporary("whole")] if cropped else None)
    if cropped:
        node.emit("Pad", [found], {"pads": crop})


def _axes(node: OnnxNode, kernel: tuple[int, ...]) -> list[_Axis]:
    """The spatial axes, from the attributes."""
    count = len(kernel)
    if (given := node.ints("kernel_shape")) is not None and given != kernel:
        raise node.attribute_problem("kernel_shape", f"is {given}, but the window of the weights is {kernel}")
    auto = node.text("auto_pad", "NOTSET", ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
    strides = _positive(node, "strides", count, 1)
    dilations = _positive(node, "dilations", count, 1)
    pads = _positive(node, "pads", 2 * count, 0)
    added = _positive(node, "output_padding", count, 0)
    wanted = node.ints("output_shape")
    axes = []
    for i in range(count):
        reach = (kernel[i] - 1) * dilations[i] + 1
        if wanted is not None:
            extent = node.dims(0)[2 + i]
            if not isinstance(extent, int) or len(wanted) not in (count, count + 2):
                raise node.attribute_problem("output_shape", f"is {wanted}, and the input's extents {node.dims(0)}")
            total = strides[i] * (extent - 1) + added[i] + reach - wanted[len(wanted) - count + i]
        elif auto.startswith("SAME"):
            total = added[i] + reach - strides[i]
        else:
            total = None
        begin, end = (pads[i], pads[count + i]) if auto == "NOTSET" else (0, 0)
        if total is not None:
            half = max(0, total) // 2  # below 0 the result is enlarged, at its end
            begin = half if auto == "SAME_UPPER" else max(0, total) - half
            end = total - begin
        axes.append(_Axis(strides[i], dilations[i], kernel[i], begin, end - added[i]))
    return axes


def _positive(node: OnnxNode, name: str, count: int, least: int) -> tuple[int, ...]:
    values = node.ints(name) or (least,) * count
    if len(values) != count or min(values) < least:
        raise node.attribute_problem(name, f"is {values}, expected {count} values, none below {least}")
    return values


def _transposed(weight: Weight, axes: list[_Axis], groups: int, shape: tuple[int, ...]) -> Weight:
    if isinstance(weight, Quantized):
        phases = math.prod(axis.stride for axis in axes)
        made = weight.as_rows(1, phases, groups, lambda codes: _phases(codes, axes, groups), shape)
        if made is not None:
            return made

    def load() -> AnyArray:
        with limits.current().computing():
            limits.current().check_memory(2 * math.prod(shape) * weight.dtype.itemsize)
            return _phases(weight.load(), axes, groups)

    return Weight(load, shape, weight.dtype, computed=True, depth=weight.depth + 1)


def _phases(weights: AnyArray, axes: list[_Axis], groups: int) -> AnyArray:
    """Weights (inputs, outputs of a group, window) as weights of the convolution.

    Those are (outputs * phases, inputs of a group, taps). All phases of one output are consecutive.
    """
    spread = np.zeros((*weights.shape[:2], *(axis.taps * axis.stride for axis in axes)), weights.dtype)
    taken: tuple[Any, ...] = (..., *(slice(0, axis.reach, axis.dilation) for axis in axes))
    spread[taken] = weights
    inputs, outputs = weights.shape[0] // groups, weights.shape[1]
    count = len(axes)
    split = spread.reshape(groups, inputs, outputs, *(part for axis in axes for part in (axis.taps, axis.stride)))
    split = np.flip(split, tuple(3 + 2 * i for i in range(count)))
    phases, taps = (4 + 2 * i for i in range(count)), (3 + 2 * i for i in range(count))
    return np.ascontiguousarray(split.transpose(0, 2, *phases, 1, *taps)).reshape(
        groups * outputs * math.prod(axis.stride for axis in axes), inputs, *(axis.taps for axis in axes)
    )
