"""RowMean, plane_sums, RowMax, softmax and lrn against float64."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.calls import row_max, row_mean
from streamrt._core import lrn, plane_sums, rows_together, softmax

SIZES = [1, 3, 7, 16, 17, 33, 65, 2500]


@pytest.mark.parametrize("cols", SIZES)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_row_mean(rng: np.random.Generator, rows: int, cols: int) -> None:
    x = rng.normal(3, 1, (rows, cols)).astype(np.float32)
    y = np.full(rows, 7, np.float32)
    row_mean(x, y)
    np.testing.assert_allclose(y, x.mean(1, dtype=np.float64), rtol=3e-7)


def test_mean_of_many_is_accurate_and_of_none_is_nan() -> None:
    x, y = np.full((1, 3_000_001), 0.1, np.float32), np.empty(1, np.float32)
    row_mean(x, y)
    np.testing.assert_allclose(y, x.mean(dtype=np.float64), rtol=3e-7)
    row_mean(np.empty((1, 0), np.float32), y)
    assert np.isnan(y[0])


#: Rows and columns of planes. Some rows are added up together, or in pieces.
PLANES = [(1, 1), (7, 7), (9, 33), (70, 17), (5, 300), (3, 512), (4, 700), (2, 2500)]


@pytest.mark.parametrize("shape", PLANES)
@pytest.mark.parametrize("planes", [0, 1, 5])
@pytest.mark.parametrize("middle", [3, -1000])
def test_plane_sums(rng: np.random.Generator, planes: int, shape: tuple[int, int], middle: float) -> None:
    x = rng.normal(middle, 1, (planes, *shape)).astype(np.float32)
    y, mean = np.full((planes, 3), 7.0), np.full(planes, 7, np.float32)
    plane_sums(x, y, True)
    row_mean(x, mean)
    count = shape[0] * shape[1]
    means, squares = (y[:, :2] / count).T
    doubles = x.astype(np.float64)
    np.testing.assert_allclose(means, doubles.mean((1, 2)), rtol=3e-7)
    np.testing.assert_allclose(squares - means**2, doubles.var((1, 2)), rtol=2e-6, atol=1e-9 * middle**2)
    np.testing.assert_allclose(mean, doubles.mean((1, 2)), rtol=3e-7)


@pytest.mark.parametrize("shape", PLANES)
@pytest.mark.parametrize("numbers", [1, 3])
@pytest.mark.parametrize("calls", [1, 3])
def test_plane_sums_have_the_same_bits_in_several_calls(
    rng: np.random.Generator, numbers: int, shape: tuple[int, int], calls: int
) -> None:
    """The rows of all planes with one number lie next to each other, as in a line buffer, or those of a plane do."""
    x = rng.normal(3, 1, (5, *shape)).astype(np.float32)
    whole, parts, mean = np.full((5, numbers), np.nan), np.full((5, numbers), np.nan), np.empty(5, np.float32)
    plane_sums(x, whole, True)
    row_mean(x, mean)
    step = calls * rows_together(shape[1])
    for first in range(0, shape[0], step):
        band = x[:, first : first + step]
        lines = np.ascontiguousarray(band.transpose(1, 0, 2)).transpose(1, 0, 2)
        plane_sums(band if first else lines, parts, first == 0)
    assert parts.tobytes() == whole.tobytes()
    if numbers == 1:
        assert mean.tobytes() == (whole[:, 0] / (shape[0] * shape[1])).astype(np.float32).tobytes()


def test_rows_together_have_512_elements() -> None:
    assert [rows_together(width) for width in (1, 100, 256, 257, 511, 512, 5000)] == [512, 8, 2, 2, 2, 1, 1]
    with pytest.raises(ValueError, match="width 0"):
        rows_together(0)


def test_sums_pass_infinity_and_nan_on() -> None:
    y = np.empty((2, 3))
    plane_sums(np.array([[[1, np.inf, 2]], [[1, np.nan, 2]]], np.float32), y, True)
    assert y[0, 0] == np.inf
    assert np.isnan(y[0, 1])
    assert np.isnan(y[1]).all()


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.ones((2, 3, 4), np.float32), np.ones((2, 3), np.float32)),
        (np.ones((2, 3, 4), np.float32), np.ones((3, 3))),
        (np.ones((2, 3, 4), np.float32), np.ones((2, 2))),
        (np.ones((2, 3, 4), np.float32), np.ones((2, 6))[:, ::2]),
        (np.ones((2, 0, 4), np.float32), np.ones((2, 3))),
        (np.ones((2, 3, 8), np.float32)[:, :, ::2], np.ones((2, 3))),
        (np.ones((3, 4), np.float32), np.ones((3, 3))),
        (np.ones((2, 3, 4)), np.ones((2, 3))),
    ],
)
def test_plane_sums_refuse(x: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\b[xy]\b|contiguous"):
        plane_sums(x, y, True)
    assert (y == 1).all()


def test_means_of_planes_that_are_empty_are_refused() -> None:
    with pytest.raises(ValueError, match="not empty"):
        row_mean(np.ones((2, 0, 3), np.float32), np.ones(2, np.float32))
    with pytest.raises(ValueError, match="4 axes"):
        row_mean(np.ones((2, 2, 2, 3), np.float32), np.ones(2, np.float32))


@pytest.mark.parametrize("cols", SIZES)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_row_max(rng: np.random.Generator, rows: int, cols: int) -> None:
    x = rng.normal(-3, 1, (rows, cols)).astype(np.float32)
    y = np.full(rows, 7, np.float32)
    row_max(x, y)
    np.testing.assert_array_equal(y, x.max(1, initial=-np.inf))


@pytest.mark.parametrize("at", range(0, 70, 7))
def test_row_max_passes_nan_on_from_anywhere(at: int) -> None:
    x, y = np.zeros((1, 70), np.float32), np.empty(1, np.float32)
    x[0, at] = np.nan
    row_max(x, y)
    assert np.isnan(y[0])


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("inner", [1, 3, 17, 33])
@pytest.mark.parametrize("log", [False, True])
def test_softmax(rng: np.random.Generator, k: int, inner: int, log: bool) -> None:
    for outer in (1, 3):
        x = rng.normal(0, 5, (outer, k, inner)).astype(np.float32)
        y = np.full_like(x, 7)
        z = x.astype(np.float64)
        z -= z.max(1, keepdims=True)
        sums = np.exp(z).sum(1, keepdims=True)
        softmax(x, y, log)
        expected = z - np.log(sums) if log else np.exp(z) / sums
        # A difference x - max of 32 to 64 is rounded to a multiple of 2^-18: an error of up to 2e-6 in exp.
        np.testing.assert_allclose(y, expected, rtol=4e-6, atol=2e-6 if log else 1e-38)
        softmax(x, x, log)
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 1)])
def test_softmax_of_nothing(shape: tuple[int, int, int]) -> None:
    x = np.ones(shape, np.float32)
    softmax(x, x, False)
    softmax(x, x, True)


@pytest.mark.parametrize("inner", [1, 5])
def test_softmax_is_stable(inner: int) -> None:
    column = np.array([1e38, -1e38, 1e38, -np.inf], np.float32)
    x = np.repeat(column[None, :, None], inner, axis=2)
    y = np.empty_like(x)
    softmax(x, y, False)
    np.testing.assert_allclose(y[0].T, [[0.5, 0, 0.5, 0]] * inner)
    x[0, 1] = np.nan
    softmax(x, y, False)
    assert np.isnan(y).all()


@pytest.mark.parametrize("channels", [0, 1, 2, 5, 33])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100, 2**62])
@pytest.mark.parametrize(("alpha", "beta", "bias"), [(1e-4, 0.75, 1.0), (0.5, 1.3, 2.0)])
def test_lrn(rng: np.random.Generator, channels: int, size: int, alpha: float, beta: float, bias: float) -> None:
    for inner in (0, 1, 17, 50):
        x = rng.normal(0, 10, (2, channels, inner)).astype(np.float32)
        y = np.full_like(x, 7)
        squares = x.astype(np.float64) ** 2
        sums = np.zeros_like(squares)
        for c in range(channels):
            sums[:, c] = squares[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1].sum(1)
        lrn(x, y, size, alpha, beta, bias)
        np.testing.assert_allclose(y, x / (bias + alpha / size * sums) ** beta, rtol=3e-6)
