"""Size nodes: values that follow from extents, against NumPy and ONNX's reference; hostile nodes; and the samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrt.errors import FormatError
from streamrt.graph import Node
from streamrt.ops import Operand, Value, sizes


def node(op: str, inputs: int, outputs: int = 1, **attrs: Any) -> Node:
    return Node(
        "under_test", op, tuple(f"in{i}" for i in range(inputs)), tuple(f"out{i}" for i in range(outputs)), attrs
    )


def value(data: Any, dtype: Any = np.int64) -> Value:
    return Value(np.array(data, dtype))


def computed(op: str, *inputs: Any, outputs: int = 1, **attrs: Any) -> list[Value]:
    values = [None if x is None else x if isinstance(x, Value | Operand) else value(x, None) for x in inputs]
    return sizes.evaluate(node(op, len(inputs), outputs, **attrs), values, sizes.Meter())


F = np.float32
CASES: dict[str, tuple[str, list[Any], dict[str, Any], Any]] = {
    "Gather": ("Gather", [[5, 6, 7], 1], {}, 6),
    "Gather from the back": ("Gather", [[5, 6, 7], [-1, 0]], {}, [7, 5]),
    "Gather along an axis": ("Gather", [[[1, 2], [3, 4]], [1]], {"axis": 1}, [[2], [4]]),
    "Slice": ("Slice", [[1, 2, 3, 4], [1], [2**62]], {}, [2, 3, 4]),
    "Slice backwards": ("Slice", [[1, 2, 3, 4], [-1], [-(2**62)], [0], [-2]], {}, [4, 2]),
    "Slice of nothing": ("Slice", [[1, 2], [1], [1]], {}, np.array([], np.int64)),
    "Concat": ("Concat", [[1], [2, 3]], {"axis": 0}, [1, 2, 3]),
    "Squeeze": ("Squeeze", [[[7]], [0]], {}, [7]),
    "Squeeze all": ("Squeeze", [[[7]]], {}, 7),
    "Unsqueeze": ("Unsqueeze", [7, [0, 1]], {}, [[7]]),
    "Reshape": ("Reshape", [[1, 2, 3, 4], [2, -1]], {}, [[1, 2], [3, 4]]),
    "Reshape keeping": ("Reshape", [[[1, 2], [3, 4]], [0, 2, 1]], {}, [[[1], [2]], [[3], [4]]]),
    "Transpose": ("Transpose", [[[1, 2], [3, 4]]], {}, [[1, 3], [2, 4]]),
    "Flatten": ("Flatten", [[[[1], [2]]]], {"axis": 1}, [[1, 2]]),
    "Cast to a float": ("Cast", [[1, 2]], {"to": "float32"}, np.array([1, 2], F)),
    "Cast to an integer": ("Cast", [np.array([1.9, -1.9], F)], {"to": "int32"}, [1, -1]),
    "Cast to a truth value": ("Cast", [[0, 3]], {"to": "bool"}, [False, True]),
    "Add": ("Add", [[1, 2], 3], {}, [4, 5]),
    "Div toward 0": ("Div", [[7, -7, 7, -7], [2, 2, -2, -2]], {}, [3, -3, -3, 3]),
    "Div by 0": ("Div", [[7], [0]], {}, [0]),
    "Div of floats": ("Div", [np.array([1], F), np.array([4], F)], {}, np.array([0.25], F)),
    "Mod": ("Mod", [[7, -7], [3, 3]], {}, [1, 2]),
    "Mod as in C": ("Mod", [[7, -7], [3, 3]], {"fmod": 1}, [1, -1]),
    "Floor": ("Floor", [np.array([1.5, -1.5], F)], {}, np.array([1, -2], F)),
    "Round": ("Round", [np.array([0.5, 1.5], F)], {}, np.array([0, 2], F)),
    "Min": ("Min", [[1, 5], [4], 3], {}, [1, 3]),
    "Clip": ("Clip", [[1, 5, 9], 2, 7], {}, [2, 5, 7]),
    "Clip above": ("Clip", [[1, 5, 9], None, 7], {}, [1, 5, 7]),
    "Where": ("Where", [[True, False], [1, 2], 9], {}, [1, 9]),
    "Equal": ("Equal", [[1, 2], [1, 3]], {}, [True, False]),
    "Not": ("Not", [[True, False]], {}, [False, True]),
    "MatMul": ("MatMul", [[[1, 2]], [[3], [4]]], {}, [[11]]),
    "Range": ("Range", [0, 7, 3], {}, [0, 3, 6]),
    "Range backwards": ("Range", [5, 0, -2], {}, [5, 3, 1]),
    "Range of nothing": ("Range", [5, 0, 1], {}, np.array([], np.int64)),
    "Range of floats": ("Range", [F(0), F(1), F(0.3)], {}, np.arange(0, 1, 0.3).astype(F)),
    "ConstantOfShape": ("ConstantOfShape", [[2, 3]], {"value": 4, "dtype": "int64"}, np.full((2, 3), 4)),
    "ConstantOfShape of a float": ("ConstantOfShape", [[2]], {}, np.zeros(2, F)),
    "Expand": ("Expand", [[[1], [2]], [1, 3]], {}, [[1] * 3, [2] * 3]),
    "Tile": ("Tile", [[[1, 2]], [2, 2]], {}, [[1, 2, 1, 2]] * 2),
    "EyeLike": ("EyeLike", [[[0, 0], [0, 0]]], {"k": 1, "dtype": "int64"}, [[0, 1], [0, 0]]),
    "OneHot": ("OneHot", [[0, -1], 3, [5, 6]], {}, [[6, 5, 5], [5, 5, 6]]),
    "OneHot along the first axis": ("OneHot", [[1], 2, [0, 1]], {"axis": 0}, [[0], [1]]),
    "Trilu": ("Trilu", [[[1, 2], [3, 4]]], {}, [[1, 2], [0, 4]]),
    "Trilu below": ("Trilu", [[[1, 2], [3, 4]], -1], {"upper": 0}, [[0, 0], [3, 0]]),
    "GatherElements": ("GatherElements", [[[1, 2], [3, 4]], [[1, 0]]], {"axis": 1}, [[2, 1]]),
    "GatherND": ("GatherND", [[[1, 2], [3, 4]], [[1, 0]]], {}, [3]),
    "ScatterND": ("ScatterND", [[1, 2, 3], [[1]], [9]], {}, [1, 9, 3]),
    "ScatterElements": ("ScatterElements", [[1, 2, 3], [2], [9]], {}, [1, 2, 9]),
    "ReduceProd": ("ReduceProd", [[2, 3, 4]], {"keepdims": 0}, 24),
    "ReduceMax along an axis": ("ReduceMax", [[[1, 5], [3, 2]], [1]], {"keepdims": 0}, [5, 3]),
    "ReduceSum of nothing": ("ReduceSum", [[1, 2], np.array([], np.int64)], {"noop_with_empty_axes": 1}, [1, 2]),
    "ArgMax": ("ArgMax", [[1, 5, 5]], {"keepdims": 0}, 1),
    "CumSum": ("CumSum", [[1, 2, 3], 0], {}, [1, 3, 6]),
    "CumSum backwards without itself": ("CumSum", [[1, 2, 3], 0], {"exclusive": 1, "reverse": 1}, [5, 3, 0]),
    "NonZero": ("NonZero", [[[0, 4], [5, 0]]], {}, [[0, 1], [1, 0]]),
    "Identity": ("Identity", [[1]], {}, [1]),
    "Sin": ("Sin", [np.array([0.5], F)], {}, np.sin(np.array([0.5], F))),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values(case: tuple[str, list[Any], dict[str, Any], Any]) -> None:
    op, inputs, attrs, expected = case
    (found,) = computed(op, *inputs, **attrs)
    expected = np.array(expected)
    assert (found.array.dtype, found.array.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found.array, expected, rtol=1e-7)
    assert not found.depends_on_batch


def test_every_operator_has_a_case() -> None:
    others = {
        "Shape",
        "Size",
        "Constant",
        "Split",
        "Abs",
        "Ceil",
        "Cos",
        "Exp",
        "Log",
        "Neg",
        "Reciprocal",
        "Sign",
        "Sqrt",
    }
    others |= {
        "And",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Mul",
        "Or",
        "Pow",
        "Sub",
        "Xor",
        "Max",
        "Sum",
    }
    others |= {"ReduceMean", "ReduceMin", "ArgMin"}  # a line in a table beside an operator that has a case
    assert sizes.supported() == {case[0] for case in CASES.values()} | others


def test_split() -> None:
    assert [v.array.tolist() for v in computed("Split", [1, 2, 3], outputs=2)] == [[1, 2], [3]]
    assert [v.array.tolist() for v in computed("Split", [1, 2, 3], [1, 2], outputs=2)] == [[1], [2, 3]]


def test_shape_and_size() -> None:
    x = Operand((7, 3, 5))
    assert computed("Shape", x)[0].array.tolist() == [7, 3, 5]
    assert computed("Shape", x, start=1, end=-1)[0].array.tolist() == [3]
    assert computed("Size", x)[0].array.tolist() == 105


def test_a_constant() -> None:
    (found,) = sizes.evaluate(node("Constant", 0, value=(1.5, 2.0), shape=(2, 1), dtype="float32"), [], sizes.Meter())
    assert found.array.dtype == np.float32
    assert found.array.tolist() == [[1.5], [2.0]]


def empty(*shape: int) -> Value:
    """A value without elements, of which one axis is long."""
    return Value(np.broadcast_to(np.int64(0), shape))


@pytest.mark.parametrize(
    ("op", "inputs", "attrs"),
    [
        ("MatMul", [empty(2**14, 0), empty(0, 2**14)], {}),
        ("ReduceSum", [empty(2**33, 0), [1]], {}),
        ("OneHot", [empty(0), 2**40, [0, 1]], {}),
        ("GatherElements", [empty(2**40, 0), empty(2**40, 0)], {"axis": 1}),
        ("ScatterElements", [empty(2**40, 0)] * 3, {"axis": 1}),
        ("Trilu", [empty(0, 2**20, 2**20)], {}),
        ("ConstantOfShape", [[2**40, 0]], {}),
        ("Reshape", [empty(0), [2**40, 0]], {"allowzero": 1}),
        ("Sum", [np.zeros(2**12, np.int64)] + [1] * 4095, {}),
        ("Constant", [], {"value": (), "shape": (2**30, 0)}),
        ("Constant", [], {"value": (1e300,)}),
        ("ConstantOfShape", [[10**6, 10**6]], {}),
        ("ConstantOfShape", [[2**62] * 4], {}),
        ("ConstantOfShape", [[-1]], {}),
        ("ConstantOfShape", [[1] * 9], {}),
        ("Expand", [[1], [2**40]], {}),
        ("Range", [0, 2**62, 1], {}),
        ("Range", [0, 1, 0], {}),
        ("Range", [0.0, float("inf"), 1.0], {}),
        ("Range", [0.0, 1.0, float("nan")], {}),
        ("Tile", [[1, 2], [2**40]], {}),
        ("Tile", [[1, 2], [-1]], {}),
        ("OneHot", [[1], 2**40, [0, 1]], {}),
        ("Gather", [[1, 2], 2], {}),
        ("Gather", [[1, 2], 0.5], {}),
        ("Gather", [1, 0], {}),
        ("Slice", [[1], [0], [1], [3]], {}),
        ("Slice", [[1], [0], [1], [0], [0]], {}),
        ("Reshape", [[1, 2, 3], [2, -1]], {}),
        ("Reshape", [[1], [1, 0]], {}),
        ("Unsqueeze", [1, list(range(9))], {}),
        ("Unsqueeze", [1, [2**40]], {}),
        ("Squeeze", [[1, 2], [0]], {}),
        ("Concat", [[1], [[2]]], {"axis": 0}),
        ("Transpose", [[[1]]], {"perm": (0, 0)}),
        ("Add", [[1, 2], [1, 2, 3]], {}),
        ("Pow", [[2], [-1]], {}),
        ("MatMul", [[[1, 2]], [[3]]], {}),
        ("MatMul", [np.ones((2000, 2000), np.int64), np.ones((2000, 2000), np.int64)], {}),
        ("Cast", [[1]], {"to": "string"}),
        ("Where", [[1], [1]], {}),
        ("ScatterND", [[1], [[5]], [1]], {}),
        ("CumSum", [[1], 3], {}),
        ("Sigmoid", [[1]], {}),
        ("Identity", [[1]], {"unknown": 1}),
    ],
)
def test_hostile_nodes_are_refused(op: str, inputs: list[Any], attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        computed(op, *inputs, **attrs)


def test_elements_of_all_nodes_are_counted() -> None:
    meter, one = sizes.Meter(), [value(2**21)]
    for _ in range(3):
        sizes.evaluate(node("ConstantOfShape", 1), one, meter)
    with pytest.raises(FormatError, match="elements"):
        sizes.evaluate(node("ConstantOfShape", 1), one, meter)


BATCH = Operand((4, 3, 8, 8))


def test_the_batch_is_followed_through_a_shape() -> None:
    (shape,) = computed("Shape", BATCH)
    assert shape.from_batch is not None
    assert shape.from_batch.tolist() == [True, False, False, False]
    assert not computed("Gather", shape, 1)[0].depends_on_batch
    assert computed("Gather", shape, 0)[0].depends_on_batch
    (rest,) = computed("Slice", shape, [1], [4])
    assert not rest.depends_on_batch
    (joined,) = computed("Concat", rest, computed("Slice", shape, [0], [1])[0], axis=0)
    assert joined.from_batch is not None
    assert joined.from_batch.tolist() == [False, False, False, True]
    (scaled,) = computed("Mul", shape, [1, 1, 2, 2])
    assert scaled.from_batch is not None
    assert scaled.from_batch.tolist() == [True, False, False, False]
    assert computed("ReduceProd", shape, keepdims=0)[0].depends_on_batch
    assert not computed("ReduceProd", rest, keepdims=0)[0].depends_on_batch


def test_samples_along_another_axis_and_the_same_for_all() -> None:
    (shape,) = computed("Shape", Operand((3, 4), batch=1))
    assert shape.from_batch is not None
    assert shape.from_batch.tolist() == [False, True]
    assert not computed("Shape", Operand((3, 4), batch=None))[0].depends_on_batch
    assert not computed("Shape", Operand((3, 4), is_param=True))[0].depends_on_batch
    assert computed("Size", BATCH)[0].depends_on_batch


def test_equal_rows_for_each_sample() -> None:
    (shape,) = computed("Shape", BATCH)
    (count,) = computed("Slice", shape, [0], [1])
    (target,) = computed("Concat", count, [1, 5], axis=0)
    (zeros,) = computed("ConstantOfShape", target)
    assert (zeros.batch, zeros.from_batch) == (0, None)
    (row,) = computed("Expand", [[[1, 2, 3, 4, 5]]], target)
    assert (row.batch, row.from_batch) == (0, None)
    (total,) = computed("Add", row, computed("Cast", zeros, to="int64")[0])
    assert (total.batch, total.from_batch) == (0, None)
    # A table with a row for each sample is data that depends on the number of samples, and so is a count of them.
    assert computed("Expand", [[1]] * 4, computed("Concat", count, [2], axis=0)[0])[0].from_batch is not None
    assert computed("Add", row, [[[1]]] * 4)[0].from_batch is not None
    assert computed("Range", 0, computed("Squeeze", count)[0], 1)[0].from_batch is not None


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(sizes.supported() - {"Shape", "Size", "Constant"})),
    st.lists(
        st.one_of(
            st.integers(-(2**62), 2**62),
            st.floats(width=32),
            st.lists(st.integers(-3, 5), max_size=4),
            st.lists(st.lists(st.integers(-2, 3), min_size=2, max_size=2), max_size=3),
        ),
        max_size=4,
    ),
    st.dictionaries(
        st.sampled_from(("axis", "to", "keepdims", "value", "dtype", "perm", "k")),
        st.one_of(st.integers(-(2**31), 2**31), st.just("int64"), st.lists(st.integers(-2, 3)).map(tuple)),
        max_size=2,
    ),
)
def test_refused_or_small(op: str, inputs: list[Any], attrs: dict[str, Any]) -> None:
    try:
        found = computed(op, *inputs, **attrs)
    except FormatError:
        return
    assert all(value.array.size <= 2**22 and value.array.dtype.kind in "ifb" for value in found)
