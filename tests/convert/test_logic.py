"""Comparisons, truth values and indices: inside a graph, and as its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import check, expected, integers, make_model, onnx, ops, random, run_packed

node = onnx.helper.make_node
T = onnx.TensorProto
ZERO = {"zero": np.zeros((), np.float32)}


def check_output(model: Any, folder: Path, dtype: str, x: Any) -> list[str]:
    """Compare the output, and its type with ``dtype``; returns the operators."""
    graph = check(model, folder, {"x": x})
    with streamrt.Model(folder / "model.safetensors", budget=None) as packed:
        assert [spec.dtype for spec in packed.outputs] == [dtype]
        y = packed(x)
        assert y.dtype == dtype == expected(model, {"x": x})[0].dtype
    return ops(graph)


def test_where_by_a_comparison(tmp_path: Path) -> None:
    nodes = [
        node("Greater", ["x", "zero"], ["positive"]),
        node("Less", ["x", "one"], ["small"]),
        node("And", ["positive", "small"], ["both"]),
        node("Not", ["both"], ["other"]),
        node("Where", ["other", "x", "one"], ["y"]),
    ]
    model = make_model(nodes, ZERO | {"one": np.float32(1).reshape(1)})
    assert ops(check(model, tmp_path)) == ["Greater", "Less", "And", "Not", "Where"]


def test_a_constant_condition(tmp_path: Path) -> None:
    nodes = [
        node("Greater", ["x", "zero"], ["p"]),
        node("Or", ["p", "k"], ["q"]),
        node("Where", ["q", "x", "other"], ["y"]),
    ]
    model = make_model(nodes, ZERO | {"k": np.arange(8) % 3 == 0, "other": random(8)})
    assert ops(check(model, tmp_path)) == ["Greater", "Or", "Where"]


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_truth_values_as_an_output(op: str, tmp_path: Path) -> None:
    model = make_model([node(op, ["x", "zero"], ["y"])], ZERO)
    assert check_output(model, tmp_path, "bool", np.round(random(2, 3, 8, 8))) == [op]


@pytest.mark.parametrize("to", [T.FLOAT, T.BOOL, T.INT64])
def test_cast_of_a_comparison(to: int, tmp_path: Path) -> None:
    nodes = [node("Greater", ["x", "zero"], ["t"]), node("Cast", ["t"], ["y"], to=to)]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(to).name
    found = check_output(make_model(nodes, ZERO), tmp_path, dtype, random(2, 3, 8, 8))
    assert found == ["Greater", "Cast"] if to == T.INT64 else ["Greater"]


def test_cast_to_truth_values(tmp_path: Path) -> None:
    x = np.round(random(2, 3, 8, 8))
    x[0, 0, 0, 0] = np.nan
    assert check_output(make_model([node("Cast", ["x"], ["y"], to=T.BOOL)]), tmp_path, "bool", x) == ["Cast"]


@pytest.mark.parametrize("opset", [11, 13])
def test_argmax_as_an_output(opset: int, tmp_path: Path) -> None:
    nodes = [node("ArgMax", ["x"], ["i"], axis=1, keepdims=0), node("Unsqueeze", ["i"], ["y"], axes=[-1])]
    constants = {}
    if opset >= 13:
        nodes[1], constants = node("Unsqueeze", ["i", "axes"], ["y"]), {"axes": integers(-1)}
    model = make_model(nodes, constants, opset=opset)
    assert check_output(model, tmp_path, "int64", random(2, 3, 8, 8)) == ["ArgMax", "Unsqueeze"]


def test_argmax_as_an_operand(tmp_path: Path) -> None:
    nodes = [
        node("ArgMax", ["x"], ["i"], axis=1),
        node("Cast", ["i"], ["f"], to=T.FLOAT),
        node("Mul", ["f", "x"], ["y"]),
    ]
    assert ops(check(make_model(nodes), tmp_path)) == ["ArgMax", "Cast", "Mul"]


def test_outputs_of_several_types_in_micro_batches_and_by_name(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("ArgMax", ["h"], ["i"], axis=1),
        node("Greater", ["h", "zero"], ["t"]),
    ]
    model = make_model(nodes, ZERO | {"w": random(64, 512)}, inputs={"x": ("N", 64)}, outputs=["i", "t", "h"])
    streamrt.pack(model, tmp_path / "out")
    x = random(257, 64)
    wanted = dict(zip(["i", "t", "h"], expected(model, {"x": x}), strict=True))
    with streamrt.Model(tmp_path / "out", budget=None) as packed:
        assert [spec.dtype for spec in packed.outputs] == ["int64", "bool", "float32"]
        packed.set_budget(packed.min_budget() + (512 << 10))
        found = packed(x)
        assert packed.plan.micro_batch
        for name, value in wanted.items():
            assert found[name].dtype == value.dtype
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(packed(x, ["i"]), wanted["i"])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("ArgMax", ["x"], ["i"]), node("Cast", ["i"], ["y"], to=T.UINT64)], "'to' is UINT64, expected one of"),
        ([node("ArgMax", ["x"], ["i"]), node("Softmax", ["i"], ["y"])], r"input 0 \('i'\) is int64, expected float32"),
        ([node("Greater", ["x", "x"], ["t"]), node("Add", ["t", "t"], ["y"])], "is bool, expected float32 or integers"),
        ([node("Greater", ["x", "x"], ["t"]), node("Exp", ["t"], ["y"])], r"input 0 \('t'\) is bool, expected float32"),
    ],
)
def test_types_that_are_refused(nodes: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(streamrt.UnsupportedModelError, match=message):
        streamrt.pack(make_model(nodes), tmp_path / "out")


def test_a_condition_that_follows_the_batch(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"], end=1),
        node("Greater", ["s", "thirty"], ["t"]),
        node("Where", ["t", "x", "zero"], ["y"]),
    ]
    model = make_model(nodes, ZERO | {"thirty": integers(30)}, inputs={"x": ("N", 3)})
    for batch in (30, 31):
        check(model, tmp_path, {"x": random(batch, 3)})
        with streamrt.Model(tmp_path / "model.safetensors") as packed:
            packed(random(batch, 3))
            assert not packed._engine.session.prepared.program.batchwise


def test_the_type_of_an_output_is_kept_in_the_file(tmp_path: Path) -> None:
    path = streamrt.pack(make_model([node("ArgMax", ["x"], ["y"])]), tmp_path / "out")
    (y,) = run_packed(path, {"x": random(2, 3, 8, 8)})
    assert y.dtype == np.int64
    assert b'\\"dtype\\":\\"int64\\"' in path.read_bytes().replace(b" ", b"")
