"""Conversion of the ONNX operators whose results depend on the order of values or of positions along an axis."""

from __future__ import annotations

from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.graph import Attr


@converts("CumSum", "CumProd")
def accumulated(node: OnnxNode) -> None:
    """The sum or the product of the values up to each position."""
    axes = node.integers(1, "axis")
    if axes is None or len(axes) != 1:
        raise node.problem(f"axis is {axes}, expected one number")
    attrs: dict[str, Attr] = {"axis": node.axis(axes[0], node.rank(0))}
    attrs |= {name: 1 for name in ("exclusive", "reverse") if node.flag(name)}
    node.emit_sum(node.op, [node.operand(0, integers=True)], attrs)


@converts("TopK")
def top_k(node: OnnxNode) -> None:
    """``k`` is an attribute up to opset 9, and an input after that. Results are always sorted."""
    node.ignore("sorted")
    attrs: dict[str, Attr] = {"axis": node.axis(node.int_("axis", -1), node.rank(0))}
    sizes = {"k": node.size_number(1)} if node.opset >= 10 and node.is_size(1) else {}
    if not sizes:
        count = (node.int_("k"),) if node.opset < 10 else node.integers(1, "k")
        if count is None or len(count) != 1:
            raise node.problem(f"k is {count}, expected one number")
        attrs["k"] = count[0]
    if not node.flag("largest", True):
        attrs["largest"] = 0
    node.emit("TopK", [node.operand(0)], attrs, list(node.proto.output), sizes)


@converts("ReverseSequence")
def reverse_sequence(node: OnnxNode) -> None:
    """The first values of each sample in reverse order."""
    lengths, rank = node.integers(1, "sequence_lens"), node.rank(0)
    if lengths is None:
        raise node.problem("input 1 (sequence_lens) is missing")
    attrs: dict[str, Attr] = {
        "batch_axis": node.axis(node.int_("batch_axis", 1), rank),
        "time_axis": node.axis(node.int_("time_axis", 0), rank),
        "sequence_lens": lengths,
    }
    node.emit("ReverseSequence", node.moved_operands(0), attrs)
