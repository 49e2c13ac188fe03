"""Convolution as a product against a gather in float64: every geometry, groups, tiles of channels, long sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.calls import conv
from kernels.geometry import GEOMETRIES, VOLUMES, Geometry
from streamrt import _core
from streamrt._core import ACTIVATIONS, CONV_COLUMNS, CONV_DEPTH, Convolution, conv_sums

RELU, IDENTITY, SWISH = ACTIVATIONS["Relu"], ACTIVATIONS["Identity"], ACTIVATIONS["Swish"]
Floats = NDArray[np.float32]


def reference(geometry: Geometry, x: Floats, w: Floats, groups: int) -> NDArray[np.float64]:
    """The sums, without bias: (n, outputs, [od,] oh, ow)."""
    n, channels, taps = len(x), w.shape[1], math.prod(geometry.kernel)
    windows = geometry.taps(x, 0).reshape(n, groups, channels, math.prod(geometry.output), taps)
    parts = w.reshape(groups, -1, channels, taps).astype(np.float64)
    return np.einsum("ngcpk,gock->ngop", windows, parts).reshape(n, len(w), *geometry.output)


def scratch(geometry: Geometry, channels: int, panels: int, seats: int = 2) -> Floats:
    """Scratch memory full of NaN: a column that was not laid out makes the result NaN."""
    depth = min(CONV_DEPTH, channels * math.prod(geometry.kernel))
    return np.full((seats, panels * CONV_COLUMNS * depth), np.nan, np.float32)


@pytest.mark.parametrize("geometry", [*GEOMETRIES, *VOLUMES], ids=str)
@pytest.mark.parametrize(("groups", "channels", "outputs"), [(1, 3, 5), (3, 2, 17), (1, 40, 31)])
def test_every_geometry(rng: np.random.Generator, geometry: Geometry, groups: int, channels: int, outputs: int) -> None:
    x = rng.normal(size=(2, groups * channels, *geometry.input)).astype(np.float32)
    w = rng.normal(size=(groups * outputs, channels, *geometry.kernel)).astype(np.float32)
    bias = rng.normal(size=groups * outputs).astype(np.float32)
    sums = reference(geometry, x, w, groups)
    size = max(1.0, float(np.abs(sums).max(initial=0)))
    y = np.full(sums.shape, 7, np.float32)
    rest = scratch(geometry, channels, panels=3)
    conv(x, w, bias, None, y, geometry.window(), groups, 0, len(w), rest, RELU, 0, 0)
    np.testing.assert_allclose(y, np.maximum(sums + bias.reshape(-1, *(1,) * geometry.axes), 0), atol=3e-6 * size)

    y[:] = 7  # a tile that begins and ends within a group
    conv(x, w, None, None, y, geometry.window(), groups, 1, len(w) - 2, rest[:1], SWISH, 1, 0)
    np.testing.assert_allclose(y[:, 1:-2], (sums / (1 + np.exp(-sums)))[:, 1:-2], atol=3e-6 * size)
    assert (y[:, [0, -2, -1]] == 7).all()


@pytest.mark.parametrize("extents", [(5, 13), (1, 20), (3, 16), (5, 16)], ids=str)  # panels of one to three vectors
@pytest.mark.parametrize("outputs", range(1, 31))
def test_every_number_of_rows(rng: np.random.Generator, outputs: int, extents: tuple[int, int]) -> None:
    geometry = Geometry(extents, (3, 3), pads=(1, 1, 1, 1))
    x = rng.normal(size=(1, 4, *extents)).astype(np.float32)
    w = rng.normal(size=(outputs, 4, 3, 3)).astype(np.float32)
    y = np.full((1, outputs, *extents), 7, np.float32)
    conv(x, w, None, None, y, geometry.window(), 1, 0, outputs, scratch(geometry, 4, 3), IDENTITY, 0, 0)
    np.testing.assert_allclose(y, reference(geometry, x, w, 1), atol=2e-5)


@pytest.mark.parametrize("panels", [1, 2, 5, 40])
@pytest.mark.parametrize("size", [1, 4, 7, 14, 23, 56])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_blocks_of_every_width(rng: np.random.Generator, panels: int, size: int, stride: int) -> None:
    geometry = Geometry((stride * size, stride * size - stride + 1), (3, 3), (stride, stride), pads=(1, 1, 1, 1))
    x = rng.normal(size=(1, 2, *geometry.input)).astype(np.float32)
    w = rng.normal(size=(3, 2, 3, 3)).astype(np.float32)
    y = np.full((1, 3, size, size), 7, np.float32)
    conv(x, w, None, None, y, geometry.window(), 1, 0, 3, scratch(geometry, 2, panels), IDENTITY, 0, 0)
    np.testing.assert_allclose(y, reference(geometry, x, w, 1), atol=2e-5)


@pytest.mark.parametrize("channels", [1, 15, 70, CONV_DEPTH + 3])
@pytest.mark.parametrize("positions", [1, 2, 3, 4, 5, 16, 17, 19, 20, 21, 33, 36, 48, 49, 51, 64, 66])
def test_columns_behind_the_last_whole_vector(rng: np.random.Generator, positions: int, channels: int) -> None:
    geometry = Geometry((1, positions), (1, 1))
    x = rng.normal(size=(2, channels, 1, positions)).astype(np.float32)
    for outputs in (1, 7, 19, 46):
        w = rng.normal(size=(outputs, channels, 1, 1)).astype(np.float32)
        bias, y = rng.normal(size=outputs).astype(np.float32), np.full((2, outputs, 1, positions), 7, np.float32)
        conv(x, w, bias, None, y, geometry.window(), 1, 0, outputs, scratch(geometry, channels, 3), RELU, 0, 0)
        expected = np.maximum(reference(geometry, x, w, 1) + bias[:, None, None], 0)
        np.testing.assert_allclose(y, expected, atol=3e-6 * np.abs(expected).max(initial=10))


@pytest.mark.parametrize("extents", [(1, 1), (4, 8), (8, 8), (12, 12), (7, 7), (5, 16), (16, 40)], ids=str)
@pytest.mark.parametrize("outputs", [1, 15, 104, 112, 113])
def test_a_window_of_one(rng: np.random.Generator, extents: tuple[int, int], outputs: int) -> None:
    geometry = Geometry(extents, (1, 1))
    x = rng.normal(size=(2, 9, *extents)).astype(np.float32)
    w = rng.normal(size=(outputs, 9, 1, 1)).astype(np.float32)
    bias, y = rng.normal(size=outputs).astype(np.float32), np.full((2, outputs, *extents), 7, np.float32)
    conv(x, w, bias, None, y, geometry.window(), 1, 0, outputs, scratch(geometry, 9, 2), IDENTITY, 0, 0)
    np.testing.assert_allclose(y, reference(geometry, x, w, 1) + bias[:, None, None], atol=2e-5)


@pytest.mark.parametrize("channels", [512, 1024, 2048])
@pytest.mark.parametrize("outputs", [13, 14, 15, 27, 29, 46, 71])
def test_rows_of_weights_a_power_of_two_apart(rng: np.random.Generator, outputs: int, channels: int) -> None:
    for extents in ((1, 2), (1, 34), (7, 7), (5, 16), (1, 82), (17, 16)):
        geometry = Geometry(extents, (1, 1))
        x = rng.normal(size=(1, 2 * channels, *extents)).astype(np.float32)
        w = rng.normal(size=(2 * outputs, channels, 1, 1)).astype(np.float32)
        scale, shift = np.full(2 * channels, 2, np.float32), np.full(2 * channels, 1, np.float32)
        found = []
        for panels in (1, 3):  # weights are copied, if at all, only for more than one panel
            y = np.full((1, 2 * outputs, *extents), 7, np.float32)
            columns, scaling = scratch(geometry, channels, panels), {"scale": scale, "shift": shift, "low": -1e9}
            act = (IDENTITY, 0, 0)
            conv(x, w, None, None, y, geometry.window(), 2, 0, 2 * outputs, columns, *act, high=1e9, **scaling)
            found.append(y)
        expected = reference(geometry, 2 * x + 1, w, 2)
        np.testing.assert_allclose(found[1], expected, atol=3e-6 * np.abs(expected).max())
        if geometry.output[1] == 16:  # whole vectors are added up in the same order
            np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("in_place", [False, True])
def test_a_residual_is_added_before_the_activation(rng: np.random.Generator, in_place: bool) -> None:
    geometry = Geometry((6, 9), (3, 3), pads=(1, 1, 1, 1))
    channels = CONV_DEPTH // 4  # sums in more than one part
    x = rng.normal(size=(2, channels, 6, 9)).astype(np.float32)
    w = rng.normal(size=(5, channels, 3, 3)).astype(np.float32)
    bias, residual = rng.normal(size=5).astype(np.float32), 30 * rng.normal(size=(2, 5, 6, 9)).astype(np.float32)
    expected = np.maximum(reference(geometry, x, w, 1) + bias[:, None, None] + residual, 0)
    y = residual.copy() if in_place else np.full_like(residual, 7)
    columns = scratch(geometry, channels, panels=1)
    conv(x, w, bias, y if in_place else residual, y, geometry.window(), 1, 0, 5, columns, RELU, 0, 0)
    np.testing.assert_allclose(y, expected, atol=3e-6 * expected.max())


@pytest.mark.parametrize(
    ("size", "kernel", "channels", "outputs"), [(14, 1, 384, 64), (7, 1, 1152, 190), (9, 3, 64, 50)]
)
def test_long_sums_of_small_maps_by_two_threads(
    rng: np.random.Generator, size: int, kernel: int, channels: int, outputs: int
) -> None:
    geometry = Geometry((size, size), (kernel, kernel), pads=(kernel // 2,) * 4)
    window, inner = geometry.window(), channels * kernel**2
    x = rng.normal(size=(1, channels, size, size)).astype(np.float32)
    w = rng.normal(size=(outputs, channels, kernel, kernel)).astype(np.float32)
    bias, residual = rng.normal(size=outputs).astype(np.float32), rng.normal(size=(1, outputs, size, size)).astype("f")
    before = reference(geometry, x, w, 1) + bias[:, None, None] + residual
    floats = conv_sums(1, 1, inner, outputs, window)
    assert floats == outputs * size**2
    threads, found = _core.threads(), []
    try:
        for count in (1, 2, 5):
            _core.set_threads(count)
            for sums in (None, np.full(floats, np.nan, np.float32)):
                y, columns = residual.copy(), scratch(geometry, channels, 2, seats=4)
                kernel_of = Convolution(x, w, bias, y, y, window, 1, columns, SWISH, 1, 0, sums=sums)
                for first, last in ((0, outputs - 17), (outputs - 17, outputs)):  # two tiles
                    kernel_of(first, last)
                found.append(y)
                assert sums is None or (np.isnan(sums).all() if count == 1 else np.isfinite(sums).all())
    finally:
        _core.set_threads(threads)
    np.testing.assert_allclose(found[0], before / (1 + np.exp(-before)), atol=3e-6 * np.abs(before).max())
    for y in found:
        assert y.tobytes() == found[0].tobytes()


def test_products_whose_sums_are_not_halved() -> None:
    small, large = Geometry((14, 14), (1, 1)).window(), Geometry((17, 16), (1, 1)).window()
    assert conv_sums(1, 1, 384, 64, small) == 64 * 14 * 14
    for shape in ((2, 1, 384, 64), (1, 2, 384, 64), (1, 1, 127, 9), (1, 1, 384, 193), (1, 1, 2 * CONV_DEPTH + 1, 64)):
        assert conv_sums(*shape, small) == 0
    assert conv_sums(1, 1, 384, 64, large) == 0
    x, w, y = np.ones((1, 384, 14, 14), "f"), np.ones((64, 384, 1, 1), "f"), np.ones((1, 64, 14, 14), "f")
    for wrong in (np.ones(64 * 14 * 14 - 1, "f"), y.reshape(-1)):
        with pytest.raises(ValueError, match=r"sums has|overlaps"):
            Convolution(x, w, None, None, y, small, 1, np.ones((2, 384 * CONV_COLUMNS), "f"), RELU, 0, 0, sums=wrong)


def test_nan_reaches_the_outputs_that_read_it_and_no_others(rng: np.random.Generator) -> None:
    geometry = Geometry((8, 40), (3, 3), pads=(1, 1, 1, 1))
    x = rng.normal(size=(1, 3, 8, 40)).astype(np.float32)
    x[0, 1, 4, 20] = np.nan
    w = rng.normal(size=(15, 3, 3, 3)).astype(np.float32)
    y = np.empty((1, 15, 8, 40), np.float32)
    conv(x, w, None, None, y, geometry.window(), 1, 0, 15, scratch(geometry, 3, 2), RELU, 0, 0)
    touched = np.zeros((8, 40), bool)
    touched[3:6, 19:22] = True
    assert (np.isnan(y[0]) == touched).all()


@pytest.mark.parametrize("panels", [1, 2, 5])
@pytest.mark.parametrize("extents", [(3, 4, 5), (6, 7, 7), (2, 9, 30), (5, 3, 67)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_blocks_of_volumes(rng: np.random.Generator, extents: tuple[int, ...], stride: int, panels: int) -> None:
    """Blocks begin and end within a plane. Sums have more than one part, some of which begin within a channel."""
    geometry = Geometry(extents, (3, 3, 3), (stride,) * 3, pads=(1,) * 6)
    x = rng.normal(size=(1, 2 * 25, *extents)).astype(np.float32)
    w = rng.normal(size=(2 * 15, 25, 3, 3, 3)).astype(np.float32)
    y = np.full((1, 2 * 15, *geometry.output), 7, np.float32)
    residual = rng.normal(size=y.shape).astype(np.float32)
    conv(x, w, None, residual, y, geometry.window(), 2, 0, len(w), scratch(geometry, 25, panels), IDENTITY, 0, 0)
    expected = reference(geometry, x, w, 2) + residual
    np.testing.assert_allclose(y, expected, atol=3e-6 * np.abs(expected).max())


def test_a_kernel_that_is_far_larger_than_its_input(rng: np.random.Generator) -> None:
    geometry = Geometry((3, 4), (41, 37), pads=(20, 18, 20, 18))  # 1517 taps of each channel
    x = rng.normal(size=(1, 2, 3, 4)).astype(np.float32)
    w = rng.normal(size=(3, 2, 41, 37)).astype(np.float32)
    y = np.empty((1, 3, 3, 4), np.float32)
    conv(x, w, None, None, y, geometry.window(), 1, 0, 3, scratch(geometry, 2, 1), IDENTITY, 0, 0)
    np.testing.assert_allclose(y, reference(geometry, x, w, 1), atol=2e-5)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("extents", [(1, 1), (2, 10), (7, 7), (4, 12), (13, 5), (3, 4, 5)], ids=str)
@pytest.mark.parametrize(("groups", "channels"), [(1, 9), (3, 5), (1, CONV_DEPTH + 40)])
def test_a_scaled_input(
    rng: np.random.Generator, groups: int, channels: int, extents: tuple[int, ...], each: bool
) -> None:
    ones = (1,) * len(extents)
    geometry = Geometry(extents, ones)
    x = rng.normal(size=(2, groups * channels, *extents)).astype(np.float32)
    w = rng.normal(size=(groups * 17, channels, *ones)).astype(np.float32)
    scale = rng.normal(size=(2, groups * channels) if each else groups * channels).astype(np.float32)
    shift = rng.normal(size=groups * channels).astype(np.float32)
    columns, y = scratch(geometry, channels, 2), np.full((2, groups * 17, *extents), 7, np.float32)
    for added, low, high in ((shift, -0.5, 1.5), (None, -np.inf, np.inf)):
        inputs = x * scale.reshape(*scale.shape, *ones) + (0 if added is None else added.reshape(-1, *ones))
        expected = reference(geometry, inputs.clip(low, high).astype(np.float32), w, groups)
        scaling = {"scale": scale, "shift": added, "low": low, "high": high}
        conv(x, w, None, None, y, geometry.window(), groups, 0, len(w), columns, IDENTITY, 0, 0, **scaling)
        np.testing.assert_allclose(y, expected, atol=6e-6 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"kernel": (3, 3), "pads": (1, 1, 1, 1)},
        {"kernel": (1, 1), "strides": (2, 2)},
        {"kernel": (3, 1, 1), "pads": (1, 0, 0, 1, 0, 0)},
        {"kernel": (1, 1, 1), "strides": (2, 1, 1)},
    ],
)
def test_a_scale_with_other_windows_than_1x1(kwargs: Any) -> None:
    geometry = Geometry((5,) * len(kwargs["kernel"]), **kwargs)
    x, y = np.ones((1, 3, *geometry.input), "f"), np.ones((1, 4, *geometry.output), "f")
    w = np.ones((4, 3, *geometry.kernel), "f")
    scale = np.ones(3, "f")
    with pytest.raises(ValueError, match="a scale needs a window of 1 x 1"):
        conv(x, w, None, None, y, geometry.window(), 1, 0, 4, scratch(geometry, 3, 2), IDENTITY, 0, 0, scale=scale)


@pytest.mark.parametrize("shapes", [((2,), None), ((1, 4), None), ((3,), (2,)), (None, (3,))])
def test_a_scale_of_another_shape(shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]) -> None:
    geometry = Geometry((5, 5), (1, 1))
    x, w, y = np.ones((1, 3, 5, 5), "f"), np.ones((4, 3, 1, 1), "f"), np.ones((1, 4, 5, 5), "f")
    scale, shift = [None if shape is None else np.ones(shape, "f") for shape in shapes]
    columns = scratch(geometry, 3, 2)
    with pytest.raises(ValueError, match=r"scale|shift"):
        conv(x, w, None, None, y, geometry.window(), 1, 0, 4, columns, IDENTITY, 0, 0, scale=scale, shift=shift)
