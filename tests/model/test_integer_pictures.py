"""Pictures of integers: they are read and written by rows in bands, and results are those of Cast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from kernels.isas import NUMPY, using
from model.test_foreign import Stored
from streamrt import _core
from streamrt.errors import FormatError, InputError
from streamrt.format import UNCODED, Segment, Source, write
from streamrt.graph import Activation, Graph, Node, TensorSpec

HEIGHT, WIDTH, CHANNELS = 512, 48, 8
#: Bytes of a tensor inside, as a whole.
TENSOR = 4 * CHANNELS * HEIGHT * WIDTH
INTEGERS = ("int64", "int32", "int16", "int8", "uint32", "uint16", "uint8")
#: Numbers that Cast must round, wrap, or make anything of, but the same thing everywhere.
ODD = np.float32([0.5, -0.5, -1.7, 255.9, 256, 300.7, -129, 65537.5, 2**31, 2**40, -(2**40), 1e30, -1e30])
ODD = np.concatenate([ODD, np.float32([np.nan, np.inf, -np.inf])])

CONVOLUTIONS = [
    Node("first", "Conv", ("f", "a"), ("g",), {"pads": (1, 1, 1, 1)}, Activation("Relu", {})),
    Node("second", "Conv", ("g", "b"), ("h",), {"pads": (1, 1, 1, 1)}, Activation("Clip", {"min": 0.0, "max": 255.0})),
    Node("third", "Conv", ("h", "c"), ("i",), {"pads": (1, 1, 1, 1)}),
]


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        yield


def cast(source: str, target: str, to: str) -> Node:
    return Node(f"to {target}", "Cast", (source,), (target,), {"to": to})


def written(path: Path, nodes: Sequence[Node], x: str, outputs: dict[str, str]) -> Path:
    """A file with an input x (n, 3, h, w) of a type, and outputs of pictures of other types."""
    random = np.random.default_rng(0)
    shapes = {"a": (CHANNELS, 3, 3, 3), "b": (CHANNELS, CHANNELS, 3, 3), "c": (3, CHANNELS, 3, 3)}
    weights = {name: random.standard_normal(shape).astype(np.float32) / 5 for name, shape in shapes.items()}
    segments = [
        Segment([Source(name, value.shape, lambda value=value: iter([value]), UNCODED)])
        for name, value in weights.items()
        if any(name in node.inputs for node in nodes)
    ]
    specs = tuple(TensorSpec(name, ("n", 3, "h", "w"), dtype) for name, dtype in outputs.items())
    write(path, Graph((TensorSpec("x", ("n", 3, "h", "w"), x),), specs, tuple(nodes)), segments)
    return path


def picture(dtype: str) -> NDArray[Any]:
    return np.random.default_rng(1).integers(0, 100, (1, 3, HEIGHT, WIDTH)).astype(dtype)


def least(path: Path) -> int:
    with streamrt.Model(path) as model:
        return model.min_budget((1, 3, HEIGHT, WIDTH))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_an_input_of_few_bits_needs_no_more_memory_than_floats(tmp_path: Path, dtype: str) -> None:
    plain = written(tmp_path / "float", [cast("x", "f", "float32"), *CONVOLUTIONS], "float32", {"i": "float32"})
    path = written(tmp_path / "integer", [cast("x", "f", "float32"), *CONVOLUTIONS], dtype, {"i": "float32"})
    x = picture(dtype)
    with streamrt.Model(plain, exact=True) as model:
        expected = model(x.astype(np.float32))
    with streamrt.Model(path, exact=True) as model:
        assert model(x).tobytes() == expected.tobytes()
    budget = least(path)
    assert budget < TENSOR
    with streamrt.Model(path, budget, exact=True) as model:
        assert model(x).tobytes() == expected.tobytes()
        with pytest.raises(InputError, match=f"'x': expected a NumPy array of {dtype}, found one of float32"):
            model(x.astype(np.float32))
        array = Stored(x)
        assert model(array).tobytes() == expected.tobytes()
        assert max(array.read) < x.size // 2


@pytest.mark.parametrize("dtype", INTEGERS)
def test_an_output_of_integers_is_made_of_rows(tmp_path: Path, dtype: str) -> None:
    nodes = [*CONVOLUTIONS, cast("i", "y", dtype)]
    path = written(tmp_path / "integer", [cast("x", "f", "float32"), *nodes], "uint8", {"y": dtype})
    plain = written(tmp_path / "float", [cast("x", "f", "float32"), *CONVOLUTIONS], "uint8", {"i": "float32"})
    x = picture("uint8")
    with streamrt.Model(plain, exact=True) as model:
        expected = model(x).astype(np.int64).astype(dtype)
    assert (expected.astype(np.int64) < 0).any() == (np.dtype(dtype).kind == "i")
    budget = least(path)
    assert budget < TENSOR
    with streamrt.Model(path, budget, exact=True) as model:
        result = model(x)
        assert (result.dtype, result.tobytes()) == (expected.dtype, expected.tobytes())
        assert model.plan is not None
        assert model.plan.bands
        out = Stored(np.zeros_like(expected))
        model(x, out=out)
        np.testing.assert_array_equal(out.values, expected)
        assert max(part.size for part in out.written) < x.size // 2


@pytest.mark.parametrize("dtype", INTEGERS)
def test_odd_numbers_become_what_a_cast_makes_of_them(tmp_path: Path, dtype: str) -> None:
    """In bands, as a whole, and with a node that casts, because another node reads its result."""
    double = Node("double", "Mul", ("x", "x"), ("d",))
    halves = [Node("root", "Sqrt", ("d",), ("r",)), Node("sign", "Sign", ("x",), ("s",))]
    again = [*halves, Node("again", "Mul", ("r", "s"), ("m",))]
    x = np.resize(ODD, (1, 3, HEIGHT, WIDTH))
    replaced = written(tmp_path / "a", [double, *again, cast("m", "y", dtype)], "float32", {"y": dtype})
    kept = [cast("m", "y", dtype), Node("sum", "Add", ("y", "y"), ("z",))]
    node = written(tmp_path / "b", [double, *again, *kept], "float32", {"y": dtype, "z": "int64"})
    with np.errstate(invalid="ignore"), streamrt.Model(node) as model:
        expected = model(x)["y"]
    with streamrt.Model(replaced) as model:
        np.testing.assert_array_equal(model(x), expected)
        budget = model.min_budget(x.shape)
        model.set_budget(budget)
        np.testing.assert_array_equal(model(x), expected)
        assert model.plan is not None
        assert model.plan.bands
        out = Stored(np.zeros_like(expected))
        model(x, out=out)
        np.testing.assert_array_equal(out.values, expected)


def test_integers_that_another_node_reads_stay_integers(tmp_path: Path) -> None:
    nodes = [cast("x", "f", "float32"), *CONVOLUTIONS, Node("sum", "Mul", ("x", "x"), ("y",))]
    path = written(tmp_path / "m", nodes, "uint16", {"i": "float32", "y": "int64"})
    x = picture("uint16") + np.uint16(65_000)
    with streamrt.Model(path) as model:
        np.testing.assert_array_equal(model(x)["y"], x.astype(np.int64) ** 2)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32"])
def test_integers_that_float32_does_not_have_are_rounded_once(tmp_path: Path, dtype: str) -> None:
    nodes = [cast("x", "f", "float32"), Node("relu", "Relu", ("f",), ("g",)), cast("g", "y", "int64")]
    path = written(tmp_path / "m", nodes, dtype, {"y": "int64"})
    x = np.array([2**24 + 1, 2**31 - 1, 3] * 3, dtype).reshape(1, 3, 3, 1)
    with streamrt.Model(path) as model:
        np.testing.assert_array_equal(model(x), x.astype(np.float32).astype(np.int64))


def test_results_inside_the_graph_can_be_asked_for(tmp_path: Path) -> None:
    """The outputs that are asked for decide which Casts are nodes."""
    nodes = [cast("x", "f", "float32"), *CONVOLUTIONS, cast("i", "y", "uint8")]
    path = written(tmp_path / "m", nodes, "uint8", {"y": "uint8"})
    x = picture("uint8")
    with streamrt.Model(path) as model:
        found = model(x, ["f", "i", "y"])
        np.testing.assert_array_equal(found["f"], x)
        assert found["f"].dtype == np.float32
        np.testing.assert_array_equal(found["y"], found["i"].astype(np.int64).astype(np.uint8))
        np.testing.assert_array_equal(model(x), found["y"])


def test_a_cast_that_cannot_run_is_refused_as_before(tmp_path: Path) -> None:
    odd = Node("odd", "Cast", ("x",), ("f",), {"to": "float32", "axis": 3})
    path = written(tmp_path / "a", [odd, *CONVOLUTIONS], "uint8", {"i": "float32"})
    with streamrt.Model(path) as model, pytest.raises(FormatError, match="node 'odd'"):
        model(picture("uint8"))
    path = written(tmp_path / "b", [cast("x", "f", "bool"), *CONVOLUTIONS], "uint8", {"i": "float32"})
    with streamrt.Model(path) as model:
        truths = model(picture("uint8"), ["f"])
    np.testing.assert_array_equal(truths, picture("uint8") != 0)
