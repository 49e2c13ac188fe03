"""Micro-benchmarks of the compiled kernels, beside a plain copy of the same bytes where memory is the limit.

Run with ``pytest bench/test_kernels.py --benchmark-only``. STREAMRT_ISA chooses the instruction set. Sizes are
those of real layers, batch 1. Compare figures of one run only: machines and their load differ.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrt import _core
from streamrt._core import ACTIVATIONS, Depthwise, Mapping, Prefetcher, Step, Window, run_steps

#: Calls the function given to it many times, and records how long each takes.
Benchmark = Callable[..., Any]

RELU = (ACTIVATIONS["Relu"], 0.0, 0.0)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def same_window(size: int, kernel: int, stride: int = 1) -> Window:
    """A square window that keeps the size, or divides it by the stride."""
    pad = kernel // 2
    pads = (pad,) * 4
    return Window((kernel, kernel), (stride, stride), (1, 1), pads, (size, size), (size // stride, size // stride))


def test_call_overhead(benchmark: Benchmark) -> None:
    x = normal(1)
    benchmark(_core.unary, x, x, *RELU)


def test_steps(benchmark: Benchmark, tmp_path: Path) -> None:
    """A pass of 100 kernels with almost no work. Compare with 100 times `test_call_overhead`."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(4096))
    kernel = Depthwise(normal(1, 1, 1, 1), normal(1, 1, 1), None, normal(1, 1, 1, 1), same_window(1, 1), *RELU)
    with Mapping(path) as mapping, Prefetcher(mapping) as prefetcher:
        prefetcher.schedule([(0, 4096, True)], 0, 4096)
        begin, end = Step(0, (0,), kernel, 0, 1, ()), Step(0, (), kernel, 0, 1, (0,))
        steps = [begin, *[Step(0, (), kernel, 0, 1, ())] * 98, end]
        benchmark(run_steps, steps, prefetcher)


def test_copy(benchmark: Benchmark) -> None:
    x = normal(64, 112, 112)
    benchmark(np.copyto, np.empty_like(x), x)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_unary(benchmark: Benchmark, name: str) -> None:
    x = normal(64, 112, 112)
    benchmark(_core.unary, x, np.empty_like(x), ACTIVATIONS[name], 0.5, 1.0)


@pytest.mark.parametrize(("rows", "cols"), [(64, 12544), (512, 784), (2048, 49), (4096, 1), (4096, 64)])
def test_bias_act(benchmark: Benchmark, rows: int, cols: int) -> None:
    benchmark(_core.bias_act, normal(rows, cols), normal(rows), *RELU)


@pytest.mark.parametrize(("channels", "size"), [(64, 12544), (2048, 49), (4096, 1)])
def test_scale_shift_act(benchmark: Benchmark, channels: int, size: int) -> None:
    x = normal(1, channels, size)
    benchmark(_core.scale_shift_act, x, normal(channels), normal(channels), x, *RELU)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_transpose_bias_act(benchmark: Benchmark, batch: int) -> None:
    y = np.empty((batch, 8192), np.float32)
    benchmark(_core.transpose_bias_act, normal(8192, batch), y, normal(8192), *RELU)


CONVOLUTIONS = [
    (3, 224, 7, 2, 64),
    (64, 56, 3, 1, 64),
    (256, 56, 1, 1, 64),
    (128, 56, 3, 2, 128),
    (512, 28, 1, 1, 128),
    (256, 14, 3, 1, 256),
    (512, 7, 3, 1, 512),
    (96, 112, 1, 1, 24),
]


@pytest.mark.parametrize(("channels", "size", "kernel", "stride", "outputs"), CONVOLUTIONS)
def test_conv(benchmark: Benchmark, channels: int, size: int, kernel: int, stride: int, outputs: int) -> None:
    """Compare with `test_conv_by_blas`: the same sums, with the columns already laid out."""
    x, w = normal(1, channels, size, size), normal(outputs, channels, kernel, kernel)
    y = np.empty((1, outputs, size // stride, size // stride), np.float32)
    scratch = np.empty((_core.threads(), 2**16), np.float32)
    window = same_window(size, kernel, stride)
    benchmark(_core.Convolution(x, w, normal(outputs), None, y, window, 1, scratch, *RELU), 0, outputs)


@pytest.mark.parametrize(("channels", "size", "kernel", "stride", "outputs"), CONVOLUTIONS)
def test_conv_by_blas(benchmark: Benchmark, channels: int, size: int, kernel: int, stride: int, outputs: int) -> None:
    w, columns = normal(outputs, channels * kernel**2), normal(channels * kernel**2, (size // stride) ** 2)
    benchmark(np.matmul, w, columns, np.empty((outputs, (size // stride) ** 2), np.float32))


@pytest.mark.parametrize(("channels", "size"), [(64, 56), (512, 7)])
def test_winograd(benchmark: Benchmark, channels: int, size: int) -> None:
    """Compare with `test_conv` of the same shapes: plain sums."""
    x, w = normal(1, channels, size, size), normal(channels, channels, 3, 3)
    y, window = np.empty_like(x), same_window(size, 3)
    scratch = np.empty((_core.threads(), _core.winograd_seat(1, channels, channels, window)), np.float32)
    kernel = _core.Convolution(x, w, normal(channels), None, y, window, 1, scratch, *RELU, winograd=True)
    benchmark(kernel, 0, channels)


@pytest.mark.parametrize(
    ("channels", "size", "kernel", "stride"),
    [
        (32, 112, 3, 1),
        (96, 112, 3, 2),
        (144, 56, 3, 1),
        (192, 28, 5, 1),
        (480, 14, 5, 1),
        (1152, 7, 5, 1),
        (64, 56, 7, 1),
    ],
)
def test_depthwise(benchmark: Benchmark, channels: int, size: int, kernel: int, stride: int) -> None:
    x, w = normal(1, channels, size, size), normal(channels, kernel, kernel)
    y = np.empty((1, channels, size // stride, size // stride), np.float32)
    window = same_window(size, kernel, stride)
    benchmark(_core.Depthwise(x, w, normal(channels), y, window, *RELU), 0, channels)


POOLS = [(64, 112, 3, 2), (64, 224, 2, 2), (192, 28, 3, 1), (512, 14, 2, 2)]


@pytest.mark.parametrize(("planes", "size", "kernel", "stride"), POOLS)
def test_max_pool(benchmark: Benchmark, planes: int, size: int, kernel: int, stride: int) -> None:
    y = np.empty((planes, size // stride, size // stride), np.float32)
    benchmark(_core.MaxPool(normal(planes, size, size), y, same_window(size, kernel, stride)), 0, 1)


@pytest.mark.parametrize(("planes", "size", "kernel", "stride"), POOLS)
def test_average_pool(benchmark: Benchmark, planes: int, size: int, kernel: int, stride: int) -> None:
    y = np.empty((planes, size // stride, size // stride), np.float32)
    benchmark(_core.AveragePool(normal(planes, size, size), y, same_window(size, kernel, stride), False), 0, 1)


@pytest.mark.parametrize(("rows", "cols"), [(2048, 49), (64, 12544)])
def test_row_mean(benchmark: Benchmark, rows: int, cols: int) -> None:
    benchmark(_core.RowMean(normal(rows, cols), np.empty(rows, np.float32)), 0, 1)


@pytest.mark.parametrize("shape", [(64, 1000, 1), (1, 21, 65536)])
def test_softmax(benchmark: Benchmark, shape: tuple[int, int, int]) -> None:
    x = normal(*shape)
    benchmark(_core.softmax, x, np.empty_like(x), False)


def test_lrn(benchmark: Benchmark) -> None:
    x = normal(1, 96, 55 * 55)
    benchmark(_core.lrn, x, np.empty_like(x), 5, 1e-4, 0.75, 1.0)


@pytest.mark.parametrize("size", [4096, 1 << 24])
def test_crc32c(benchmark: Benchmark, size: int) -> None:
    benchmark(_core.crc32c, bytes(size))


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_dense(benchmark: Benchmark, batch: int) -> None:
    """32 MiB of weights. Compare with `test_dense_by_blas`."""
    y = np.empty((batch, 2048), np.float32)
    benchmark(_core.Dense(normal(2048, 4096), normal(batch, 4096), y, normal(2048), *RELU), 0, 2048)


def test_dense_wide(benchmark: Benchmark) -> None:
    """32 MiB of weights, 16 samples. Compare with `test_dense_by_blas`."""
    x, y = normal(4096, _core.DENSE_WIDE), np.empty((16, 2048), np.float32)
    benchmark(_core.Dense(normal(2048, 4096), x, y, normal(2048), *RELU, wide=True), 0, 2048)


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16, 32, 64])
def test_dense_by_blas(benchmark: Benchmark, batch: int) -> None:
    w, x = normal(2048, 4096), normal(batch, 4096)
    product, y, bias = np.empty((2048, batch), np.float32), np.empty((batch, 2048), np.float32), normal(2048)

    def run() -> None:
        np.matmul(w, x.T, out=product)
        _core.transpose_bias_act(product, y, bias, *RELU)

    benchmark(run)
