"""The activations that recurrent layers can have inside. Some of them are no activation of another node."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

import streamrt._core as _core
from streamrt.graph import Node
from streamrt.ops.base import Array
from streamrt.ops.call import Call
from streamrt.ops.epilogue import activation_of

#: ``apply(x, y, spare)``: ``y = f(x)``. The arrays are C-contiguous and of one size. x may be y; spare is neither.
Apply = Callable[[Array, Array, Array], None]

_LEAST = np.finfo(np.float32).min

#: The activations, with the defaults of alpha and beta; NaN if ONNX has none. They are as many as each takes.
KINDS: Mapping[str, tuple[float, ...]] = {
    "Affine": (math.nan, math.nan),
    "Elu": (1.0,),
    "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01,),
    "Relu": (),
    "ScaledTanh": (math.nan, math.nan),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": (1.0,),
}


def activations(call: Call, default: tuple[str, ...]) -> list[Apply]:
    """The functions that ``call`` names in ``activations``, with the numbers of ``activation_alpha`` and ``_beta``.

    These have a number for each function, which is not used if the function takes none.

    Raises:
        FormatError: an unknown function, other numbers, or a function without a default has none.
    """
    names = call.texts("activations", default, KINDS)
    given = [call.floats(key, len(names)) if call.has(key) else None for key in ("activation_alpha", "activation_beta")]
    found = []
    for index, name in enumerate(names):
        values = [
            default if numbers is None else numbers[index] for default, numbers in zip(KINDS[name], given, strict=False)
        ]
        if any(map(math.isnan, values)):
            raise call.fail(f"activation {name} has no default of alpha and beta: both must be given")
        found.append(_function(name, *values))
    return found


def _function(name: str, alpha: float = 0.0, beta: float = 0.0) -> Apply:
    match name:
        case "Affine":
            return _affine(alpha, beta)
        case "ScaledTanh":
            return _scaled_tanh(alpha, beta)
        case "Softplus":
            return _softplus
        case "Softsign":
            return _softsign
        case "ThresholdedRelu":
            return _thresholded_relu(alpha)
    attrs = dict(zip(("alpha", "beta"), (alpha, beta)[: len(KINDS[name])], strict=False))
    epilogue = activation_of(Call(Node(name, name, ("x",), ("y",), attrs), ()))

    def kernel(x: Array, y: Array, spare: Array) -> None:
        _core.unary(x, y, *epilogue)

    return kernel


def _affine(alpha: float, beta: float) -> Apply:
    def affine(x: Array, y: Array, spare: Array) -> None:
        np.multiply(x, alpha, out=y)
        np.add(y, beta, out=y)

    return affine


def _scaled_tanh(alpha: float, beta: float) -> Apply:
    def scaled_tanh(x: Array, y: Array, spare: Array) -> None:
        np.multiply(x, beta, out=y)
        np.tanh(y, out=y)
        np.multiply(y, alpha, out=y)

    return scaled_tanh


def _softplus(x: Array, y: Array, spare: Array) -> None:
    np.logaddexp(np.float32(0), x, out=y)


def _softsign(x: Array, y: Array, spare: Array) -> None:
    np.absolute(x, out=spare)
    np.add(spare, 1.0, out=spare)
    np.divide(x, spare, out=y)


def _thresholded_relu(alpha: float) -> Apply:
    def thresholded_relu(x: Array, y: Array, spare: Array) -> None:
        np.greater(x, alpha, out=spare)
        np.maximum(x, _LEAST, out=y)  # a product of 0 and infinity is NaN
        np.multiply(y, spare, out=y)

    return thresholded_relu
