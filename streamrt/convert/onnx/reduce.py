"""Conversion of the ONNX operators that reduce axes."""

from __future__ import annotations

from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.graph import Attr


@converts("ReduceMean", "ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin")
def reduce(node: OnnxNode) -> None:
    """Reductions that graphs have, too. Models from Keras use them for global pooling of NHWC tensors."""
    attrs, x = _attrs(node), node.operand(0, integers=node.op != "ReduceMean")
    if attrs is None:
        node.emit("Identity", [x])
    else:
        node.emit_sum(node.op, [x], attrs)


@converts("CumSum")
def cumsum(node: OnnxNode) -> None:
    """The axis must be constant."""
    axes = node.integers(1, "axis")
    if axes is None or len(axes) != 1:
        raise node.problem(f"axis is {axes}, expected one number")
    attrs: dict[str, Attr] = {"axis": node.axis(axes[0], node.rank(0))}
    attrs |= {name: 1 for name in ("exclusive", "reverse") if node.flag(name)}
    node.emit_sum("CumSum", [node.operand(0, integers=True)], attrs)


@converts("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
def norm(node: OnnxNode) -> None:
    """Reductions that become a ReduceSum and a function before or after it."""
    attrs, x = _attrs(node), node.operand(0)
    if attrs is None:
        raise node.attribute_problem("noop_with_empty_axes", "is 1, and no axes are given")
    match node.op:
        case "ReduceL1":
            x = node.emit("Abs", [x], outputs=[node.temporary("absolute")])
        case "ReduceL2" | "ReduceSumSquare":
            x = node.emit("Mul", [x, x], outputs=[node.temporary("squares")])
    after = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log"}.get(node.op)
    total = node.emit("ReduceSum", [x], attrs, [node.temporary("sum")] if after else None)
    if after:
        node.emit(after, [total])


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
