"""Winograd's algorithm against sums in float64: borders, batches, groups, tiles of channels, and how much it rounds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.calls import conv, winograd
from kernels.geometry import Geometry
from streamrt._core import ACTIVATIONS, winograd_seat

RELU, IDENTITY, SWISH = ACTIVATIONS["Relu"], ACTIVATIONS["Identity"], ACTIVATIONS["Swish"]
Floats = NDArray[np.float32]

#: samples, groups, channels and outputs of a group, extents of the input, pads
SHAPES = [
    (1, 1, 64, 64, (56, 56), (1, 1, 1, 1)),
    (1, 1, 65, 31, (53, 55), (1, 1, 1, 1)),
    (2, 2, 40, 33, (29, 31), (1, 1, 1, 1)),
    (3, 1, 130, 60, (14, 14), (0, 2, 1, 0)),
    (1, 1, 300, 100, (30, 30), (0, 0, 0, 0)),
    (8, 1, 128, 128, (7, 7), (1, 1, 1, 1)),
    (1, 1, 64, 40, (20, 200), (2, 2, 2, 2)),
    (1, 1, 17, 100, (203, 3), (1, 1, 1, 1)),
    (1, 1, 33, 64, (3, 203), (1, 1, 1, 1)),
    (30, 1, 64, 64, (4, 4), (1, 1, 1, 1)),
    # few tiles, of one sample and of several
    (1, 1, 128, 200, (7, 7), (1, 1, 1, 1)),
    (1, 1, 331, 133, (8, 6), (1, 1, 1, 2)),
    (2, 2, 67, 83, (7, 7), (1, 1, 1, 1)),
    (1, 1, 130, 57, (4, 30), (0, 1, 2, 1)),
    (1, 1, 190, 257, (4, 12), (1, 1, 1, 1)),
    (7, 1, 70, 100, (4, 4), (1, 1, 1, 1)),
    (2, 1, 9, 1500, (8, 8), (1, 1, 1, 1)),
]


def reference(geometry: Geometry, x: Floats, w: Floats, groups: int) -> NDArray[np.float64]:
    """The sums, without bias: (n, outputs, oh, ow)."""
    n, channels = len(x), w.shape[1]
    windows = geometry.gather(x, 0).reshape(n, groups, channels, *geometry.output, 9)
    columns = windows.transpose(0, 1, 3, 4, 2, 5).reshape(n, groups, -1, channels * 9)
    rows = w.reshape(groups, -1, channels * 9).astype(np.float64)
    return (columns @ rows.transpose(0, 2, 1)).transpose(0, 1, 3, 2).reshape(n, len(w), *geometry.output)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_sums(
    rng: np.random.Generator, shape: tuple[int, int, int, int, tuple[int, int], tuple[int, ...]]
) -> None:
    n, groups, channels, outputs, extents, pads = shape
    geometry = Geometry(extents, (3, 3), pads=pads)  # type: ignore[arg-type]
    x = rng.normal(size=(n, groups * channels, *extents)).astype(np.float32)
    w = rng.normal(size=(groups * outputs, channels, 3, 3)).astype(np.float32)
    bias, seat = rng.normal(size=len(w)).astype(np.float32), winograd_seat(n, channels, outputs, geometry.window())
    assert seat > 0
    sums = reference(geometry, x, w, groups)
    size = float(np.sqrt((sums**2).mean()))
    residual = rng.normal(size=sums.shape).astype(np.float32)
    y = residual.copy()
    scratch = np.full((2, seat), np.nan, np.float32)  # a value that was not written makes the result NaN
    winograd(x, w, bias, y, y, geometry.window(), groups, 0, len(w), scratch, RELU, 0, 0)
    np.testing.assert_allclose(y, np.maximum(sums + bias[:, None, None] + residual, 0), atol=4e-5 * size)

    y[:] = 7  # a tile that begins and ends within a group; one thread
    winograd(x, w, None, None, y, geometry.window(), groups, 1, len(w) - 2, scratch[:1], SWISH, 1, 0)
    with np.errstate(over="ignore"):
        expected = sums / (1 + np.exp(-sums))
    np.testing.assert_allclose(y[:, 1:-2], expected[:, 1:-2], atol=4e-5 * size)
    assert (y[:, [0, -2, -1]] == 7).all()

    y[:] = 7  # one output channel
    winograd(x, w, None, None, y, geometry.window(), groups, 5, 6, scratch[:1], IDENTITY, 0, 0)
    np.testing.assert_allclose(y[:, 5], sums[:, 5], atol=4e-5 * size)
    assert (np.delete(y, 5, 1) == 7).all()


def test_winograd_rounds_a_few_times_as_much_as_a_plain_sum(rng: np.random.Generator) -> None:
    geometry = Geometry((24, 24), (3, 3), pads=(1, 1, 1, 1))
    x = rng.normal(size=(1, 300, 24, 24)).astype(np.float32)
    w = rng.normal(size=(40, 300, 3, 3)).astype(np.float32)
    exact = reference(geometry, x, w, 1)
    size = float(np.sqrt((exact**2).mean()))
    errors = []
    for kernel in (conv, winograd):
        y = np.empty(exact.shape, np.float32)
        scratch = np.empty((1, max(2**16, winograd_seat(1, 300, 40, geometry.window()))), np.float32)
        kernel(x, w, None, None, y, geometry.window(), 1, 0, 40, scratch, IDENTITY, 0, 0)
        errors.append(float(np.abs(y - exact).max()) / size)
    plain, fast = errors
    assert plain < 8e-6
    assert plain < fast < 2e-5


@pytest.mark.parametrize(("channels", "outputs", "size", "at"), [(64, 40, 48, (17, 22)), (100, 90, 8, (5, 2))])
def test_nan_reaches_the_tiles_that_read_it_and_no_others(
    rng: np.random.Generator, channels: int, outputs: int, size: int, at: tuple[int, int]
) -> None:
    geometry = Geometry((size, size), (3, 3), pads=(1, 1, 1, 1))
    x = rng.normal(size=(1, channels, size, size)).astype(np.float32)
    row, col = at
    x[0, 5, row, col] = np.nan
    w = rng.normal(size=(outputs, channels, 3, 3)).astype(np.float32)
    y = np.empty((1, outputs, size, size), np.float32)
    scratch = np.full((1, winograd_seat(1, channels, outputs, geometry.window())), np.nan, np.float32)
    winograd(x, w, None, None, y, geometry.window(), 1, 0, outputs, scratch, IDENTITY, 0, 0)
    touched = np.isnan(y).any(axis=(0, 1))
    assert touched[row - 1 : row + 2, col - 1 : col + 2].all()
    touched[row // 4 * 4 :, col // 4 * 4 :][:4, :4] = False  # the tile around that position
    assert not touched.any()


@pytest.mark.parametrize(
    ("n", "channels", "outputs", "geometry"),
    [
        (1, 64, 64, Geometry((56, 56), (5, 5), pads=(2, 2, 2, 2))),
        (1, 64, 64, Geometry((56, 56), (3, 3), (2, 2), pads=(1, 1, 1, 1))),
        (1, 64, 64, Geometry((56, 56), (3, 3), (1, 2), pads=(1, 1, 1, 1))),
        (1, 64, 64, Geometry((56, 56), (3, 3), dilations=(2, 1), pads=(1, 1, 1, 1))),
        (1, 512, 512, Geometry((5, 5), (3, 3), pads=(1, 1, 1, 1))),
        (1, 3, 8, Geometry((8, 8), (3, 3), pads=(1, 1, 1, 1))),
        (1, 2**20, 512, Geometry((56, 56), (3, 3), pads=(1, 1, 1, 1))),
        (0, 64, 64, Geometry((56, 56), (3, 3), pads=(1, 1, 1, 1))),
        (1, 0, 64, Geometry((56, 56), (3, 3), pads=(1, 1, 1, 1))),
        (1, 64, 64, Geometry((2, 56, 56), (1, 3, 3), pads=(0, 1, 1, 0, 1, 1))),
        (1, 64, 64, Geometry((1, 56, 56), (3, 3, 3), pads=(1,) * 6)),
        (1, 64, 64, Geometry((1, 56, 56), (1, 3, 3), (2, 1, 1), pads=(1,) * 6)),
    ],
    ids=str,
)
def test_convolutions_for_which_winograd_is_not_used(n: int, channels: int, outputs: int, geometry: Geometry) -> None:
    assert winograd_seat(n, channels, outputs, geometry.window()) == 0


def test_winograd_refuses_other_convolutions() -> None:
    for n, channels, outputs in ((-1, 64, 64), (1, -14, 8), (1, 64, -1), (2**40, 64, 64), (2**62, 64, 64)):
        with pytest.raises(ValueError, match="expected no negative number"):
            winograd_seat(n, channels, outputs, Geometry((8, 8), (3, 3), pads=(1, 1, 1, 1)).window())
    ones, scratch = np.ones((1, 3, 8, 8), np.float32), np.ones((1, 10**6), np.float32)
    window = Geometry((8, 8), (3, 3), pads=(1, 1, 1, 1)).window()
    y = np.ones((1, 8, 8, 8), np.float32)
    with pytest.raises(ValueError, match="winograd needs a 3 x 3 window"):
        winograd(ones, np.ones((8, 3, 3, 3), np.float32), None, None, y, window, 1, 0, 8, scratch, RELU, 0, 0)
    window = Geometry((56, 56), (3, 3), pads=(1, 1, 1, 1)).window()
    x, w = np.ones((1, 64, 56, 56), np.float32), np.ones((64, 64, 3, 3), np.float32)
    seat = winograd_seat(1, 64, 64, window)
    with pytest.raises(ValueError, match="scratch has shape"):
        winograd(x, w, None, None, x.copy(), window, 1, 0, 64, np.ones((2, seat - 1), np.float32), RELU, 0, 0)
