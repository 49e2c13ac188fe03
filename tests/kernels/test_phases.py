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
from streamrt import _core
from streamrt._core import ACTIVATIONS, CONV_COLUMNS, Convolution

RELU, SWISH = (ACTIVATIONS["Relu"], 0.0, 0.0), (ACTIVATIONS["Swish"], 1.0, 0.0)
Floats = NDArray[np.float32]
#: Rows end with whole vectors, or with a part of one. Some vectors have padding alone.
WIDE = [
    Geometry((19, 224), (7, 7), (2, 2), pads=(3, 3, 3, 3)),
    Geometry((9, 127), (3, 3), (2, 2), pads=(1, 1, 1, 1)),
    Geometry((7, 257), (3, 3), (2, 2)),
    Geometry((9, 130), (3, 3), pads=(1, 1, 1, 1)),
    Geometry((8, 288), (3, 5), (3, 3), pads=(0, 1, 2, 1)),
    Geometry((6, 223), (5, 5), (1, 2), (1, 3), pads=(2, 6, 2, 6)),
    Geometry((7, 150), (1, 9), pads=(0, 4, 0, 4)),
    Geometry((30, 262), (11, 11), (4, 4), pads=(2, 2, 2, 2)),
    Geometry((5, 140), (3, 3), pads=(0, 70, 0, 50)),
    Geometry((6, 40), (3, 9), (1, 2), pads=(4, 60, 2, 90)),
    Geometry((12, 191), (3, 5), (2, 2), (3, 2), pads=(4, 4, 6, 4)),
    Geometry((6, 1048), (2, 40), (1, 16)),
    Geometry((3, 140), (2, 3), dilations=(2**30 - 1, 1), pads=(0, 1, 2**30 - 1, 1)),
]


def least(channels: int, geometry: Geometry) -> int:
    """The fewest floats of scratch memory, in which columns are laid out."""
    return CONV_COLUMNS * channels * math.prod(geometry.kernel)


def room(channels: int, geometry: Geometry, isa: str = "avx512") -> int:
    """The floats of all phases, and of the columns behind the last whole vector of a picture."""
    lanes = {"avx512": 16, "avx2": 8}.get(isa, 4)
    reach = (geometry.kernel[1] - 1) * geometry.dilations[1]
    pitch = -(-geometry.output[1] // lanes) * lanes + -(-reach // geometry.strides[1] // lanes) * lanes
    phases = min(geometry.strides[1], reach + 1)
    return channels * geometry.kernel[0] * (phases * pitch + 16 * geometry.kernel[1])


def are_phases(scratch: Floats, x: Floats, geometry: Geometry) -> bool:
    """Whether scratch memory begins with a sorted row: the first that the last output row of ``x`` (h, w) reads."""
    row = (geometry.output[0] - 1) * geometry.strides[0] - geometry.pads[0]
    columns = np.arange(geometry.output[1]) * geometry.strides[1] - geometry.pads[1]
    inside = (columns >= 0) & (columns < x.shape[1]) & (row < x.shape[0])
    expected = np.where(inside, x[min(row, x.shape[0] - 1), columns.clip(0, x.shape[1] - 1)], 0)
    return np.array_equal(scratch[: len(expected)], expected)


@pytest.mark.parametrize("geometry", WIDE, ids=str)
@pytest.mark.parametrize(("groups", "channels", "outputs"), [(1, 3, 40), (2, 2, 64), (1, 2, 33)])
def test_rows_in_phases(
    rng: np.random.Generator, isa: str, geometry: Geometry, groups: int, channels: int, outputs: int
) -> None:
    """The bits are those of columns that are laid out."""
    n, taps = 2, math.prod(geometry.kernel)
    x = rng.normal(size=(n, groups * channels, *geometry.input)).astype(np.float32)
    w = rng.normal(size=(groups * outputs, channels, *geometry.kernel)).astype(np.float32)
    bias = rng.normal(size=len(w)).astype(np.float32)
    residual = rng.normal(size=(n, len(w), *geometry.output)).astype(np.float32)
    windows = geometry.taps(x, 0).reshape(n, groups, channels, math.prod(geometry.output), taps)
    sums = np.einsum("ngcpk,gock->ngop", windows, w.reshape(groups, outputs, channels, taps).astype(np.float64))
    expected = np.maximum(sums.reshape(residual.shape) + bias[:, None, None] + residual, 0)

    def bind(scratch: Floats, x: Floats, residual: Floats | None, y: Floats) -> Convolution:
        return Convolution(x, w, bias, residual, y, geometry.window(), groups, scratch, *RELU)

    found = []
    for seat in (least(channels, geometry), room(channels, geometry, isa)):
        for seats in (1, 2):
            scratch, y = np.full((seats, seat), np.nan, np.float32), np.full(residual.shape, 7, np.float32)
            bind(scratch, x, residual, y)(0, len(w))
            np.testing.assert_allclose(y, expected, atol=3e-6 * float(np.abs(sums).max()))
            if seats == 1:
                assert are_phases(scratch[0], x[-1, -channels], geometry) == (seat > least(channels, geometry))
            found.append(y)
        for layout in LAYOUTS[:-1]:  # the last is for one sample
            scratch, cut = np.full((2, seat), np.nan, np.float32), Cut((3, 1, 5), (layout, layout, layout), 1, 1)
            found.append(by_bands(partial(bind, scratch), geometry, cut, x, residual, len(w)))
    assert len({y.tobytes() for y in found}) == 1

    y = np.full(residual.shape, 7, np.float32)  # a tile that begins and ends within a group
    bind(scratch, x, residual, y)(1, len(w) - 2)
    assert y[:, 1:-2].tobytes() == found[0][:, 1:-2].tobytes()
    assert (y[:, [0, -2, -1]] == 7).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lines_in_blocks(rng: np.random.Generator, layout: str) -> None:
    """A line that several threads share, of one sample whose residual is the output."""
    geometry = Geometry((2, 2001), (1, 9), pads=(0, 4, 0, 4))
    x, w = rng.normal(size=(1, 4, 2, 2001)).astype(np.float32), rng.normal(size=(64, 4, 1, 9)).astype(np.float32)
    residual = rng.normal(size=(1, 64, 2, 2001)).astype(np.float32)
    cut, found = Cut((1,), (layout, layout, layout), 1, 1), []
    for seat in (least(4, geometry), room(4, geometry)):
        for threads in (1, 2, 3):
            _core.set_threads(threads)
            scratch, y = np.full((3, seat), np.nan, np.float32), residual.copy()
            Convolution(x, w, None, y, y, geometry.window(), 1, scratch, *SWISH)(0, 64)

            def bind(x: Floats, residual: Floats | None, y: Floats, scratch: Floats = scratch) -> Convolution:
                return Convolution(x, w, None, residual, y, geometry.window(), 1, scratch, *SWISH)

            found += [y, by_bands(bind, geometry, cut, x, residual, 64)]
    assert len({y.tobytes() for y in found}) == 1


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_volumes_of_one_output_plane(rng: np.random.Generator, depth: int) -> None:
    geometry = Geometry((depth, 6, 126), (1, 3, 3), (2, 2, 2), pads=(0, 1, 1, max(0, 1 - depth), 1, 1))
    assert geometry.output == (1, 3, 63)
    x, w = rng.normal(size=(1, 3, *geometry.input)).astype(np.float32), rng.normal(size=(40, 3, 1, 3, 3))
    y, scratch = np.empty((1, 40, 1, 3, 63), np.float32), np.full((1, 4096), np.nan, np.float32)
    bias = rng.normal(size=40).astype(np.float32)
    Convolution(x, w.astype(np.float32), bias, None, y, geometry.window(), 1, scratch, *RELU)(0, 40)
    windows = geometry.taps(x, 0).reshape(3, 3 * 63, 9)
    sums = np.einsum("cpk,ock->op", windows, w.reshape(40, 3, 9)).reshape(y.shape)
    np.testing.assert_allclose(y, np.maximum(sums + bias[:, None, None, None], 0), atol=2e-5)


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


def beside_fences(geometry: Geometry, isa: str, fenced: Fenced) -> None:
    """With room for the phases, with one float less, and with the least scratch memory."""
    channels, outputs = 3, 40
    x, w = fenced(2, channels, *geometry.input), fenced(outputs, channels, *geometry.kernel)
    y, bias = fenced(2, outputs, *geometry.output), fenced(outputs)
    enough = room(channels, geometry, isa)
    for seat in (enough, enough - 1, least(channels, geometry)):
        if seat >= least(channels, geometry):
            Convolution(x, w, bias, None, y, geometry.window(), 1, fenced(1, seat), *RELU)(0, outputs)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("geometry", WIDE, ids=str)
def test_rows_beside_forbidden_pages(geometry: Geometry, at_end: bool, isa: str) -> None:
    assert exit_code_of(partial(beside_fences, geometry, isa, Fenced(at_end))) == 0
