"""Operators on int64, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ops.harness import lowered_for, random, run
from streamrt.errors import FormatError, InputError
from streamrt.ops import FLOAT32, INT64

LEAST, MOST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
PAIRS = [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((4,), (2, 3, 4)), ((2, 3), ()), ((), ())]
#: More values than NumPy casts in its buffer, so that an operator that copies its input is found.
LARGE = (3, 50_000)


def integers(*shape: int, seed: int = 0, low: int = -20, high: int = 20) -> NDArray[np.int64]:
    return np.random.default_rng([seed, *shape]).integers(low, high, shape)


def truncated(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """The quotients as ONNX has them, by Python's integers; 0 where b is 0."""
    quotients = [
        0 if y == 0 else int(abs(x) // abs(y)) * (1 if (x < 0) == (y < 0) else -1)
        for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)
    ]
    return np.array(quotients, np.int64).reshape(a.shape)


@pytest.mark.parametrize(
    ("op", "function"),
    [("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Max", np.maximum), ("Min", np.minimum)],
)
@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("params", [(), (0,), (1,)])
def test_arithmetic(op: str, function: Any, a: tuple[int, ...], b: tuple[int, ...], params: tuple[int, ...]) -> None:
    x, y = integers(*a), integers(*b, seed=1)
    found = run(op, [x, y], params)[0]
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, function(x, y))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Mod", "Max", "Sum"])
@pytest.mark.parametrize("inplace", [0, 1])
def test_in_place(op: str, inplace: int) -> None:
    x, y = integers(*LARGE), integers(*LARGE, seed=1)
    expected = run(op, [x, y])[0]
    np.testing.assert_array_equal(run(op, [x, y], inplace=inplace)[0], expected)


def test_sums_and_products_wrap() -> None:
    x = np.array([MOST, LEAST, MOST], np.int64)
    np.testing.assert_array_equal(run("Add", [x, np.ones(3, np.int64)])[0], [LEAST, LEAST + 1, LEAST])
    np.testing.assert_array_equal(run("Mul", [x, np.full(3, 2)])[0], [-2, 0, -2])
    np.testing.assert_array_equal(run("ReduceSum", [x[[0, 2]]], attrs={"keepdims": 0})[0], -2)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_quotients_are_rounded_toward_zero(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = integers(*a), integers(*b, seed=1)
    np.testing.assert_array_equal(run("Div", [x, y])[0], truncated(*np.broadcast_arrays(x, y)))


def test_quotients_at_the_ends() -> None:
    x = np.array([LEAST, LEAST, MOST, 7, -7, 7, -7, LEAST], np.int64)
    y = np.array([1, 2, LEAST, 2, 2, -2, 0, -1], np.int64)
    np.testing.assert_array_equal(run("Div", [x, y])[0], [LEAST, LEAST // 2, 0, 3, -3, -3, 0, LEAST])


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("kind", ["int64", "float32"])
def test_mod(fmod: int, kind: str) -> None:
    x, y = integers(4, 5).astype(kind), integers(5, seed=1, low=1).astype(kind)
    y[::2] *= -1
    expected = (np.fmod if fmod else np.mod)(x, y)
    np.testing.assert_array_equal(run("Mod", [x, y], attrs={"fmod": fmod})[0], expected)


def test_mod_by_zero_is_no_error() -> None:
    assert run("Mod", [integers(3), np.zeros(3, np.int64)])[0].dtype == np.int64


@pytest.mark.parametrize(("op", "function"), [("Abs", np.abs), ("Sign", np.sign)])
def test_functions(op: str, function: Any) -> None:
    x = integers(*LARGE)
    np.testing.assert_array_equal(run(op, [x])[0], function(x))
    np.testing.assert_array_equal(run(op, [x], inplace=0)[0], function(x))


@pytest.mark.parametrize(
    ("op", "function"),
    [
        ("Equal", np.equal),
        ("Greater", np.greater),
        ("GreaterOrEqual", np.greater_equal),
        ("Less", np.less),
        ("LessOrEqual", np.less_equal),
    ],
)
def test_comparisons_are_exact(op: str, function: Any) -> None:
    x = 2**40 + integers(*LARGE, low=-1, high=2)  # float32 has one number for all of these
    y = np.full(LARGE[1:], 2**40)
    found = run(op, [x, y])[0]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, function(x, y))


def test_where() -> None:
    chosen, x, y = np.float32(random(*LARGE) > 0), 2**60 + integers(*LARGE), integers(1, seed=1)
    np.testing.assert_array_equal(run("Where", [chosen, x, y], (2,))[0], np.where(chosen > 0, x, y))


@pytest.mark.parametrize(
    ("op", "function"), [("ReduceSum", np.sum), ("ReduceProd", np.prod), ("ReduceMax", np.max), ("ReduceMin", np.min)]
)
@pytest.mark.parametrize("axes", [(0,), (1,), (-1,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("kind", ["int64", "float32"])
def test_reductions(op: str, function: Any, axes: tuple[int, ...], kind: str) -> None:
    x = integers(3, 4, 5, low=-3, high=4).astype(kind)
    found = run(op, [x], attrs={"axes": axes, "keepdims": 0})[0]
    np.testing.assert_array_equal(found, function(x, axis=tuple(axis % 3 for axis in axes)))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("kind", ["int64", "float32"])
def test_cumsum(axis: int, exclusive: int, reverse: int, kind: str) -> None:
    x = integers(3, 4, 2).astype(kind)
    turned = np.flip(x, axis) if reverse else x
    sums = np.cumsum(turned, axis) - (turned if exclusive else 0)
    expected = np.flip(sums, axis) if reverse else sums
    found = run("CumSum", [x], attrs={"axis": axis, "exclusive": exclusive, "reverse": reverse})[0]
    np.testing.assert_array_equal(found, expected)


def test_large_cumsum() -> None:
    x = integers(*LARGE)
    np.testing.assert_array_equal(run("CumSum", [x], attrs={"axis": 0, "reverse": 1})[0], x[::-1].cumsum(0)[::-1])


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("kind", ["int64", "float32"])
@pytest.mark.parametrize("last", [0, 1])
def test_indices_of_extremes(op: str, axis: int, kind: str, last: int) -> None:
    x = integers(3, 4, 5, low=-2, high=3).astype(kind)
    function = np.argmax if op == "ArgMax" else np.argmin
    expected = x.shape[axis] - 1 - function(np.flip(x, axis), axis) if last else function(x, axis)
    attrs = {"axis": axis, "keepdims": 0, "select_last_index": last}
    found, old = (run(op, [x], attrs=attrs | more)[0] for more in ({"to": "int64"}, {}))
    assert (found.dtype, old.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(old, expected)


@pytest.mark.parametrize(
    ("op", "attrs", "function"),
    [
        ("Identity", {}, lambda x: x),
        ("Reshape", {"shape": (4, -1)}, lambda x: x.reshape(4, -1)),
        ("Flatten", {}, lambda x: x.reshape(2, -1)),
        ("Unsqueeze", {"axes": (1,)}, lambda x: x[:, None]),
        ("Squeeze", {"axes": ()}, lambda x: x),
        ("Transpose", {"perm": (2, 0, 1)}, lambda x: x.transpose(2, 0, 1)),
        ("Slice", {"starts": (1,), "ends": (3,), "axes": (2,)}, lambda x: x[:, :, 1:3]),
        ("Gather", {"axis": 2, "indices": (0, -1)}, lambda x: x[:, :, [0, -1]]),
        ("Expand", {"shape": (5, 2, 3, 4)}, lambda x: np.broadcast_to(x, (5, 2, 3, 4))),
        ("Pad", {"pads": (0, 1, 0, 0, 0, 2), "value": 2**60}, None),
        ("Pad", {"pads": (0, 1, 0, 0, 1, 1), "mode": "reflect"}, None),
    ],
)
@pytest.mark.parametrize("params", [(), (0,)])
def test_movement(op: str, attrs: dict[str, Any], function: Any, params: tuple[int, ...]) -> None:
    x = 2**60 + integers(2, 3, 4)
    if op == "Pad":
        pads = [*zip(attrs["pads"][:3], attrs["pads"][3:], strict=True)]
        more = {"constant_values": attrs["value"]} if "value" in attrs else {}
        expected = np.pad(x, pads, attrs.get("mode", "constant"), **more)
    else:
        expected = function(x)
    found = run(op, [x], params, attrs=attrs)[0]
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


def test_split_and_concat() -> None:
    x = integers(2, 5)
    parts = run("Split", [x], attrs={"axis": 1, "split": (2, 3)}, outputs=2)
    for found, expected in zip(parts, (x[:, :2], x[:, 2:]), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(run("Concat", [x[:, :2], x[:, 2:]], attrs={"axis": 1})[0], x)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("kind", ["int64", "float32"])
@pytest.mark.parametrize("params", [(), (0,), (1,)])
def test_gather_of_computed_indices(axis: int, shape: tuple[int, ...], kind: str, params: tuple[int, ...]) -> None:
    x = integers(4, 5, 6).astype(kind)
    index = integers(*shape, low=-x.shape[axis], high=x.shape[axis])
    found = run("Gather", [x, np.asarray(index)], params, attrs={"axis": axis})[0]
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, np.take(x, index, axis))


def test_gather_of_many_indices() -> None:
    x, index = random(100, 600), integers(300, low=0, high=100)
    np.testing.assert_array_equal(run("Gather", [x, index], (0,))[0], x[index])


@pytest.mark.parametrize("wrong", [5, -6, LEAST, MOST])
@pytest.mark.parametrize("params", [(), (0,)])
def test_an_index_out_of_range(wrong: int, params: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=rf"'under_test' \(Gather\).*index {wrong}, expected -5 to 4"):
        run("Gather", [random(5, 3), np.array([0, wrong, 1])], params)


@pytest.mark.parametrize(
    ("to", "source", "expected"),
    [
        ("int64", np.float32([1.9, -1.9, 2.0**40]), [1, -1, 2**40]),
        ("float32", np.int64([2**24 + 1, -3]), [2**24, -3]),
        ("float64", np.int64([5, -3]), [5, -3]),
        ("bool", np.int64([0, 2**40, -1]), [0, 1, 1]),
        ("bool", np.float32([0, 0.5, np.nan, -0.0]), [0, 1, 1, 0]),
        ("int32", np.int64([2**31, -(2**31) - 1, 7]), [-(2**31), 2**31 - 1, 7]),
        ("uint8", np.int64([256, -1, 255]), [0, 255, 255]),
        ("int8", np.int64([128, -129, 5]), [-128, 127, 5]),
        ("uint8", np.float32([255.9, 0.5]), [255, 0]),
        ("uint32", np.int64([-1]), [2**32 - 1]),
        ("int64", np.int64([LEAST]), [LEAST]),
        ("float16", np.float32([0.1]), [np.float32(0.1)]),
    ],
)
@pytest.mark.parametrize("params", [(), (0,)])
def test_cast(to: str, source: NDArray[Any], expected: list[Any], params: tuple[int, ...]) -> None:
    found = run("Cast", [source], params, attrs={"to": to})[0]
    assert found.dtype == (np.int64 if "int" in to else np.float32)
    np.testing.assert_array_equal(found, np.array(expected, found.dtype))


def test_cast_in_place() -> None:
    x = integers(*LARGE, low=-1000, high=1000)
    np.testing.assert_array_equal(run("Cast", [x], inplace=0, attrs={"to": "int8"})[0], x.astype(np.int8))


@pytest.mark.parametrize("kind", ["int64", "float32"])
def test_large_casts(kind: str) -> None:
    x = integers(*LARGE).astype(kind)
    for to in ("int64", "float32", "bool", "uint8"):
        np.testing.assert_array_equal(run("Cast", [x], attrs={"to": to})[0], x.astype(to))


@pytest.mark.parametrize(
    ("op", "count", "attrs"),
    [
        ("Relu", 1, {}),
        ("Clip", 1, {"min": 0.0}),
        ("Exp", 1, {}),
        ("Pow", 2, {}),
        ("ReduceMean", 1, {}),
        ("Softmax", 1, {}),
        ("GlobalAveragePool", 1, {}),
        ("MatMul", 2, {}),
        ("Gemm", 2, {}),
    ],
)
def test_other_operators_refuse_integers(op: str, count: int, attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"'under_test' .*input 0 \('in0'\) is int64, expected float32"):
        lowered_for(op, [(4, 4)] * count, integers=[0], attrs=attrs)


@pytest.mark.parametrize("op", ["Add", "Div", "Mod", "Max", "Sum", "Equal", "Less", "And"])
def test_types_do_not_mix(op: str) -> None:
    with pytest.raises(FormatError, match="inputs of types int64, float32, expected one type"):
        lowered_for(op, [(4,), (4,)], integers=[0])


def test_types_do_not_mix_in_a_where_or_a_concat() -> None:
    with pytest.raises(FormatError, match="expected one type"):
        lowered_for("Where", [(4,)] * 3, integers=[2])
    with pytest.raises(FormatError, match="expected one type"):
        lowered_for("Concat", [(4,)] * 3, integers=[1], attrs={"axis": 0})


def test_indices_are_integers() -> None:
    with pytest.raises(FormatError, match=r"input 1 \('in1'\) is float32, expected int64"):
        lowered_for("Gather", [(4, 4), (2,)], params=[0])


def test_an_activation_takes_no_integers() -> None:
    for op, attrs in (("Add", {}), ("Concat", {"axis": 0})):
        with pytest.raises(FormatError, match="result is int64, and activation Relu expects float32"):
            lowered_for(op, [(4,)] * 2, integers=[0, 1], attrs=attrs, activation=("Relu", {}))
    with pytest.raises(FormatError, match="result is int64"):
        lowered_for("Reshape", [(4,)], integers=[0], attrs={"shape": (2, 2)}, activation=("Relu", {}))


def test_an_operand_of_an_unknown_type() -> None:
    from ops.harness import node
    from streamrt.ops import Operand, lower

    for op in ("Add", "Gather", "Relu"):
        with pytest.raises(FormatError, match="is F8, expected"):
            lower(node(op, 1), [Operand((4,), "F8", is_param=True)])


@pytest.mark.parametrize(
    ("op", "shapes", "params", "integers", "attrs", "expected"),
    [
        ("Gather", [(50, 3), (4, 7)], [0], [1], {}, True),
        ("Gather", [(50, 3), ()], [0], [1], {}, False),
        ("Gather", [(4, 3), (4, 7)], [], [1], {}, False),
        ("Gather", [(4, 3), (2,)], [1], [1], {"axis": 1}, True),
        ("Gather", [(4, 3), (4,)], [], [1], {"axis": 1}, False),
        ("Cast", [(4, 3)], [], [0], {"to": "float32"}, True),
        ("CumSum", [(4, 3)], [], [0], {"axis": 1}, True),
        ("CumSum", [(4, 3)], [], [0], {"axis": 0}, False),
        ("Mod", [(4, 3), (3,)], [1], [0, 1], {}, True),
    ],
)
def test_batchwise(
    op: str,
    shapes: list[tuple[int, ...]],
    params: list[int],
    integers: list[int],
    attrs: dict[str, Any],
    expected: bool,
) -> None:
    assert lowered_for(op, shapes, params, integers, attrs=attrs).batchwise is expected


def test_types_of_outputs() -> None:
    assert lowered_for("Cast", [(4,)], attrs={"to": "int64"}).dtype(0) == INT64
    assert lowered_for("Relu", [(4,)]).dtype(0) == FLOAT32
