"""``If`` nodes whose conditions free extents decide: a graph has cases, and the extents of a call choose one."""

from __future__ import annotations

import contextlib
import gc
import weakref
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
    # The other five of eight ways contradict themselves.
    assert len(read_header(path).graph.cases) == 3


def test_a_case_that_cannot_run_is_left_out(tmp_path: Path) -> None:
    then, other = branch([node("Det", ["x"], ["r"])], "r"), branch([node("Relu", ["x"], ["r"])], "r")
    model = make_model([*extent_is(3, 7), if_("condition", ["y"], then, other)], inputs={"x": FREE})
    path = streamrt.pack(model, tmp_path / "model.safetensors")
    compare(model, path, [[1, 3, 8, 8], [2, 3, 7, 6]])
    with streamrt.Model(path) as opened, pytest.raises(InputError, match=r"'condition is False'.*'condition' is True"):
        opened(x_of(1, 3, 7, 7))
    with pytest.raises(FormatError, match="'condition is False'"):
        streamrt.pack(path, tmp_path / "none.safetensors", inputs={"x": ("N", 3, "H", 7)})
    model = make_model([*extent_is(3, 7), if_("condition", ["y"], then, then)], inputs={"x": FREE})
    with pytest.raises(UnsupportedModelError, match="Det"):
        streamrt.pack(model, tmp_path / "none.safetensors")


def choice(condition: str, result: str = "y", source: str = "x", then: str = "Relu", other: str = "Neg") -> Any:
    """An If that computes one of two functions."""
    return if_(condition, [result], *(branch([node(each, [source], ["r"])], "r") for each in (then, other)))


def of_extent(axis: int, *nodes: Any, source: str = "x", **constants: Any) -> Any:
    """A model whose ``nodes`` compute the condition "c" from an extent, "d", and constants."""
    extent = [node("Shape", [source], ["s"], start=axis, end=axis + 1), node("Squeeze", ["s"], ["d"])]
    arrays = {name: np.array(value) for name, value in constants.items()}
    before = [] if source == "x" else [node("AveragePool", ["x"], [source], kernel_shape=[2, 2], strides=[2, 2])]
    return make_model([*before, *extent, *nodes, choice("c")], arrays, inputs={"x": FREE})


def product_is(number: int, op: str = "Equal") -> list[Any]:
    """Nodes that compare the product of height and width with a number."""
    return [
        node("Shape", ["x"], ["hw"], start=2),
        node("ReduceProd", ["hw"], ["p"], keepdims=0),
        node("Constant", [], ["number"], value_int=number),
        node(op, ["p", "number"], ["c"]),
    ]


def chain(count: int) -> Any:
    """The width is 5, else it is 6, else it is 7 ...: each with a function of its own, or none of them."""
    last = branch([node("Relu", ["x"], ["r"])], "r")
    for number in reversed(range(count)):
        scaled = branch([node("Mul", ["x", "k"], ["r"])], "r", k=np.float32(number + 2))
        name = f"c{number}"
        last = branch([*extent_is(3, number + 5, name), if_(name, ["q"], scaled, last)], "q")
    return make_model([*last.node, node("Neg", ["q"], ["y"])], inputs={"x": FREE})


def of_one_size() -> Any:
    """A network of 224 x 224, in which the number of samples decides."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], strides=[32, 32]),
        node("Constant", [], ["target"], value_ints=[0, 4, 49]),
        node("Reshape", ["c", "target"], ["f"]),
        node("Add", ["f", "positions"], ["g"]),
        *extent_is(0, 2),
        choice("condition", source="g"),
    ]
    constants = {"w": random(4, 3, 32, 32), "positions": random(1, 4, 49)}
    return make_model(nodes, constants, inputs={"x": FREE})


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (of_extent(3, node("Equal", ["d", "k"], ["c"]), source="pooled", k=10), [(1, 3, 8, 20), (1, 3, 8, 8)]),
        (of_extent(3, node("Greater", ["d", "k"], ["c"]), k=16000), [(1, 3, 1, 16001), (1, 3, 8, 8)]),
        (
            of_extent(
                3,
                *(node("Mod", ["d", "k"], [f"m{i}"]) for i in range(9)),
                node("Equal", ["m8", "e"], ["c"]),
                k=101,
                e=100,
            ),
            [(1, 3, 8, 100), (1, 3, 8, 101)],
        ),
        (
            of_extent(
                3,
                node("Cast", ["d"], ["f"], to=1),
                node("Mul", ["f", "half"], ["h"]),
                node("Greater", ["h", "k"], ["c"]),
                half=np.float32(0.5),
                k=np.float32(300.0),
            ),
            [(1, 3, 2, 601), (1, 3, 2, 600)],
        ),
        (of_extent(3, *product_is(35)), [(1, 3, 5, 7), (1, 3, 7, 5), (1, 3, 7, 7)]),
        (of_extent(3, *product_is(10**6, "Greater")), [(1, 3, 1000, 1001), (1, 3, 7, 7)]),
        (
            of_extent(0, node("Shape", ["x"], ["s3"], start=3), node("Equal", ["d", "s3"], ["c"])),
            [(4, 3, 2, 4), (4, 3, 2, 5)],
        ),
        (of_extent(3, node("Less", ["d", "k"], ["c"]), k=3), [(1, 3, 8, 2), (1, 3, 8, 3)]),
        (chain(12), [(1, 3, 8, width) for width in (4, 5, 11, 16, 17)]),
        (of_one_size(), [(2, 3, 224, 224), (1, 3, 224, 224)]),
    ],
    ids=["pooled", "long", "modulo", "half", "product", "large product", "equal extents", "small", "chain", "one size"],
)
def test_extents_that_lead_to_each_case_are_found(model: Any, shapes: Sequence[Sequence[int]], tmp_path: Path) -> None:
    compare(model, streamrt.pack(model, tmp_path / "model.safetensors"), shapes)


def test_conditions_that_are_computed_alike_go_alike(tmp_path: Path) -> None:
    nodes, last = [], "x"
    for number in range(10):
        nodes += [*extent_is(3, 7, f"c{number}"), choice(f"c{number}", f"y{number}", last, "Sin")]
        last = f"y{number}"
    model = make_model(nodes, inputs={"x": FREE}, outputs=(last,))
    path = streamrt.pack(model, tmp_path / "model.safetensors")
    assert len(read_header(path).graph.cases) == 2
    compare(model, path, [(1, 3, 8, 7), (1, 3, 8, 8)])


def test_a_branch_that_returns_a_tensor_which_nothing_else_reads(tmp_path: Path) -> None:
    inner = if_("inner", ["q"], branch([], "t"), branch([node("Cos", ["x"], ["r"])], "r"))
    nodes = [
        node("Sin", ["x"], ["t"]),
        *extent_is(2, 9, "inner"),
        *extent_is(3, 7),
        if_("condition", ["y"], branch([inner], "q"), branch([node("Relu", ["x"], ["r"])], "r")),
    ]
    model = make_model(nodes, inputs={"x": FREE})
    compare(model, streamrt.pack(model, tmp_path / "model.safetensors"), [(1, 3, 9, 7), (1, 3, 8, 7), (1, 3, 8, 8)])


def test_size_nodes_of_a_branch_do_not_fail_in_another_case(tmp_path: Path) -> None:
    """The branch makes a table of the width that only widths of the condition can make."""
    table = [
        node("Shape", ["x"], ["s"], start=3),
        node("Constant", [], ["target"], value_ints=[-1, 7]),
        node("ConstantOfShape", ["s"], ["zeros"]),
        node("Reshape", ["zeros", "target"], ["rows"]),
        node("ReduceSum", ["rows"], ["sum"], keepdims=0),
        node("Add", ["c", "sum"], ["r"]),
    ]
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Shape", ["c"], ["cs"], start=3),
        node("Squeeze", ["cs"], ["width"]),
        node("Mod", ["width", "seven"], ["m"]),
        node("Equal", ["m", "five"], ["condition"]),
        if_("condition", ["y"], branch(table, "r"), branch([node("Neg", ["c"], ["r"])], "r")),
    ]
    constants = {"w": random(4, 3, 3, 3), "seven": np.array(7), "five": np.array(5)}
    model = make_model(nodes, constants, inputs={"x": FREE})
    compare(model, streamrt.pack(model, tmp_path / "model.safetensors"), [(1, 3, 8, 14), (1, 3, 8, 8)])


def test_a_file_that_runs_with_few_sizes_is_opened(tmp_path: Path) -> None:
    then, other = branch([node("Relu", ["x"], ["r"])], "r"), branch([node("Det", ["x"], ["r"])], "r")
    model = make_model([*extent_is(3, 7), if_("condition", ["y"], then, other)], inputs={"x": FREE})
    path = streamrt.pack(model, tmp_path / "model.safetensors")
    compare(model, path, [(1, 3, 8, 7)])
    with streamrt.Model(path) as opened, pytest.raises(InputError, match="for which the file has no case"):
        opened(x_of(1, 3, 8, 8))


def test_names_that_a_file_cannot_hold_are_replaced_alike_in_all_cases(tmp_path: Path) -> None:
    odd = "__metadata__"
    then = branch([node("Exp", ["___metadata__"], ["e"]), node("Add", ["e", "___metadata__"], ["r"])], "r")
    nodes = [
        node("Sin", [odd], ["___metadata__"]),
        node("Shape", [odd], ["s"], start=3),
        node("Equal", ["s", "seven"], ["c"]),
        if_("c", ["y"], then, branch([node("Neg", [odd], ["r"])], "r")),
    ]
    model = make_model(nodes, {"seven": np.array([7])}, inputs={odd: FREE})
    path = streamrt.pack(model, tmp_path / "model.safetensors")
    for width in (7, 8):
        x = random(1, 3, 2, width)
        with streamrt.Model(path) as opened:
            np.testing.assert_allclose(opened(x), expected(model, {odd: x})[0], rtol=1e-5)


def test_outputs_of_two_types_are_refused(tmp_path: Path) -> None:
    then = branch([node("Cast", ["x"], ["r"], to=7)], "r")
    model = make_model(
        [*extent_is(3, 7), if_("condition", ["y"], then, branch([node("Exp", ["x"], ["r"])], "r"))], inputs={"x": FREE}
    )
    with pytest.raises(FormatError, match="outputs of the same names and types"):
        streamrt.pack(model, tmp_path / "model.safetensors")


@pytest.mark.parametrize("condition", ["condition", "x"])
def test_an_if_without_outputs_is_dropped(condition: str, tmp_path: Path) -> None:
    dead = onnx.helper.make_node("If", [condition], [], then_branch=branch([]), else_branch=branch([]))
    model = make_model([*extent_is(3, 7), dead, node("Relu", ["x"], ["y"])], inputs={"x": FREE})
    path = streamrt.pack(model, tmp_path / "model.safetensors")
    assert [n.op for n in read_header(path).graph.nodes] == ["Relu"]


def test_a_call_that_no_case_fits_keeps_none_of_its_arrays(tmp_path: Path) -> None:
    then, other = branch([node("Det", ["x"], ["r"])], "r"), branch([node("Relu", ["x"], ["r"])], "r")
    model = make_model([*extent_is(3, 7), if_("condition", ["y"], then, other)], inputs={"x": FREE})
    with streamrt.Model(streamrt.pack(model, tmp_path / "model.safetensors")) as opened:
        gc.collect()
        gc.disable()
        try:
            x = random(1, 3, 8, 7)
            freed = weakref.ref(x)
            with contextlib.suppress(InputError):
                opened(x)
                pytest.fail("it ran")
            del x
            assert freed() is None
        finally:
            gc.enable()


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
            with pytest.raises(InputError, match="for which the file has no case"):
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
