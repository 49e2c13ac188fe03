"""`pack` with ``inputs``: extents in place of those that a source declares."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import expected, integers, make_model, onnx, random
from streamrt import Layer
from streamrt.convert.inputs import bound
from streamrt.errors import FormatError, InputError
from streamrt.format import Segment, Source, read_header, write
from streamrt.graph import Graph, Node, TensorSpec

node = onnx.helper.make_node
WEIGHTS = {"w": random(5, 3, 3, 3), "shape": integers(0, 5, -1)}
#: A convolution whose result becomes a sequence.
NODES = (node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Reshape", ["c", "shape"], ["y"]))


def model(*dims: int | str) -> Any:
    return make_model(NODES, WEIGHTS, inputs={"x": dims})


def dims(path: Path) -> list[tuple[int | str, ...]]:
    return [spec.dims for spec in read_header(path).graph.inputs]


def check_runs(path: Path, proto: Any, *shapes: tuple[int, ...]) -> None:
    with streamrt.Model(path, budget=None) as packed:
        for shape in shapes:
            x = random(*shape)
            np.testing.assert_allclose(packed(x), expected(proto, {"x": x})[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("saved", [False, True])
def test_extents_of_an_onnx_model_are_freed_and_fixed(named: bool, saved: bool, tmp_path: Path) -> None:
    for declared in ((1, 3, 8, 8), ("N", 3, "H", "W")):
        source = model(*declared)
        if saved:
            onnx.save(source, tmp_path / "model.onnx")
        for wanted in (("batch", 3, "H", "W"), ("N", 3, 12, 10), (2, 3, 9, "W")):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                path = streamrt.pack(
                    tmp_path / "model.onnx" if saved else source,
                    tmp_path / "packed",
                    inputs={"x": wanted} if named else list(wanted),
                )
            assert dims(path) == [wanted]
            shape = tuple(
                extent if isinstance(extent, int) else other
                for extent, other in zip(wanted, (3, 3, 7, 11), strict=True)
            )
            check_runs(path, model(*shape), shape)


def test_inputs_that_are_not_named_keep_their_extents(tmp_path: Path) -> None:
    proto = make_model([node("Add", ["a", "b"], ["y"])], inputs={"a": (1, 4), "b": ("N", 4)})
    path = streamrt.pack(proto, tmp_path / "packed", inputs={"a": ("M", 4)})
    assert dims(path) == [("M", 4), ("N", 4)]


TWO = make_model([node("Add", ["a", "b"], ["y"])], inputs={"a": (1, 4), "b": ("N", 4)})
ONE = make_model([node("Relu", ["x"], ["y"])], inputs={"x": ("N", 4)})
LAYERS = [Layer("Relu")]


@pytest.mark.parametrize(
    ("source", "inputs", "reason"),
    [
        (TWO, ("N", 4), r"for a model with one input, and it has 'a' \(1, 4\), 'b' \(N, 4\): give {name: extents}"),
        (TWO, {"c": ("N", 4)}, r"the model has no input 'c'; it has 'a' \(1, 4\), 'b' \(N, 4\)"),
        (TWO, {"a": (1, 4, 4)}, r"'a': 3 extents, expected 2; the model has 'a' \(1, 4\), 'b' \(N, 4\)"),
        (ONE, ("N", 0), "the extent 0, expected a number from 1 on, or a name"),
        (ONE, ("N", -4), "the extent -4"),
        (ONE, ("N", 2**40), "the extent 1099511627776"),
        (ONE, ("N", True), "the extent True"),
        (ONE, ("N", 4.0), r"the extent 4\.0"),
        (ONE, ("N", ""), "the extent ''"),
        (ONE, ("N", None), "the extent None"),
        (ONE, {"x": "N4"}, "'x': expected a list of extents, .* found str"),
        (ONE, {"x": None}, "'x': expected a list of extents, .* found NoneType"),
        (ONE, {"x": ("N", 4), "\x1b[0m": ("N", 4)}, r"no input '\\x1b\[0m'"),
        (LAYERS, {"x": ("N", 4)}, r"the model has no input 'x'; it has 'input'"),
        (LAYERS, 4, "'input': expected a list of extents, .* found int"),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, type(ONE)) else "onnx",
)
def test_extents_that_do_not_fit_write_nothing(source: Any, inputs: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"inputs: .*{reason}"):
        streamrt.pack(source, tmp_path / "packed", inputs=inputs)
    assert list(tmp_path.iterdir()) == []


def test_extents_that_the_model_cannot_have(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="Conv"):
        streamrt.pack(model(1, 3, 8, 8), tmp_path / "packed", inputs=("N", 4, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_the_input_of_layers_by_name(tmp_path: Path) -> None:
    path = streamrt.pack([Layer("Conv", random(4, 3, 3, 3))], tmp_path / "packed", inputs={"input": ("N", 3, "H", 9)})
    assert dims(path) == [("N", 3, "H", 9)]


def test_extents_of_a_weights_file_are_fixed(tmp_path: Path) -> None:
    free, path = tmp_path / "free", tmp_path / "packed"
    streamrt.pack(model("N", 3, "H", "W"), free)
    streamrt.pack(free, path, inputs={"x": ("N", 3, 12, "W")})
    assert dims(path) == [("N", 3, 12, "W")]
    check_runs(path, model(2, 3, 12, 7), (2, 3, 12, 7))
    streamrt.pack(path, path, inputs=(1, 3, 12, 10))
    assert [(spec.name, spec.dims) for spec in read_header(path).graph.outputs] == [("y", (1, 5, 120))]
    streamrt.verify(path)
    before = path.read_bytes()
    for extents, reason in (
        (("N", 3, 12, 10), r"1 to 'N': extents of a weights file can only be fixed; it has 'x' \(1, 3, 12, 10\)"),
        ((1, 3, 12, 11), "10 to 11"),
        ((1, 3, 12), "3 extents, expected 4"),
    ):
        with pytest.raises(InputError, match=rf"inputs: 'x': .*{reason}"):
            streamrt.pack(path, path, inputs=extents)
        assert path.read_bytes() == before


def test_an_extent_of_a_weights_file_has_one_value(tmp_path: Path) -> None:
    specs = (TensorSpec("a", ("N", 4)), TensorSpec("b", ("N", 4)))
    graph = Graph(specs, (TensorSpec("y", ("N", 4)),), (Node("sum", "Add", ("a", "b"), ("y",)),))
    write(tmp_path / "source", graph, [Segment([])])
    path = tmp_path / "packed"
    streamrt.pack(tmp_path / "source", path, inputs={"a": (3, 4)})
    assert dims(path) == [(3, 4), (3, 4)]
    with pytest.raises(InputError, match="inputs: 'N' is 3 and 5, expected one value"):
        streamrt.pack(tmp_path / "source", path, inputs={"a": (3, 4), "b": (5, 4)})


def test_extents_that_a_weights_file_cannot_run_with(tmp_path: Path) -> None:
    graph = Graph(
        (TensorSpec("x", ("N", 3, "H", "H")),),
        (TensorSpec("y", ("N", 4, "H", "H")),),
        (Node("conv", "Conv", ("x", "w"), ("y",), {}),),
    )
    write(tmp_path / "source", graph, [Segment([Source.of("w", random(4, 3, 5, 5))])])
    with pytest.raises(FormatError, match="conv"):
        streamrt.pack(tmp_path / "source", tmp_path / "packed", inputs=("N", 3, 4, 4))
    assert not (tmp_path / "packed").exists()


PROGRAM = [TensorSpec("a", ("s0", 3, "s1")), TensorSpec("b", ("s0", 4))]


@pytest.mark.parametrize(
    ("inputs", "dims"),
    [
        (None, [("s0", 3, "s1"), ("s0", 4)]),
        ({"b": (5, 4)}, [(5, 3, "s1"), (5, 4)]),
        ({"a": ("N", 3, 7)}, [("N", 3, 7), ("N", 4)]),
        ({"a": ("s1", 3, "s0")}, [("s1", 3, "s0"), ("s1", 4)]),
    ],
)
def test_extents_of_a_program_change_wherever_they_occur(inputs: Any, dims: Any) -> None:
    assert [spec.dims for spec in bound(PROGRAM, inputs)] == dims


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (
            {"a": ("s0", 4, "s1")},
            r"3 to 4: only extents that the program leaves free can change; it has 'a' \(s0, 3, s1\)",
        ),
        ({"a": ("s0", "C", "s1")}, "3 to 'C': only extents"),
        ({"a": (2, 3, 7), "b": (4, 4)}, "'s0' is 2 and 4, expected one value"),
        ({"a": ("s0", 3, "s0")}, "two free extents have one name"),
        ({"a": ("N", 3, "N")}, "two free extents have one name"),
        ((2, 4), "extents without a name are for a model with one input"),
    ],
)
def test_extents_that_a_program_cannot_have(inputs: Any, reason: str) -> None:
    with pytest.raises(streamrt.InputError, match=reason):
        bound(PROGRAM, inputs)
