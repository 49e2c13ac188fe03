"""Element-wise activations: from a name and its attributes to the code and the two numbers that kernels take.

An activation can be a node of its own (`streamrt.ops.activation`) or the last step of another node
(`Node.activation`). That node's kernel applies it while the values are still in cache. `_KINDS` has all activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import streamrt._core as _core
from streamrt.graph import Node
from streamrt.ops.call import Call


class Epilogue(NamedTuple):
    """The activation that a kernel applies to each value: a code of ``_core.ACTIVATIONS`` and two parameters."""

    act: int
    alpha: float
    beta: float


IDENTITY = Epilogue(_core.ACTIVATIONS["Identity"], 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How an activation becomes an `Epilogue`.

    Attributes:
        attrs: the attributes that are the kernel's alpha and beta, in this order, with ONNX's defaults.
        numbers: gives the kernel's alpha and beta instead.
        kernel: gives the name of the kernel in ``_core.ACTIVATIONS``, by default the operator's name.
        clamp: gives the range from alpha and beta, if the activation only limits values to a range.
    """

    attrs: Mapping[str, float] = field(default_factory=dict)
    numbers: Callable[[Call], tuple[float, float]] | None = None
    kernel: Callable[[Call], str] = lambda call: call.node.op
    clamp: Callable[[float, float], tuple[float, float]] | None = None


def _gelu(call: Call) -> str:
    return {"none": "Gelu", "tanh": "GeluTanh"}[call.text("approximate", "none", ("none", "tanh"))]


def _step_and_lowest(call: Call) -> tuple[float, float]:
    """The step of the values of a QuantizeDequantizeLinear, and the least value in steps."""
    scale, zero_point = call.float_("scale", 1.0), call.int_("zero_point", 0)
    least, most = QUANTIZED[_quantized_type(call)]
    if not 0 < scale < math.inf:
        raise call.fail(f"attribute 'scale' is {scale}, expected a finite number above 0")
    if not least <= zero_point <= most:
        raise call.fail(f"attribute 'zero_point' is {zero_point}, expected an integer from {least} to {most}")
    return scale, float(least - zero_point)


def _quantized_type(call: Call) -> str:
    return call.text("dtype", "uint8", tuple(QUANTIZED))


def _quantize_dequantize(call: Call) -> str:
    least, most = QUANTIZED[_quantized_type(call)]
    return f"QuantizeDequantize{(most - least).bit_length()}"


#: The least and the largest integer of the types to which activations are quantised.
QUANTIZED: Mapping[str, tuple[int, int]] = {
    "uint8": (0, 2**8 - 1),
    "int8": (-(2**7), 2**7 - 1),
    "uint16": (0, 2**16 - 1),
    "int16": (-(2**15), 2**15 - 1),
}
_KINDS: Mapping[str, _Kind] = {
    "Clip": _Kind({"min": -math.inf, "max": math.inf}, clamp=lambda low, high: (low, high)),
    "Elu": _Kind({"alpha": 1.0}),
    "Erf": _Kind(),
    "Gelu": _Kind(kernel=_gelu),
    "HardSigmoid": _Kind({"alpha": 0.2, "beta": 0.5}),
    "HardSwish": _Kind(),
    "LeakyRelu": _Kind({"alpha": 0.01}),
    "Mish": _Kind(),
    "QuantizeDequantizeLinear": _Kind(numbers=_step_and_lowest, kernel=_quantize_dequantize),
    "Relu": _Kind(clamp=lambda alpha, beta: (0.0, math.inf)),
    "Sigmoid": _Kind(),
    "Swish": _Kind({"alpha": 1.0}),
    "Tanh": _Kind(),
}
#: The operators that can be an activation.
ACTIVATIONS = tuple(_KINDS)


def epilogue_of(call: Call) -> Epilogue:
    """The activation of a node, for an operator that applies it itself; `lower` then does not.

    Raises:
        FormatError: not an element-wise activation, or an attribute that does not fit it.
    """
    call.fused = True
    return _fused(call.node)


def limits_of(node: Node) -> tuple[float, float] | None:
    """The range to which the activation of a node limits values; None if it does more than that.

    Without an activation the range is infinite.

    Raises:
        FormatError: as `epilogue_of`.
    """
    if node.activation is None:
        return -math.inf, math.inf
    _, alpha, beta = _fused(node)
    clamp = _KINDS[node.activation.op].clamp
    return None if clamp is None else clamp(alpha, beta)


def activation_of(call: Call) -> Epilogue:
    """The activation that ``call`` names by its operator and attributes.

    Raises:
        FormatError: not an element-wise activation, or an attribute that does not fit it.
    """
    kind = _KINDS.get(call.node.op)
    if kind is None:
        raise call.fail(f"not an element-wise activation, expected one of {', '.join(ACTIVATIONS)}")
    code = _core.ACTIVATIONS[kind.kernel(call)]
    if kind.numbers is not None:
        return Epilogue(code, *kind.numbers(call))
    alpha, beta = (*(call.float_(name, default) for name, default in kind.attrs.items()), 0.0, 0.0)[:2]
    return Epilogue(code, alpha, beta)


def _fused(node: Node) -> Epilogue:
    activation = node.activation
    if activation is None:
        return IDENTITY
    alone = Call(replace(node, op=activation.op, attrs=activation.attrs, activation=None), ())
    epilogue = activation_of(alone)
    alone.finish()
    return epilogue
