"""Quantisation against float64 and integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.harness import lowered_for, node, random, run
from streamrt.errors import FormatError
from streamrt.ops import Operand, lower

RANGES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}
Array = np.ndarray[Any, Any]


def quantized(x: Array, scale: Array, zero: Array, dtype: str) -> Array:
    """By the definition, with the quotient as float32."""
    whole = np.rint((x / scale).astype(np.float32)).astype(np.float64)
    return np.clip(whole + zero, *RANGES[dtype])


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize(
    ("shape", "scales", "axis"),
    [
        ((2, 3, 4), (), 0),
        ((2, 3, 4), (1,), 1),
        ((2, 3, 4), (3,), 1),
        ((2, 3, 4), (4,), -1),
        ((5,), (5,), 0),
        ((), (), 0),
    ],
)
def test_quantize_and_dequantize(shape: tuple[int, ...], scales: tuple[int, ...], axis: int, dtype: str) -> None:
    low, high = RANGES[dtype]
    scale = (np.abs(random(*scales, seed=1)) + 0.1).astype(np.float32) * np.float32(6 / (high - low))
    zero = np.random.default_rng(2).integers(low, high + 1, scales).astype(np.float32)
    x = 4 * random(*shape)
    broadcast = [
        part.reshape((-1,) + (1,) * (len(shape) - 1 - axis % len(shape))) if part.size > 1 else part
        for part in (scale, zero)
    ]
    attrs = {"axis": axis, "dtype": dtype} if shape else {"dtype": dtype}
    expected = quantized(x, *broadcast, dtype)
    assert len(np.unique(expected)) > min(2, x.size - 1)
    inputs = [x, scale.reshape(scales), zero.reshape(scales)]
    for inplace in (None, 0):
        np.testing.assert_array_equal(run("QuantizeLinear", inputs, [1, 2], attrs=attrs, inplace=inplace)[0], expected)
    del attrs["dtype"]
    real = (expected - broadcast[1]) * broadcast[0].astype(np.float64)
    inputs[0] = expected.astype(np.float32)
    for inplace in (None, 0):
        found = run("DequantizeLinear", inputs, [1, 2], attrs=attrs, inplace=inplace)[0]
        np.testing.assert_array_equal(found, real.astype(np.float32))


def test_without_a_zero_point() -> None:
    x, scale = random(3, 4), np.asarray(0.125, np.float32)
    y = run("QuantizeLinear", [x, scale], [1])[0]
    np.testing.assert_array_equal(y, np.clip(np.rint(x * 8), 0, 255))
    np.testing.assert_array_equal(run("DequantizeLinear", [y, scale], [1])[0], y / 8)


def test_halves_become_even() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, 3.5, 254.5, 255.5, 1e30, -1e30], np.float32)
    y = run("QuantizeLinear", [x, np.ones((), np.float32)], [1])[0]
    np.testing.assert_array_equal(y, [0, 2, 2, 0, 4, 254, 255, 255, 0])
    np.testing.assert_array_equal(run("QuantizeDequantizeLinear", [x])[0], y)


@pytest.mark.parametrize("shift", [0, 5, -5, 0.25])
def test_dynamic(shift: float) -> None:
    x = random(64, 3, 40, 9) + np.float32(shift)
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = (high - low) / np.float32(255)
    zero = np.rint(-low / scale)
    for inplace in (None, 0):
        y, s, z = run("DynamicQuantizeLinear", [x], outputs=3, inplace=inplace)
        assert (s, z) == (scale, zero)
        np.testing.assert_array_equal(y, np.clip(np.rint(x / scale) + zero, 0, 255))
        assert y.min() == (0 if low < 0 else np.rint(x.min() / scale))
        assert y.max() == (255 if high > 0 else np.rint(x.max() / scale) + 255)
    assert not lowered_for("DynamicQuantizeLinear", [x.shape], outputs=3).batchwise


def test_dynamic_of_zeros() -> None:
    y, s, z = run("DynamicQuantizeLinear", [np.zeros((3, 4), np.float32)], outputs=3)
    assert (s, z) == (1, 0)
    assert not y.any()


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
@pytest.mark.parametrize(
    ("shapes", "params", "attrs", "reason"),
    [
        ([(2, 3), (2,)], [1], {"axis": 1}, r"a scale of shape \(2,\) for axis 1 of an input of shape \(2, 3\)"),
        ([(2, 3), (2, 3)], [1], {}, "a scale of shape"),
        ([(2, 3), (2,), (3,)], [1, 2], {}, ".* a zero point of shape"),
        ([(2, 3), (2,), ()], [1, 2], {}, ".* a zero point of shape"),
        ([(2, 3), ()], [], {}, "input 1 must be a parameter"),
        ([(2, 3), (), ()], [1], {}, "input 2 must be a parameter"),
        ([(2, 3), ()], [1], {"axis": 2}, "attribute 'axis'"),
        ([(2, 3), ()], [1], {"axis": 2**40}, "attribute 'axis'"),
        ([(), (4,)], [1], {}, "a scale of shape"),
        ([(2, 3), ()], [1], {"scale": 1.0}, "unknown attributes"),
        ([(2, 3)], [], {}, "1 inputs"),
    ],
)
def test_nodes_that_do_not_fit(
    op: str, shapes: list[tuple[int, ...]], params: list[int], attrs: dict[str, Any], reason: str
) -> None:
    with pytest.raises(FormatError, match=f"'under_test' .{op}.: {reason}"):
        lowered_for(op, shapes, params, attrs=attrs)


def test_a_type_without_a_range() -> None:
    with pytest.raises(FormatError, match="attribute 'dtype' is 'int32'"):
        lowered_for("QuantizeLinear", [(2,), ()], [1], attrs={"dtype": "int32"})


def test_dynamic_has_three_outputs_and_no_activation() -> None:
    with pytest.raises(FormatError, match="1 outputs, expected 3 to 3"):
        lowered_for("DynamicQuantizeLinear", [(2,)])
    activated = node("DynamicQuantizeLinear", 1, outputs=3, activation=("Relu", {}))
    with pytest.raises(FormatError, match="one output"):
        lower(activated, [Operand((2,))])
