"""Faults of the room convert."""

from __future__ import annotations

from faults.fault import Fault

FAULTS = (
    Fault(
        "directions-along",
        "convert",
        "streamrt/convert/onnx/recurrent.py",
        "along = 1 + axis if index == 0 else axis",
        "along = 1 if index == 0 else axis",
        "with samples first, the outputs of two directions follow each other in time",
        ("tests/convert",),
    ),
    Fault(
        "wrapped-sums",
        "convert",
        "streamrt/convert/onnx/node.py",
        'if dtype is None or dtype.kind not in "iu" or dtype.itemsize == 8:',
        'if dtype is None or dtype.kind not in "iu" or dtype.itemsize >= 1:',
        "sums of small integers do not wrap before they are compared or converted",
        ("tests/convert",),
    ),
    Fault(
        "attention-mask",
        "convert",
        "streamrt/convert/fold/attention.py",
        "if set(ahead) - {1} and ahead != scores[:-3]:",
        "if ahead and ahead != scores[:-3]:",
        "attention with one mask for all samples stays several nodes",
        ("tests/convert",),
    ),
    Fault(
        "attention-readers",
        "convert",
        "streamrt/convert/fold/attention.py",
        "node.activation is None and self._readers[name] == 1",
        "node.activation is None",
        "scores that another node reads are left out",
        ("tests/convert",),
    ),
    Fault(
        "finite-largest",
        "convert",
        "streamrt/convert/onnx/reduce.py",
        '{"min": -_FLOAT_MAX, "max": _FLOAT_MAX}',
        '{"min": -_FLOAT_MAX}',
        "the logarithm of an infinite sum is no number",
        ("tests/convert",),
    ),
    Fault(
        "other-steps",
        "convert",
        "streamrt/convert/fold/quantized.py",
        "if steps is None or _steps(draft, before) != steps:",
        "if steps is None:",
        "integers are dequantised by the scale with which they were made",
        ("tests/convert",),
    ),
    Fault(
        "moved-padding",
        "convert",
        "streamrt/convert/fold/quantized.py",
        "(value - steps.zero_point) * steps.scale",
        "value * steps.scale",
        "the padding of integers is a number away from the zero point",
        ("tests/convert",),
    ),
    Fault(
        "exact-integers",
        "convert",
        "streamrt/convert/onnx/node.py",
        'return self._cast(name, "int64") if name in self._context.exact else name',
        "return name",
        "arithmetic of quantised integers does not wrap",
        ("tests/convert",),
    ),
    Fault(
        "quantised-bias",
        "convert",
        "streamrt/convert/onnx/qlinear.py",
        "factor * x.float64().reshape(-1) * w.float64()",
        "factor * w.float64()",
        "a bias lacks the scale of the input",
        ("tests/convert",),
    ),
)
