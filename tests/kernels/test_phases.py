"""Convolutions of wide pictures with few channels, whose rows are sorted into phases instead of laid out as columns."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.bands import LAYOUTS, Cut, by_bands
from kernels.fences import Fenced, exit_code_of
from kernels.geometry import Geometry
from streamrt._core import ACTIVATIONS, CONV_COLUMNS, Convolution

RELU = ACTIVATIONS["Relu"], 0, 0
Floats = NDArray[np.float32]
#: Rows end with whole vectors, or with a part of one. Some vectors have padding alone.
WIDE = [
    Geometry((19, 224), (7, 7), (2, 2), pads=(3, 3, 3, 3)),
    Geometry((9, 127), (3, 3), (2, 2), pads=(1, 1, 1, 1)),
    Geometry((7, 223), (3, 3), (2, 2)),
    Geometry((9, 130), (3, 3), pads=(1, 1, 1, 1)),
    Geometry((8, 200), (3, 5), (3, 3), pads=(0, 1, 2, 3)),
    Geometry((6, 200), (5, 3), (1, 2), (1, 3), pads=(2, 3, 2, 3)),
    Geometry((7, 150), (1, 9), pads=(0, 4, 0, 4)),
    Geometry((30, 262), (11, 11), (4, 4), pads=(2, 2, 2, 2)),
    Geometry((5, 140), (3, 3), pads=(0, 70, 0, 50)),
    Geometry((4, 40), (3, 9), (1, 2), pads=(4, 60, 3, 90)),
    Geometry((12, 160), (3, 5), (2, 2), (3, 2), pads=(4, 5, 6, 7)),
]


def room(channels: int, geometry: Geometry) -> int:
    """Floats that the phases and the last columns fit into, for vectors of up to 16 floats."""
    wide = geometry.output[1] + (geometry.kernel[1] - 1) * geometry.dilations[1] + 32
    phases = min(geometry.strides[1], (geometry.kernel[1] - 1) * geometry.dilations[1] + 1)
    return channels * geometry.kernel[0] * (phases * wide + 16 * geometry.kernel[1])


@pytest.mark.parametrize("geometry", WIDE, ids=str)
@pytest.mark.parametrize(("groups", "channels", "outputs"), [(1, 3, 40), (2, 2, 64), (1, 4, 33)])
def test_rows_in_phases(rng: np.random.Generator, geometry: Geometry, groups: int, channels: int, outputs: int) -> None:
    """The bits are those of columns that are laid out, for which scratch memory of the least size has room alone."""
    n, taps = 2, math.prod(geometry.kernel)
    x = rng.normal(size=(n, groups * channels, *geometry.input)).astype(np.float32)
    w = rng.normal(size=(groups * outputs, channels, *geometry.kernel)).astype(np.float32)
    bias = rng.normal(size=len(w)).astype(np.float32)
    residual = rng.normal(size=(n, len(w), *geometry.output)).astype(np.float32)
    windows = geometry.taps(x, 0).reshape(n, groups, channels, math.prod(geometry.output), taps)
    sums = np.einsum("ngcpk,gock->ngop", windows, w.reshape(groups, outputs, channels, taps).astype(np.float64))
    expected = np.maximum(sums.reshape(residual.shape) + bias[:, None, None] + residual, 0)

    def bind(seat: int, seats: int, x: Floats, residual: Floats | None, y: Floats) -> Convolution:
        scratch = np.full((seats, seat), np.nan, np.float32)
        return Convolution(x, w, bias, residual, y, geometry.window(), groups, scratch, *RELU)

    found = []
    for seat in (CONV_COLUMNS * channels * taps, room(channels, geometry)):
        for seats in (1, 2):
            y = np.full(residual.shape, 7, np.float32)
            bind(seat, seats, x, residual, y)(0, len(w))
            np.testing.assert_allclose(y, expected, atol=3e-6 * float(np.abs(sums).max()))
            found.append(y)
        for layout in LAYOUTS[:-1]:  # the last is for one sample
            cut = Cut((3, 1, 5), (layout, layout, layout), 1, 1)
            found.append(by_bands(partial(bind, seat, 2), geometry, cut, x, residual, len(w)))
    assert len({y.tobytes() for y in found}) == 1

    y = np.full(residual.shape, 7, np.float32)  # a tile that begins and ends within a group
    bind(room(channels, geometry), 2, x, residual, y)(1, len(w) - 2)
    assert y[:, 1:-2].tobytes() == found[0][:, 1:-2].tobytes()
    assert (y[:, [0, -2, -1]] == 7).all()


def test_nan_reaches_the_outputs_that_read_it(rng: np.random.Generator) -> None:
    geometry = Geometry((9, 224), (3, 3), (2, 2), pads=(1, 1, 1, 1))
    x, w = rng.normal(size=(1, 3, 9, 224)).astype(np.float32), rng.normal(size=(40, 3, 3, 3)).astype(np.float32)
    x[0, 1, 4, 63] = np.nan
    y = np.empty((1, 40, 5, 112), np.float32)
    scratch = np.full((1, room(3, geometry)), np.nan, np.float32)
    Convolution(x, w, None, None, y, geometry.window(), 1, scratch, *RELU)(0, 40)
    rows, columns = np.nonzero(np.isnan(y[0, 0]))
    assert {*zip(rows.tolist(), columns.tolist(), strict=True)} == {(2, 31), (2, 32)}
    assert np.isnan(y[0, :, 2, 31:33]).all()


def beside_fences(geometry: Geometry, fenced: Fenced) -> None:
    """With room for the phases, and with the least scratch memory, which has none."""
    channels, outputs = 3, 40
    x, w = fenced(2, channels, *geometry.input), fenced(outputs, channels, *geometry.kernel)
    y, bias = fenced(2, outputs, *geometry.output), fenced(outputs)
    for seat in (room(channels, geometry), CONV_COLUMNS * channels * math.prod(geometry.kernel)):
        Convolution(x, w, bias, None, y, geometry.window(), 1, fenced(1, seat), *RELU)(0, outputs)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("geometry", WIDE, ids=str)
def test_rows_beside_forbidden_pages(geometry: Geometry, at_end: bool) -> None:
    assert exit_code_of(partial(beside_fences, geometry, Fenced(at_end))) == 0
