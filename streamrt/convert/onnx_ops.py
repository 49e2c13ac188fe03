"""From ONNX operators, opset 7 to the newest, to the operators of a streamrt graph.

What differs between versions of an operator is decided in its conversion and nowhere else: constants that moved from
attributes to inputs, changed defaults, changed meanings.
"""

from streamrt.convert import (  # noqa: F401 (registers them)
    onnx_compute,
    onnx_conv_transpose,
    onnx_elementwise,
    onnx_layout,
    onnx_logic,
    onnx_reduce,
    onnx_resize,
)
from streamrt.convert.onnx_node import CONVERSIONS

__all__ = ["CONVERSIONS"]
