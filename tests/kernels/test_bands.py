"""Bands of rows: each has the bits that its rows have without bands, wherever rows lie in memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.bands import LAYOUTS, Bind, Cut, Floats, by_bands
from kernels.geometry import Geometry
from streamrt import _core
from streamrt._core import (
    ACTIVATIONS,
    CONV_COLUMNS,
    CONV_DEPTH,
    AveragePool,
    Band,
    Convolution,
    Depthwise,
    MaxPool,
    MoveRows,
    conv_sums,
    winograd_seat,
)

ACTS = ((ACTIVATIONS["Identity"], 0, 0), (ACTIVATIONS["Relu"], 0, 0), (ACTIVATIONS["Swish"], 1, 0))


@st.composite
def geometries(draw: Callable[..., Any]) -> Geometry:
    """Windows up to 7 x 7 over small planes."""
    sizes = {
        "input": (draw(st.integers(1, 19)), draw(st.integers(1, 40))),
        "kernel": (draw(st.integers(1, 7)), draw(st.integers(1, 7))),
        "strides": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        "dilations": (draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        "pads": tuple(draw(st.integers(0, 4)) for _ in range(4)),
    }
    if draw(st.booleans()):  # the windows that have loops of their own
        side, step = draw(st.sampled_from((1, 3, 5, 7))), draw(st.sampled_from((1, 2)))
        sizes |= {"kernel": (side, side), "strides": (step, step), "dilations": (1, 1), "pads": (side // 2,) * 4}
    return Geometry(**sizes, ceil=draw(st.booleans()))


@st.composite
def cuts(draw: Callable[..., Any], n: int) -> Cut:
    """Bands of any heights, of ``n`` samples."""
    layouts = st.sampled_from(LAYOUTS if n == 1 else LAYOUTS[:-1])
    return Cut(
        tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))),
        (draw(layouts), draw(layouts), draw(layouts)),
        draw(st.integers(0, 2)),
        draw(st.integers(0, 2)),
    )


def normal(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.normal(size=shape).astype(np.float32)


def activated(sums: Any, act: tuple[int, float, float]) -> Any:
    """One of ACTS in float64."""
    if act == ACTS[2]:
        return sums / (1 + np.exp(-sums))
    return np.maximum(sums, 0) if act == ACTS[1] else sums


def convolution(
    geometry: Geometry, w: Floats, bias: Floats | None, groups: int, act: tuple[int, float, float], **options: Any
) -> Bind:
    """Binds a `Convolution` with little scratch memory, full of NaN."""
    window, depth = geometry.window(), min(CONV_DEPTH, w.shape[1] * math.prod(geometry.kernel))
    seat = options.pop("seat", 2 * CONV_COLUMNS * depth)

    def bind(x: Floats, residual: Floats | None, y: Floats) -> Convolution:
        scratch = np.full((3, seat), np.nan, np.float32)
        return Convolution(x, w, bias, residual, y, window, groups, scratch, *act, **options)

    return bind


def at_once(bind: Bind, geometry: Geometry, x: Floats, residual: Floats | None, channels: int) -> Floats:
    """The output of a kernel with all rows in memory."""
    y = np.full((len(x), channels, *geometry.output), 7, np.float32)
    bind(x, residual, y)(0, channels)
    return y


@given(st.data())
def test_convolutions(data: st.DataObject) -> None:
    geometry, n = data.draw(geometries()), data.draw(st.integers(1, 2))
    groups, channels, outputs = (
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 5)),
        data.draw(st.integers(1, 17)),
    )
    cut, act, extras = data.draw(cuts(n)), data.draw(st.sampled_from(ACTS)), data.draw(st.booleans())
    _core.set_threads(data.draw(st.integers(1, 3)))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    x, w = normal(rng, n, groups * channels, *geometry.input), normal(rng, groups * outputs, channels, *geometry.kernel)
    bias = normal(rng, len(w)) if extras else None
    residual = normal(rng, n, len(w), *geometry.output) if extras else None
    bind = convolution(geometry, w, bias, groups, act)
    whole = at_once(bind, geometry, x, residual, len(w))
    windows = geometry.taps(x, 0).reshape(n, groups, channels, math.prod(geometry.output), math.prod(geometry.kernel))
    sums = np.einsum("ngcpk,gock->ngop", windows, w.reshape(groups, outputs, channels, -1).astype(np.float64))
    sums = sums.reshape(whole.shape)
    if bias is not None and residual is not None:
        sums = sums + bias[:, None, None] + residual
    np.testing.assert_allclose(whole, activated(sums, act), atol=3e-6 * max(1.0, float(np.abs(sums).max(initial=0))))
    assert by_bands(bind, geometry, cut, x, residual, len(w)).tobytes() == whole.tobytes()


@given(st.data())
def test_depthwise_convolutions(data: st.DataObject) -> None:
    geometry, n = data.draw(geometries()), data.draw(st.integers(1, 2))
    channels, multiplier = data.draw(st.sampled_from((1, 3, 17, 19))), data.draw(st.integers(1, 2))
    cut, act, biased = data.draw(cuts(n)), data.draw(st.sampled_from(ACTS)), data.draw(st.booleans())
    _core.set_threads(data.draw(st.integers(1, 3)))
    rng, outputs, window = np.random.default_rng(1), channels * multiplier, geometry.window()
    x, w = normal(rng, n, channels, *geometry.input), normal(rng, outputs, *geometry.kernel)
    bias = normal(rng, outputs) if biased else None

    def bind(x: Floats, residual: Floats | None, y: Floats) -> Depthwise:
        return Depthwise(x, w, bias, y, window, *act)

    whole = at_once(bind, geometry, x, None, outputs)
    windows = geometry.taps(x.repeat(multiplier, axis=1), 0)
    sums = np.einsum("nchwk,ck->nchw", windows, w.reshape(outputs, -1).astype(np.float64))
    sums = sums if bias is None else sums + bias[:, None, None]
    np.testing.assert_allclose(whole, activated(sums, act), atol=1e-5)
    assert by_bands(bind, geometry, cut, x, None, outputs).tobytes() == whole.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (7, 7), (9, 4), (32, 2), (8, 8)], ids=str)
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_small_planes_of_depthwise_convolutions(rng: np.random.Generator, kernel: int, size: tuple[int, int]) -> None:
    """Channels lie across the lanes. An infinite weight gives NaN with padding that is multiplied, in bands as well."""
    geometry = Geometry(size, (kernel, kernel), pads=(kernel // 2,) * 4)
    x, w, window = normal(rng, 1, 35, *size), normal(rng, 35, kernel, kernel), geometry.window()
    w[3, 0, 0] = np.inf

    def bind(x: Floats, residual: Floats | None, y: Floats) -> Depthwise:
        return Depthwise(x, w, None, y, window, *ACTS[2])

    whole = at_once(bind, geometry, x, None, 35)
    for layout in LAYOUTS:
        for heights in ((1,), (2, 3), (5,), (64,)):
            cut = Cut(heights, (layout, layout, layout), 1, 1)
            assert by_bands(bind, geometry, cut, x, None, 35).tobytes() == whole.tobytes()


@given(st.data())
def test_pooling(data: st.DataObject) -> None:
    geometry, cut = data.draw(geometries()), data.draw(cuts(1))
    include, most = data.draw(st.booleans()), data.draw(st.booleans())
    _core.set_threads(data.draw(st.integers(1, 3)))
    x, window = normal(np.random.default_rng(2), 1, 3, *geometry.input), geometry.window()

    def bind(x: Floats, residual: Floats | None, y: Floats) -> MaxPool | AveragePool:
        return MaxPool(x[0], y[0], window) if most else AveragePool(x[0], y[0], window, include)

    whole = at_once(bind, geometry, x, None, 3)
    if most:
        np.testing.assert_array_equal(whole, geometry.taps(x, -np.inf).max(axis=-1, initial=-np.inf))
    else:
        sums = geometry.taps(x, 0).sum(axis=-1)
        np.testing.assert_allclose(whole, sums / np.maximum(1, geometry.counts(include)), atol=1e-6)
    assert by_bands(bind, geometry, cut, x, None, 3).tobytes() == whole.tobytes()


@pytest.mark.parametrize("positions", range(1, 36))
def test_the_last_columns_of_a_picture_are_dot_products_in_any_band(rng: np.random.Generator, positions: int) -> None:
    """Columns behind the last whole vector are added up in another order, whether they end a band or not."""
    for width in {1, 2, 3, 5, 7, positions}:
        geometry = Geometry((-(-positions // width), width), (3, 3), pads=(1, 1, 1, 1))
        x, w, residual = (
            normal(rng, 1, 9, *geometry.input),
            normal(rng, 15, 9, 3, 3),
            normal(rng, 1, 15, *geometry.input),
        )
        for least in (1, 2):  # blocks of columns
            bind = convolution(geometry, w, None, 1, ACTS[1], seat=least * CONV_COLUMNS * 81)
            whole = at_once(bind, geometry, x, residual, 15)
            for cut in (Cut((1,)), Cut((4, 3)), Cut((17,), ("dense", "dense", "rows apart"))):
                assert by_bands(bind, geometry, cut, x, residual, 15).tobytes() == whole.tobytes()


@pytest.mark.parametrize("size", [(14, 14), (9, 11), (23, 17)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_long_sums_and_a_scaled_input(rng: np.random.Generator, size: tuple[int, int], layout: str) -> None:
    """Sums in several parts, of which two threads may compute two, with and without a scale of the input."""
    channels = 600
    x, w, bias = normal(rng, 1, channels, *size), normal(rng, 40, channels, 1, 1), normal(rng, 40)
    geometry, residual = Geometry(size, (1, 1)), normal(rng, 1, 40, *size)
    scaling = {"scale": normal(rng, channels), "shift": normal(rng, channels), "low": -1.0, "high": 2.0}
    floats = conv_sums(1, 1, channels, 40, geometry.window())
    assert (floats > 0) == (size != (23, 17))
    for options in ({}, scaling):
        found = []
        for threads in (1, 2, 3):
            _core.set_threads(threads)
            sums = np.full(floats, np.nan, np.float32) if floats else None
            bind = convolution(geometry, w, bias, 1, ACTS[2], sums=sums, **options)
            found.append(at_once(bind, geometry, x, residual, 40))
            cut = Cut((4, 1, 3), (layout, layout, layout), 1)
            found.append(by_bands(bind, geometry, cut, x, residual, 40))
        assert len({y.tobytes() for y in found}) == 1


def test_a_residual_that_is_the_output(rng: np.random.Generator) -> None:
    geometry = Geometry((12, 21), (3, 3), pads=(1, 1, 1, 1))
    x, w, residual = normal(rng, 1, 5, 12, 21), normal(rng, 8, 5, 3, 3), normal(rng, 1, 8, 12, 21)
    bind = convolution(geometry, w, None, 1, ACTS[1])
    whole, y = at_once(bind, geometry, x, residual, 8), residual.copy()
    kernel = bind(x, y, y)
    with pytest.raises(ValueError, match="residual 3 and y 4"):
        Band(kernel, 0, 4, (0, 12), y=4, residual=3)
    for first in range(0, 12, 4):
        Band(kernel, first, first + 4, (0, 12), y=first, residual=first)(0, 8)
    assert y.tobytes() == whole.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("channels", "outputs", "size", "pads"),
    [(64, 40, (30, 29), (1, 1, 1, 1)), (150, 33, (18, 35), (0, 2, 1, 0)), (128, 200, (7, 7), (1, 1, 1, 1))],
)
def test_winograd(
    rng: np.random.Generator, channels: int, outputs: int, size: tuple[int, int], pads: tuple[int, ...], layout: str
) -> None:
    """Bands of whole tiles have the same bits. Others have errors of the same size. At 7 x 7 tiles are few."""
    geometry = Geometry(size, (3, 3), pads=pads)
    seat = winograd_seat(1, channels, outputs, geometry.window())
    assert seat > 0
    x, w, bias = normal(rng, 1, channels, *size), normal(rng, outputs, channels, 3, 3), normal(rng, outputs)
    residual = normal(rng, 1, outputs, *geometry.output)
    bind = convolution(geometry, w, bias, 1, ACTS[2], seat=seat, winograd=True)
    whole = at_once(bind, geometry, x, residual, outputs)
    windows = geometry.taps(x, 0).transpose(0, 2, 3, 1, 4).reshape(*geometry.output, -1)
    sums = (windows @ w.reshape(outputs, -1).T.astype(np.float64)).transpose(2, 0, 1)
    rms = float(np.sqrt((sums**2).mean()))
    expected = activated(sums + bias[:, None, None] + residual, ACTS[2])
    np.testing.assert_allclose(whole, expected, atol=4e-5 * rms)
    for heights in ((4,), (8, 4), (12,)):
        for more in (0, 3):
            cut = Cut(heights, (layout, layout, layout), 1, more)
            assert by_bands(bind, geometry, cut, x, residual, outputs).tobytes() == whole.tobytes()
    for heights in ((3,), (5, 1), (6, 7)):
        found = by_bands(bind, geometry, Cut(heights, (layout, layout, layout)), x, residual, outputs)
        np.testing.assert_allclose(found, expected, atol=4e-5 * rms)


def test_winograd_of_samples_and_groups(rng: np.random.Generator) -> None:
    geometry = Geometry((22, 31), (3, 3), pads=(1, 1, 1, 1))
    x, w = normal(rng, 2, 2 * 40, 22, 31), normal(rng, 2 * 33, 40, 3, 3)
    residual, seat = normal(rng, 2, 66, 22, 31), winograd_seat(2, 40, 33, geometry.window())
    bind = convolution(geometry, w, None, 2, ACTS[1], seat=seat, winograd=True)
    for threads in (1, 3):
        _core.set_threads(threads)
        whole = at_once(bind, geometry, x, residual, 66)
        for layouts in (("dense", "planes apart", "rows apart"), ("rows apart", "dense", "planes apart")):
            assert by_bands(bind, geometry, Cut((8,), layouts, 2), x, residual, 66).tobytes() == whole.tobytes()


def test_a_band_without_rows_writes_nothing() -> None:
    geometry = Geometry((6, 9), (3, 3), pads=(1, 1, 1, 1))
    x, w, y = np.ones((1, 2, 6, 9), "f"), np.ones((2, 3, 3), "f"), np.zeros((1, 2, 6, 9), "f")
    for kernel in (Depthwise(x, w, None, y, geometry.window(), *ACTS[1]), MaxPool(x[0], y[0], geometry.window())):
        for first in (0, 3, 6):
            Band(kernel, first, first, (2, 2), x=6, y=6)(0, 2)
    assert (y == 0).all()


def test_a_band_keeps_what_its_kernel_keeps() -> None:
    geometry = Geometry((4, 9), (1, 1))
    x, w, y = np.ones((1, 2, 4, 9), "f"), np.ones((2, 1, 1), "f"), np.zeros((1, 2, 4, 9), "f")
    source, bias = np.full(2, 5, np.float32), np.zeros(2, np.float32)
    kernel = Depthwise(x, w, bias, y, geometry.window(), *ACTS[0])
    kernel.keep(source, bias)
    band = Band(kernel, 1, 3, (0, 4), y=1)
    del kernel
    band(1, 2)
    assert (y[0, 1, 1:3] == 1).all()
    band(0, 2)
    assert (y[0, :, 1:3] == 6).all()
    assert (y[0, :, [0, 3]] == 0).all()


def test_bands_in_the_steps_of_a_pass(rng: np.random.Generator, tmp_path: Path) -> None:
    """Two layers depth first, whose steps were made before the pass. Memory between them has room for a few rows."""
    height, width, side = 20, 13, 4
    geometry = Geometry((height, width), (3, 3), pads=(1, 1, 1, 1))
    x, w = normal(rng, 1, 3, height, width), (normal(rng, 5, 3, 3, 3), normal(rng, 4, 5, 3, 3))
    first, second = (convolution(geometry, weights, None, 1, ACTS[1]) for weights in w)
    expected = at_once(second, geometry, at_once(first, geometry, x, None, 5), None, 4)
    window, y = geometry.window(), np.zeros((1, 4, height, width), np.float32)
    # The rows that a band of the second layer reads are side + 2. The next band reads two of them again, so that rows
    # move up by `side`. They do it when the memory is full.
    room = 2 * side + 2
    between = np.full((1, 5, room, width), np.nan, np.float32)
    one, two = first(x, None, between), second(between, None, y)
    move = MoveRows(between)
    steps, top, made = [], 0, 0  # the picture's row in row 0 of the memory, and the rows that are made
    for row in range(0, height, side):
        read = window.rows_read(row, row + side)
        if read[1] - top > room:
            shift = partial(move, read[0] - top, 0, made - read[0])
            steps.append(_core.Step(0, (), lambda first, last, shift=shift: shift(), 0, 1, ()))
            top = read[0]
        steps.append(_core.Step(0, (), Band(one, made, read[1], (0, height), y=made - top), 0, 5, ()))
        steps.append(_core.Step(0, (), Band(two, row, row + side, read, x=read[0] - top, y=row), 0, 4, ()))
        made = read[1]
    (tmp_path / "weights").write_bytes(bytes(4096))
    with _core.Mapping(tmp_path / "weights") as mapping, _core.Prefetcher(mapping) as prefetcher:
        for _ in range(2):
            y[:] = 0
            prefetcher.schedule([], 4096, 4096)
            _core.run_steps(steps, prefetcher)
            assert y.tobytes() == expected.tobytes()
