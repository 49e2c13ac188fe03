"""Operators that change spatial extents, converted to those of a weights file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import NEWEST, check, expected, integers, make_model, onnx, ops, random, run_packed

node = onnx.helper.make_node

TRANSPOSED: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "stride 1": ((2, 3, 5, 6), (3, 4, 3, 3), {}),
    "stride 1, pads": ((2, 3, 5, 6), (3, 4, 3, 2), {"pads": [1, 1, 2, 0]}),
    "stride 1, pads beyond the window": ((1, 2, 9, 9), (2, 2, 2, 2), {"pads": [2, 1, 1, 3]}),
    "2x2": ((2, 3, 5, 6), (3, 4, 2, 2), {"strides": [2, 2]}),
    "3x3, as in a decoder": (
        (1, 4, 5, 6),
        (4, 2, 3, 3),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    "4x4, as in a generator": ((1, 4, 3, 3), (4, 2, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "strides that differ": ((1, 3, 4, 5), (3, 2, 3, 5), {"strides": [3, 2], "pads": [0, 1, 2, 0]}),
    "strides beyond the window": ((1, 3, 4, 5), (3, 2, 2, 1), {"strides": [3, 4]}),
    "dilated": ((1, 3, 5, 6), (3, 2, 3, 2), {"strides": [2, 1], "dilations": [2, 3], "pads": [1, 0, 0, 2]}),
    "groups": ((1, 6, 4, 4), (6, 2, 3, 3), {"strides": [2, 2], "group": 3}),
    "more output_padding than a stride": (
        (1, 2, 4, 4),
        (2, 2, 3, 3),
        {"strides": [2, 2], "dilations": [4, 4], "output_padding": [3, 1]},
    ),
    "SAME_UPPER": ((1, 2, 4, 5), (2, 3, 3, 4), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "SAME_LOWER": ((1, 2, 4, 5), (2, 3, 3, 4), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "output_shape, smaller": ((1, 2, 3, 3), (2, 3, 3, 3), {"strides": [3, 2], "output_shape": [7, 6]}),
    "output_shape": ((1, 2, 3, 3), (2, 3, 3, 3), {"strides": [3, 2], "output_shape": [10, 8]}),
    "1-D": ((2, 3, 7), (3, 4, 4), {"strides": [3], "pads": [1, 2], "output_padding": [1]}),
    "3-D": ((2, 3, 2, 3, 4), (3, 2, 2, 2, 2), {"strides": [2, 2, 2]}),
    "3-D, strides that differ": (
        (1, 4, 3, 2, 3),
        (4, 2, 3, 4, 2),
        {"strides": [2, 3, 1], "pads": [1, 0, 1, 0, 2, 0], "output_padding": [1, 2, 0], "group": 2},
    ),
    "3-D dilated": ((1, 2, 3, 3, 2), (2, 3, 2, 3, 2), {"strides": [1, 2, 2], "dilations": [2, 1, 3]}),
    "3-D SAME_LOWER": ((1, 2, 3, 2, 3), (2, 2, 3, 3, 4), {"strides": [2, 1, 2], "auto_pad": "SAME_LOWER"}),
    "3-D output_shape": ((1, 2, 2, 3, 3), (2, 2, 2, 3, 3), {"strides": [2, 3, 2], "output_shape": [4, 10, 6]}),
}


def by_definition(x: np.ndarray, w: np.ndarray, bias: np.ndarray, out: tuple[int, ...], attrs: dict[str, Any]) -> Any:
    """A transposed convolution by its definition: every value times every weight, added to its output."""
    rank, groups = x.ndim - 2, attrs.get("group", 1)
    strides, dilations = attrs.get("strides", [1] * rank), attrs.get("dilations", [1] * rank)
    begins = attrs["begins"]
    y = np.zeros((x.shape[0], w.shape[1] * groups, *out)) + bias.reshape(-1, *(1,) * rank)
    for n, c in np.ndindex(*x.shape[:2]):
        group = c // (x.shape[1] // groups)
        for at in np.ndindex(*x.shape[2:]):
            for k in np.ndindex(*w.shape[2:]):
                to = [a * s + i * d - b for a, s, i, d, b in zip(at, strides, k, dilations, begins, strict=True)]
                if all(0 <= t < extent for t, extent in zip(to, out, strict=True)):
                    for o in range(w.shape[1]):
                        y[(n, group * w.shape[1] + o, *to)] += float(x[(n, c, *at)]) * float(w[(c, o, *k)])
    return y


@pytest.mark.parametrize("case", TRANSPOSED)
def test_conv_transpose(case: str, tmp_path: Path) -> None:
    shape, window, attrs = TRANSPOSED[case]
    rank = len(shape) - 2
    x, w, b = random(*shape), random(*window, seed=1), random(window[1] * attrs.get("group", 1), seed=2)
    model = make_model([node("ConvTranspose", ["x", "w", "b"], ["y"], **attrs)], {"w": w, "b": b}, inputs={"x": shape})
    (found,) = run_packed(streamrt.pack(model, tmp_path / "out"), {"x": x})
    strides, dilations = attrs.get("strides", [1] * rank), attrs.get("dilations", [1] * rank)
    added, pads = attrs.get("output_padding", [0] * rank), attrs.get("pads", [0] * 2 * rank)
    reach = [(k - 1) * d + 1 for k, d in zip(window[2:], dilations, strict=True)]
    begins, out = [], []
    for i in range(rank):
        whole = (shape[2 + i] - 1) * strides[i] + reach[i] + added[i]
        extent = whole - pads[i] - pads[rank + i]
        begin = pads[i]
        if "output_shape" in attrs or "auto_pad" in attrs:
            extent = attrs["output_shape"][i] if "output_shape" in attrs else shape[2 + i] * strides[i]
            total = whole - extent
            begin = max(0, total if attrs.get("auto_pad") == "SAME_UPPER" else total + 1) // 2
        begins.append(begin)
        out.append(extent)
    wanted = by_definition(x, w, b, tuple(out), attrs | {"begins": begins})
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_conv_transpose_of_any_extent(tmp_path: Path) -> None:
    """A decoder: the batch, and the height and width, are not known when it is packed."""
    nodes = [
        node("ConvTranspose", ["x", "w"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
        node("Relu", ["a"], ["y"]),
    ]
    model = make_model(nodes, {"w": random(3, 4, 3, 3)}, inputs={"x": ("N", 3, "H", "W")})
    path = streamrt.pack(model, tmp_path / "out.safetensors")
    for shape in ((1, 3, 4, 4), (2, 3, 7, 5)):
        x = random(*shape)
        (found,) = run_packed(path, {"x": x})
        np.testing.assert_allclose(found, expected(model, {"x": x})[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [7, 9])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(opset: int, mode: str, tmp_path: Path) -> None:
    """The reference lacks Upsample. A Resize with these attributes does the same."""
    scales = np.array([1, 1, 2, 3], np.float32)
    if opset < 9:
        old = make_model([node("Upsample", ["x"], ["y"], mode=mode, scales=scales.tolist())], opset=opset)
    else:
        old = make_model([node("Upsample", ["x", "scales"], ["y"], mode=mode)], {"scales": scales}, opset=opset)
    attrs = {"mode": mode, "coordinate_transformation_mode": "asymmetric"} | (
        {"nearest_mode": "floor"} if mode == "nearest" else {}
    )
    new = make_model([node("Resize", ["x", "", "scales"], ["y"], **attrs)], {"scales": scales}, opset=13)
    assert ops(check(old, tmp_path, same_as=new)) == ["Resize"]


def test_resize_of_opset_10(tmp_path: Path) -> None:
    scales = np.array([1, 1, 1.5, 0.5], np.float32)
    old = make_model([node("Resize", ["x", "scales"], ["y"], mode="nearest")], {"scales": scales}, opset=10)
    attrs = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    new = make_model([node("Resize", ["x", "", "scales"], ["y"], **attrs)], {"scales": scales}, opset=13)
    check(old, tmp_path, same_as=new)


@pytest.mark.parametrize("opset", [11, 13, 18, NEWEST])
def test_resize(opset: int, tmp_path: Path) -> None:
    inputs, constants = ["x", "", "", "sizes"], {"sizes": integers(2, 3, 12, 5)}
    more: dict[str, Any] = {}
    if opset >= 18:
        constants, more = {"sizes": integers(5, 12)}, {"axes": [3, 2]}
    nodes = [node("Resize", inputs, ["a"], mode="linear", **more), node("Relu", ["a"], ["y"])]
    graph = check(make_model(nodes, constants, opset=opset), tmp_path)
    assert ops(graph) == ["Resize+Relu"]
    assert graph.nodes[0].attrs["sizes"] == (0, 0, 12, 5)


def test_a_size_that_follows_the_input_is_kept(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Slice", ["shape", "zero", "three"], ["front"]),
        node("Concat", ["front", "nine"], ["sizes"], axis=0),
        node("Resize", ["x", "", "", "sizes"], ["y"]),
    ]
    constants = {"zero": integers(0), "three": integers(3), "nine": integers(9)}
    model = make_model(nodes, constants, inputs={"x": ("N", 3, "H", 6)})
    path = streamrt.pack(model, tmp_path / "out.safetensors")
    for shape in ((1, 3, 4, 6), (2, 3, 7, 6)):
        x = random(*shape)
        (found,) = run_packed(path, {"x": x})
        assert found.shape == (*shape[:3], 9)
        np.testing.assert_array_equal(found, expected(model, {"x": x})[0])


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "4-D": (node("ConvTranspose", ["x", "w"], ["y"]), {"w": random(3, 2, 2, 2, 2, 2)}, "1-D, 2-D and 3-D"),
    "computed weights": (node("ConvTranspose", ["x", "x"], ["y"]), {}, "is computed"),
    "group": (node("ConvTranspose", ["x", "w"], ["y"], group=2), {"w": random(3, 2, 2, 2)}, "attribute 'group'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nodes_that_are_refused(case: str, tmp_path: Path) -> None:
    broken, constants, words = REFUSED[case]
    with pytest.raises(streamrt.UnsupportedModelError, match=words):
        streamrt.pack(make_model([broken], constants), tmp_path / "out")
