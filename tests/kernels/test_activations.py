"""unary: every activation against float64, on ordinary, extreme and special values, wherever they lie in the array."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from streamrt._core import ACTIVATIONS, unary

F64 = NDArray[np.float64]
erf = np.vectorize(math.erf, otypes=[np.float64])
erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid(x: F64) -> F64:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


#: name -> (function of float64, alpha, beta, tolerance relative to the value, absolute tolerance)
REFERENCE: dict[str, tuple[Callable[[F64], F64], float, float, float, float]] = {
    "Identity": (lambda x: x, 0, 0, 0, 0),
    "Relu": (lambda x: np.maximum(x, 0), 0, 0, 0, 0),
    "LeakyRelu": (lambda x: np.where(x < 0, 0.25 * x, x), 0.25, 0, 0, 0),
    "Clip": (lambda x: np.clip(x, -0.5, 6), -0.5, 6, 0, 0),
    "Sigmoid": (sigmoid, 0, 0, 1e-6, 2e-45),
    "HardSigmoid": (lambda x: np.clip(0.25 * x + 0.5, 0, 1), 0.25, 0.5, 1e-7, 1e-7),
    "HardSwish": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), 0, 0, 1e-6, 2e-7),
    "Tanh": (np.tanh, 0, 0, 1e-6, 0),
    "Elu": (lambda x: np.where(x < 0, 1.5 * np.expm1(np.minimum(x, 0)), x), 1.5, 0, 1e-6, 0),
    "Gelu": (lambda x: x * erfc(-x / math.sqrt(2)) / 2, 0, 0, 1e-5, 1e-9),
    "GeluTanh": (lambda x: x * sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)), 0, 0, 1e-5, 1e-9),
    "Erf": (erf, 0, 0, 1e-6, 0),
    "Swish": (lambda x: x * sigmoid(1.7 * x), 1.7, 0, 1e-5, 1e-37),
    "Mish": (lambda x: x * np.tanh(np.logaddexp(0, x)), 0, 0, 1e-6, 1e-42),
    "QuantizeDequantize8": (lambda x: 0.0625 * np.clip(np.rint(x / 0.0625), -100, 155), 0.0625, -100, 0, 0),
    "QuantizeDequantize16": (lambda x: 0.0625 * np.clip(np.rint(x / 0.0625), -300, 65235), 0.0625, -300, 0, 0),
}


def apply(name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    y = np.full_like(x, 7)
    unary(x, y, ACTIVATIONS[name], *REFERENCE[name][1:3])
    return y


def test_all_are_covered() -> None:
    assert ACTIVATIONS.keys() == REFERENCE.keys()
    assert ACTIVATIONS["Identity"] == 0


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("reach", [1e-6, 1.0, 12.0, 120.0])
def test_value(name: str, reach: float) -> None:
    x = np.linspace(-reach, reach, 20011, dtype=np.float32)
    function, _, _, relative, absolute = REFERENCE[name]
    np.testing.assert_allclose(apply(name, x), function(x.astype(np.float64)), rtol=relative, atol=absolute)


@pytest.mark.parametrize("name", REFERENCE)
def test_infinities_give_limits_and_nan_stays(name: str) -> None:
    y = apply(name, np.array([-np.inf, np.inf, np.nan, -3e38, 3e38, 0.0], np.float32))
    function = REFERENCE[name][0]
    with np.errstate(all="ignore"):
        left, right, zero = function(np.array([-1e30, 1e30, 0.0]))
    # A function that is beyond 1e20 at 1e30 grows without bound: its limit is infinite.
    assert y[0] == (left if abs(left) < 1e20 else math.copysign(np.inf, left))
    assert y[1] == (right if abs(right) < 1e20 else math.copysign(np.inf, right))
    assert np.isnan(y[2])
    assert not np.isnan(y[3:]).any()
    assert y[5] == np.float32(zero)


@pytest.mark.parametrize("name", REFERENCE)
def test_result_does_not_depend_on_the_place(name: str, rng: np.random.Generator) -> None:
    x = rng.normal(0, 4, 71).astype(np.float32)
    whole = apply(name, x)
    for first in range(0, 20, 3):
        for last in range(first, 71, 5):
            np.testing.assert_array_equal(apply(name, x[first:last]), whole[first:last])


@pytest.mark.parametrize("name", REFERENCE)
def test_in_place_and_of_any_shape(name: str, rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, (3, 1, 5, 7)).astype(np.float32)
    expected = apply(name, x)
    unary(x, x, ACTIVATIONS[name], *REFERENCE[name][1:3])
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("name", [name for name in REFERENCE if name.startswith("Quantize")])
def test_steps_are_those_of_float32_arithmetic(name: str, rng: np.random.Generator) -> None:
    """Halves go to even numbers, and a division that float32 rounds is rounded before."""
    levels = {"QuantizeDequantize8": 255, "QuantizeDequantize16": 65535}[name]
    for scale in (1.0, 0.1, 3.7e-3, 1e-30, 1e30):
        for low in (-levels, -levels // 2, -1, 0):
            step = np.float32(scale)
            whole = rng.integers(low - 3, low + levels + 4, 1000)
            x = (step * np.concatenate([whole, whole + 0.5, rng.normal(0, 1.5, 1000) * levels])).astype(np.float32)
            y = np.empty_like(x)
            unary(x, y, ACTIVATIONS[name], scale, low)
            np.testing.assert_array_equal(y, np.clip(np.rint(x / step), low, low + levels) * step)


def test_nothing_beyond_the_end_is_written() -> None:
    for n in range(40):
        y = np.full(n + 20, 7, np.float32)
        unary(np.ones(n, np.float32), y[:n], ACTIVATIONS["Sigmoid"], 0, 0)
        assert (y[n:] == 7).all()


def test_clip_where_the_bounds_cross_gives_the_upper() -> None:
    y = np.empty(3, np.float32)
    unary(np.array([-5, 0, 5], np.float32), y, ACTIVATIONS["Clip"], 2, 1)
    np.testing.assert_array_equal(y, [1, 1, 1])
