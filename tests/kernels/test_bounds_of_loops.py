"""As test_bounds.py, for the loops of kernels that need more channels, more terms, longer rows, or groups."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import pytest

from kernels.calls import average_pool, conv, dense, depthwise, row_max, row_mean, winograd
from kernels.fences import Fenced, exit_code_of, planes_of, weights_in
from kernels.geometry import Geometry
from streamrt import _core
from streamrt._core import ACTIVATIONS

TANH = (ACTIVATIONS["Tanh"], 0, 0)
#: Every way in which weights are coded. The integers have scales for whole rows or for blocks.
CODINGS = [
    ("F16", None, False),
    ("BF16", None, False),
    ("int8", None, False),
    ("int8", 32, False),
    ("int8", 32, True),
    ("int4", None, False),
    ("int4", 16, True),
]
Case = Callable[[Fenced], None]


def same(height: int, width: int, kernel: int) -> Geometry:
    """A window with outputs of the same size as its inputs."""
    return Geometry((height, width), (kernel, kernel), pads=(kernel // 2,) * 4)


def small_planes(fenced: Fenced) -> None:
    """Channels lie across the lanes: fewer than a vector has lanes, as many, and one or more than one more."""
    sizes = ((4, 1), (5, 2), (4, 3), (4, 4), (3, 5), (6, 6), (7, 7), (8, 8))
    for (height, width), kernel, channels in product(sizes, (3, 5, 7), (3, 4, 8, 16, 17, 40)):
        x, y = fenced(2, channels, height, width), fenced(2, channels, height, width)
        w, window = fenced(channels, kernel, kernel), same(height, width, kernel).window()
        depthwise(x, w, fenced(channels), y, window, 0, channels, *TANH)


def bands_of_small_planes(fenced: Fenced) -> None:
    """Arrays have the rows of a band alone, with and without gaps between the rows."""
    for side, channels, gap in product((2, 4, 7), (16, 33), (0, 5)):
        window = same(side, side, 3).window()
        for first, last in ((0, 1), (side // 2, side)):
            held = window.rows_read(first, last)
            x = planes_of(fenced, channels, held[1] - held[0], side, gap)
            y, bias = planes_of(fenced, channels, last - first, side, gap), fenced(channels)
            kernel = _core.Depthwise(x, fenced(channels, 3, 3), bias, y, window, *TANH)
            _core.Band(kernel, first, last, held)(0, channels)


def multiplied_channels(fenced: Fenced) -> None:
    """Each input channel has several output channels. The last call computes only some of them."""
    for side, kernel, multiplier in product((4, 7, 33), (3, 5), (2, 3)):
        window, outputs = same(side, side, kernel).window(), 5 * multiplier
        x, y = fenced(2, 5, side, side), fenced(2, outputs, side, side)
        for first, last in ((0, outputs), (3, outputs - 1)):
            depthwise(x, fenced(outputs, kernel, kernel), fenced(outputs), y, window, first, last, *TANH)


def groups(fenced: Fenced) -> None:
    """Several samples, and channels in groups. Scratch is as small as it may be."""
    geometries = (same(9, 31, 3), Geometry((7, 7), (1, 1)), Geometry((9, 83), (3, 3), (2, 2), pads=(1,) * 4))
    for count, (channels, outputs), geometry in product((2, 3), ((1, 5), (4, 7), (70, 33)), geometries):
        x, w = fenced(2, count * channels, *geometry.input), fenced(count * outputs, channels, *geometry.kernel)
        y, residual = (fenced(2, count * outputs, *geometry.output) for _ in range(2))
        scratch = fenced(1, 32 * min(channels * int(np.prod(geometry.kernel)), _core.CONV_DEPTH))
        bias, window = fenced(count * outputs), geometry.window()
        conv(x, w, bias, residual, y, window, count, 0, count * outputs, scratch, *TANH)


def groups_by_winograd(fenced: Fenced) -> None:
    """Channels in groups, of many tiles and of few."""
    for n, channels, outputs, side in ((1, 64, 40, 29), (2, 128, 208, 7)):
        window = same(side, side, 3).window()
        seat = _core.winograd_seat(n, channels, outputs, window)
        assert seat > 0
        x, w = fenced(n, 2 * channels, side, side), fenced(2 * outputs, channels, 3, 3)
        y, residual = (fenced(n, 2 * outputs, side, side) for _ in range(2))
        scratch = fenced(1, seat)
        winograd(x, w, fenced(2 * outputs), residual, y, window, 2, 0, 2 * outputs, scratch, *TANH)


def scales_of_samples(fenced: Fenced) -> None:
    """The inputs are scaled by a number for each sample and channel."""
    for extents, channels in product(((1, 16), (6, 9), (7, 7)), (20, 600)):
        x, w, y = fenced(3, channels, *extents), fenced(31, channels, 1, 1), fenced(3, 31, *extents)
        scratch = fenced(1, 32 * min(channels, _core.CONV_DEPTH))
        scaling = {"scale": fenced(3, channels), "shift": fenced(channels), "low": 0.0, "high": 6.0}
        conv(x, w, fenced(31), None, y, Geometry(extents, (1, 1)).window(), 1, 0, 31, scratch, *TANH, **scaling)


def long_products(fenced: Fenced) -> None:
    """Sums of several blocks of terms, for every number of samples."""
    for batch, inner, rows in product(range(1, _core.DENSE_BATCH + 1), (385, 512, 600, 1040), (1, 13)):
        x, y = fenced(batch, -(-inner // 16) * 16), fenced(batch, rows)
        dense(fenced(rows, inner), x, y, fenced(rows), *TANH)


def coded_products(fenced: Fenced) -> None:
    """Up to 4 samples have loops of their own. They end with a pair of chunks, or before it."""
    sizes = product(CODINGS, range(1, _core.DENSE_BATCH + 1), (32, 100, 602))
    for coding, batch, inner in sizes:
        x, w, y = fenced(batch, -(-inner // 16) * 16), weights_in(fenced, coding, 12, inner), fenced(batch, 12)
        dense(w, x, y, fenced(12), *TANH)


def smallest_block(fenced: Fenced) -> None:
    """A block has room for the products of one row of the weights."""
    for batch, inner in product((16, 40), (33, 600)):
        x, w, y, panels = fenced(batch, inner), fenced(17, inner), fenced(batch, 17), 32 * min(inner, _core.CONV_DEPTH)
        _core.Gemm(x, w, fenced(17), y, fenced(batch), fenced(1, panels), *TANH)(0, 17)


def long_checksums(fenced: Fenced) -> None:
    """From 12 KiB on three strips are read together. Some arrays begin or end within a word."""
    for floats in (3071, 3072, 3073, 3 * 3072, 9 * 4096 + 1):
        data = fenced(floats).view(np.uint8)
        for view in (data, data[1:], data[:-1]):
            _core.crc32c(view)


def long_rows(fenced: Fenced) -> None:
    """Rows that are added up in several pieces. Their pieces are whole, or one shorter or longer."""
    for size in (511, 513, 1023, 1024, 1025, 2049):
        row_mean(fenced(3, size), fenced(3))
        row_max(fenced(3, size), fenced(3))
        for numbers in (2, 6):  # one or three float64
            _core.plane_sums(fenced(2, 3, size), fenced(2, numbers).view(np.float64), True)
        for shape in ((3, size, 1), (2, 3, size)):
            _core.softmax(fenced(*shape), fenced(*shape), True)
    for inner in (5, 40):
        _core.lrn(fenced(1, 7, inner), fenced(1, 7, inner), 5, 1, 1, 1)
    for geometry in (same(7, 7, 3), Geometry((9, 83), (3, 3), (2, 2), pads=(1,) * 4)):
        average_pool(fenced(3, *geometry.input), fenced(3, *geometry.output), geometry.window(), False)


CASES: list[Case] = [
    small_planes,
    bands_of_small_planes,
    multiplied_channels,
    groups,
    groups_by_winograd,
    scales_of_samples,
    long_products,
    coded_products,
    smallest_block,
    long_checksums,
    long_rows,
]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_loops_beside_forbidden_pages(case: Case, at_end: bool) -> None:
    assert exit_code_of(partial(case, Fenced(at_end))) == 0
