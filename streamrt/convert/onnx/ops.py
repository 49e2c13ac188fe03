"""From ONNX operators, opset 7 to the newest, to the operators of a streamrt graph.

What differs between versions of an operator is decided in its conversion and nowhere else: constants that moved from
attributes to inputs, changed defaults, changed meanings.
"""

from streamrt.convert.onnx import (  # noqa: F401 (registers them)
    compute,
    conv_transpose,
    elementwise,
    logic,
    movement,
    reduce,
    resize,
)
from streamrt.convert.onnx.node import CONVERSIONS

__all__ = ["CONVERSIONS"]
