"""Random models, as ONNX graphs: dense and convolutional, with branches, residuals and shared weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from streamrt.ops import supported, traits_of

Shape = tuple[int, ...]

#: Operators of ONNX that can be the activation of another node, and Softplus, which is always a node of its own.
_ACTIVATIONS = (
    *sorted(op for op in supported() - {"QuantizeDequantizeLinear"} if traits_of(op).activation),
    "Softplus",
)
#: Attributes of activations that differ from ONNX's defaults. An activation that is not listed has the defaults.
_ATTRIBUTES: dict[str, dict[str, float]] = {
    "Elu": {"alpha": 0.7},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "LeakyRelu": {"alpha": 0.2},
    "Swish": {"alpha": 1.75},
}


@dataclass(frozen=True)
class Drawn:
    """A model with an input ``x`` of shape ``(N, *sample)`` with N free, and perhaps others; all computed tensors."""

    model: onnx.ModelProto
    sample: Shape
    computed: tuple[str, ...]
    others: dict[str, Shape] = field(default_factory=dict)


class Builder:
    """Adds nodes to a graph with the inputs ``x`` and ``others``.

    Attributes:
        shapes: the shape of one sample of each tensor.
        last: the tensor that was added last.
        outputs: tensors that the model returns beside the last one.
    """

    def __init__(self, draw: st.DrawFn, sample: Shape, others: dict[str, Shape] | None = None) -> None:
        self.draw = draw
        self.inputs = {"x": sample, **(others or {})}
        self.shapes: dict[str, Shape] = dict(self.inputs)
        self.last = "x"
        self.outputs: list[str] = []
        self._random = np.random.default_rng(draw(st.integers(0, 2**32)))
        self._nodes: list[Any] = []
        self._weights: dict[str, NDArray[Any]] = {}

    def model(self) -> onnx.ModelProto:
        outputs = [*self.outputs, *([] if self.last in self.outputs else [self.last])]
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in self.inputs.items()
        ]
        graph = helper.make_graph(
            self._nodes,
            "random",
            inputs,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self._weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])

    @property
    def computed(self) -> tuple[str, ...]:
        return tuple(name for name in self.shapes if name not in self.inputs)

    def node(self, op: str, inputs: Sequence[str], shape: Shape, **attrs: Any) -> str:
        self.last = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [self.last], **attrs))
        self.shapes[self.last] = shape
        return self.last

    def weight(self, shape: Shape, scale: float = 1.0, offset: float = 0.0) -> str:
        """A parameter: a new one, or one of the same shape that other nodes read already."""
        known = self._weights.items() if offset == 0 else []
        same = [name for name, value in known if value.shape == shape and value.dtype == np.float32]
        if same and self.draw(st.booleans()):
            return self.draw(st.sampled_from(same))
        name = f"w{len(self._weights)}"
        self._weights[name] = np.float32(scale) * self._random.standard_normal(shape, np.float32) + np.float32(offset)
        return name

    def constant(self, value: float | list[int]) -> str:
        name = f"w{len(self._weights)}"
        self._weights[name] = np.array(value, np.int64 if isinstance(value, list) else np.float32)
        return name

    # ---------------------------------------------------------------- operators

    def gemm(self, x: str, features: int) -> str:
        (inner,) = self.shapes[x]
        inputs = [x, self.weight((features, inner), inner**-0.5)]
        if self.draw(st.booleans()):
            inputs.append(self.weight((features,)))
        return self.node("Gemm", inputs, (features,), transB=1)

    def conv(self, x: str, channels: int, *, groups: int = 1, same: bool = False) -> str:
        """A convolution; with ``same`` it keeps height and width."""
        inner, *extents = self.shapes[x]
        kernel, strides, dilations, pads = [], [], [], []
        for extent in extents:
            size = self.draw(st.sampled_from([1, 3, 3, 5]))
            dilation = self.draw(st.integers(1, 2))
            reach = (size - 1) * dilation
            if same:
                before = after = reach // 2
            else:
                before, after = self.draw(st.integers(0, 2)), self.draw(st.integers(0, 2))
                if extent + before + after <= reach:
                    size, reach = 1, 0
            kernel.append(size)
            dilations.append(dilation)
            strides.append(1 if same else self.draw(st.integers(1, 2)))
            pads.append((before, after, reach))
        shape = [(e + b + a - r - 1) // s + 1 for e, (b, a, r), s in zip(extents, pads, strides, strict=True)]
        per_group = inner // groups
        inputs = [x, self.weight((channels, per_group, *kernel), (per_group * kernel[0] * kernel[1]) ** -0.5)]
        if self.draw(st.booleans()):
            inputs.append(self.weight((channels,)))
        return self.node(
            "Conv",
            inputs,
            (channels, *shape),
            strides=strides,
            dilations=dilations,
            group=groups,
            pads=[p[0] for p in pads] + [p[1] for p in pads],
        )

    def pool(self, x: str) -> str:
        channels, *extents = self.shapes[x]
        if self.draw(st.booleans()):
            op = self.draw(st.sampled_from(["GlobalAveragePool", "GlobalMaxPool"]))
            return self.node(op, [x], (channels, 1, 1))
        kernel = [self.draw(st.integers(1, min(3, extent))) for extent in extents]
        strides = [self.draw(st.integers(1, 2)) for _ in extents]
        pads = [self.draw(st.integers(0, size - 1)) for size in kernel * 2]
        shape = [(extent + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i, extent in enumerate(extents)]
        op = self.draw(st.sampled_from(["MaxPool", "AveragePool"]))
        attrs = {"count_include_pad": self.draw(st.integers(0, 1))} if op == "AveragePool" else {}
        return self.node(op, [x], (channels, *shape), kernel_shape=kernel, strides=strides, pads=pads, **attrs)

    def activation(self, x: str) -> str:
        op = self.draw(st.sampled_from(_ACTIVATIONS))
        bounds = [self.constant(-0.4), self.constant(0.9)] if op == "Clip" else []
        return self.node(op, [x, *bounds], self.shapes[x], **_ATTRIBUTES.get(op, {}))

    def norm(self, x: str) -> str:
        channels = (self.shapes[x][0],)
        if self.draw(st.booleans()):  # a large epsilon, since a variance near 0 would magnify errors
            inputs = [x, self.weight(channels, 0.3, 1), self.weight(channels)]
            return self.node("InstanceNormalization", inputs, self.shapes[x], epsilon=0.1)
        values = [self.weight(channels, 0.3, 1), self.weight(channels), self.weight(channels, 0.3)]
        variance = self.weight(channels, 0.05, 1)
        return self.node("BatchNormalization", [x, *values, variance], self.shapes[x])


# Lists, because hypothesis draws mostly the ends of a range, and a model of few weights is read in one piece.
FEATURES = st.sampled_from([1, 3, 10, 33, 64, 100, 200, 256, 300, 384, 500])
CHANNELS = st.sampled_from([1, 2, 3, 5, 8, 12, 24, 32, 48, 64])
EXTENTS = st.sampled_from([1, 2, 5, 7, 8, 11, 12])
HEIGHTS = st.sampled_from([9, 16, 23, 40, 57])
WIDTHS = st.sampled_from([64, 83, 100, 121, 160])


@st.composite
def models(draw: st.DrawFn, tall: bool = False, wide: bool = False) -> Drawn:
    """A graph of 2 to 7 blocks over a vector or an image, with at most a few MiB of weights.

    If ``tall`` or ``wide``, it is an image of which activations take more memory than weights.
    """
    if wide:
        sample: Shape = (draw(CHANNELS), draw(EXTENTS), draw(WIDTHS))
    elif tall:
        sample = (draw(CHANNELS), draw(HEIGHTS), draw(EXTENTS))
    elif draw(st.booleans()):
        sample = (draw(CHANNELS), draw(EXTENTS), draw(EXTENTS))
    else:
        sample = (draw(FEATURES),)
    builder = Builder(draw, sample)
    for _ in range(draw(st.sampled_from(range(2, 8)))):
        add_block(builder, builder.last)
        if draw(st.integers(0, 5)) == 0 and builder.last != "x":
            builder.outputs.append(builder.last)
    if builder.last == "x" or draw(st.booleans()):
        _head(builder)
    return Drawn(builder.model(), sample, builder.computed)


def _head(builder: Builder) -> None:
    x = builder.last
    if len(builder.shapes[x]) == 3:
        x = builder.node("Flatten", [x], (int(np.prod(builder.shapes[x])),))
    x = builder.gemm(x, builder.draw(FEATURES))
    if builder.draw(st.booleans()):
        builder.node("Softmax", [x], builder.shapes[x], axis=1)


def add_block(builder: Builder, x: str) -> None:
    """Add one to five nodes that read ``x``."""
    draw, shape = builder.draw, builder.shapes[x]
    if len(shape) == 1:
        kind = draw(st.sampled_from(["layer", "activation", "residual", "branches"]))
        if kind == "layer":
            builder.activation(builder.gemm(x, draw(FEATURES)))
        elif kind == "activation":
            builder.activation(x)
        elif kind == "residual":
            y = builder.gemm(builder.activation(builder.gemm(x, shape[0])), shape[0])
            builder.node("Add", [x, y], shape)
        else:
            parts = [builder.gemm(x, draw(FEATURES)) for _ in range(draw(st.integers(2, 3)))]
            builder.node("Concat", parts, (sum(builder.shapes[part][0] for part in parts),), axis=1)
        return
    channels = shape[0]
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    kind = draw(st.sampled_from(["conv", "conv", "groups", "depthwise", "pool", "norm", "residual", "branches"]))
    if kind == "conv":
        builder.activation(builder.conv(x, draw(CHANNELS)))
    elif kind == "groups":
        groups = draw(st.sampled_from(divisors))
        builder.conv(x, groups * draw(st.integers(1, 3)), groups=groups)
    elif kind == "depthwise":
        builder.activation(builder.conv(x, channels, groups=channels))
    elif kind == "pool":
        builder.pool(x)
    elif kind == "norm":
        builder.activation(builder.norm(builder.conv(x, draw(CHANNELS))))
    elif kind == "residual":
        y = builder.conv(builder.activation(builder.conv(x, channels, same=True)), channels, same=True)
        builder.activation(builder.node("Add", [y, x], shape))
    else:
        parts = [builder.conv(x, draw(CHANNELS), same=True) for _ in range(draw(st.integers(2, 3)))]
        builder.node("Concat", parts, (sum(builder.shapes[part][0] for part in parts), *shape[1:]), axis=1)
