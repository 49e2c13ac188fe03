from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ops.harness import assert_close, lowered_for, random, run
from ops.reference import onnx_run
from streamrt.errors import FormatError
from streamrt.ops.ratio import columns_of_scale
from streamrt.ops.resample import NEAREST, positions_of

COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
NONE = np.array([], np.float32)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize(
    ("mode", "nearest"),
    [("linear", None), *(("nearest", n) for n in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))],
)
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((2, 3, 4, 5), (2, 3, 8, 10)),
        ((1, 2, 7, 6), (1, 2, 3, 4)),
        ((1, 2, 7, 3), (1, 2, 3, 11)),
        ((1, 1, 4, 4), (1, 1, 1, 9)),
        ((1, 3, 5), (1, 3, 8)),
        ((2, 2, 1, 1), (2, 2, 3, 3)),
        ((1, 2, 3, 4, 2), (1, 2, 6, 3, 4)),
    ],
)
def test_resize(
    shape: tuple[int, ...], sizes: tuple[int, ...], mode: str, nearest: str | None, coordinates: str
) -> None:
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    attrs |= {"nearest_mode": nearest} if nearest else {}
    x = random(*shape)
    expected = onnx_run("Resize", [x, NONE, NONE, np.array(sizes, np.int64)], attrs, opset=19)[0]
    assert_close(run("Resize", [x], attrs=attrs | {"sizes": sizes})[0], expected)
    kept = tuple(0 if size == extent else size for size, extent in zip(sizes, shape, strict=True))
    assert_close(run("Resize", [x], attrs=attrs | {"sizes": kept})[0], expected)


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize(
    "scales", [(1.0, 1.0, 2.0, 2.0), (1.0, 1.0, 0.6, 1.5), (2.0, 1.0, 1.0, 1.0), (1.0, 0.5, 3.0, 0.3)]
)
def test_resize_by_scales(mode: str, coordinates: str, scales: tuple[float, ...]) -> None:
    x = random(2, 4, 5, 7)
    attrs = {"mode": mode, "coordinate_transformation_mode": coordinates}
    expected = onnx_run("Resize", [x, NONE, np.array(scales, np.float32)], attrs, opset=19)[0]
    assert_close(run("Resize", [x], attrs=attrs | {"scales": scales})[0], expected)


@pytest.mark.parametrize("coordinates", ["half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric"])
@pytest.mark.parametrize(("mode", "antialias"), [("cubic", 0), ("cubic", 1), ("linear", 1)])
@pytest.mark.parametrize("exclude", [0, 1])
@pytest.mark.parametrize(("shape", "sizes"), [((1, 2, 7, 9), (1, 2, 3, 4)), ((2, 1, 4, 6), (2, 1, 9, 2))])
def test_weighted_sums(
    shape: tuple[int, ...], sizes: tuple[int, ...], exclude: int, mode: str, antialias: int, coordinates: str
) -> None:
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    attrs |= {"antialias": antialias, "exclude_outside": exclude}
    attrs |= {"cubic_coeff_a": -0.5} if mode == "cubic" and exclude else {}
    x = random(*shape)
    expected = onnx_run("Resize", [x, NONE, NONE, np.array(sizes, np.int64)], attrs, opset=19)[0]
    assert_close(run("Resize", [x], attrs=attrs | {"sizes": sizes})[0], expected)


@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
def test_values_are_repeated_only_if_their_positions_say_so(nearest: str, coordinates: str) -> None:
    """All axes have whole scales, but the nearest value is often another than that of equal parts."""
    attrs: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    x = random(2, 3, 4, 5)
    for sizes in ((2, 3, 8, 15), (2, 3, 4, 20), (4, 3, 12, 5), (2, 3, 8, 17)):
        expected = onnx_run("Resize", [x, NONE, NONE, np.array(sizes, np.int64)], attrs, opset=19)[0]
        np.testing.assert_array_equal(run("Resize", [x], attrs=attrs | {"sizes": sizes})[0], expected)


def test_long_axes_are_repeated_too() -> None:
    x = random(1, 1, 9000)
    for times in (1, 2, 3):
        found = run("Resize", [x], attrs={"sizes": (0, 2, 9000 * times), "mode": "nearest"})[0]
        np.testing.assert_array_equal(found, np.repeat(np.repeat(x, 2, 1), times, 2))


def test_a_resize_to_the_same_size_is_a_view() -> None:
    for attrs in ({"sizes": (0, 0, 4)}, {"scales": (1.0, 1.0, 1.0)}):
        assert lowered_for("Resize", [(2, 3, 4)], attrs=attrs).view_of == 0


@pytest.mark.parametrize("mode", [None, "DCR", "CRD"])
def test_depth_to_space(mode: str | None) -> None:
    x = random(2, 12, 3, 5)
    attrs = {} if mode is None else {"mode": mode}
    expected = onnx_run("DepthToSpace", [x], attrs | {"blocksize": 2})[0]
    np.testing.assert_array_equal(run("DepthToSpace", [x], attrs=attrs | {"blocksize": (2, 2)})[0], expected)


@pytest.mark.parametrize("blocks", [(2, 3), (1, 2), (3, 1), (2, 1, 3), (2, 3, 2)])
def test_blocks_that_are_no_squares(blocks: tuple[int, ...]) -> None:
    extents = (3, 5, 2)[: len(blocks)]
    x = random(2, 12, *extents)
    attrs = {"blocksize": blocks, "mode": "CRD"}
    found = run("DepthToSpace", [x], attrs=attrs)[0]
    channels = 12 // math.prod(blocks)
    for at in np.ndindex(*blocks):
        part = x.reshape(2, channels, *blocks, *extents)[:, :, *at]
        steps = tuple(slice(first, None, step) for first, step in zip(at, blocks, strict=True))
        np.testing.assert_array_equal(found[:, :, *steps], part)
    np.testing.assert_array_equal(run("SpaceToDepth", [found], attrs=attrs)[0], x)


@pytest.mark.parametrize("mode", [None, "DCR", "CRD"])
def test_space_to_depth_is_the_opposite(mode: str | None) -> None:
    x = random(2, 3, 4, 6)
    attrs: dict[str, Any] = {"blocksize": (2, 2)} | ({} if mode is None else {"mode": mode})
    deep = run("SpaceToDepth", [x], attrs=attrs)[0]
    if mode is None:
        np.testing.assert_array_equal(deep, onnx_run("SpaceToDepth", [x], {"blocksize": 2})[0])
    np.testing.assert_array_equal(run("DepthToSpace", [deep], attrs=attrs)[0], x)
    row = random(2, 3, 6)
    np.testing.assert_array_equal(
        run("DepthToSpace", run("SpaceToDepth", [row], attrs={"blocksize": (3,)}), attrs={"blocksize": (3,)})[0], row
    )


@pytest.mark.parametrize(
    ("op", "shape", "attrs"),
    [
        ("Resize", (1, 2, 4), {}),
        ("Resize", (1, 2, 4), {"sizes": (1, 2)}),
        ("Resize", (1, 2, 4), {"sizes": (1, 2, -4)}),
        ("Resize", (1, 2, 4), {"sizes": (2**20, 2**20, 4)}),
        ("Resize", (1, 2, 4), {"scales": (1.0, 1.0, 0.0)}),
        ("Resize", (1, 2, 4), {"scales": (1.0, 1.0, 0.1)}),
        ("Resize", (1, 2, 4), {"scales": (1.0, 1.0, 1e38)}),
        ("Resize", (1, 2, 4), {"scales": (1.0, 1.0, float("nan"))}),
        ("Resize", (1, 2, 4), {"sizes": (0, 0, 8), "mode": "quintic"}),
        ("Resize", (1, 2, 4), {"sizes": (0, 0, 8), "mode": "cubic", "antialias": 2}),
        ("Resize", (1, 2, 2**20), {"sizes": (0, 0, 8), "mode": "cubic", "antialias": 1}),
        ("Resize", (1, 2, 4), {"sizes": (0, 0, 8), "coordinate_transformation_mode": "tf_crop_and_resize"}),
        ("DepthToSpace", (1, 4, 2, 2), {}),
        ("DepthToSpace", (1, 4, 2, 2), {"blocksize": 2}),
        ("DepthToSpace", (1, 6, 2, 2), {"blocksize": (2, 2)}),
        ("DepthToSpace", (1, 4, 2, 2), {"blocksize": (2, 2), "mode": "RDC"}),
        ("DepthToSpace", (1, 4), {"blocksize": ()}),
        ("DepthToSpace", (1, 8, 2, 2, 2), {"blocksize": (2, 2)}),
        ("SpaceToDepth", (1, 4, 2, 2, 3), {"blocksize": (2, 2, 2)}),
        ("DepthToSpace", (1, 16, 2, 2, 2, 2), {"blocksize": (2, 2, 2, 2)}),
        ("SpaceToDepth", (1, 4, 2, 3), {"blocksize": (2, 2)}),
        ("SpaceToDepth", (1, 4, 2, 2), {"blocksize": (0, 2)}),
    ],
)
def test_attributes_that_do_not_fit(op: str, shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for(op, [shape], attrs=attrs)


@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric"])
@pytest.mark.parametrize("nearest", [*NEAREST, None])
@pytest.mark.parametrize("rounded", [float, np.float32])
def test_columns_lie_as_those_of_a_narrower_picture(coordinates: str, nearest: str | None, rounded: Any) -> None:
    """By scales of small fractions, as float64 and float32: else there is no rule for columns."""
    some, others = set(), set()
    for up, down in itertools.product(range(1, 12), repeat=2):
        if up == down or math.gcd(up, down) > 1:
            continue
        before, after, scale = 300 * down, 300 * up, float(rounded(up / down))
        found = columns_of_scale(before, after, scale, coordinates, nearest, (0, 1))
        if found is None:
            others.add((up, down))
            continue
        some.add((up, down))
        assert found.step == Fraction(down, up)
        at = positions_of(coordinates, before, after, scale, np.arange(after, dtype=np.float64))
        for periods in (1, 7, 150):
            moved = at[: after - periods * up] + periods * down
            if nearest is None:
                np.testing.assert_array_equal(at[periods * up :], moved)
            else:
                np.testing.assert_array_equal(NEAREST[nearest](at[periods * up :]), NEAREST[nearest](moved))
        for column in range(up if nearest else 0):
            low, high = (math.floor(column * found.step + each) for each in (found.low, found.high))
            assert low <= NEAREST[nearest or "floor"](at)[column] <= high
    if rounded is float or (coordinates, nearest) == ("half_pixel", "round_prefer_floor"):
        assert some >= {(2, 3), (1, 3), (4, 3)}
    if (coordinates, nearest, rounded) == ("half_pixel", "round_prefer_floor", float):
        assert others == {(7, 10)}  # a column lies exactly between two values, and rounding moves it
