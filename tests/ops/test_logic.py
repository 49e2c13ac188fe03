from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.harness import lowered_for, random, run
from ops.reference import onnx_run
from streamrt.errors import FormatError

COMPARISONS = {
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
}
LOGIC = {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}
SHAPES = [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((4,), (2, 3, 4)), ((2, 3), ()), ((), ())]


def rounded(*shape: int, seed: int = 0) -> Any:
    """Random values. Some are equal, and some are NaN."""
    x = np.asarray(np.round(random(*shape, seed=seed)))
    x.reshape(-1)[::7] = np.nan
    return x


@pytest.mark.parametrize("op", COMPARISONS | LOGIC)
@pytest.mark.parametrize("params", [(), (0,), (1,)])
@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_binary(op: str, a: tuple[int, ...], b: tuple[int, ...], params: tuple[int, ...]) -> None:
    x, y = rounded(*a), rounded(*b, seed=1)
    expected = (COMPARISONS | LOGIC)[op](x, y)
    np.testing.assert_array_equal(run(op, [x, y], params)[0], np.asarray(expected, np.float32))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_not(shape: tuple[int, ...]) -> None:
    x = rounded(*shape)
    np.testing.assert_array_equal(run("Not", [x])[0], np.asarray(x == 0, np.float32))


@pytest.mark.parametrize(
    ("condition", "a", "b"),
    [((3,), (2, 3), (2, 3)), ((2, 3), (), (3,)), ((1, 3), (2, 1), (2, 3)), ((2, 3), (), ()), ((), (2,), (2,))],
)
@pytest.mark.parametrize("params", [(), (0,), (1, 2)])
def test_where(condition: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...], params: tuple[int, ...]) -> None:
    chosen = np.asarray(random(*condition) > 0, np.float32)
    x, y = random(*a, seed=1), random(*b, seed=2)
    np.testing.assert_array_equal(run("Where", [chosen, x, y], params)[0], np.where(chosen != 0, x, y))


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", range(-3, 3))
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 5, 1), (7, 1, 2)])
def test_arg(op: str, shape: tuple[int, ...], axis: int, keepdims: int, last: int) -> None:
    x = np.round(random(*shape))
    attrs = {"axis": axis, "keepdims": keepdims, "select_last_index": last}
    expected = onnx_run(op, [x], attrs)[0]
    np.testing.assert_array_equal(run(op, [x], attrs=attrs)[0], expected.astype(np.float32))


ODD = np.array([0, -0.0, 1, np.inf, -np.inf, np.nan, -np.nan, 3e38], np.float32)


def test_no_number() -> None:
    np.testing.assert_array_equal(run("IsNaN", [ODD])[0], np.isnan(ODD))


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("negative", [0, 1])
def test_infinity(positive: int, negative: int) -> None:
    attrs = {"detect_positive": positive, "detect_negative": negative}
    wanted = (np.isposinf(ODD) & bool(positive)) | (np.isneginf(ODD) & bool(negative))
    np.testing.assert_array_equal(run("IsInf", [ODD], attrs=attrs)[0], wanted)


def test_nan_is_the_largest() -> None:
    assert run("ArgMax", [np.array([1, np.nan, 3], np.float32)], attrs={"keepdims": 0})[0] == 1


@pytest.mark.parametrize(
    ("op", "shapes", "attrs"),
    [
        ("Greater", [(2, 3), (2,)], {}),
        ("Greater", [(2, 3)], {}),
        ("Not", [(2,)], {"axis": 0}),
        ("IsNaN", [(2,), (2,)], {}),
        ("IsInf", [(2,)], {"detect_positive": 2}),
        ("Where", [(2, 3), (2, 3)], {}),
        ("Where", [(4,), (2, 3), (2, 3)], {}),
        ("ArgMax", [()], {}),
        ("ArgMax", [(2, 3)], {"axis": 2}),
        ("ArgMax", [(2, 3)], {"select_last_index": 2}),
        ("ArgMax", [(2**24 + 1, 1)], {}),  # the last two indices are the same in float32
    ],
)
def test_nodes_that_do_not_fit(op: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for(op, shapes, attrs=attrs)
