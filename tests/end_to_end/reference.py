"""The right results of a model of `end_to_end.graphs` or `pictures`, computed by NumPy in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def evaluate(model: onnx.ModelProto, x: NDArray[np.float32], **others: NDArray[np.float32]) -> dict[str, Array]:
    """All tensors that the model computes, by name; ``others`` are its inputs besides ``x``."""
    known: dict[str, Array] = {w.name: numpy_helper.to_array(w).astype(np.float64) for w in model.graph.initializer}
    known |= {name: values.astype(np.float64) for name, values in {"x": x, **others}.items()}
    computed = {}
    for node in model.graph.node:
        attrs = {attr.name: helper.get_attribute_value(attr) for attr in node.attribute}
        computed[node.output[0]] = _run(node.op_type, [known[name] for name in node.input if name], attrs)
        known |= computed
    return computed


def _run(op: str, inputs: Sequence[Array], attrs: dict[str, Any]) -> Array:
    x = inputs[0]
    match op:
        case "Gemm":
            return x @ inputs[1].T + (inputs[2] if len(inputs) > 2 else 0)
        case "Conv":
            return _conv(x, *inputs[1:], **attrs)
        case "ConvTranspose":
            return _conv_transpose(x, *inputs[1:], **attrs)
        case "Resize":
            return _resize(x, [int(size) for size in inputs[-1]], **attrs)
        case "Pad":
            pads = inputs[1].astype(int).reshape(2, -1).T
            return np.pad(x, [(0, 0), (0, 0), *pads], mode=attrs["mode"].decode())
        case "Slice":
            starts, ends = (values.astype(int) for values in inputs[1:3])
            return x[:, :, starts[0] : ends[0], starts[1] : ends[1]]
        case "DepthToSpace":
            n, c, h, w = x.shape
            block = attrs["blocksize"]
            split = x.reshape(n, c // block**2, block, block, h, w)  # mode CRD
            return split.transpose(0, 1, 4, 2, 5, 3).reshape(n, c // block**2, h * block, w * block)
        case "MaxPool":
            return _windows(x, attrs, -math.inf).max(axis=(-2, -1))
        case "AveragePool":
            counted = np.ones_like(x)
            padding = float(attrs["count_include_pad"])
            return _windows(x, attrs, 0).sum(axis=(-2, -1)) / _windows(counted, attrs, padding).sum(axis=(-2, -1))
        case "GlobalAveragePool":
            return x.mean(axis=(2, 3), keepdims=True)
        case "GlobalMaxPool":
            return x.max(axis=(2, 3), keepdims=True)
        case "InstanceNormalization":
            scale, shift = (v.reshape(-1, 1, 1) for v in inputs[1:])
            mean, variance = (function(x, axis=(2, 3), keepdims=True) for function in (np.mean, np.var))
            return (x - mean) / np.sqrt(variance + attrs["epsilon"]) * scale + shift
        case "BatchNormalization":
            scale, shift, mean, variance = (v.reshape(-1, *[1] * (x.ndim - 2)) for v in inputs[1:])
            return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift
        case "Add":
            return x + inputs[1]
        case "Mul":
            return x * inputs[1]
        case "Concat":
            return np.concatenate(inputs, attrs["axis"])
        case "Flatten":
            return x.reshape(len(x), -1)
        case "Softmax":
            powers = np.exp(x - x.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)
    return _activation(op, inputs, **attrs)


def _activation(op: str, inputs: Sequence[Array], alpha: float = 0, beta: float = 0) -> Array:
    x = inputs[0]
    match op:
        case "Clip":
            return np.clip(x, inputs[1], inputs[2])
        case "Relu":
            return np.maximum(x, 0)
        case "LeakyRelu":
            return np.where(x < 0, alpha * x, x)
        case "Elu":
            return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)
        case "Sigmoid":
            return 1 / (1 + np.exp(-x))
        case "Tanh":
            return np.tanh(x)
        case "HardSigmoid":
            return np.clip(alpha * x + beta, 0, 1)
        case "HardSwish":
            return x * np.clip(x / 6 + 0.5, 0, 1)
        case "Swish":  # a sigmoid as a tanh, which does not overflow
            return x * (1 + np.tanh(alpha * x / 2)) / 2
        case "Mish":
            return x * np.tanh(np.logaddexp(x, 0))
        case "Softplus":
            return np.logaddexp(x, 0)
        case "Erf":
            return _erf(x)
        case "Gelu":
            return x * (1 + _erf(x / math.sqrt(2))) / 2
    raise NotImplementedError(op)


def _padded(x: Array, pads: Sequence[int], value: float) -> Array:
    top, left, bottom, right = pads
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def _windows(x: Array, attrs: dict[str, Any], padding: float) -> Array:
    """The windows of a pooling layer, of shape (n, channels, height, width, *kernel)."""
    down, across = attrs["strides"]
    return sliding_window_view(_padded(x, attrs["pads"], padding), attrs["kernel_shape"], (2, 3))[
        :, :, ::down, ::across
    ]


def _conv(
    x: Array,
    w: Array,
    bias: Array | None = None,
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    group: int,
) -> Array:
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(w.shape[2:], dilations, strict=True)]
    windows = sliding_window_view(_padded(x, pads, 0), reach, (2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    parts = [
        np.einsum("nchwij,ocij->nohw", part, rows, optimize=True)
        for part, rows in zip(np.split(windows, group, 1), np.split(w, group), strict=True)
    ]
    return np.concatenate(parts, 1) + (0 if bias is None else bias[:, None, None])


def _conv_transpose(
    x: Array,
    w: Array,
    bias: Array | None = None,
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    output_padding: Sequence[int],
    group: int,
) -> Array:
    top, left, bottom, right = pads
    height, width = (s * (e - 1) + o for s, e, o in zip(strides, x.shape[2:], output_padding, strict=True))
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(w.shape[2:], dilations, strict=True)]
    made = np.zeros((len(x), group * w.shape[1], height + reach[0], width + reach[1]))
    products = np.concatenate(
        [
            np.einsum("nchw,coij->noijhw", part, rows, optimize=True)
            for part, rows in zip(np.split(x, group, 1), np.split(w, group), strict=True)
        ],
        1,
    )
    for i, j in np.ndindex(w.shape[2:]):
        places = made[:, :, i * dilations[0] :: strides[0], j * dilations[1] :: strides[1]]
        places[:, :, : x.shape[2], : x.shape[3]] += products[:, :, i, j]
    made = made[:, :, top : made.shape[2] - bottom, left : made.shape[3] - right]
    return made + (0 if bias is None else bias[:, None, None])


def _resize(x: Array, sizes: Sequence[int], *, mode: bytes, axes: Sequence[int], **attrs: bytes) -> Array:
    """Nearest with the positions of ``asymmetric``, rounded down; linear with those of ``half_pixel``."""
    for axis, size in zip(axes, sizes, strict=True):
        extent = x.shape[axis]
        if mode == b"nearest":
            x = x.take(np.arange(size) * extent // size, axis)
            continue
        at = np.clip((np.arange(size) + 0.5) * extent / size - 0.5, 0, extent - 1)
        below = at.astype(int)
        share = (at - below).reshape(-1, *[1] * (x.ndim - axis - 1))
        x = x.take(below, axis) * (1 - share) + x.take(np.minimum(below + 1, extent - 1), axis) * share
    return x
