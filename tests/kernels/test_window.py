"""Depthwise convolution and pooling against a gather, and the checks of Window."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.calls import average_pool, depthwise, max_pool
from kernels.geometry import GEOMETRIES, VOLUMES, Geometry
from streamrt._core import ACTIVATIONS, Window

RELU, IDENTITY, SWISH = ACTIVATIONS["Relu"], ACTIVATIONS["Identity"], ACTIVATIONS["Swish"]


@pytest.mark.parametrize("geometry", [*GEOMETRIES, *VOLUMES], ids=str)
def test_depthwise(rng: np.random.Generator, geometry: Geometry) -> None:
    x = rng.normal(size=(2, 3, *geometry.input)).astype(np.float32)
    w = rng.normal(size=(6, *geometry.kernel)).astype(np.float32)
    bias = rng.normal(size=6).astype(np.float32)
    sums = np.einsum("nc...k,ck->nc...", geometry.taps(np.repeat(x, 2, axis=1), 0), w.reshape(6, -1))
    size = max(1.0, float(np.abs(sums).max(initial=0)))
    y = np.full((2, 6, *geometry.output), 7, np.float32)
    depthwise(x, w, bias, y, geometry.window(), 0, 6, RELU, 0, 0)
    np.testing.assert_allclose(y, np.maximum(sums + bias.reshape(-1, *(1,) * geometry.axes), 0), atol=2e-6 * size)

    y[:] = 7
    depthwise(x, w, None, y, geometry.window(), 1, 4, SWISH, 1, 0)
    np.testing.assert_allclose(y[:, 1:4], (sums / (1 + np.exp(-sums)))[:, 1:4], atol=2e-6 * size)
    assert (y[:, [0, 4, 5]] == 7).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("width", [1, 2, 5, 7, 8, 9, 14, 15, 16, 17, 31, 33, 40, 56, 67])
def test_depthwise_of_every_width(rng: np.random.Generator, width: int, kernel: int, stride: int) -> None:
    """Narrow planes have channels across the lanes, wide planes are computed in strips. Some padding is never read."""
    half = kernel // 2
    for height, pads in ((6, (half,) * 4), (8, (kernel, kernel - 1, 1, 0)), (5, (kernel - 1, 0, 0, kernel - 1))):
        geometry = Geometry((height, width), (kernel, kernel), (stride, stride), pads=pads)
        for channels, multiplier in ((3, 2), (3, 1), (16, 1), (19, 1)):
            outputs = channels * multiplier
            x = rng.normal(size=(2, channels, height, width)).astype(np.float32)
            w = rng.normal(size=(outputs, kernel, kernel)).astype(np.float32)
            bias = rng.normal(size=outputs).astype(np.float32)
            windows = geometry.gather(x, 0).repeat(multiplier, axis=1)
            sums = np.einsum("nchwij,cij->nchw", windows, w.astype(np.float64))
            for first, last, offset in ((0, outputs, bias), (1, outputs - 1, None)):
                y = np.full((2, outputs, *geometry.output), 7, np.float32)
                depthwise(x, w, offset, y, geometry.window(), first, last, ACTIVATIONS["Clip"], -9, 9)
                wanted = (sums + (0 if offset is None else offset[:, None, None])).clip(-9, 9)
                np.testing.assert_allclose(y[:, first:last], wanted[:, first:last], atol=1e-5)
                assert (y[:, :first] == 7).all()
                assert (y[:, last:] == 7).all()


def test_depthwise_with_padding_that_no_window_reads(rng: np.random.Generator) -> None:
    """The output of a small plane has the size of its input, and lies in the padding above and left of it."""
    x, w = rng.normal(size=(1, 16, 4, 4)).astype(np.float32), rng.normal(size=(16, 3, 3)).astype(np.float32)
    for before in (3, 5, 2000):
        pads = (before, before, 0, 0)
        wanted = np.zeros(x.shape)
        if before < 2000:  # else all windows lie in the padding
            windows = Geometry((4, 4), (3, 3), pads=pads).gather(x, 0)[:, :, :4, :4]
            wanted = np.einsum("nchwij,cij->nchw", windows, w.astype(np.float64))
        y = np.full_like(x, 7)
        depthwise(x, w, None, y, Window((3, 3), (1, 1), (1, 1), pads, (4, 4), (4, 4)), 0, 16, IDENTITY, 0, 0)
        np.testing.assert_allclose(y, wanted, atol=1e-5)


@pytest.mark.parametrize("geometry", [*GEOMETRIES, *VOLUMES], ids=str)
@pytest.mark.parametrize("special", [0.0, np.nan, -np.inf, np.inf])
def test_max_pool(rng: np.random.Generator, geometry: Geometry, special: float) -> None:
    x = rng.normal(-5, 1, size=(3, *geometry.input)).astype(np.float32)
    x.reshape(-1)[::41] = special
    y = np.full((3, *geometry.output), 7, np.float32)
    max_pool(x, y, geometry.window())
    np.testing.assert_array_equal(y, geometry.taps(x, -np.inf).max(axis=-1, initial=-np.inf))


@pytest.mark.parametrize("geometry", [*GEOMETRIES, *VOLUMES], ids=str)
@pytest.mark.parametrize("include_pad", [False, True])
def test_average_pool(rng: np.random.Generator, geometry: Geometry, include_pad: bool) -> None:
    x = rng.normal(size=(3, *geometry.input)).astype(np.float32)
    y = np.full((3, *geometry.output), 7, np.float32)
    average_pool(x, y, geometry.window(), include_pad)
    sums = geometry.taps(x, 0).sum(axis=-1)
    np.testing.assert_allclose(y, sums / np.maximum(1, geometry.counts(include_pad)), atol=1e-6)


def test_a_huge_kernel_costs_no_more_than_its_input() -> None:
    huge = 2**30 - 1
    window = Window((huge, huge), (1, 1), (1, 1), (huge // 2,) * 4, (3, 40), (2, 40))
    x = np.arange(120, dtype=np.float32).reshape(1, 3, 40)
    y = np.empty((1, 2, 40), np.float32)
    max_pool(x, y, window)
    assert (y == 119).all()
    average_pool(x, y, window, False)
    np.testing.assert_allclose(y, 59.5, rtol=1e-6)


def test_a_huge_kernel_over_a_volume() -> None:
    """The taps of a window may be as many as the padding of planes and of the depth allow."""
    huge = 2**30 - 1
    for kernel, pads in (((huge, 2, 3), (huge // 2, 0, 0) * 2), ((1, huge, huge), (0, huge // 2, huge // 2) * 2)):
        window = Window(kernel, (1,) * 3, (1,) * 3, pads, (1, 2, 3), (1, 1, 1))
        y = np.empty((1, 1, 1, 1), np.float32)
        max_pool(np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3), y, window)
        assert (y == 5).all()
        average_pool(np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3), y, window, False)
        assert (y == 2.5).all()


GOOD = {
    "kernel": (3, 3), "strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "input": (8, 8), "output": (8, 8),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, (0, 1)) for name in ("kernel", "strides", "dilations")],
        *[(name, (-1, 1)) for name in ("kernel", "strides", "dilations", "input", "output")],
        *[(name, (1, 2**30)) for name in ("kernel", "strides", "dilations", "input", "output")],
        *[(name, (1, 2**80)) for name in ("kernel", "strides", "dilations", "input", "output")],
        *[(name, (1,)) for name in ("kernel", "strides", "dilations", "input", "output", "pads")],
        ("pads", (0, 0, -1, 0)),
        ("pads", (0, 2**63, 0, 0)),
        ("output", (11, 8)),
        ("output", (8, 11)),
        ("strides", (2, 1)),
    ],
)
def test_window_refuses_nonsense(name: str, value: tuple[int, ...]) -> None:
    Window(**GOOD)
    with pytest.raises(ValueError, match=name):
        Window(**(GOOD | {name: value}))


GOOD_VOLUME = {
    "kernel": (3, 3, 3), "strides": (1, 1, 1), "dilations": (1, 1, 1), "pads": (1,) * 6, "input": (8, 8, 8),
    "output": (8, 8, 8),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, (0, 1, 1)) for name in ("kernel", "strides", "dilations")],
        *[(name, (-1, 1, 1)) for name in ("kernel", "strides", "dilations", "input", "output")],
        *[(name, (2**30, 1, 1)) for name in ("kernel", "strides", "dilations", "input", "output")],
        *[(name, (1, 1)) for name in ("strides", "dilations", "input", "output", "pads")],
        *[(name, (1,) * 4) for name in ("strides", "dilations", "input", "output", "pads")],
        *[(name, (2**21,) * 3) for name in ("kernel", "input")],
        ("pads", (0, 0, 0, -1, 0, 0)),
        ("output", (11, 8, 8)),
        ("strides", (2, 1, 1)),
    ],
)
def test_a_window_over_volumes_refuses_nonsense(name: str, value: tuple[int, ...]) -> None:
    Window(**GOOD_VOLUME)
    with pytest.raises(ValueError, match=name):
        Window(**(GOOD_VOLUME | {name: value}))


@pytest.mark.parametrize("kernel", [(), (1,), (1, 1), (1,) * 4])
def test_the_kernel_has_as_many_lengths_as_the_rest(kernel: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pads is .*, expected 4 lengths"):
        Window(**(GOOD_VOLUME | {"kernel": kernel}))


def test_no_volume_is_larger_than_its_elements_can_be_counted() -> None:
    large, most = 2**20, 2**30 - 1
    Window((1, 1, 1), (1,) * 3, (1,) * 3, (0,) * 6, (large,) * 3, (large,) * 3)
    for pads, extents in (((0,) * 6, (large + 1, large, large)), ((1, 0, 0, 0, 0, 0), (large,) * 3)):
        with pytest.raises(ValueError, match="2\\*\\*60 elements"):
            Window((1, 1, 1), (1,) * 3, (1,) * 3, pads, extents, (1, 1, 1))
    with pytest.raises(ValueError, match="2\\*\\*60 elements"):
        Window((1, 1, 1), (1,) * 3, (1,) * 3, (most, 0, 0, most, 0, 0), (1, most, most), (1, 1, 1))
