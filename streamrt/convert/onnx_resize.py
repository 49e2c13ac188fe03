"""Conversion of the ONNX operators that resample, and of depth to space and back."""

from __future__ import annotations

import math

from streamrt.convert.onnx_node import OnnxNode, converts
from streamrt.graph import Attr


@converts("DepthToSpace", "SpaceToDepth")
def space(node: OnnxNode) -> None:
    """One block size is that of both axes."""
    size = node.int_("blocksize")
    attrs: dict[str, Attr] = {"blocksize": (size, size)}
    if node.text("mode", "DCR", ("DCR", "CRD")) == "CRD":
        attrs["mode"] = "CRD"
    node.emit(node.op, [node.operand(0)], attrs)


@converts("Upsample")
def upsample(node: OnnxNode) -> None:
    """What became Resize in opset 10: scales only, an attribute until opset 8."""
    scales = node.floats("scales") if node.opset < 9 else node.numbers(1, "scales")
    _emit(node, {"scales": _checked(node, scales, node.rank(0))} | _as_before(node))


@converts("Resize")
def resize(node: OnnxNode) -> None:
    """Nearest and linear. Sizes and scales are inputs, and from opset 18 on may be for some axes only."""
    rank = node.rank(0)
    if node.opset < 11:
        _emit(node, {"scales": _checked(node, node.numbers(1, "scales"), rank)} | _as_before(node))
        return
    node.text("keep_aspect_ratio_policy", "stretch", ("stretch",))
    node.ignore("extrapolation_value", "cubic_coeff_a", "exclude_outside")
    if node.flag("antialias"):
        raise node.attribute_problem("antialias", "is 1, expected 0")
    choices = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
    attrs: dict[str, Attr] = {
        "mode": node.text("mode", "nearest", ("nearest", "linear")),
        "coordinate_transformation_mode": node.text("coordinate_transformation_mode", "half_pixel", choices),
        "nearest_mode": node.text(
            "nearest_mode", "round_prefer_floor", ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        ),
    }
    given = node.ints("axes")
    axes = tuple(range(rank)) if given is None else tuple(node.axis(axis, rank) for axis in given)
    if node.given(3):
        attrs["sizes"] = _sizes(node, axes, rank)
    else:
        scales = [1.0] * rank
        for axis, scale in zip(axes, _checked(node, node.numbers(2, "scales"), len(axes)), strict=True):
            scales[axis] = scale
        attrs["scales"] = tuple(scales)
    _emit(node, attrs)


def _as_before(node: OnnxNode) -> dict[str, Attr]:
    """How Resize was defined until opset 10."""
    mode = node.text("mode", "nearest", ("nearest", "linear", "bilinear"))
    linear = mode != "nearest"
    return {
        "mode": "linear" if linear else "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }


def _checked(node: OnnxNode, scales: tuple[float, ...] | None, count: int) -> tuple[float, ...]:
    if scales is None or len(scales) != count or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise node.problem(f"scales are {scales}, expected {count} numbers above 0")
    return scales


def _sizes(node: OnnxNode, axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The new extent of each axis; 0 where it is that of the input, whatever that is."""
    wanted = [tuple(int(v) for v in value.reshape(-1)) for value in node.values(3, "sizes")]
    if any(len(sizes) != len(axes) for sizes in wanted):
        raise node.problem(f"sizes are {wanted[0]}, expected one for each of the axes {axes}")
    result = [0] * rank
    for position, axis in enumerate(axes):
        found = [sizes[position] for sizes in wanted]
        if found == [shape[axis] for shape in node.shapes(0)]:
            continue
        if len(set(found)) != 1 or found[0] < 1:
            raise node.problem(f"the new extent of axis {axis} depends on the extents of the model's inputs")
        result[axis] = found[0]
    return tuple(result)


def _emit(node: OnnxNode, attrs: dict[str, Attr]) -> None:
    if attrs["mode"] == "linear":
        attrs.pop("nearest_mode")
    node.emit("Resize", [node.operand(0)], attrs)
