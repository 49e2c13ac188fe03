"""bias_act, transpose_bias_act, scale_shift_act and prelu against float64."""

from __future__ import annotations

import numpy as np
import pytest

from streamrt._core import ACTIVATIONS, bias_act, prelu, scale_shift_act, transpose_bias_act

SIZES = [0, 1, 3, 7, 8, 16, 17, 33, 65]


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(0, 2, shape).astype(np.float32)


@pytest.mark.parametrize("cols", [*SIZES, 5000])
@pytest.mark.parametrize("gap", [0, 5])
def test_bias_act(rng: np.random.Generator, cols: int, gap: int) -> None:
    for rows in (0, 1, 3, 17):
        whole = normal(rng, rows, cols + gap)
        before, y, bias = whole.copy(), whole[:, :cols], normal(rng, rows)
        expected = np.maximum(y + bias[:, None], 0)
        bias_act(y, bias, ACTIVATIONS["Relu"], 0, 0)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(whole[:, cols:], before[:, cols:])


def test_bias_act_without_bias_and_with_a_separate_activation(rng: np.random.Generator) -> None:
    y, bias = normal(rng, 5, 3000), normal(rng, 5)
    expected = np.tanh(y.astype(np.float64) + bias[:, None])
    z = y.copy()
    bias_act(y, bias, ACTIVATIONS["Tanh"], 0, 0)
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=3e-7)
    expected = np.tanh(z.astype(np.float64))
    bias_act(z, None, ACTIVATIONS["Tanh"], 0, 0)
    np.testing.assert_allclose(z, expected, rtol=2e-6)


@pytest.mark.parametrize("rows", [*SIZES, 300])
@pytest.mark.parametrize("with_bias", [False, True])
def test_transpose_bias_act(rng: np.random.Generator, rows: int, with_bias: bool) -> None:
    for batch in SIZES:
        t, whole = normal(rng, rows, batch), normal(rng, batch, rows + 4)
        bias = normal(rng, rows) if with_bias else None
        before = whole.copy()
        expected = np.clip(t.T + (0 if bias is None else bias), -1, 2)
        transpose_bias_act(t, whole[:, 1 : 1 + rows], bias, ACTIVATIONS["Clip"], -1, 2)
        np.testing.assert_array_equal(whole[:, 1 : 1 + rows], expected)
        np.testing.assert_array_equal(whole[:, :1], before[:, :1])
        np.testing.assert_array_equal(whole[:, 1 + rows :], before[:, 1 + rows :])


def test_transpose_with_a_separate_activation(rng: np.random.Generator) -> None:
    t, bias, y = normal(rng, 150, 33), normal(rng, 150), np.empty((33, 150), np.float32)
    transpose_bias_act(t, y, bias, ACTIVATIONS["Sigmoid"], 0, 0)
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-(t.T.astype(np.float64) + bias))), rtol=3e-6)


@pytest.mark.parametrize("size", [*SIZES, 2100])
@pytest.mark.parametrize("name", ["Identity", "LeakyRelu"])
def test_scale_shift_act(rng: np.random.Generator, size: int, name: str) -> None:
    for n, channels in ((0, 1), (1, 0), (1, 1), (3, 5), (2, 19)):
        x, scale, shift = normal(rng, n, channels, size), normal(rng, channels), normal(rng, channels)
        y = np.full_like(x, 7)
        value = x.astype(np.float64) * scale[:, None] + shift[:, None]
        expected = np.where(value < 0, 0.1 * value, value) if name == "LeakyRelu" else value
        scale_shift_act(x, scale, shift, y, ACTIVATIONS[name], 0.1, 0)
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=2e-6)
        scale_shift_act(x, scale, shift, x, ACTIVATIONS[name], 0.1, 0)
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("size", [*SIZES, 2100])
@pytest.mark.parametrize("one", [False, True])
def test_prelu(rng: np.random.Generator, size: int, one: bool) -> None:
    for n, channels in ((0, 1), (1, 1), (3, 5), (2, 19)):
        x, slope = normal(rng, n, channels, size), normal(rng, 1 if one else channels)
        y = np.full_like(x, 7)
        expected = np.where(x < 0, slope[:, None] * x, x)
        prelu(x, slope, y)
        np.testing.assert_array_equal(y, expected)
        prelu(x, slope, x)
        np.testing.assert_array_equal(x, y)
