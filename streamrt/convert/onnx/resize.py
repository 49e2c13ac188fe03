"""Conversion of the ONNX operators that resample, and of depth to space and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamrt.convert.onnx.movement import rearranged
from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.graph import Attr


@converts("DepthToSpace", "SpaceToDepth")
def space(node: OnnxNode) -> None:
    """The block size applies to both spatial axes."""
    size = node.int_("blocksize")
    attrs: dict[str, Attr] = {"blocksize": (size, size)}
    if node.text("mode", "DCR", ("DCR", "CRD")) == "CRD":
        attrs["mode"] = "CRD"
    node.emit(node.op, [node.exact_operand(0)], attrs)


@converts("GridSample")
def grid_sample(node: OnnxNode) -> None:
    """Maps with two or three spatial axes at computed positions."""
    new = {"bilinear": "linear", "bicubic": "cubic"}  # since opset 20
    mode = node.text("mode", "linear", ("linear", "nearest", "cubic", *new))
    attrs: dict[str, Attr] = {
        "mode": new.get(mode, mode),
        "padding_mode": node.text("padding_mode", "zeros", ("zeros", "border", "reflection")),
        "align_corners": int(node.flag("align_corners")),
    }
    node.emit("GridSample", [node.operand(0), node.operand(1)], attrs)


@converts("Upsample")
def upsample(node: OnnxNode) -> None:
    """It became Resize in opset 10. It has only scales: an attribute up to opset 8, an input after that."""
    if node.opset < 9:
        _emit(node, {"scales": _checked(node, node.floats("scales"), node.rank(0))} | _as_before(node))
    else:
        _by_scales(node, 1, tuple(range(node.rank(0))), _as_before(node))


@converts("Resize")
def resize(node: OnnxNode) -> None:
    """Sizes and scales are inputs; from opset 18 on they may omit some axes. No regions, and no aspect ratios."""
    rank = node.rank(0)
    if node.opset < 11:
        _by_scales(node, 1, tuple(range(rank)), _as_before(node))
        return
    node.text("keep_aspect_ratio_policy", "stretch", ("stretch",))
    node.ignore("extrapolation_value", "cubic_coeff_a", "exclude_outside")
    choices = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
    attrs: dict[str, Attr] = {
        "mode": node.text("mode", "nearest", ("nearest", "linear", "cubic")),
        "coordinate_transformation_mode": node.text("coordinate_transformation_mode", "half_pixel", choices),
        "nearest_mode": node.text(
            "nearest_mode", "round_prefer_floor", ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        ),
    }
    if node.flag("antialias"):
        attrs["antialias"] = 1
    if attrs["mode"] == "cubic":
        attrs["cubic_coeff_a"] = node.float_("cubic_coeff_a", -0.75)
    if node.flag("exclude_outside") and (attrs["mode"] == "cubic" or "antialias" in attrs):
        attrs["exclude_outside"] = 1  # linear interpolation between two values gives the value at the border anyway
    given = node.ints("axes")
    axes = tuple(range(rank)) if given is None else tuple(node.axis(axis, rank) for axis in given)
    if node.given(3):
        _by_sizes(node, axes, attrs)
    else:
        _by_scales(node, 2, axes, attrs)


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


def _by_scales(node: OnnxNode, index: int, axes: tuple[int, ...], attrs: dict[str, Attr]) -> None:
    """Resize ``axes`` by the scales in an input. The other axes have scale 1."""
    if node.is_size(index):
        _expect_count(node, index, "scales", axes)
        one = np.ones(1, np.float32)
        _emit(node, attrs, {"scales": rearranged(node, index, _positions(node.rank(0), axes), one)})
        return
    scales = [1.0] * node.rank(0)
    for axis, scale in zip(axes, _checked(node, node.numbers(index, "scales"), len(axes)), strict=True):
        scales[axis] = scale
    _emit(node, attrs | {"scales": tuple(scales)})


def _by_sizes(node: OnnxNode, axes: tuple[int, ...], attrs: dict[str, Attr]) -> None:
    """Resize ``axes`` to the extents in input 3. In the attribute, 0 keeps an extent."""
    wanted, dims = _expect_count(node, 3, "sizes", axes), node.dims(0)
    sizes, at = [0] * len(dims), _positions(len(dims), axes)
    computed = False
    for axis, extent in zip(axes, wanted, strict=True):
        if isinstance(extent, int) and extent < 1:
            raise node.problem(f"the new extent of axis {axis} is {extent}, expected at least 1")
        if extent is not None and extent == dims[axis]:
            at[axis] = len(axes)
        elif isinstance(extent, int):
            sizes[axis] = extent
        else:
            computed = True
    if computed:
        _emit(node, attrs, {"sizes": rearranged(node, 3, at, np.array([0]))})
    else:
        _emit(node, attrs | {"sizes": tuple(sizes)})


def _expect_count(node: OnnxNode, index: int, what: str, axes: tuple[int, ...]) -> list[Any]:
    """The elements of an input, one for each axis."""
    found = node.elements(index, what)
    if len(found) != len(axes):
        raise node.problem(f"{what} are {found}, expected one for each of the axes {axes}")
    return found


def _positions(rank: int, axes: tuple[int, ...]) -> list[int]:
    """For each axis its position in ``axes``, or the position after the last one."""
    return [axes.index(axis) if axis in axes else len(axes) for axis in range(rank)]


def _emit(node: OnnxNode, attrs: dict[str, Attr], sizes: dict[str, str] | None = None) -> None:
    if attrs["mode"] == "nearest":
        x = node.exact_operand(0)
    else:
        x = node.operand(0)
        attrs.pop("nearest_mode")
    node.emit("Resize", [x], attrs, sizes=sizes)
