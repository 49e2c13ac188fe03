"""From ONNX operators, opset 7 to the newest, to the operators of a streamrt graph.

Each conversion handles the differences between versions of its operator, and no other code does. Examples are constants
that moved from attributes to inputs, other defaults and other meanings.
"""

from streamrt.convert.onnx import (  # noqa: F401 (registers them)
    attention,
    compute,
    conv_transpose,
    elementwise,
    formulas,
    indexed,
    logic,
    movement,
    order,
    qlinear,
    quantize,
    recurrent,
    reduce,
    resize,
)
from streamrt.convert.onnx.node import CONVERSIONS

__all__ = ["CONVERSIONS"]
