"""No kernel reads or writes beyond its arrays, not even under a mask: they lie beside pages that cannot be touched."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest

from kernels.calls import average_pool, conv, dense, dense_wide, depthwise, max_pool, row_max, row_mean, winograd
from kernels.fences import Fenced, exit_code_of, planes_of, weights_in
from kernels.geometry import GEOMETRIES, VOLUMES, Geometry
from streamrt import _core
from streamrt._core import ACTIVATIONS

#: Windows over rows of several vectors. Some of the vectors are whole.
WIDE = [
    Geometry((9, 83), (kernel, kernel), (stride, stride), pads=(kernel // 2,) * 4)
    for kernel in (3, 5, 7)
    for stride in (1, 2)
]


def run_windows(fenced: Fenced, geometry: Geometry) -> None:
    window, output, kernel, act = geometry.window(), geometry.output, geometry.kernel, (ACTIVATIONS["Tanh"], 0, 0)
    x, w, y = fenced(1, 2, *geometry.input), fenced(17, 2, *kernel), fenced(1, 17, *output)
    scratch = fenced(1, 32 * min(2 * int(np.prod(kernel)), _core.CONV_DEPTH))
    conv(x, w, fenced(17), fenced(1, 17, *output), y, window, 1, 0, 17, scratch, *act)
    depthwise(x, fenced(2, *kernel), fenced(2), fenced(1, 2, *output), window, 0, 2, *act)
    max_pool(x[0], fenced(2, *output), window)
    average_pool(x[0], fenced(2, *output), window, True)


def run_bands(fenced: Fenced, geometry: Geometry, gap: int) -> None:
    """Arrays have the rows of a band alone."""
    window, (height, width), act = geometry.window(), geometry.output, (ACTIVATIONS["Tanh"], 0, 0)
    scratch = (1, 32 * min(2 * int(np.prod(geometry.kernel)), _core.CONV_DEPTH))
    for first, last in ((0, min(1, height)), (height // 3, height // 3 + min(2, height)), (height // 2, height)):
        held = window.rows_read(first, last)
        if held[0] == held[1] or first == last:
            continue
        x = planes_of(fenced, 2, held[1] - held[0], geometry.input[1], gap)
        y, residual = planes_of(fenced, 17, last - first, width, gap), planes_of(fenced, 17, last - first, width, gap)
        w = fenced(17, 2, *geometry.kernel)
        convolution = _core.Convolution(x, w, fenced(17), residual, y, window, 1, fenced(*scratch), *act)
        _core.Band(convolution, first, last, held)(0, 17)
        y = planes_of(fenced, 2, last - first, width, gap)
        _core.Band(_core.Depthwise(x, fenced(2, *geometry.kernel), None, y, window, *act), first, last, held)(0, 2)
        _core.Band(_core.MaxPool(x, y, window), first, last, held)(0, 1)
        _core.Band(_core.AveragePool(x, y, window, True), first, last, held)(0, 1)
        _core.MoveRows(y)(last - first - 1, 0, 1)


def run_winograd_bands(fenced: Fenced) -> None:
    for channels, outputs, extents, gap in ((64, 40, (30, 29), 0), (150, 33, (18, 35), 3), (128, 200, (7, 7), 0)):
        geometry, act = Geometry(extents, (3, 3), pads=(1, 1, 1, 1)), (ACTIVATIONS["Tanh"], 0, 0)
        window, (height, width) = geometry.window(), geometry.output
        seat = _core.winograd_seat(1, channels, outputs, window)
        assert seat > 0
        for first, last in ((0, 4), (4, 7), (3, 6), (height - 3, height)):
            held = window.rows_read(first, last)
            x = planes_of(fenced, channels, held[1] - held[0], width, gap)
            y, w = planes_of(fenced, outputs, last - first, width, gap), fenced(outputs, channels, 3, 3)
            residual = planes_of(fenced, outputs, last - first, width, gap)
            kernel = _core.Convolution(x, w, None, residual, y, window, 1, fenced(1, seat), *act, winograd=True)
            _core.Band(kernel, first, last, held)(0, outputs)


def run_pointwise(fenced: Fenced) -> None:
    for extents, columns in product(((1, 16), (4, 5), (6, 8), (8, 10)), (32, 64, 96)):
        window = Geometry(extents, (1, 1)).window()
        x, w, y = fenced(1, 9, *extents), fenced(31, 9, 1, 1), fenced(1, 31, *extents)
        for scale in (None, fenced(9)):
            scaling = {"scale": scale, "shift": scale, "low": 0.0, "high": 6.0} if scale is not None else {}
            conv(x, w, None, None, y, window, 1, 0, 31, fenced(1, columns * 9), ACTIVATIONS["Tanh"], 0, 0, **scaling)


def run_winograd(fenced: Fenced) -> None:
    for n, channels, outputs, extents, pads in (
        (2, 33, 31, (29, 31), (1, 1, 1, 1)),
        (1, 150, 40, (18, 14), (0, 0, 0, 0)),
        (1, 20, 60, (5, 203), (2, 0, 1, 1)),
        (1, 203, 201, (7, 7), (1, 1, 1, 1)),
        (1, 128, 208, (7, 7), (1, 1, 1, 1)),
        (1, 132, 91, (4, 30), (0, 1, 2, 1)),
        (2, 67, 83, (8, 6), (1, 1, 1, 2)),
    ):
        geometry = Geometry(extents, (3, 3), pads=pads)
        seat = _core.winograd_seat(n, channels, outputs, geometry.window())
        assert seat > 0
        x, w, y = fenced(n, channels, *extents), fenced(outputs, channels, 3, 3), fenced(n, outputs, *geometry.output)
        residual, scratch, act = fenced(*y.shape), fenced(1, seat), ACTIVATIONS["Tanh"]
        winograd(x, w, fenced(outputs), residual, y, geometry.window(), 1, 0, outputs, scratch, act, 0, 0)


def run_products(fenced: Fenced) -> None:
    act, before = (ACTIVATIONS["Tanh"], 0, 0), _core.threads()
    for batch in (1, 9, 17, 33, 36, 49, 64, 82):
        for inner, rows, columns in ((7, 5, 32), (600, 17, 32), (1024, 31, 96)):
            block, panels = fenced(batch * rows), fenced(1, columns * min(inner, _core.CONV_DEPTH))
            x, w, y = fenced(batch, inner), fenced(rows, inner), fenced(batch, rows)
            _core.Gemm(x, w, fenced(rows), y, block, panels, *act)(0, rows)
    window, channels = Geometry((7, 7), (1, 1)).window(), 2 * _core.CONV_DEPTH
    x, w, y = fenced(1, channels, 7, 7), fenced(190, channels, 1, 1), fenced(1, 190, 7, 7)
    scale, shift = fenced(channels), fenced(channels)
    try:
        for threads in (1, 2):  # a seat for each; the last seat ends at the fence
            _core.set_threads(threads)
            scratch, sums = fenced(threads, 32 * _core.CONV_DEPTH), fenced(190 * 49)
            conv(x, w, fenced(190), None, y, window, 1, 0, 190, scratch, *act, sums=sums, scale=scale, shift=shift)
    finally:
        _core.set_threads(before)


def run_matrices(fenced: Fenced) -> None:
    act = (ACTIVATIONS["Tanh"], 0, 0)
    for groups, rows, inner, columns in ((1, 5, 7, 1), (3, 17, 33, 18), (2, 31, 600, 49), (1, 4, 1200, 66)):
        panels = 32 * min(inner, _core.CONV_DEPTH)
        for transposed in (False, True):
            b = fenced(2, groups, columns, inner) if transposed else fenced(2, groups, inner, columns)
            a, y = fenced(groups, rows, inner), fenced(2, groups, rows, columns)
            _core.Matrices(a, b, y, transposed, fenced(1, panels), *act)(0, 1)
    for heads, shared, queries, inner, keys, width, room in (
        (1, 1, 1, 1, 1, 1, 1),
        (3, 2, 5, 33, 17, 9, 40),
        (2, 1, 9, 16, 50, 33, 1000),
    ):
        rows = _core.attention_rows(2 * heads, shared * queries, keys, room)
        _core.Attention(
            fenced(2, heads, shared, queries, inner),
            fenced(2, heads, keys, inner),
            fenced(2, heads, keys, width),
            fenced(2, heads * shared, 1, keys),
            fenced(2, heads, shared, queries, width),
            fenced(room),
            fenced(rows * inner),
            fenced(rows),
            fenced(1, 32 * max(inner, keys)),
            scale=0.5,
            cap=2.0,
            truth=False,
            causal=True,
            offset=1,
            left=3,
            right=0,
            zeros=True,
        )(0, 1)


def run_coded(fenced: Fenced) -> None:
    act, window, few = (ACTIVATIONS["Tanh"], 0, 0), Geometry((4, 7), (1, 1)).window(), (1, 1, 1, 1)
    integers = product(("int8", "int4"), (None, 16), (False, True))
    for coding in (("F16", None, False), ("BF16", None, False), *integers):
        for inner, rows in product((1, 15, 33, 602), (1, 14)):
            weights_in(fenced, coding, rows, inner).decode(0, rows, fenced(rows, inner))
            packed, panels = fenced(3, -(-inner // 16) * 16), fenced(1, 32 * min(inner, _core.CONV_DEPTH))
            dense(weights_in(fenced, coding, rows, inner), packed, fenced(3, rows), None, *act)
            w = weights_in(fenced, coding, rows, inner)
            dense_wide(w, fenced(inner, 16), fenced(11, rows), None, *act)
            x, y, block = fenced(17, inner), fenced(17, rows), fenced(17 * rows)
            _core.Gemm(x, weights_in(fenced, coding, rows, inner), None, y, block, panels, *act)(0, rows)
            x, y, w = fenced(1, inner, 4, 7), fenced(1, rows, 4, 7), weights_in(fenced, coding, rows, inner, 1, 1)
            conv(x, w, None, None, y, window, 1, 0, rows, panels, *act)
        for channels, outputs, geometry in (
            (133, 40, Geometry((14, 18), (3, 3))),
            (203, 201, Geometry((7, 7), (3, 3), pads=few)),
        ):
            seat = _core.winograd_seat(1, channels, outputs, geometry.window())
            assert seat > 0
            x, y = fenced(1, channels, *geometry.input), fenced(1, outputs, *geometry.output)
            w = weights_in(fenced, coding, outputs, channels, 3, 3)
            winograd(x, w, None, None, y, geometry.window(), 1, 0, outputs, fenced(1, seat), *act)


def run_copies(fenced: Fenced) -> None:
    """Matrices of few and of many columns, copied by each of the loops, also past the caches."""
    many = np.empty(2**23, np.float32)  # so many words are written past the caches
    for rows, cols in product((1, 2, 3, 4, 5, 16, 67, 130), (1, 2, 3, 4, 8, 33, 131)):
        pairs = [
            (fenced(rows, cols), fenced(rows, cols)),
            (fenced(rows, cols), fenced(cols, rows).T),
            (fenced(rows, cols).T, fenced(cols, rows)),
            (fenced(rows, cols), fenced(rows, 2 * cols - 1)[:, ::2]),
            (fenced(rows, 3 * cols - 2)[:, ::3], fenced(rows, cols)),
            (fenced(rows, cols), fenced(rows, cols)[::-1, ::-1]),
            (fenced(rows, cols), np.broadcast_to(fenced(rows, 1), (rows, cols))),
            (fenced(rows, 2 * cols).view(np.int64), fenced(cols, 2 * rows).view(np.int64).T),
        ]
        _core.Copies(pairs)(0, 1)
        _core.Copies([(many, np.broadcast_to(np.float32(0), many.shape)), *pairs])(0, 1)


def run_others(fenced: Fenced, size: int) -> None:
    x, y = fenced(2, 3, size), fenced(2, 3, size)
    for act in ACTIVATIONS.values():
        _core.unary(x, y, act, 0.1, 0.2)
        _core.bias_act(y[0], fenced(3), act, 0.1, 0.2)
        _core.scale_shift_act(x, fenced(3), fenced(3), y, act, 0.1, 0.2)
        _core.transpose_bias_act(x[0], fenced(size, 3), fenced(3), act, 0.1, 0.2)
        _core.transpose_bias_act(fenced(size, 9), fenced(9, size), fenced(size), act, 0.1, 0.2)
        _core.scale_shift_act(fenced(2, size, 1), fenced(size), fenced(size), fenced(2, size, 1), act, 0.1, 0.2)
        dense(fenced(3, size), fenced(5, -(-size // 16) * 16), fenced(5, 3), fenced(3), act, 0.1, 0.2)
        dense(fenced(size, 33), fenced(2, 48), fenced(2, size), fenced(size), act, 0.1, 0.2)
        dense_wide(fenced(3, size), fenced(size, 16), fenced(13, 3), fenced(3), act, 0.1, 0.2)
        dense_wide(fenced(size, 300), fenced(300, 16), fenced(9, size), fenced(size), act, 0.1, 0.2)
    _core.prelu(x, fenced(3), y)
    _core.prelu(fenced(2, size, 1), fenced(size), fenced(2, size, 1))
    row_mean(x[0], fenced(3))
    row_mean(x, fenced(2))
    for numbers in (2, 6):  # one or three float64
        _core.plane_sums(x, fenced(2, numbers).view(np.float64), True)
        _core.plane_sums(x.transpose(1, 0, 2), fenced(3, numbers).view(np.float64), True)
    row_max(x[0], fenced(3))
    for log in (False, True):
        _core.softmax(x, y, log)
        _core.softmax(x.reshape(6, size, 1), y.reshape(6, size, 1), log)
    _core.lrn(x, y, 3, 1, 1, 1)
    _core.crc32c(x)


def run_all(at_end: bool) -> None:
    for geometry in [*GEOMETRIES, *VOLUMES, *WIDE]:
        run_windows(Fenced(at_end), geometry)
    run_windows(Fenced(at_end), Geometry((8, 24), (1, 1)))
    run_pointwise(Fenced(at_end))
    run_winograd(Fenced(at_end))
    for geometry, gap in product([*GEOMETRIES, *WIDE], (0, 5)):
        run_bands(Fenced(at_end), geometry, gap)
    run_winograd_bands(Fenced(at_end))
    run_products(Fenced(at_end))
    run_matrices(Fenced(at_end))
    run_coded(Fenced(at_end))
    run_copies(Fenced(at_end))
    for size in (1, 3, 8, 15, 16, 17, 33, 65):
        run_others(Fenced(at_end), size)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("at_end", [False, True])
def test_arrays_beside_forbidden_pages(at_end: bool) -> None:
    assert exit_code_of(partial(run_all, at_end)) == 0
