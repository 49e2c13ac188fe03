"""Conversion of the ONNX operators that reduce axes."""

from __future__ import annotations

import numpy as np

from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.graph import Attr

_FLOAT_MAX = float(np.finfo(np.float32).max)


@converts("ReduceMean", "ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin")
def reduce(node: OnnxNode) -> None:
    """Reductions that graphs have, too. Models from Keras use them for global pooling of NHWC tensors."""
    truths = node.op in ("ReduceMax", "ReduceMin") and node.dtype(0) == np.bool_
    attrs, x = _attrs(node), node.any_operand(0) if truths else node.operand(0, integers=node.op != "ReduceMean")
    if attrs is None:
        node.emit("Identity", [x])
    else:
        node.emit_sum(node.op, [x], attrs)


@converts("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
def norm(node: OnnxNode) -> None:
    """Reductions that become a ReduceSum and a function before or after it."""
    attrs, x = _attrs(node), node.operand(0)
    after = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log"}.get(node.op)
    match node.op:
        case "ReduceL1":
            x = node.emit("Abs", [x], outputs=None if attrs is None else [node.temporary("absolute")])
        case "ReduceL2" | "ReduceSumSquare":
            squares = None if attrs is None and not after else [node.temporary("squares")]
            x = node.emit("Mul", [x, x], outputs=squares)
    if attrs is not None:
        x = node.emit("ReduceSum", [x], attrs, [node.temporary("sum")] if after else None)
    if after:
        node.emit(after, [x])


@converts("ReduceLogSumExp")
def log_sum_exp(node: OnnxNode) -> None:
    """The largest value is subtracted before Exp and added after Log, so that nothing overflows."""
    attrs, x = _attrs(node), node.operand(0)
    if attrs is None:
        node.emit("Identity", [x])
        return
    kept = attrs | {"keepdims": 1}
    largest = node.emit("ReduceMax", [x], kept, [node.temporary("largest")])
    # The difference of two infinite numbers is none.
    largest = node.emit("Clip", [largest], {"min": -_FLOAT_MAX, "max": _FLOAT_MAX}, [node.temporary("finite")])
    below = node.emit("Sub", [x, largest], outputs=[node.temporary("below")])
    powers = node.emit("Exp", [below], outputs=[node.temporary("powers")])
    total = node.emit("ReduceSum", [powers], kept, [node.temporary("sum")])
    logarithm = node.emit("Log", [total], outputs=[node.temporary("logarithm")])
    if attrs["keepdims"]:
        node.emit("Add", [logarithm, largest])
        return
    axes = attrs.get("axes", tuple(range(node.rank(0))))
    result = node.emit("Add", [logarithm, largest], outputs=[node.temporary("kept")])
    node.emit("Squeeze", [result], {"axes": axes})


def _attrs(node: OnnxNode) -> dict[str, Attr] | None:
    """The attributes of a reduction; None if it does nothing.

    Axes are an attribute up to opset 17 (ReduceSum: 12), and an input after that. No axes mean all axes. With
    ``noop_with_empty_axes`` the node then does nothing.
    """
    since = 13 if node.op == "ReduceSum" else 18
    keep = node.flag("keepdims", True)
    noop = node.flag("noop_with_empty_axes")
    axes = node.ints("axes") if node.opset < since else node.integers(1, "axes")
    if not axes and noop:
        return None
    attrs: dict[str, Attr] = {"keepdims": int(keep)}
    if axes:
        attrs["axes"] = node.axes(axes, node.rank(0))
    return attrs
