"""Conversion of the ONNX operators that read or write at constant indices, and of those that repeat values."""

from __future__ import annotations

from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.graph import Attr


@converts("Tile")
def tile(node: OnnxNode) -> None:
    """The input several times along each axis."""
    if node.is_size(1):
        node.emit("Tile", node.moved_operands(0), sizes={"repeats": node.size_list(1)})
        return
    repeats = node.integers(1, "repeats")
    if repeats is None or len(repeats) != node.rank(0):
        raise node.problem(f"repeats are {repeats}, expected one for each axis")
    if set(repeats) <= {1}:
        node.emit("Identity", node.moved_operands(0))
    else:
        node.emit("Tile", node.moved_operands(0), {"repeats": repeats})


@converts("Trilu")
def trilu(node: OnnxNode) -> None:
    """The upper or the lower triangle of each matrix, from diagonal ``k`` on."""
    diagonal = node.integers(1, "k") or (0,)
    if len(diagonal) != 1:
        raise node.problem(f"k is {diagonal}, expected one number")
    # A tensor has fewer than 2**40 rows.
    attrs: dict[str, Attr] = {"k": max(-(2**40), min(diagonal[0], 2**40)), "upper": int(node.flag("upper", True))}
    node.emit("Trilu", node.moved_operands(0), attrs)


@converts("OneHot")
def one_hot(node: OnnxNode) -> None:
    """A value at each index along a new axis, and another value elsewhere. The indices may be computed."""
    depth, values = node.scalar(1, "depth"), node.numbers(2, "values")
    if depth is None or values is None or len(values) != 2:
        raise node.problem(f"depth is {depth} and values are {values}, expected a number and two")
    attrs: dict[str, Attr] = {
        "axis": node.axis(node.int_("axis", -1), node.rank(0) + 1),
        "depth": int(depth),
        "off_value": values[0],
        "on_value": values[1],
    }
    node.emit("OneHot", [node.any_operand(0)], attrs)


@converts("GatherElements")
def gather_elements(node: OnnxNode) -> None:
    """Single values along an axis; no more than 4096 indices."""
    node.emit("GatherElements", node.moved_operands(0), _indices(node) | _axis(node))


@converts("GatherND")
def gather_nd(node: OnnxNode) -> None:
    """Slices at tuples of indices; no more than 4096 indices."""
    batch: dict[str, Attr] = {"batch_dims": count} if (count := node.int_("batch_dims", 0)) else {}
    node.emit("GatherND", node.moved_operands(0), _indices(node) | batch)


@converts("ScatterElements", "Scatter")
def scatter_elements(node: OnnxNode) -> None:
    """Single values are replaced along an axis; no more than 4096 indices. Scatter is its name up to opset 10."""
    attrs = _indices(node) | _axis(node) | _reduction(node)
    node.emit("ScatterElements", _data_and_updates(node, attrs), attrs)


@converts("ScatterND")
def scatter_nd(node: OnnxNode) -> None:
    """Slices are replaced at tuples of indices; no more than 4096 indices."""
    attrs = _indices(node) | _reduction(node)
    node.emit("ScatterND", _data_and_updates(node, attrs), attrs)


def _data_and_updates(node: OnnxNode, attrs: dict[str, Attr]) -> list[str]:
    if "reduction" in attrs:
        return [node.any_operand(0), node.any_operand(2)]
    return node.moved_operands(0, 2)


def _indices(node: OnnxNode) -> dict[str, Attr]:
    indices = node.constant(1, "indices")
    return {"indices": tuple(int(index) for index in indices.reshape(-1)), "indices_shape": indices.shape}


def _axis(node: OnnxNode) -> dict[str, Attr]:
    return {"axis": node.axis(node.int_("axis", 0), node.rank(0))}


def _reduction(node: OnnxNode) -> dict[str, Attr]:
    reduction = node.text("reduction", "none", ("none", "add", "mul", "max", "min"))
    return {} if reduction == "none" else {"reduction": reduction}
