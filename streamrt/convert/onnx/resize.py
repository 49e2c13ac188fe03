"""Conversion of the ONNX operators that resample, and of depth to space and back."""

from __future__ import annotations

import math

from streamrt.convert.onnx.extents import extents, lender
from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.graph import Attr


@converts("DepthToSpace", "SpaceToDepth")
def space(node: OnnxNode) -> None:
    """The block size applies to both spatial axes."""
    size = node.int_("blocksize")
    attrs: dict[str, Attr] = {"blocksize": (size, size)}
    if node.text("mode", "DCR", ("DCR", "CRD")) == "CRD":
        attrs["mode"] = "CRD"
    node.emit(node.op, [node.operand(0)], attrs)


@converts("Upsample")
def upsample(node: OnnxNode) -> None:
    """It became Resize in opset 10. It has only scales: an attribute up to opset 8, an input after that."""
    scales = node.floats("scales") if node.opset < 9 else node.numbers(1, "scales")
    _emit(node, {"scales": _checked(node, scales, node.rank(0))} | _as_before(node))


@converts("Resize")
def resize(node: OnnxNode) -> None:
    """Modes are nearest and linear. Sizes and scales are inputs; from opset 18 on they may omit some axes."""
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
    inputs = [node.operand(0)]
    if node.given(3):
        inputs += _sizes(node, axes, rank, attrs)
    else:
        scales = [1.0] * rank
        for axis, scale in zip(axes, _checked(node, node.numbers(2, "scales"), len(axes)), strict=True):
            scales[axis] = scale
        attrs["scales"] = tuple(scales)
    _emit(node, attrs, inputs)


def _as_before(node: OnnxNode) -> dict[str, Attr]:
    """The attributes with which a Resize computes what opset 10 defines."""
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


def _sizes(node: OnnxNode, axes: tuple[int, ...], rank: int, attrs: dict[str, Attr]) -> list[str]:
    """Add the new extents to ``attrs``; returns the tensor from which extents are taken, if any.

    An extent is 0 (the input's extent), a number, or the extent of another tensor. If all extents that change are
    multiples of the input's extents, they become scales.
    """
    wanted = [tuple(int(v) for v in value.reshape(-1)) for value in node.values(3, "sizes")]
    if any(len(sizes) != len(axes) for sizes in wanted):
        raise node.problem(f"sizes are {wanted[0]}, expected one for each of the axes {axes}")
    result = [0] * rank
    loose, scales = {}, [1.0] * rank
    for position, axis in enumerate(axes):
        found, before = [sizes[position] for sizes in wanted], [shape[axis] for shape in node.shapes(0)]
        if min(found) < 1:
            raise node.problem(f"the new extent of axis {axis} is {min(found)}, expected at least 1")
        if found == before:
            continue
        if len(set(found)) == 1:
            result[axis] = found[0]
            continue
        loose[axis] = found
        scales[axis] = float(found[0] // before[0])
        if any(extent != old * scales[axis] for extent, old in zip(found, before, strict=True)):
            scales[axis] = 0.0
    if loose and min(scales) > 0 and not any(result):
        attrs["scales"] = tuple(scales)
        return []
    attrs["sizes"] = tuple(result)
    if not loose:
        return []
    lent = lender(node, loose)
    if lent is None:
        raise node.problem(f"the new extents of axes {sorted(loose)} depend on the extents of the model's inputs")
    attrs["extents"] = extents(rank, lent[1])
    return [lent[0]]


def _emit(node: OnnxNode, attrs: dict[str, Attr], inputs: list[str] | None = None) -> None:
    if attrs["mode"] == "linear":
        attrs.pop("nearest_mode")
    node.emit("Resize", inputs or [node.operand(0)], attrs)
