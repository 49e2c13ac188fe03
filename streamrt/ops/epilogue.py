"""Element-wise activations: from a name and its attributes to the code and the two numbers that kernels take.

The same activation can be a node of its own (`streamrt.ops.activation`) or the last step of another
(`Node.activation`), which a kernel applies while the values are still in cache.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import streamrt._core as _core
from streamrt.ops.call import Call

#: The operators that can be an activation.
ACTIVATIONS = (
    "Clip",
    "Elu",
    "Erf",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Relu",
    "Sigmoid",
    "Swish",
    "Tanh",
)


class Epilogue(NamedTuple):
    """What a kernel applies to each value: a code of ``_core.ACTIVATIONS`` and its two parameters."""

    act: int
    alpha: float
    beta: float


IDENTITY = Epilogue(_core.ACTIVATIONS["Identity"], 0.0, 0.0)


def epilogue_of(call: Call) -> Epilogue:
    """The activation of a node, for an operator that applies it itself: it is fused then."""
    call.fused = True
    activation = call.node.activation
    if activation is None:
        return IDENTITY
    alone = Call(replace(call.node, op=activation.op, attrs=activation.attrs, activation=None), (), ())
    epilogue = activation_of(alone)
    alone.finish()
    return epilogue


def activation_of(call: Call) -> Epilogue:
    """The activation that ``call`` names by its operator and attributes; defaults are ONNX's.

    Raises:
        FormatError: not an element-wise activation, or an attribute that does not fit it.
    """
    name = call.node.op
    alpha = beta = 0.0
    match name:
        case "Clip":
            alpha, beta = call.float_("min", -math.inf), call.float_("max", math.inf)
        case "LeakyRelu":
            alpha = call.float_("alpha", 0.01)
        case "Elu" | "Swish":
            alpha = call.float_("alpha", 1.0)
        case "HardSigmoid":
            alpha, beta = call.float_("alpha", 0.2), call.float_("beta", 0.5)
        case "Gelu":
            if call.text("approximate", "none", ("none", "tanh")) == "tanh":
                name = "GeluTanh"
        case _ if name not in ACTIVATIONS:
            raise call.fail("not an element-wise activation")
    return Epilogue(_core.ACTIVATIONS[name], alpha, beta)
