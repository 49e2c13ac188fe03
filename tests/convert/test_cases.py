"""``If`` nodes whose conditions free extents decide: a graph has cases, and the extents of a call choose one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import Array, expected, make_model, onnx, random
from convert.test_branches import branch, extent_is, if_
from streamrt.cli.inspection import inspect_model
from streamrt.errors import FormatError, InputError, UnsupportedModelError
from streamrt.format import read_header

node = onnx.helper.make_node
FREE = ("N", 3, "H", "W")


def conv(source: str, weight: str, result: str) -> Any:
    return node("Conv", [source, weight], [result])


def two_cases(axis: int, extent: int, inner: int = 4) -> Any:
    """A convolution that both cases have, and a second one that each case has for itself."""
    then = branch([conv("c", "v", "d"), node("Relu", ["d"], ["p"])], "p", v=random(inner, inner, 3, 3, seed=1))
    other = branch([conv("c", "v", "e"), node("Tanh", ["e"], ["q"])], "q", v=random(inner, inner, 3, 3, seed=2))
    nodes = [conv("x", "w", "c"), *extent_is(axis, extent), if_("condition", ["z"], then, other)]
    return make_model([*nodes, node("Abs", ["z"], ["y"])], {"w": random(inner, 3, 3, 3)}, inputs={"x": FREE})


def x_of(*shape: int) -> dict[str, Array]:
    return {"x": random(*shape, seed=sum(shape))}


def compare(model: Any, path: Path, shapes: Sequence[Sequence[int]]) -> None:
    """Run the file with all weights in memory and under the least budget, and compare with ONNX's reference."""
    with streamrt.Model(path) as whole:
        for shape in shapes:
            feeds = x_of(*shape)
            (wanted,) = expected(model, feeds)
            with streamrt.Model(path, budget=whole.min_budget(tuple(shape))) as least:
                for found in (whole(feeds), least(feeds)):
                    assert found.shape == wanted.shape
                    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(("axis", "extent"), [(0, 2), (2, 9), (3, 7)])
def test_the_extents_of_a_call_choose_the_case(axis: int, extent: int, tmp_path: Path) -> None:
    model = two_cases(axis, extent)
    path = streamrt.pack(model, tmp_path / "model.safetensors")
    shapes = [[1, 3, 8, 8], [2, 3, 8, 8], [3, 3, 9, 7], [2, 3, 9, 9], [1, 3, 7, 7], [7, 3, 8, 7]]
    compare(model, path, shapes)
    file = read_header(path)
    assert [[n.op for n in case.nodes if n.op in ("Conv", "If")] for case in file.graph.cases] == [
        ["If", "Conv", "Conv"]
    ] * 2
    # The first convolution is in the file once.
    assert sorted(tensor.shape for tensor in file.tensors.values()) == [(4, 3, 3, 3), (4, 4, 3, 3), (4, 4, 3, 3)]


@pytest.mark.parametrize(("axis", "divided"), [(0, False), (3, True)])
def test_a_batch_is_divided_unless_its_size_decides(axis: int, divided: bool, tmp_path: Path) -> None:
    model = two_cases(axis, 2 if axis == 0 else 8)
    path = streamrt.pack(model, tmp_path / "model.safetensors")
    with streamrt.Model(path) as whole:
        least = whole.min_budget((1, 3, 8, 8))
    with streamrt.Model(path, budget=least) as small:
        feeds = x_of(4, 3, 8, 8)
        if divided:
            np.testing.assert_allclose(small(feeds), expected(model, feeds)[0], rtol=1e-5, atol=1e-4)
        else:
            with pytest.raises(streamrt.BudgetError):
                small(feeds)


def test_branches_of_different_ranks(tmp_path: Path) -> None:
    axes = np.array([3], np.int64)
    then, other = branch([node("Squeeze", ["x", "axes"], ["s"])], "s", axes=axes), branch([], "x")
    nodes = [*extent_is(3, 1), if_("condition", ["s"], then, other), node("Neg", ["s"], ["y"])]
    model = make_model(nodes, inputs={"x": FREE})
    path = streamrt.pack(model, tmp_path / "model.safetensors")
    compare(model, path, [[2, 3, 8, 1], [2, 3, 8, 2], [1, 3, 5, 1]])


def test_equal_conditions_and_conditions_in_branches_make_few_cases(tmp_path: Path) -> None:
    def sign(condition: str, source: str, result: str) -> Any:
        then, other = branch([node("Neg", [source], ["r"])], "r"), branch([node("Exp", [source], ["r"])], "r")
        return if_(condition, [result], then, other)

    inner = branch([*extent_is(2, 9, "inner"), sign("inner", "b", "q")], "q")
    nodes = [
        *extent_is(3, 7, "one"),
        *extent_is(3, 7, "two"),
        node("Sin", ["x"], ["s"]),
        sign("one", "s", "a"),
        sign("two", "a", "b"),  # it goes as "one" does
        if_("one", ["y"], inner, branch([node("Cos", ["b"], ["q"])], "q")),
    ]
    model = make_model(nodes, inputs={"x": FREE})
    path = streamrt.pack(model, tmp_path / "model.safetensors")
    compare(model, path, [[1, 3, 8, 8], [1, 3, 9, 8], [1, 3, 9, 7], [2, 3, 8, 7]])
    # Four ways contradict themselves, and one of them stays because extents that lead there are not known to be none.
    assert len(read_header(path).graph.cases) == 3


def test_a_case_that_cannot_run_is_left_out(tmp_path: Path) -> None:
    then, other = branch([node("Det", ["x"], ["r"])], "r"), branch([node("Relu", ["x"], ["r"])], "r")
    model = make_model([*extent_is(3, 7), if_("condition", ["y"], then, other)], inputs={"x": FREE})
    path = streamrt.pack(model, tmp_path / "model.safetensors")
    compare(model, path, [[1, 3, 8, 8], [2, 3, 7, 6]])
    with streamrt.Model(path) as opened, pytest.raises(InputError, match=r"'condition is False'.*its condition True"):
        opened(x_of(1, 3, 7, 7))
    with pytest.raises(FormatError, match="'condition is False'"):
        streamrt.pack(path, tmp_path / "none.safetensors", inputs={"x": ("N", 3, "H", 7)})
    model = make_model([*extent_is(3, 7), if_("condition", ["y"], then, then)], inputs={"x": FREE})
    with pytest.raises(UnsupportedModelError, match="Det"):
        streamrt.pack(model, tmp_path / "none.safetensors")


def test_too_many_ways(tmp_path: Path) -> None:
    nodes, last = [], "x"
    for number in range(7):
        nodes += extent_is(2, number + 5, f"c{number}")
        then, other = branch([node("Neg", [last], ["r"])], "r"), branch([node("Exp", [last], ["r"])], "r")
        nodes.append(if_(f"c{number}", [f"y{number}"], then, other))
        last = f"y{number}"
    model = make_model(nodes, inputs={"x": FREE}, outputs=(last,))
    with pytest.raises(UnsupportedModelError, match="over 64 ways through conditions that free extents decide"):
        streamrt.pack(model, tmp_path / "model.safetensors")
    path = streamrt.pack(model, tmp_path / "model.safetensors", inputs={"x": ("N", 3, 6, "W")})
    assert len(read_header(path).graph.cases) == 1


def test_tensors_of_one_case(tmp_path: Path) -> None:
    path = streamrt.pack(two_cases(3, 7), tmp_path / "model.safetensors")
    first, second = read_header(path).graph.cases
    convs = [[n.outputs[0] for n in case.nodes if n.op == "Conv"] for case in (first, second)]
    assert convs[0][0] == convs[1][0]
    with streamrt.Model(path) as model:
        for shape, own, foreign in (((1, 3, 8, 7), convs[0][1], convs[1][1]), ((1, 3, 8, 8), convs[1][1], convs[0][1])):
            both = model(x_of(*shape), outputs=[convs[0][0], own])
            assert both[convs[0][0]].shape == (1, 4, 6, shape[3] - 2)
            with pytest.raises(InputError, match="its condition"):
                model(x_of(*shape), outputs=[foreign])
        with pytest.raises(InputError, match="computes no tensor"):
            model(x_of(1, 3, 8, 8), outputs=[convs[0][1], convs[1][1]])


def test_packing_a_file_with_cases_again(tmp_path: Path) -> None:
    model = two_cases(3, 7, inner=32)
    path = streamrt.pack(model, tmp_path / "model.safetensors")
    again = streamrt.pack(path, tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()
    small = streamrt.pack(path, tmp_path / "small.safetensors", weights="int8")
    names = []
    for shape in ((1, 3, 8, 7), (2, 3, 8, 8)):
        with streamrt.Model(path) as one, streamrt.Model(small) as two:
            result = streamrt.compare(one, two, x_of(*shape))
        assert 0 < result.outputs[0].rms < 0.05
        assert len(result.layers) == 2
        layers = inspect_model(path, shapes={"x": shape}).layers
        names.append([layer.parameters[0].name for layer in layers if layer.parameters])
    assert names[0][0] == names[1][0]
    assert names[0][1] != names[1][1]
    fixed = streamrt.pack(path, tmp_path / "fixed.safetensors", inputs={"x": ("N", 3, 8, 7)})
    file = read_header(fixed)
    assert len(file.graph.cases) == 1
    assert sorted(tensor.shape for tensor in file.tensors.values()) == [(32, 3, 3, 3), (32, 32, 3, 3)]


def test_models_with_other_cases_are_not_compared(tmp_path: Path) -> None:
    paths = [streamrt.pack(two_cases(3, n), tmp_path / f"{n}.safetensors") for n in (7, 8)]
    fixed = streamrt.pack(paths[0], tmp_path / "fixed.safetensors", inputs={"x": ("N", 3, "H", 7)})
    with streamrt.Model(paths[0]) as one, streamrt.Model(fixed) as two, pytest.raises(InputError, match="graphs"):
        streamrt.compare(one, two, x_of(1, 3, 8, 7))
