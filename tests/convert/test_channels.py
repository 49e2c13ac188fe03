"""What runs with channels last between two Transposes runs with channels first, and without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import Array, check, expected, integers, make_model, onnx, ops, random, run_packed
from streamrt.format import read_header

node = onnx.helper.make_node
LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
#: A LayerNormalization that runs with channels first, but for its scale and bias.
NORMAL = ["ReduceMean", "Sub", "Mul", "ReduceMean", "Add", "Sqrt", "Div"]
CONSTANTS: dict[str, Array] = {
    "scale": random(6, seed=1),
    "bias": random(6, seed=2),
    "wide": random(6, 10, seed=3),
    "wide bias": random(10, seed=4),
    "narrow": random(10, 6, seed=5),
    "number": np.float32([0.5]),
    "conv": random(6, 6, 1, 1, seed=6),
    "columns": random(4, 6, seed=7),
    "one scale": np.float32(2.0),
    "row": random(1, 6, seed=8),
    "rows": random(1, 1, 1, 6, seed=9),
}


def block(*between: tuple[Any, ...], **attrs: Any) -> list[Any]:
    """Nodes from ``x`` to ``y`` with channels last: an operator each, and the names of its other inputs.

    An input that is None stands before them.
    """
    nodes = [node("Transpose", ["x"], ["t0"], perm=LAST)]
    for index, (op, *others) in enumerate(between):
        inputs = [*filter(None, others), f"t{index}"] if None in others else [f"t{index}", *others]
        nodes.append(node(op, inputs, [f"t{index + 1}"], **(attrs if op == "LayerNormalization" else {})))
    return [*nodes, node("Transpose", [f"t{len(between)}"], ["y"], perm=FIRST)]


def packed(nodes: list[Any], folder: Path, free: bool = False, tolerance: float = 3e-6, **given: Any) -> list[str]:
    """The operators of a model with an input ``x`` (N, 6, H, W), whose results are those of the reference."""
    constants = {name: value for name, value in CONSTANTS.items() if any(name in each.input for each in nodes)}
    dims = ("N", 6, "H", "W") if free else (2, 6, 5, 4)
    model = make_model(nodes, constants, inputs={"x": dims}, **given)
    graph = check(model, folder, {"x": 3 + random(2, 6, 5, 4)}, tolerance)
    for shape in ((1, 6, 1, 7), (3, 6, 2, 1), (2, 6, 1, 1)) if free else ():
        feeds = {"x": random(*shape)}
        for found, wanted in zip(run_packed(folder / "model.safetensors", feeds), expected(model, feeds), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=1e-5)
    return ops(graph)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("bias", [(), ("bias",)])
@pytest.mark.parametrize("axis", [-1, 3])
def test_a_normalisation(tmp_path: Path, free: bool, bias: tuple[str, ...], axis: int) -> None:
    nodes = block(("LayerNormalization", "scale", *bias), axis=axis, epsilon=1e-3)
    assert packed(nodes, tmp_path, free) == [*NORMAL, "BatchNormalization"]


@pytest.mark.parametrize("free", [False, True])
def test_a_block_of_convnext(tmp_path: Path, free: bool) -> None:
    """Biases join products, whichever operand they are, and so does the normalisation's scale."""
    nodes = block(
        *(("LayerNormalization", "scale", "bias"), ("MatMul", "wide"), ("Add", None, "wide bias")),
        *(("Gelu",), ("MatMul", "narrow"), ("Add", "bias")),
    )
    nodes[-1].output[0] = "b"
    nodes.append(node("Add", ["b", "x"], ["y"]))
    assert packed(nodes, tmp_path, free, 2e-5) == [*NORMAL, "Conv+Gelu", "Conv"]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("other", [("bias",), (None, "bias"), ("number",), (None, "number"), ("row",), (None, "rows")])
def test_arithmetic(tmp_path: Path, op: str, other: tuple[Any, ...]) -> None:
    found = packed(block(("Sigmoid",), (op, *other), ("MatMul", "wide")), tmp_path, tolerance=2e-5)
    assert found == ["Sigmoid", op, "Conv"]


def test_a_weight_that_others_read_keeps_its_shape(tmp_path: Path) -> None:
    nodes = block(("MatMul", "wide"))
    nodes += [node("ReduceMean", ["x", "axes"], ["m"], keepdims=0), node("MatMul", ["m", "wide"], ["z"])]
    nodes += [node("LayerNormalization", ["z", "wide bias"], ["v"])]
    constants = {"axes": integers(2, 3), "wide": CONSTANTS["wide"], "wide bias": CONSTANTS["wide bias"]}
    model = make_model(nodes, constants, inputs={"x": (2, 6, 5, 4)}, outputs=("y", "v"))
    graph = check(model, tmp_path, {"x": random(2, 6, 5, 4)}, 2e-5)
    assert "Transpose" not in ops(graph)
    assert [each.inputs[1] for each in graph.nodes if each.op in ("Conv", "Gemm")] == ["wide.1", "wide"]


def test_layers_with_one_weight_read_one_copy(tmp_path: Path) -> None:
    nodes = block(("MatMul", "square"), ("Relu",), ("MatMul", "square"))
    again = block(("MatMul", "square"))
    again[0].input[0], nodes[-1].output[0] = "b", "b"
    for each in again:
        each.name, each.output[0] = f"again {each.output[0]}", each.output[0].replace("t", "u")
    again[1].input[0], again[2].input[0] = "u0", "u1"
    model = make_model([*nodes, *again], {"square": random(6, 6, seed=8)}, inputs={"x": (2, 6, 5, 4)})
    graph = check(model, tmp_path, {"x": random(2, 6, 5, 4)}, 2e-5)
    assert [each.inputs[1] for each in graph.nodes] == ["square.1"] * 3
    assert set(read_header(tmp_path / "model.safetensors").tensors) == {"square.1"}


def test_new_names_are_not_taken(tmp_path: Path) -> None:
    """By a weight, an input or a size, either."""
    names = ("t1.mean", "t1.less", "t1.normal", "t1.var")
    nodes = block(("LayerNormalization", "scale"))
    nodes[-1].output[0] = "z0"
    nodes += [node("Add", ["z0", names[0]], ["z1"]), node("Mul", ["z1", names[1]], ["z2"])]
    nodes += [node("Shape", ["z2"], [names[2]]), node("Expand", ["number", names[2]], ["z3"])]
    nodes += [node("Mul", ["z2", "z3"], ["y"])]
    constants = {"scale": CONSTANTS["scale"], names[0]: random(4, seed=8), "number": CONSTANTS["number"]}
    model = make_model(nodes, constants, inputs={"x": ("N", 6, "H", "W"), names[1]: (1, 1, 1, 1)})
    graph = check(model, tmp_path, {"x": random(2, 6, 5, 4), names[1]: random(1, 1, 1, 1)}, 2e-5)
    assert "Transpose" not in ops(graph)


@pytest.mark.parametrize("weights", ["int8", "int4", "bfloat16"])
def test_weights_in_fewer_bytes(tmp_path: Path, weights: str) -> None:
    constants = {"w": random(64, 96), "v": random(96, 64)}
    nodes = block(("MatMul", "w"), ("Relu",), ("MatMul", "v"))
    model = make_model(nodes, constants, inputs={"x": (1, 64, 9, 9)})
    path = streamrt.pack(model, tmp_path / "small", weights=weights)
    feeds = {"x": random(1, 64, 9, 9)}
    (found,), (wanted,) = run_packed(path, feeds), expected(model, feeds)
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.2 * np.sqrt(np.mean(wanted**2))
    assert path.stat().st_size < 2.3 * 64 * 96 * 2 + 2**13
    assert [each.inputs[1] for each in read_header(path).graph.nodes] == ["w", "v"]


@pytest.mark.parametrize(
    ("between", "attrs"),
    [
        ([("LayerNormalization", "columns")], {"axis": 2}),  # of columns, too
        ([("LayerNormalization", "one scale")], {"axis": 3}),
        ([("MatMul", "wide"), ("Softmax",)], {}),  # along channels, which are no axis 1 here
        ([("MatMul", "wide"), ("Add", "wide bias"), ("Add", "narrow positions")], {}),
        ([("Mul", "columns"), ("MatMul", "wide")], {}),  # a factor for each column
        ([("MatMul", None, "wide rows")], {}),  # rows of columns
        ([("Relu",), ("Add", "bias")], {}),  # nothing that gains
    ],
)
def test_others_stay(
    tmp_path: Path, between: list[tuple[Any, ...]], attrs: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONSTANTS, "narrow positions", random(4, 10, seed=8))
    monkeypatch.setitem(CONSTANTS, "wide rows", random(4, 4, seed=9))
    found = packed(block(*between, **attrs), tmp_path, tolerance=2e-5)
    assert (found[0], found[-1]) == ("Transpose", "Transpose")


@pytest.mark.parametrize("perm", [[0, 1, 3, 2], [0, 3, 2, 1]])
def test_other_transposes_stay(tmp_path: Path, perm: list[int]) -> None:
    for at in (0, -1):
        nodes = block(("LayerNormalization", "scale"))
        del nodes[at].attribute[:]
        nodes[at].attribute.append(onnx.helper.make_attribute("perm", perm))
        if at == 0:
            nodes[1].attribute.append(onnx.helper.make_attribute("axis", -1))
        dims = (2, 6, 6, 6)
        model = make_model(nodes, {"scale": CONSTANTS["scale"]}, inputs={"x": dims})
        assert ops(check(model, tmp_path, {"x": random(*dims)})) == ["Transpose", "LayerNormalization", "Transpose"]


@pytest.mark.parametrize("name", ["t0", "t1", "t2"])
def test_what_is_read_in_the_middle_stays(tmp_path: Path, name: str) -> None:
    nodes = block(("LayerNormalization", "scale"), ("MatMul", "wide"))
    assert packed(nodes, tmp_path, outputs=("y", name), tolerance=2e-5) == [each.op_type for each in nodes]
    nodes.insert(int(name[1:]) + 1, node("Exp", [name], ["z"]))
    assert packed(nodes, tmp_path, outputs=("y", "z"), tolerance=2e-5) == [each.op_type for each in nodes]


def test_an_extent_in_the_middle_is_measured(tmp_path: Path) -> None:
    """A size node reads the columns of what a MatMul makes."""
    nodes = [node("Conv", ["x", "conv"], ["c"], strides=[2, 2])]
    nodes += block(("MatMul", "wide"), ("Add", "wide bias"))
    nodes[1].input[0], nodes[-1].output[0] = "c", "d"
    constants = {"two": integers(2), "three": integers(3), "rows": integers(0, 0, -1)}
    nodes += [node("Shape", ["t1"], ["s"]), node("Slice", ["s", "two", "three"], ["w"])]
    nodes += [node("Concat", ["rows", "w"], ["to"], axis=0), node("Reshape", ["d", "to"], ["y"])]
    constants |= {name: CONSTANTS[name] for name in ("wide", "wide bias", "conv")}
    model = make_model(nodes, constants, inputs={"x": ("N", 6, "H", "W")})
    assert "Transpose" in ops(check(model, tmp_path, {"x": random(2, 6, 9, 5)}, 2e-5))


def test_a_map_of_one_position_stays(tmp_path: Path) -> None:
    nodes = [node("GlobalAveragePool", ["x"], ["p"]), *block(("LayerNormalization", "scale", "bias"))]
    nodes[1].input[0] = "p"
    assert "LayerNormalization" in packed(nodes, tmp_path, free=True)
