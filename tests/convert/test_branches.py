"""``If`` nodes: the branch of a condition that is known replaces the node. `test_cases` has free extents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import check, integers, make_model, onnx, ops, random
from streamrt.errors import FormatError, UnsupportedModelError

node, make_graph = onnx.helper.make_node, onnx.helper.make_graph
TensorProto = onnx.TensorProto
value_info = onnx.helper.make_tensor_value_info


def branch(nodes: list[Any], *outputs: str, **constants: np.ndarray[Any, Any]) -> Any:
    """The graph of a branch."""
    results = [value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return make_graph(
        nodes, "branch", [], results, [onnx.numpy_helper.from_array(v, name) for name, v in constants.items()]
    )


def extent_is(axis: int, extent: int, name: str = "condition") -> list[Any]:
    """Nodes that compute whether an extent of x is a number."""
    return [
        node("Shape", ["x"], [f"{name}.shape"]),
        node("Constant", [], [f"{name}.axis"], value_int=axis),
        node("Gather", [f"{name}.shape", f"{name}.axis"], [f"{name}.extent"]),
        node("Constant", [], [f"{name}.number"], value_int=extent),
        node("Equal", [f"{name}.extent", f"{name}.number"], [name]),
    ]


def if_(condition: str, outputs: list[str], then: Any, other: Any) -> Any:
    return node("If", [condition], outputs, name="if", then_branch=then, else_branch=other)


@pytest.mark.parametrize(("axis", "extent", "kept"), [(1, 3, ["Conv"]), (1, 4, ["Tanh"]), (2, 8, ["Conv"])])
def test_the_branch_of_an_extent_that_is_known(axis: int, extent: int, kept: list[str], tmp_path: Path) -> None:
    then = branch([node("Conv", ["x", "w"], ["c"])], "c", w=random(4, 3, 3, 3))
    other = branch([node("Tanh", ["x"], ["c"])], "c")
    model = make_model([*extent_is(axis, extent), if_("condition", ["y"], then, other)], inputs={"x": ("N", 3, 8, 8)})
    assert ops(check(model, tmp_path)) == kept


@pytest.mark.parametrize("condition", [True, False])
def test_a_constant_condition_and_two_outputs(condition: bool, tmp_path: Path) -> None:
    then = branch(
        [node("Relu", ["x"], ["a"]), node("Constant", [], ["k"], value_float=2.0), node("Mul", ["a", "k"], ["b"])],
        "a",
        "b",
    )
    other = branch([node("Sigmoid", ["x"], ["b"]), node("Neg", ["b"], ["a"])], "a", "b")
    nodes = [if_("condition", ["y", "z"], then, other)]
    check(make_model(nodes, {"condition": np.array([condition])}, outputs=("y", "z")), tmp_path)


def test_branches_in_branches_and_equal_names_in_neighbours(tmp_path: Path) -> None:
    inner = if_(
        "outside",
        ["i"],
        branch([node("Add", ["i", "w"], ["j"])], "j", w=random(1)),
        branch([node("Sub", ["i", "w"], ["j"])], "j", w=random(1)),
    )
    inner.input[0] = "outside"
    inner.output[0] = "r"
    then = branch([node("Relu", ["x"], ["i"]), inner], "r")
    plain = branch([node("Neg", ["y"], ["i"]), node("Exp", ["i"], ["r"])], "r")
    nodes = [
        *extent_is(1, 3, "outside"),
        if_("outside", ["y"], then, branch([node("Tanh", ["x"], ["r"])], "r")),
        if_("no", ["z"], then, plain),
    ]
    model = make_model(nodes, {"no": np.array(False)}, outputs=("y", "z"))
    graph = check(model, tmp_path)
    assert "Tanh" not in ops(graph)


def test_a_branch_of_values_from_outside(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["x"], ["r"]),
        *extent_is(3, 1),
        if_(
            "condition",
            ["s"],
            branch([node("Squeeze", ["r", "axes"], ["q"])], "q", axes=integers(3)),
            branch([node("Identity", ["r"], ["q"])], "q"),
        ),
        node("Neg", ["s"], ["y"]),
    ]
    check(make_model(nodes, inputs={"x": ("N", 3, 8, 1)}), tmp_path)
    check(make_model(nodes, inputs={"x": ("N", 3, 8, 2)}), tmp_path)


def test_a_condition_of_values(tmp_path: Path) -> None:
    nodes = [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Cast", ["m"], ["condition"], to=TensorProto.BOOL)]
    then, other = branch([node("Relu", ["x"], ["c"])], "c"), branch([node("Tanh", ["x"], ["c"])], "c")
    model = make_model([*nodes, if_("condition", ["y"], then, other)], inputs={"x": ("N", 3, 8, 8)})
    with pytest.raises(UnsupportedModelError, match=r"node 'if' \(If\): its condition depends on values of the inputs"):
        streamrt.pack(model, tmp_path / "packed")
    assert list(tmp_path.iterdir()) == []


RELU = branch([node("Relu", ["x"], ["c"])], "c")


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (None, "expected one then_branch with 1 outputs, at least one"),
        (branch([node("Relu", ["x"], ["c"])]), "expected one then_branch with 1 outputs"),
        (branch([node("Relu", ["x"], ["c"]), node("Relu", ["x"], ["d"])], "c", "d"), "expected one then_branch"),
        (branch([node("Relu", ["x"], ["c"]), node("Relu", ["x"], ["c"])], "c"), "a branch defines 'c' twice"),
        (branch([node("Add", ["x", "later"], ["c"])], "c"), "a branch reads 'later', which nothing has computed"),
        (branch([node("Relu", ["x"], ["c"])], "nowhere"), "a branch reads 'nowhere'"),
        (
            make_graph(RELU.node, "b", [value_info("q", TensorProto.FLOAT, None)], RELU.output),
            "its then_branch has inputs",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "branch",
)
def test_malformed_branches(then: Any, reason: str, tmp_path: Path) -> None:
    proto = if_("condition", ["y"], then or RELU, RELU)
    if then is None:
        kept = [attribute for attribute in proto.attribute if attribute.name != "then_branch"]
        del proto.attribute[:]
        proto.attribute.extend(kept)
    model = make_model([proto, node("Relu", ["x"], ["later"])], {"condition": np.array(True)}, outputs=("y", "later"))
    with pytest.raises(FormatError, match=reason):
        streamrt.pack(model, tmp_path / "packed")
    assert list(tmp_path.iterdir()) == []
