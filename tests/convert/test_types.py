"""Inputs and outputs of all types, and arithmetic of integers, against the reference of the onnx package or NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import expected, integers, make_model, onnx, ops, random, run_packed
from streamrt.format import read_header
from streamrt.graph import TYPES

node = onnx.helper.make_node
T = onnx.TensorProto


def sample(dtype: str, *shape: int, seed: int = 0) -> Any:
    """Numbers of a type, large and small; no zero in the last column."""
    generator = np.random.default_rng([seed, *shape])
    if dtype == "bool":
        return generator.random(shape) < 0.5
    if dtype.startswith("float"):
        return generator.standard_normal(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def check(model: Any, folder: Path, feeds: dict[str, Any], wanted: list[Any] | None = None) -> list[str]:
    """Pack and run a model; its outputs must have the types and the values of the reference. Returns the operators."""
    path = streamrt.pack(model, folder / "model.safetensors")
    found = run_packed(path, feeds)
    for one, other in zip(found, wanted or expected(model, feeds), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one, other, rtol=1e-3 if one.dtype == np.float16 else 1e-6)
    return ops(read_header(path).graph)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_goes_in_and_comes_out(dtype: str, tmp_path: Path) -> None:
    x = sample(dtype, 3, 40)
    model = make_model([node("Transpose", ["x"], ["y"])], inputs={"x": (3, 40)}, types={"x": dtype})
    path = streamrt.pack(model, tmp_path / "out")
    with streamrt.Model(path, budget=None) as packed:
        assert [(spec.name, spec.dtype) for spec in (*packed.inputs, *packed.outputs)] == [("x", dtype), ("y", dtype)]
        y = packed(x)
        assert y.dtype == dtype
        exact = x.astype(np.float32) if dtype == "float64" else x  # floats are float32 inside
        np.testing.assert_array_equal(y, exact.T)
        for other in set(TYPES) - {dtype}:
            with pytest.raises(streamrt.InputError, match=rf"input 'x': expected a NumPy array of {dtype}, found one"):
                packed(np.zeros(x.shape, other))


@pytest.mark.parametrize("source", TYPES)
@pytest.mark.parametrize("target", TYPES)
def test_casts(source: str, target: str, tmp_path: Path) -> None:
    x = sample(source, 2, 30)
    if target not in ("bool", "float64", "float32") and source.startswith("float"):
        x = np.abs(x)  # a negative number has no value as an unsigned integer
    if target == "float16" and "int" in source:
        x %= 100  # larger ones are infinite
    to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target))
    model = make_model([node("Cast", ["x"], ["y"], to=to)], inputs={"x": (2, 30)}, types={"x": source})
    check(model, tmp_path, {"x": x}, [x.astype(target)])


WRAPPING = [
    (op, dtype)
    for op in ("Add", "Sub", "Mul", "Max", "Min", "Neg", "Abs")
    for dtype in ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32")
    if op != "Neg" or not dtype.startswith("u")  # ONNX has no Neg of unsigned integers
]


@pytest.mark.parametrize(("op", "dtype"), WRAPPING)
def test_arithmetic_wraps_as_its_type_does(op: str, dtype: str, tmp_path: Path) -> None:
    names = ["x"] if op in ("Neg", "Abs") else ["x", "k"]
    x, k = sample(dtype, 4, 50), sample(dtype, 50, seed=1)
    function: Any = {
        "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum, "Min": np.minimum,
        "Neg": np.negative, "Abs": np.abs,
    }[op]  # fmt: skip
    wanted = function(*{"x": x, "k": k}.values()) if len(names) == 2 else function(x)
    model = make_model([node(op, names, ["y"])], {"k": k}, inputs={"x": (4, 50)}, types={"x": dtype})
    check(model, tmp_path, {"x": x}, [wanted])


def test_what_follows_a_sum_sees_it_wrapped(tmp_path: Path) -> None:
    nodes = [
        node("Add", ["x", "k"], ["sum"]),
        node("Cast", ["sum"], ["y"], to=T.FLOAT),
        node("Less", ["sum", "k"], ["z"]),
    ]
    x, k = np.array([250, 3], np.uint8), np.array([10, 10], np.uint8)
    model = make_model(nodes, {"k": k}, inputs={"x": (2,)}, outputs=["y", "z"], types={"x": "uint8"})
    check(model, tmp_path, {"x": x}, [np.float32([4, 13]), np.array([True, False])])


def test_division(tmp_path: Path) -> None:
    x = np.array([7, -7, 7, -7, 5, np.iinfo(np.int64).min], np.int64)
    k = np.array([2, 2, -2, -2, 0, 3], np.int64)
    nodes = [node("Div", ["x", "k"], ["y"]), node("Mod", ["x", "k"], ["m"]), node("Mod", ["x", "k"], ["f"], fmod=1)]
    model = make_model(nodes, {"k": k}, inputs={"x": (6,)}, outputs=["y", "m", "f"], types={"x": "int64"})
    least = -((2**63) // 3)
    wanted = [integers(3, -3, -3, 3, 0, least), integers(1, 1, -1, -1, 0, 1), integers(1, -1, 1, -1, 0, -2)]
    assert check(model, tmp_path, {"x": x}, wanted) == ["Div", "Mod", "Mod"]


def test_normalisation_of_pictures(tmp_path: Path) -> None:
    """Exporters write it so for pictures of uint8: Cast, Div, Sub, Div."""
    nodes = [
        node("Cast", ["x"], ["f"], to=T.FLOAT),
        node("Div", ["f", "most"], ["s"]),
        node("Sub", ["s", "mean"], ["c"]),
        node("Div", ["c", "std"], ["n"]),
        node("Conv", ["n", "w"], ["y"]),
    ]
    constants = {
        "most": np.float32(255).reshape(1),
        "mean": np.float32([0.485, 0.456, 0.406]).reshape(3, 1, 1),
        "std": np.float32([0.229, 0.224, 0.225]).reshape(3, 1, 1),
        "w": random(4, 3, 3, 3),
    }
    model = make_model(nodes, constants, inputs={"x": ("N", 3, 20, 20)}, types={"x": "uint8"})
    x = sample("uint8", 5, 3, 20, 20)
    path = streamrt.pack(model, tmp_path / "out")
    (wanted,) = expected(model, {"x": x})
    with streamrt.Model(path, budget=None) as packed:
        np.testing.assert_allclose(packed(x), wanted, rtol=1e-4, atol=1e-4)
        (one,) = packed.call_together([x[:1]])
        np.testing.assert_allclose(one, wanted[:1], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(np.concatenate(list(packed.predict([x[:2], x[2:]]))), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("nodes", "constants", "wanted"),
    [
        ([node("Clip", ["x", "low", "high"], ["y"])], {"low": integers(-3)[0], "high": integers(5)[0]}, ["Max", "Min"]),
        ([node("Clip", ["x", "", "high"], ["y"])], {"high": integers(5)[0]}, ["Min"]),
        ([node("Clip", ["x"], ["y"])], {}, ["Identity"]),
        ([node("Relu", ["x"], ["y"])], {}, ["Max"]),
        ([node("Sign", ["x"], ["y"])], {}, ["Sign"]),
        ([node("Pow", ["x", "two"], ["y"])], {"two": integers(2)[0]}, ["Mul"]),
        ([node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)], {"axes": integers(1)}, ["ReduceSum"]),
        ([node("ReduceMax", ["x"], ["y"])], {}, ["ReduceMax"]),
        ([node("ReduceMin", ["x", "axes"], ["y"])], {"axes": integers(0)}, ["ReduceMin"]),
        ([node("ReduceProd", ["x", "axes"], ["y"])], {"axes": integers(0)}, ["ReduceProd"]),
        ([node("CumSum", ["x", "axis"], ["y"], exclusive=1)], {"axis": integers(1)[0]}, ["CumSum"]),
        ([node("CumSum", ["x", "axis"], ["y"], reverse=1)], {"axis": integers(-2)[0]}, ["CumSum"]),
        ([node("ArgMax", ["x"], ["y"], axis=1)], {}, ["ArgMax"]),
        ([node("ArgMin", ["x"], ["y"], axis=0, select_last_index=1)], {}, ["ArgMin"]),
        ([node("Equal", ["x", "k"], ["y"])], {"k": integers(3)}, ["Equal"]),
        ([node("Concat", ["x", "k"], ["y"], axis=0)], {"k": integers(1, 2, 3, 4, 5, 6, 7)[None]}, ["Concat"]),
        ([node("Pad", ["x", "p", "v"], ["y"])], {"p": integers(0, 1, 0, 2), "v": integers(9)[0]}, ["Pad"]),
        ([node("Pad", ["x", "p"], ["y"])], {"p": integers(0, 1, 0, 2)}, ["Pad"]),
        ([node("Expand", ["x", "s"], ["y"])], {"s": integers(2, 1, 7)}, ["Expand"]),
        ([node("Split", ["x"], ["y", "z"], num_outputs=2, axis=0)], {}, ["Split"]),
    ],
)
def test_operators_on_integers(nodes: list[Any], constants: Any, wanted: list[str], tmp_path: Path) -> None:
    x = np.random.default_rng(3).integers(-9, 9, (4, 7))
    outputs = [name for each in nodes for name in each.output if name in "yz"]
    model = make_model(nodes, constants, inputs={"x": (4, 7)}, outputs=outputs, types={"x": "int64"})
    assert check(model, tmp_path, {"x": x}) == wanted


def test_selection(tmp_path: Path) -> None:
    nodes = [
        node("Greater", ["x", "k"], ["t"]),
        node("Where", ["t", "x", "k"], ["y"]),
        node("Where", ["t", "t", "b"], ["z"]),
    ]
    constants = {"k": integers(1), "b": np.array([False, True, True])}
    model = make_model(nodes, constants, inputs={"x": (2, 3)}, outputs=["y", "z"], types={"x": "int64"})
    assert check(model, tmp_path, {"x": np.array([[2, 0, -2], [1, 5, 7]])}) == ["Greater", "Where", "Where"]


def test_integers_in_the_file(tmp_path: Path) -> None:
    """Constants that operators on integers read are int64 in the file, also after it is written anew."""
    k = np.array([2**60 + 1, -(2**62) - 3, 7])
    model = make_model([node("Add", ["x", "k"], ["y"])], {"k": k}, inputs={"x": ("N", 3)}, types={"x": "int64"})
    path = streamrt.pack(model, tmp_path / "out")
    again = streamrt.pack(path, tmp_path / "again", weights="int8")
    fixed = streamrt.pack(path, tmp_path / "fixed", inputs=(2, 3))
    x = np.array([[1, 2, 3], [-1, 2**50, 0]])
    for each in (path, again, fixed):
        assert read_header(each).tensors["k"].dtype == "I64"
        np.testing.assert_array_equal(run_packed(each, {"x": x})[0], x + k)
    with pytest.raises(streamrt.InputError, match="'k': it is int64"):
        streamrt.pack(path, tmp_path / "kept", keep={"k": "float16"})
    streamrt.unpack(path, tmp_path / "plain")
    assert b'"I64"' in (tmp_path / "plain").read_bytes()


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("budget", ["none", "least"])
def test_gather_by_an_input(dtype: str, budget: str, tmp_path: Path) -> None:
    table, ids = random(500, 32), np.random.default_rng(2).integers(-500, 500, (6, 9)).astype(dtype)
    nodes = [node("Gather", ["table", "x"], ["e"]), node("Add", ["e", "k"], ["y"])]
    model = make_model(nodes, {"table": table, "k": random(32)}, inputs={"x": ("N", 9)}, types={"x": dtype})
    path = streamrt.pack(model, tmp_path / "out")
    with streamrt.Model(path, budget=None) as packed:
        if budget == "least":
            packed.set_budget(packed.min_budget())
        np.testing.assert_array_equal(packed(ids), table[ids] + random(32))
        wrong = ids.copy()
        for index in (500, -501):
            wrong[4, 4] = index
            with pytest.raises(streamrt.InputError, match=rf"the index {index}, expected -500 to 499"):
                packed(wrong)
            np.testing.assert_array_equal(packed(ids), table[ids] + random(32))
        good, bad = packed.call_together([ids, wrong])
        np.testing.assert_array_equal(good, table[ids] + random(32))
        assert isinstance(bad, streamrt.InputError)


def test_gather_of_integers_along_another_axis(tmp_path: Path) -> None:
    nodes = [node("Gather", ["x", "i"], ["y"], axis=1)]
    model = make_model(nodes, inputs={"x": ("N", 5), "i": (2, 2)}, types={"x": "int64", "i": "int32"})
    feeds = {"x": np.arange(15).reshape(3, 5), "i": np.array([[0, -1], [2, 2]], np.int32)}
    assert check(model, tmp_path, feeds) == ["Gather"]


def test_many_constant_indices(tmp_path: Path) -> None:
    indices = np.random.default_rng(0).integers(-8, 8, 5000)
    model = make_model([node("Gather", ["x", "i"], ["y"], axis=3)], {"i": indices})
    assert check(model, tmp_path, {"x": random(2, 3, 8, 8)}) == ["Gather"]


def test_tensors_inside_have_the_type_that_they_are_computed_in(tmp_path: Path) -> None:
    nodes = [node("Add", ["x", "x"], ["i"]), node("Cast", ["i"], ["f"], to=T.FLOAT), node("Relu", ["f"], ["y"])]
    model = make_model(nodes, inputs={"x": ("N", 3)}, types={"x": "int64"})
    path = streamrt.pack(model, tmp_path / "out")
    with streamrt.Model(path, budget=None) as packed:
        found = packed(np.array([[2**40, 1, -1]]), ["i", "y"])
    assert (found["i"].dtype, found["y"].dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(found["i"], [[2**41, 2, -2]])
