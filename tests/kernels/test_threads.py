"""Worker threads: the same bits with any number of them, from many callers, after a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kernels.calls import average_pool, conv, dense, dense_wide, depthwise, max_pool, row_max, row_mean, winograd
from kernels.geometry import Geometry
from kernels.test_conv import reference
from model import zoo
from streamrt import _core


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = _core.threads()
    yield
    _core.set_threads(before)


def every_kernel() -> list[np.ndarray]:
    """The results of all kernels on jobs that are big enough to be shared."""
    rng = np.random.default_rng(3)
    act, swish = _core.ACTIVATIONS["Relu"], _core.ACTIVATIONS["Swish"]
    x = rng.normal(size=(2, 32, 61, 67)).astype(np.float32)
    cube = x.reshape(2, 32, -1)
    per_channel = rng.normal(size=32).astype(np.float32)
    matrix = x.reshape(64, -1)
    geometry = Geometry((61, 67), (3, 3), (1, 1), pads=(1, 1, 1, 1))
    window = geometry.window()
    results = [np.empty_like(cube) for _ in range(6)]
    _core.unary(cube, results[0], swish, 1, 0)
    _core.scale_shift_act(cube, per_channel, per_channel, results[1], act, 0, 0)
    _core.prelu(cube, per_channel, results[2])
    _core.softmax(cube, results[3], False)
    _core.softmax(x.reshape(-1, 1, 67).transpose(1, 2, 0).copy(), (y := np.empty((1, 67, 3904), np.float32)), True)
    _core.lrn(cube, results[4], 5, 1e-4, 0.75, 1)
    results[5][:] = cube
    _core.bias_act(results[5].reshape(64, -1), np.tile(per_channel, 2), swish, 1, 0)
    transposed = np.empty((4087, 64), np.float32)
    _core.transpose_bias_act(matrix, transposed, None, act, 0, 0)
    products = np.empty((6, 64), np.float32)
    dense(matrix, rng.normal(size=(6, 4096)).astype(np.float32), products, None, act, 0, 0)
    products_wide = np.empty((9, 64), np.float32)
    dense_wide(matrix, rng.normal(size=(4087, 16)).astype(np.float32), products_wide, None, act, 0, 0)
    filters, y4 = rng.normal(size=(24, 32, 5, 5)).astype(np.float32), np.empty((2, 24, 61, 67), np.float32)
    wide = Geometry((61, 67), (5, 5), pads=(2, 2, 2, 2)).window()
    scratch = np.empty((3, 64 * _core.CONV_DEPTH), np.float32)  # fewer seats than some tests have threads
    conv(x, filters, None, None, y4, wide, 1, 0, 24, scratch, swish, 1, 0)
    narrow, y5 = rng.normal(size=(24, 32, 3, 3)).astype(np.float32), np.empty((2, 24, 61, 67), np.float32)
    seat = _core.winograd_seat(2, 32, 24, window)
    winograd(x, narrow, None, None, y5, window, 1, 0, 24, np.empty((3, seat), np.float32), swish, 1, 0)
    deep, y6 = rng.normal(size=(1, 384, 14, 14)).astype(np.float32), np.empty((1, 64, 14, 14), np.float32)
    pointwise, halves = rng.normal(size=(64, 384, 1, 1)).astype(np.float32), np.empty(64 * 14 * 14, np.float32)
    one = Geometry((14, 14), (1, 1)).window()
    conv(deep, pointwise, None, None, y6, one, 1, 0, 64, scratch, swish, 1, 0, sums=halves)
    small = Geometry((7, 7), (3, 3), pads=(1, 1, 1, 1)).window()
    deeper, y8 = rng.normal(size=(1, 200, 7, 7)).astype(np.float32), np.empty((1, 207, 7, 7), np.float32)
    seats = np.empty((3, _core.winograd_seat(1, 200, 207, small)), np.float32)
    taps = rng.normal(size=(207, 200, 3, 3)).astype(np.float32)
    winograd(deeper, taps, None, None, y8, small, 1, 0, 207, seats, swish, 1, 0)
    many, y7 = rng.normal(size=(40, 4087)).astype(np.float32), np.empty((40, 64), np.float32)
    _core.Gemm(many, matrix, None, y7, np.empty(40 * 20, np.float32), scratch, swish, 1, 0)(0, 64)
    sums, most, mean = np.empty_like(x), np.empty((64, 61, 67), np.float32), np.empty((64, 61, 67), np.float32)
    weights = rng.normal(size=(32, 3, 3)).astype(np.float32)
    depthwise(x, weights, per_channel, sums, window, 0, 32, swish, 1, 0)
    max_pool(x.reshape(64, 61, 67), most, window)
    average_pool(x.reshape(64, 61, 67), mean, window, True)
    volumes = x.reshape(8, 8, 61, 67)
    over = Geometry((8, 61, 67), (3, 3, 3), pads=(1,) * 6).window()
    blocks, y9 = rng.normal(size=(24, 4, 3, 3, 3)).astype(np.float32), np.empty((2, 24, 8, 61, 67), np.float32)
    conv(volumes.reshape(2, 4, 8, 61, 67), blocks, None, None, y9, over, 1, 0, 24, scratch, swish, 1, 0)
    deepest, averages = np.empty_like(volumes), np.empty_like(volumes)
    max_pool(volumes, deepest, over)
    average_pool(volumes[:1], averages[:1], over, False)  # one volume is shared out by bands of rows
    averages[1:] = 0
    means, maxima = np.empty(64, np.float32), np.empty(64, np.float32)
    moments = np.empty((64, 3))
    row_mean(matrix, means)
    _core.plane_sums(x.reshape(64, 61, 67), moments, True)
    row_max(matrix, maxima)
    y10, y11 = np.empty((2, 3, 40, 61), np.float32), np.empty((2, 2, 3, 40, 30), np.float32)
    parts = rng.normal(size=(3, 40, 67)).astype(np.float32)
    _core.Matrices(parts, rng.normal(size=(2, 3, 67, 61)).astype(np.float32), y10, False, scratch, swish, 1, 0)(0, 1)
    heads = [rng.normal(size=size).astype(np.float32) for size in ((2, 2, 3, 40, 67), (2, 2, 99, 67), (2, 2, 99, 30))]
    memory = [np.empty(size, np.float32) for size in (99 * 100, 100 * 67, 100)]
    options = {
        "scale": 0.1,
        "cap": 0.0,
        "truth": False,
        "causal": True,
        "offset": 9,
        "left": 20,
        "right": 30,
        "zeros": True,
    }
    _core.Attention(*heads, None, y11, *memory, scratch, **options)(0, 1)
    pooled = [sums, most, mean, deepest, averages, means, moments, maxima]
    return [*results, y, transposed, products, products_wide, y4, y5, y6, y7, y8, y9, y10, y11, *pooled]


def assert_same(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    for a, b in zip(left, right, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_same_bits_with_any_number_of_threads(count: int) -> None:
    _core.set_threads(1)
    alone = every_kernel()
    _core.set_threads(count)
    assert _core.threads() == count
    assert_same(every_kernel(), alone)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("groups", "first", "last"), [(2, 255, 512), (2, 0, 257), (1, 0, 512), (4, 100, 400)])
@pytest.mark.parametrize("count", [2, 7])
def test_threads_that_take_parts_of_groups(count: int, groups: int, first: int, last: int, scaled: bool) -> None:
    """A group of which the range has few channels has units without channels. No thread may take them for laid out."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(1, 512, 14, 14)).astype(np.float32)
    w = rng.normal(size=(512, 512 // groups, 1, 1)).astype(np.float32)
    window = Geometry((14, 14), (1, 1)).window()
    scaling = {"scale": rng.normal(size=512).astype(np.float32)} if scaled else {}

    def run(threads: int) -> np.ndarray:
        _core.set_threads(threads)
        y, scratch = np.full((1, 512, 14, 14), 7, np.float32), np.full((threads, 2**16), np.nan, np.float32)
        conv(x, w, None, None, y, window, groups, first, last, scratch, _core.ACTIVATIONS["Relu"], 0, 0, **scaling)
        return y

    alone = run(1)
    for _ in range(10):  # threads take other units each time
        assert_same([run(count)], [alone])


@pytest.mark.parametrize(("size", "kernel"), [(19, 1), (14, 3)])
@pytest.mark.parametrize("count", [2, 7])
def test_long_sums_in_parts(count: int, size: int, kernel: int) -> None:
    """Threads compute one part after the other. The activation comes after the last part."""
    rng = np.random.default_rng(7)
    geometry, channels = Geometry((size, size), (kernel, kernel), pads=(kernel // 2,) * 4), 2048 // kernel
    x = rng.normal(size=(2, channels, size, size)).astype(np.float32)
    w = rng.normal(size=(96, channels, kernel, kernel)).astype(np.float32)
    residual = rng.normal(size=(2, 96, size, size)).astype(np.float32)

    def run(threads: int) -> np.ndarray:
        _core.set_threads(threads)
        y, scratch = np.full_like(residual, 7), np.full((threads, 2**16), np.nan, np.float32)
        conv(x, w, None, residual, y, geometry.window(), 1, 0, 96, scratch, _core.ACTIVATIONS["Swish"], 1, 0)
        return y

    before = reference(geometry, x, w, 1) + residual
    alone = run(1)
    np.testing.assert_allclose(alone, before / (1 + np.exp(-before)), atol=3e-6 * np.abs(before).max())
    for _ in range(5):
        assert_same([run(count)], [alone])


def test_long_sums_whose_parts_are_short() -> None:
    """A part has 75 % of the terms that are worth a thread, so all parts are one job."""
    _core.set_threads(2)
    x, w, y = np.ones((1, 65536, 1, 32), "f"), np.ones((48, 65536, 1, 1), "f"), np.empty((1, 48, 1, 32), "f")
    window, scratch = Geometry((1, 32), (1, 1)).window(), np.empty((2, 2**16), "f")
    _core.widest()
    conv(x, w, None, None, y, window, 1, 0, 48, scratch, _core.ACTIVATIONS["Relu"], 0, 0)
    assert _core.widest() == 2
    assert (y == 65536).all()


@pytest.mark.parametrize("size", [5, 7, 8, 14])
def test_small_planes_have_the_same_bits_however_they_are_cut(size: int) -> None:
    """Padding is zero, so an infinite weight that is multiplied with it gives NaN."""
    rng = np.random.default_rng(5)
    window = Geometry((size, size), (3, 3), pads=(1, 1, 1, 1)).window()
    x = rng.normal(size=(1, 16, size, size)).astype(np.float32)
    weights = rng.normal(size=(16, 3, 3)).astype(np.float32)
    weights[::3, 0, 1], weights[1::3, 2, 2] = np.inf, -np.inf
    found = []
    for count in (1, 2, 5, 16):  # planes are cut into more bands for more threads
        _core.set_threads(count)
        y = np.full_like(x, 7)
        depthwise(x, weights, None, y, window, 0, 16, _core.ACTIVATIONS["Swish"], 1, 0)
        found.append(y)
    for y in found:
        assert_same([y], found[:1])


def test_a_kernel_starts_the_threads_that_it_can_use() -> None:
    _core.set_threads(1)
    _core.set_threads(7)  # no worker is left
    _core.widest()
    for parts, workers in ((1, 0), (3, 2), (2, 2), (5, 4)):  # a thread is worth 2**15 elements
        x = np.ones(parts * 2**15, np.float32)
        _core.unary(x, x, _core.ACTIVATIONS["Relu"], 0, 0)
        assert _core.widest() == parts
        zoo.eventually(lambda workers=workers: working_threads() == workers)  # a thread names itself
    assert _core.widest() == 0


def working_threads() -> int:
    return sum(task.read_text() == "streamrt-work\n" for task in Path("/proc/self/task").glob("*/comm"))


def test_many_callers_while_the_number_changes() -> None:
    expected = every_kernel()
    failures: list[BaseException] = []

    def call() -> None:
        try:
            for _ in range(3):
                assert_same(every_kernel(), expected)
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for count in (1, 4, 2, 5, 3) * 4:
        _core.set_threads(count)
    for caller in callers:
        caller.join()
    assert not failures


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_while_workers_are_at_work() -> None:
    _core.set_threads(3)
    expected = every_kernel()
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            every_kernel()

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        for _ in range(3):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    assert_same(every_kernel(), expected)
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        busy.join()


def test_a_number_out_of_range_is_refused() -> None:
    for count in (0, -1, 257, 2**70):
        with pytest.raises(ValueError, match="expected 1 to"):
            _core.set_threads(count)
