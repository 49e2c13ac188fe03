from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.harness import assert_close, lowered_for, random, run
from streamrt.errors import FormatError

FUNCTIONS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power}
UNARY = {
    "Abs": np.abs,
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Exp": np.exp,
    "Floor": np.floor,
    "Log": np.log,
    "Reciprocal": np.reciprocal,
    "Round": np.rint,
    "Sign": np.sign,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Softplus": lambda x: np.logaddexp(0, x),
    "Sqrt": np.sqrt,
    "Tan": np.tan,
}
SHAPES = [
    ((2, 3, 4), (2, 3, 4)),
    ((2, 3, 4), (3, 1)),
    ((4,), (2, 3, 4)),
    ((2, 1, 4), (1, 3, 1)),
    ((2, 3, 4), ()),
    ((), ()),
]


@pytest.mark.parametrize("op", FUNCTIONS)
@pytest.mark.parametrize("params", [(), (0,), (1,)])
@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_binary(op: str, a: tuple[int, ...], b: tuple[int, ...], params: tuple[int, ...]) -> None:
    x, y = random(*a), random(*b, seed=1)
    if op == "Pow":
        x = np.abs(x) + 0.1
    expected = np.asarray(FUNCTIONS[op](x.astype(np.float64), y))
    assert_close(run(op, [x, y], params)[0], expected)
    lowered = lowered_for(op, [a, b], params)
    assert set(lowered.inplace) == {i for i, shape in enumerate((a, b)) if shape == expected.shape} - set(params)
    for index in lowered.inplace:
        assert_close(run(op, [x, y], params, inplace=index)[0], expected)


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_unary(op: str, shape: tuple[int, ...]) -> None:
    x = np.asarray(3 * random(*shape))
    if op in ("Log", "Sqrt"):
        x = np.abs(x)
    elif op in ("Acos", "Asin", "Atanh"):
        x = np.sin(x)
    elif op == "Acosh":
        x = 1 + np.abs(x)
    elif op == "Round":
        x = np.round(2 * x) / 2  # halves are rounded to even numbers
    expected = np.asarray(UNARY[op](x.astype(np.float64)))
    assert_close(run(op, [x])[0], expected)
    assert_close(run(op, [x], inplace=0)[0], expected)
    assert_close(run(op, [x], [0])[0], expected)


@pytest.mark.parametrize(("fmod", "function"), [(0, np.remainder), (1, np.fmod)])
@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_remainder(fmod: int, function: Any, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Its sign is the divisor's, or with ``fmod`` the dividend's."""
    x, y = 3 * random(*a), random(*b, seed=1)
    expected = np.asarray(function(x, y))  # in float64 a multiple of the divisor may not be one
    np.testing.assert_array_equal(run("Mod", [x, y], attrs={"fmod": fmod})[0], expected)
    for index in lowered_for("Mod", [a, b]).inplace:
        np.testing.assert_array_equal(run("Mod", [x, y], attrs={"fmod": fmod}, inplace=index)[0], expected)
    np.testing.assert_array_equal(run("Mod", [np.float32([-5]), np.float32([3])])[0], [1])


def test_softplus_does_not_overflow() -> None:
    x = np.array([-200, -100, 0, 100, 1e30], np.float32)
    np.testing.assert_allclose(run("Softplus", [x])[0], [0, 3.8e-44, np.log(2), 100, 1e30], rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_largest_and_smallest(op: str) -> None:
    inputs = [random(*shape, seed=i) for i, shape in enumerate([(2, 3), (3,), (2, 1)])]
    inputs[0][0, 0] = np.nan
    function = np.maximum if op == "Max" else np.minimum
    expected = function(function(inputs[0], inputs[1]), inputs[2])
    np.testing.assert_array_equal(run(op, inputs)[0], expected)
    np.testing.assert_array_equal(run(op, inputs, inplace=0)[0], expected)


@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 3), (3,)], [(3,), (2, 1), (2, 3), ()], [(2, 3)] * 5])
def test_sum(shapes: list[tuple[int, ...]]) -> None:
    inputs = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    expected = sum(x.astype(np.float64) for x in inputs)
    assert_close(run("Sum", inputs)[0], np.asarray(expected))
    for index in lowered_for("Sum", shapes).inplace:
        assert_close(run("Sum", inputs, inplace=index)[0], np.asarray(expected))


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        ("Add", [(2, 3), (2,)]),
        ("Sub", [(2, 3), (4, 3)]),
        ("Mul", [(2, 3)]),
        ("Div", [(2, 3), None]),
        ("Add", [(2, 3)] * 3),
        ("Sum", []),
        ("Sum", [(2, 3), (3,), (4,)]),
        ("Mul", [(2**20, 1), (1, 2**20)]),  # 2**40 elements
    ],
)
def test_shapes_that_do_not_fit(op: str, shapes: list[tuple[int, ...] | None]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for(op, shapes)
