"""Integers in weights files: hostile files, files of before there were integers, and copying in and out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from ops.allocations import bounded
from streamrt.engine.inputs import copy_in, copy_out
from streamrt.format import Coding, Segment, Source, write
from streamrt.graph import TYPES, Activation, Graph, Node, TensorSpec
from streamrt.ops import NUMPY_TYPES, computed_type

W = np.arange(8).reshape(4, 2)


def written(
    path: Path,
    nodes: Sequence[Node],
    x: str = "float32",
    y: str = "float32",
    dims: tuple[Any, ...] = (4, 2),
    batch: int | str = "N",
) -> Path:
    """A file with input x (N, 2), output y and the parameter w (4, 2) of int64, if a node reads it."""
    source = Source("w", W.shape, lambda: iter([W.view(np.uint8)]), Coding("I64"))
    segments = [Segment([source])] if any("w" in node.inputs for node in nodes) else []
    write(path, Graph((TensorSpec("x", (batch, 2), x),), (TensorSpec("y", dims, y),), tuple(nodes)), segments)
    return path


HOSTILE = {
    "weights of a product": (
        [Node("dense", "Gemm", ("x", "w"), ("y",))],
        {"dims": (4, 4)},
        r"node 'dense' \(Gemm\): input 1 \('w'\) is int64, expected float32",
    ),
    "an addend": (
        [Node("sum", "Add", ("x", "w"), ("y",))],
        {},
        r"node 'sum' \(Add\): inputs of types float32, int64, expected one type",
    ),
    "an input of integers": (
        [Node("relu", "Relu", ("x",), ("y",))],
        {"x": "int32"},
        r"node 'relu' \(Relu\): input 0 \('x'\) is int64, expected float32",
    ),
    "an output that is no float": (
        [Node("sum", "Add", ("x", "x"), ("y",))],
        {"x": "uint8"},
        "output 'y' is declared as float32, and computed as int64",
    ),
    "a fused activation": (
        [Node("sum", "Add", ("x", "x"), ("y",), activation=Activation("Clip", {"min": 0.0}))],
        {"x": "int64", "y": "int64"},
        r"node 'sum' \(Add\): its result is int64, and activation Clip expects float32",
    ),
    "indices that are no integers": (
        [Node("rows", "Gather", ("w", "x"), ("y",))],
        {"y": "int64", "dims": (4, 2, 2)},
        r"node 'rows' \(Gather\): input 1 \('x'\) is float32, expected int64",
    ),
    "a cast to nothing": ([Node("cast", "Cast", ("x",), ("y",))], {}, "node 'cast'.*attribute 'to' is ''"),
    "a cast to a type that is too large": (
        [Node("cast", "Cast", ("x",), ("y",), {"to": "uint64"})],
        {},
        "node 'cast'.*attribute 'to' is 'uint64', expected one of",
    ),
    "padding that is no integer": (
        [Node("pad", "Pad", ("x",), ("y",), {"pads": (0, 1, 0, 0), "value": 0.5})],
        {"x": "int64", "y": "int64", "dims": (4, 3)},
        "node 'pad'.*attribute 'value' is 0.5, expected an integer",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_whose_types_do_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    nodes, more, words = HOSTILE[name]
    path = written(tmp_path / "m", nodes, **more, batch=4)  # a free batch would leave it to the first call
    with pytest.raises(streamrt.FormatError, match=words):
        streamrt.Model(path, budget=None)


def test_a_file_of_before_there_were_integers(tmp_path: Path) -> None:
    """Indices were float32 there, and only outputs were int64 or truth values."""
    nodes = [
        Node("arg", "ArgMax", ("x",), ("i",), {"axis": 1}),
        Node("double", "Add", ("i", "x"), ("f",)),
        Node("shape", "Reshape", ("i",), ("y",), {"shape": (-1,)}),
    ]
    x = np.float32([[1, 2], [5, 3]])
    with streamrt.Model(written(tmp_path / "m", nodes, y="int64", dims=("N",)), budget=None) as model:
        assert model(x).dtype == np.int64
        np.testing.assert_array_equal(model(x), [1, 0])
        found = model(x, ["i", "f", "y"])
        assert [found[name].dtype.name for name in "ify"] == ["float32", "float32", "int64"]
        np.testing.assert_array_equal(found["f"], x + np.float32([[1], [0]]))


def test_views_and_results_in_place_have_the_bytes_of_their_type(tmp_path: Path) -> None:
    nodes = [
        Node("sum", "Add", ("x", "x"), ("a",)),
        Node("flat", "Reshape", ("a",), ("b",), {"shape": (-1, 1)}),
        Node("cut", "Cast", ("b",), ("c",), {"to": "int8"}),
        Node("float", "Cast", ("c",), ("d",), {"to": "float32"}),
        Node("both", "Concat", ("c", "b"), ("e",), {"axis": 1}),
        Node("neg", "Sub", ("e", "e"), ("f",)),
        Node("more", "Add", ("f", "e"), ("y",)),
    ]
    x = np.array([[100, 2**40], [-3, 7]])
    expected = np.stack([(2 * x).astype(np.int8), 2 * x], axis=-1).reshape(-1, 2)
    with streamrt.Model(written(tmp_path / "m", nodes, "int64", "int64", ("M", 2)), budget=None) as model:
        for _ in range(2):
            np.testing.assert_array_equal(model(x), expected)
        np.testing.assert_array_equal(model(x, ["d"]), expected[:, :1])


@pytest.mark.parametrize("dtype", TYPES)
def test_copying_in_and_out_makes_no_copy(dtype: str) -> None:
    """NumPy converts with buffers of a few thousand values."""
    x = (np.arange(400_000).reshape(4, -1) % 100).astype(dtype)
    inside = np.empty(x.shape, NUMPY_TYPES[computed_type(dtype)])
    y = np.empty_like(x)
    with bounded("copying"):
        copy_in([x], 0, inside)
        copy_out(inside, 0, [y])
    np.testing.assert_array_equal(y, x)
    with bounded("copying parts"):
        copy_in([x[:1], x[1:]], 2, inside)
        copy_out(inside, 2, [y[:1], y[1:]])
    np.testing.assert_array_equal(inside[:2], x[2:].astype(inside.dtype))
    np.testing.assert_array_equal(inside[2:], 0)


@pytest.mark.parametrize("form", ["plain", "read only", "named order", "columns first", "rows reversed", "not aligned"])
def test_a_large_input_in_any_form(form: str) -> None:
    """Threads share the copy if the values lie next to each other, and are aligned."""
    x = np.random.default_rng(0).normal(size=(3, 400, 200)).astype(np.float32)
    given, inside = x.copy(), np.empty_like(x)
    if form == "read only":
        given.flags.writeable = False
    elif form == "named order":
        given = np.frombuffer(x.tobytes(), x.dtype.newbyteorder("<")).reshape(x.shape)
    elif form == "columns first":
        given = np.asfortranarray(x)
    elif form == "rows reversed":
        given = x[:, ::-1].copy()[:, ::-1]
    elif form == "not aligned":
        memory = np.zeros(x.nbytes + 1, np.uint8)
        given = memory[1:].view(np.float32).reshape(x.shape)
        given[...] = x
        assert not given.flags.aligned
    copy_in([given], 0, inside)
    np.testing.assert_array_equal(inside, x)
    copy_in([given[:1], given[1:]], 1, inside)
    np.testing.assert_array_equal(inside, np.concatenate([x[1:], np.zeros_like(x[:1])]))


def test_numbers_that_are_too_large_for_another_type_are_infinite(tmp_path: Path) -> None:
    """No step of the graph is NumPy's, so its errors are ignored for the copies alone."""
    mean = Node("mean", "ReduceMean", ("x",), ("y",), {"axes": (1,)})
    path = written(tmp_path / "mean", [mean], "float64", "float16", dims=("N", 1))
    with warnings.catch_warnings(), streamrt.Model(path) as model:
        warnings.simplefilter("error")
        y = model(np.array([[1e300, 0.0], [1e6, 1e6], [2.0, 4.0]]))
        assert not model._engine.session.interpreted
    np.testing.assert_array_equal(y, np.float16([[np.inf], [np.inf], [3]]))
