from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.harness import assert_close, lowered_for, random, run
from streamrt.errors import FormatError


@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (2, 5, 7), (2, 5, 3, 4), (1, 5, 1, 1)])
@pytest.mark.parametrize("epsilon", [None, 0.5])
def test_batch_normalization(shape: tuple[int, ...], epsilon: float | None) -> None:
    x = random(*shape)
    scale, bias, mean = (random(5, seed=i) for i in (1, 2, 3))
    var = np.abs(random(5, seed=4))
    attrs = {} if epsilon is None else {"epsilon": epsilon}
    column = (1, 5) + (1,) * (len(shape) - 2)
    std = np.sqrt(var.astype(np.float64) + (epsilon or 1e-5)).reshape(column)
    expected = (x - mean.reshape(column)) / std * scale.reshape(column) + bias.reshape(column)
    inputs, params = [x, scale, bias, mean, var], [1, 2, 3, 4]
    assert_close(run("BatchNormalization", inputs, params, attrs=attrs)[0], expected)
    assert_close(run("BatchNormalization", inputs, params, attrs=attrs, inplace=0)[0], expected)


@pytest.mark.parametrize("shape", [(1, 5, 4), (2, 5, 3, 7), (3, 5, 2, 3, 2)])
@pytest.mark.parametrize("epsilon", [None, 0.5])
def test_instance_normalization(shape: tuple[int, ...], epsilon: float | None) -> None:
    x, scale, bias = 3 + random(*shape), random(5, seed=1), random(5, seed=2)
    axes, column = tuple(range(2, len(shape))), (5,) + (1,) * (len(shape) - 2)
    wide = x.astype(np.float64)
    std = np.sqrt(wide.var(axis=axes, keepdims=True) + (epsilon or 1e-5))
    expected = (wide - wide.mean(axis=axes, keepdims=True)) / std * scale.reshape(column) + bias.reshape(column)
    attrs = {} if epsilon is None else {"epsilon": epsilon}
    assert_close(run("InstanceNormalization", [x, scale, bias], [1, 2], attrs=attrs)[0], expected)
    assert_close(run("InstanceNormalization", [x, scale, bias], [1, 2], attrs=attrs, inplace=0)[0], expected)


@pytest.mark.parametrize("shape", [(1, 6), (2, 6, 7), (3, 6, 2, 3)])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_normalization(shape: tuple[int, ...], groups: int) -> None:
    x, scale, bias = 3 + random(*shape), random(6, seed=1), random(6, seed=2)
    wide = x.astype(np.float64).reshape(shape[0], groups, -1)
    apart = wide - wide.mean(axis=2, keepdims=True)
    normal = (apart / np.sqrt(wide.var(axis=2, keepdims=True) + 0.01)).reshape(shape)
    column = (6,) + (1,) * (len(shape) - 2)
    expected = normal * scale.reshape(column) + bias.reshape(column)
    for inplace in (None, 0):
        attrs = {"num_groups": groups, "epsilon": 0.01}
        found = run("GroupNormalization", [x, scale, bias], [1, 2], attrs=attrs, inplace=inplace)[0]
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("shapes", "groups"), [([(2, 6), (6,), (6,)], 4), ([(2, 6), (6,), (6,)], 0), ([(2, 6), (2,), (2,)], 2)]
)
def test_groups_that_do_not_fit(shapes: list[tuple[int, ...]], groups: int) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for("GroupNormalization", shapes, [1, 2], attrs={"num_groups": groups})


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -2])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("has_bias", [False, True])
def test_layer_normalization(axis: int | None, outputs: int, has_bias: bool) -> None:
    x = 3 + random(2, 3, 40)
    first = (-1 if axis is None else axis) % 3
    axes = tuple(range(first, 3))
    scale, bias = random(*x.shape[first:], seed=1), random(40, seed=2)
    wide = x.astype(np.float64)
    mean, inverse = wide.mean(axis=axes, keepdims=True), 1 / np.sqrt(wide.var(axis=axes, keepdims=True) + 0.01)
    expected = (wide - mean) * inverse * scale + (bias if has_bias else 0)
    attrs: dict[str, Any] = {"epsilon": 0.01} | ({} if axis is None else {"axis": axis})
    inputs, params = ([x, scale, bias], [1, 2]) if has_bias else ([x, scale], [1])
    for inplace in (None, 0):
        found = run("LayerNormalization", inputs, params, attrs=attrs, outputs=outputs, inplace=inplace)
        for y, wanted in zip(found, (expected, mean, inverse), strict=False):
            assert_close(y, wanted)


def test_normalisation_of_a_large_mean_keeps_its_digits() -> None:
    x = (1000 + random(1, 1, 4096)).astype(np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    np.testing.assert_allclose(run("InstanceNormalization", [x, one, zero], [1, 2])[0], expected, rtol=0, atol=2e-4)


def local_response(x: np.ndarray, size: int, alpha: float, beta: float, bias: float) -> np.ndarray:
    squares = np.zeros(x.shape)
    for channel in range(x.shape[1]):
        begin, end = max(0, channel - (size - 1) // 2), min(x.shape[1], channel + size // 2 + 1)
        squares[:, channel] = (x[:, begin:end].astype(np.float64) ** 2).sum(axis=1)
    return x / (bias + alpha / size * squares) ** beta


@pytest.mark.parametrize("size", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 7, 3, 5), (2, 6)])
def test_lrn(shape: tuple[int, ...], size: int) -> None:
    x = 20 * random(*shape)
    assert_close(run("LRN", [x], attrs={"size": size})[0], local_response(x, size, 1e-4, 0.75, 1.0))
    attrs = {"alpha": 0.02, "beta": 0.6, "bias": 1.5}
    assert_close(run("LRN", [x], attrs={"size": size, **attrs})[0], local_response(x, size, **attrs))


def normalised(op: str, x: np.ndarray, axis: int) -> np.ndarray:
    shifted = x.astype(np.float64) - x.max(axis=axis, keepdims=True)
    total = np.exp(shifted).sum(axis=axis, keepdims=True)
    return np.exp(shifted) / total if op == "Softmax" else shifted - np.log(total)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3, -2])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 1, 9, 17)])
def test_softmax(op: str, axis: int | None, shape: tuple[int, ...]) -> None:
    x = 30 * random(*shape)
    attrs = {} if axis is None else {"axis": axis}
    expected = normalised(op, x, -1 if axis is None else axis)
    assert_close(run(op, [x], attrs=attrs)[0], expected)
    assert_close(run(op, [x], attrs=attrs, inplace=0)[0], expected)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3, -1])
def test_softmax_over_all_axes_from_one_on(op: str, axis: int | None) -> None:
    x = random(2, 3, 4, 5)
    flat = x.reshape(int(np.prod(x.shape[: 1 if axis is None else axis % 4])), -1)
    attrs = {"coerce": 1} | ({} if axis is None else {"axis": axis})
    assert_close(run(op, [x], attrs=attrs)[0], normalised(op, flat, 1).reshape(x.shape))


def test_softmax_of_large_values_is_finite() -> None:
    x = np.array([[1e30, -1e30, 1e30]], np.float32)
    assert_close(run("Softmax", [x])[0], np.array([[0.5, 0, 0.5]]))


@pytest.mark.parametrize(
    ("op", "shapes", "params", "attrs"),
    [
        ("BatchNormalization", [(2, 3), (3,), (3,), (3,), (4,)], [1, 2, 3, 4], {}),
        ("BatchNormalization", [(2, 3), (3,), (3,), (3,), (3,)], [1, 2, 3], {}),
        ("BatchNormalization", [(2, 3), (3,), (3,), (3,)], [1, 2, 3], {}),
        ("BatchNormalization", [(3,), (3,), (3,), (3,), (3,)], [1, 2, 3, 4], {}),
        ("BatchNormalization", [(2, 3), (3,), (3,), (3,), (3,)], [1, 2, 3, 4], {"epsilon": "tiny"}),
        ("BatchNormalization", [(2, 3), (3,), (3,), (3,), (3,)], [1, 2, 3, 4], {"momentum": 0.9}),
        ("InstanceNormalization", [(2, 3, 4), (3,), (4,)], [1, 2], {}),
        ("InstanceNormalization", [(2, 3, 4), (3,), (3,)], [1], {}),
        ("InstanceNormalization", [(2, 3), (3,), (3,)], [1, 2], {}),
        ("LayerNormalization", [(2, 3, 4), (3,)], [1], {}),
        ("LayerNormalization", [(2, 3, 4), (2, 3, 4)], [1], {}),
        ("LayerNormalization", [(2, 3, 4), (4,)], [1], {"axis": 3}),
        ("LayerNormalization", [(2, 3, 4), (4,)], [], {}),
        ("LRN", [(2, 3, 4)], [], {}),
        ("LRN", [(2, 3, 4)], [], {"size": 0}),
        ("LRN", [(2,)], [], {"size": 1}),
        ("Softmax", [(2, 3)], [], {"axis": 2}),
        ("Softmax", [(2, 3)], [], {"axis": -3}),
        ("Softmax", [()], [], {}),
        ("Softmax", [(3,)], [], {"coerce": 1}),
        ("LogSoftmax", [(2, 3)], [], {"coerce": 2}),
    ],
)
def test_attributes_that_do_not_fit(op: str, shapes: list[Any], params: list[int], attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for(op, shapes, params, attrs=attrs)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("parameter", [True, False], ids=["parameter", "computed"])
def test_rms_normalization(axis: int, parameter: bool) -> None:
    x, scale = 3 * random(4, 5, 6) + 1, random(6, seed=1)
    exact = x.astype(np.float64)
    axes = tuple(range(axis % 3, 3))
    exact = exact / np.sqrt(np.mean(exact * exact, axis=axes, keepdims=True) + 0.1) * scale
    (y,) = run("RMSNormalization", [x, scale], [1] if parameter else [], attrs={"axis": axis, "epsilon": 0.1})
    assert_close(y, exact)
    (y,) = run("RMSNormalization", [x, scale], [1], inplace=0, attrs={"axis": axis, "epsilon": 0.1})
    assert_close(y, exact)


def test_a_scale_that_does_not_fit_the_axes() -> None:
    with pytest.raises(FormatError, match="broadcast"):
        lowered_for("RMSNormalization", [(4, 5, 6), (5,)], [1])
