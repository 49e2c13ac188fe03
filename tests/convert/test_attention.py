"""Attention that a model spells out, and products with transposed operands: folded where that is right, else not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import Array, check, make_model, onnx, ops, random

node = onnx.helper.make_node
#: q, k and v with heads, and k as it is before heads and positions change places.
INPUTS: Mapping[str, Any] = {"q": (2, 3, 5, 8), "k": (2, 3, 7, 8), "v": (2, 3, 7, 6)}
NUMBER = {"s": np.array(0.3, np.float32), "t": np.array([[2.0]], np.float32), "bias": random(5, 7)}


def attention(*scores: Any, transposed: str = "k", softmax: Any = None) -> list[Any]:
    """The nodes of an attention: ``scores`` compute "a" from "kt"."""
    return [
        node("Transpose", [transposed], ["kt"], perm=[0, 1, 3, 2]),
        *scores,
        softmax or node("Softmax", ["a"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["y"]),
    ]


def product(q: str = "q", k: str = "kt", to: str = "a") -> Any:
    return node("MatMul", [q, k], [to])


def constants(names: str) -> dict[str, Array]:
    return {name: np.asarray(NUMBER[name]) for name in names.split()}


FOLDED: dict[str, tuple[list[Any], str, float, dict[str, Any]]] = {
    "no scale": (attention(product()), "", 1.0, {}),
    "product times a number": (attention(product(to="m"), node("Mul", ["s", "m"], ["a"])), "s", 0.3, {}),
    "product by a number": (attention(product(to="m"), node("Div", ["m", "s"], ["a"])), "s", 1 / 0.3, {}),
    "queries times a number": (attention(node("Mul", ["q", "t"], ["qs"]), product("qs")), "t", 2.0, {}),
    "keys times a number": (attention(node("Mul", ["kt", "s"], ["ks"]), product(k="ks")), "s", 0.3, {}),
    "all of them": (
        attention(
            node("Mul", ["q", "t"], ["qs"]),
            node("Div", ["kt", "s"], ["ks"]),
            product("qs", "ks", "m"),
            node("Mul", ["m", "s"], ["a"]),
        ),
        "s t",
        2.0,
        {},
    ),
    "keys before they are transposed": (
        [node("Mul", ["k", "s"], ["ks"]), *attention(product(), transposed="ks")],
        "s",
        0.3,
        {},
    ),
    "a parameter as mask": (attention(product(to="m"), node("Add", ["m", "bias"], ["a"])), "bias", 1.0, {}),
    "a mask first": (attention(product(to="m"), node("Add", ["bias", "m"], ["a"])), "bias", 1.0, {}),
    "a computed mask": (
        attention(product(to="m"), node("Mul", ["m", "s"], ["n"]), node("Add", ["n", "mask"], ["a"])),
        "s",
        0.3,
        {"mask": (2, 1, 1, 7)},
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_attention_becomes_one_node(name: str, tmp_path: Path) -> None:
    nodes, names, scale, more = FOLDED[name]
    graph = check(make_model(nodes, constants(names), inputs={**INPUTS, **more}), tmp_path)
    assert ops(graph) == ["Attention"]
    assert graph.nodes[0].attrs["scale"] == pytest.approx(scale)
    assert graph.nodes[0].inputs[:3] == ("q", "k", "v")


def test_a_query_that_may_use_no_key_stays_nan(tmp_path: Path) -> None:
    nodes = attention(product(to="m"), node("Add", ["m", "mask"], ["a"]))
    model = make_model(nodes, inputs={**INPUTS, "mask": (5, 7)})
    mask = np.zeros((5, 7), np.float32)
    mask[1], mask[2, 1:] = -np.inf, -np.inf
    feeds = {"q": random(2, 3, 5, 8), "k": random(2, 3, 7, 8, seed=1), "v": random(2, 3, 7, 6, seed=2), "mask": mask}
    path = streamrt.pack(model, tmp_path / "out.safetensors")
    with streamrt.Model(path, budget=None) as packed:
        y = packed(feeds)
    assert np.isnan(y[:, :, 1]).all()
    np.testing.assert_allclose(y[:, :, 2], np.broadcast_to(feeds["v"][:, :, 0], y[:, :, 2].shape), rtol=1e-5)


def test_keys_that_lie_by_position_are_moved_by_rows(tmp_path: Path) -> None:
    nodes = [node("Transpose", ["k"], ["kt"], perm=[0, 2, 3, 1]), *attention(product())[1:]]
    graph = check(make_model(nodes, inputs={**INPUTS, "k": (2, 7, 3, 8)}), tmp_path)
    assert ops(graph) == ["Transpose", "Attention"]
    assert graph.nodes[0].attrs["perm"] == (0, 2, 1, 3)


NOT_FOLDED: dict[str, tuple[list[Any], str, dict[str, Any], list[str]]] = {
    "scores are read": (attention(product()), "", {"outputs": ["y", "a"]}, ["MatMul", "Softmax", "MatMul"]),
    "probabilities are read": (attention(product()), "", {"outputs": ["y", "p"]}, ["MatMul", "Softmax", "MatMul"]),
    "the product is read": (
        attention(product(to="m"), node("Add", ["m", "bias"], ["a"])),
        "bias",
        {"outputs": ["y", "m"]},
        ["MatMul", "Add", "Softmax", "MatMul"],
    ),
    "scaled scores are read": (
        attention(product(to="m"), node("Mul", ["m", "s"], ["n"]), node("Add", ["n", "bias"], ["a"])),
        "s bias",
        {"outputs": ["y", "n"]},
        ["MatMul", "Mul", "Add", "Softmax", "MatMul"],
    ),
    "another axis": (
        attention(product(), softmax=node("Softmax", ["a"], ["p"], axis=2)),
        "",
        {},
        ["MatMul", "Softmax", "MatMul"],
    ),
    "the mask makes the scores larger": (
        attention(product(to="m"), node("Add", ["m", "mask"], ["a"])),
        "",
        {"inputs": {"q": (1, 3, 5, 8), "k": (1, 3, 7, 8), "mask": (2, 1, 5, 7)}},
        ["MatMul", "Add", "Softmax", "MatMul"],
    ),
    "keys broadcast": (
        attention(product()),
        "",
        {"inputs": {"k": (1, 3, 7, 8)}},
        ["MatMul", "Softmax", "MatMul"],
    ),
    "values broadcast": (
        attention(product()),
        "",
        {"inputs": {"v": (7, 6)}},
        ["MatMul", "Softmax", "MatMul"],
    ),
}


@pytest.mark.parametrize("name", NOT_FOLDED)
def test_attention_that_stays(name: str, tmp_path: Path) -> None:
    nodes, names, changes, expected = NOT_FOLDED[name]
    inputs = {**INPUTS, **changes.get("inputs", {})}
    graph = check(make_model(nodes, constants(names), inputs=inputs, outputs=changes.get("outputs", ["y"])), tmp_path)
    assert ops(graph) == expected


def test_two_free_batches_may_differ_in_a_run(tmp_path: Path) -> None:
    """A batch of 1 may broadcast."""
    inputs = {"q": ("N", 3, 5, 8), "k": ("M", 3, 7, 8), "v": ("M", 3, 7, 6)}
    feeds = {"q": random(4, 3, 5, 8), "k": random(1, 3, 7, 8, seed=1), "v": random(1, 3, 7, 6, seed=2)}
    graph = check(make_model(attention(product()), inputs=inputs), tmp_path, feeds)
    assert ops(graph) == ["MatMul", "Softmax", "MatMul"]


@pytest.mark.parametrize("other", ["B", 24])
def test_heads_that_may_differ_in_a_run(other: Any, tmp_path: Path) -> None:
    """One head of values may broadcast. A batch that is a number for all sizes is that of the example by chance."""
    values = ("n", other, 7, 6) if other == "B" else (other, 3, 7, 6)
    inputs = {"q": ("n", "A", 5, 8), "k": ("n", "A", 7, 8), "v": values}
    samples, heads = (4, 1) if other == "B" else (1, 3)
    feeds = {
        "q": random(samples, 3, 5, 8),
        "k": random(samples, 3, 7, 8, seed=1),
        "v": random(samples if other == "B" else 24, heads, 7, 6, seed=2),
    }
    graph = check(make_model(attention(product()), inputs=inputs), tmp_path, feeds)
    assert ops(graph) == ["MatMul", "Softmax", "MatMul"]


def test_a_product_reads_a_transposed_operand_as_it_lies(tmp_path: Path) -> None:
    model = make_model(attention(product(to="y"))[:2], inputs={"q": (2, 3, 5, 8), "k": (2, 3, 7, 8)})
    graph = check(model, tmp_path)
    assert ops(graph) == ["MatMul"]
    assert graph.nodes[0].attrs == {"transB": 1}
    assert graph.nodes[0].inputs == ("q", "k")


@pytest.mark.parametrize("outputs", [["y", "kt"], ["y"]])
def test_an_operand_that_is_read_transposed_elsewhere_stays(outputs: list[str], tmp_path: Path) -> None:
    nodes = [
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "kt"], ["m"]),
        node("ReduceSum", ["kt"], ["r"], keepdims=1),
        node("Add", ["m", "r"], ["y"]),
    ]
    graph = check(make_model(nodes, inputs={"q": (2, 3, 5, 8), "k": (2, 3, 7, 8)}, outputs=outputs), tmp_path)
    assert "Transpose" in ops(graph)


@pytest.mark.parametrize(
    ("attributes", "inputs", "reason"),
    [
        ({}, ["q", "k", "v", "", "p"], "past_key, past_value"),
        ({"q_num_heads": 3}, ["f", "f", "f"], "'q_num_heads' and 'kv_num_heads' above 0"),
        ({"q_num_heads": 3, "kv_num_heads": 3}, ["f", "f", "f"], "multiple of the 3 heads"),
        ({}, ["q", "k", "v", "m"], "for each of the 7 keys"),
    ],
    ids=str,
)
def test_refusals(attributes: dict[str, Any], inputs: list[str], reason: str, tmp_path: Path) -> None:
    shapes = {**INPUTS, "f": (2, 5, 16), "p": (2, 3, 4, 8), "m": (5, 1)}
    model = make_model(
        [node("Attention", inputs, ["y"], **attributes)], inputs={name: shapes[name] for name in inputs if name}
    )
    with pytest.raises(streamrt.UnsupportedModelError, match=reason):
        streamrt.pack(model, tmp_path / "out.safetensors")


@pytest.mark.parametrize("name", ["q_num_heads", "kv_num_heads"])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_of_heads_that_would_abort_the_shape_inference(name: str, value: int, tmp_path: Path) -> None:
    attributes = {"q_num_heads": 2, "kv_num_heads": 2, name: value}
    model = make_model([node("Attention", ["f", "f", "f"], ["y"], **attributes)], inputs={"f": (2, 5, 16)})
    with pytest.raises(streamrt.StreamrtError, match=f"{name}"):
        streamrt.pack(model, tmp_path / "out.safetensors")


def test_the_scale_of_onnx_is_the_root_of_the_size(tmp_path: Path) -> None:
    graph = check(make_model([node("Attention", ["q", "k", "v"], ["y"])], inputs=INPUTS), tmp_path)
    assert "scale" not in graph.nodes[0].attrs
    scaled = make_model([node("Attention", ["q", "k", "v"], ["y"], scale=1 / math.sqrt(8))], inputs=INPUTS)
    check(scaled, tmp_path)


EQUATIONS = {
    "bhid,bhjd->bhij": ("MatMul", {"transB": 1}),
    "...id,...jd->...ij": ("MatMul", {"transB": 1}),
    "b h i d, b h j d -> b h i j": ("MatMul", {"transB": 1}),
    "bhid,bhjd->bhji": ("Einsum", {"equation": "bhid,bhjd->bhji"}),
    "bhid,hbjd->bhij": ("Einsum", {"equation": "bhid,hbjd->bhij"}),
    "bhid,bhjd->bhdj": ("Einsum", {"equation": "bhid,bhjd->bhdj"}),
    "bhid,bhjd": ("Einsum", {"equation": "bhid,bhjd"}),
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_an_equation_that_is_a_product(equation: str, tmp_path: Path) -> None:
    inputs = {"q": (3, 3, 5, 8), "k": (3, 3, 7, 8)}
    graph = check(make_model([node("Einsum", ["q", "k"], ["y"], equation=equation)], inputs=inputs), tmp_path)
    assert (graph.nodes[0].op, graph.nodes[0].attrs) == EQUATIONS[equation]


def test_an_equation_that_is_a_plain_product(tmp_path: Path) -> None:
    inputs = {"p": (2, 3, 5, 7), "v": (2, 3, 7, 6)}
    model = make_model([node("Einsum", ["p", "v"], ["y"], equation="bhij,bhjd->bhid")], inputs=inputs)
    graph = check(model, tmp_path)
    assert ops(graph) == ["MatMul"]
    assert graph.nodes[0].attrs == {}


def test_an_equation_with_a_constant_reads_it_as_it_lies(tmp_path: Path) -> None:
    model = make_model(
        [node("Einsum", ["q", "w"], ["y"], equation="bhid,hjd->bhij")],
        {"w": random(3, 6, 8)},
        inputs={"q": (2, 3, 5, 8)},
    )
    assert ops(check(model, tmp_path)) == ["Einsum"]


def test_the_axes_before_the_last_two_may_be_one_while_these_are_swapped(tmp_path: Path) -> None:
    """As torch writes it, with a free batch."""
    nodes = [
        node("Reshape", ["k", "flat"], ["kf"]),
        node("Transpose", ["kf"], ["kft"], perm=[0, 2, 1]),
        node("Reshape", ["kft", "apart"], ["kt"]),
        *attention(product())[1:],
    ]
    constants = {"flat": np.array([-1, 7, 8]), "apart": np.array([-1, 3, 8, 7])}
    inputs = {"q": ("N", 3, 5, 8), "k": ("N", 3, 7, 8), "v": ("N", 3, 7, 6)}
    assert ops(check(make_model(nodes, constants, inputs=inputs), tmp_path)) == ["Attention"]
    constants["apart"] = np.array([3, -1, 8, 7])
    fixed = {"q": (3, 2, 5, 8), "k": (2, 3, 7, 8), "v": (3, 2, 7, 6)}
    assert "Attention" not in ops(check(make_model(nodes, constants, inputs=fixed), tmp_path))
