"""From ONNX operators, opset 7 to the newest, to the operators of a streamrt graph.

Differences between versions of an operator are handled in its conversion and nowhere else: constants that moved from
attributes to inputs, other defaults, other meanings.
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
