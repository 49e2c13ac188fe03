"""Inputs of a Concat that are computed inside its output: their offsets, and the same answers without that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrt.graph import Activation, Graph, Node, TensorSpec
from streamrt.ops import Array
from streamrt.program.compile import Program, compile_program

MAP = (4, 4)
NBYTES = 4 * 16


def node(op: str, inputs: list[str], output: str, act: str | None = None, **attrs: Any) -> Node:
    return Node(output, op, tuple(inputs), (output,), attrs, Activation(act, {}) if act else None)


def concat(inputs: list[str], output: str, act: str | None = None) -> Node:
    return node("Concat", inputs, output, act, axis=1)


def graph(nodes: list[Node], outputs: list[str], channels: int = 2) -> Graph:
    dims = ("n", channels, *MAP)
    return Graph((TensorSpec("x", dims),), tuple(TensorSpec(name, dims) for name in outputs), tuple(nodes))


def answers(program: Program, x: Array) -> list[Array]:
    memory = np.full(program.workspace, 0xFF, np.uint8)  # NaN
    runs = program.bind(memory, {})
    program.tensor(memory, "x")[...] = x
    for run, low in zip(runs, program.lowered, strict=True):
        run(0, low.rows)
    return [program.tensor(memory, spec.name).copy() for spec in program.graph.outputs]


def compiled(made: Graph, batch: int = 1, lean: bool = False) -> Program:
    channels = made.inputs[0].dims[1]
    assert isinstance(channels, int)
    return compile_program(made, {}, {"x": (batch, channels, *MAP)}, lean=lean)


def dense(layers: int) -> Graph:
    """As in DenseNet: each layer reads the outputs of all layers before it."""
    nodes, known = [node("Sigmoid", ["x"], "l0")], ["l0"]
    for index in range(1, layers):
        nodes += [concat(known, f"c{index}"), node("ReduceMean", [f"c{index}"], f"l{index}", axes=(1,), keepdims=1)]
        known = [*known, f"l{index}"]
    return graph([*nodes, concat(known, "y")], ["y"])


def test_a_chain_that_grows_is_one_tensor() -> None:
    program = compiled(dense(5))
    start = program.offsets["y"]
    assert [program.offsets[f"c{index}"] for index in range(1, 5)] == [start] * 4
    assert [program.offsets[f"l{index}"] - start for index in range(5)] == [0, *(NBYTES * (1 + i) for i in range(1, 5))]
    assert program.workspace < compiled(dense(5), lean=True).workspace
    x = np.random.default_rng(0).normal(size=(1, 2, *MAP)).astype(np.float32)
    np.testing.assert_array_equal(answers(program, x), answers(compiled(dense(5), lean=True), x))


def test_a_concat_inside_a_concat() -> None:
    nodes = [node("Tanh", ["x"], "a"), node("Relu", ["x"], "b"), node("Sigmoid", ["x"], "c")]
    program = compiled(graph([*nodes, concat(["a", "b"], "ab"), concat(["c", "ab"], "y")], ["y"]))
    start = program.offsets["y"]
    assert [program.offsets[name] - start for name in ("c", "ab", "a", "b")] == [
        0,
        2 * NBYTES,
        2 * NBYTES,
        4 * NBYTES,
    ]


@pytest.mark.parametrize("batch", [2, 3])
def test_the_samples_of_a_batch_are_not_joined(batch: int) -> None:
    made = graph([node("Tanh", ["x"], "a"), node("Relu", ["x"], "b"), concat(["a", "b"], "y")], ["y"])
    program = compiled(made, batch)
    assert program.offsets["b"] != program.offsets["y"] + 2 * NBYTES
    x = np.random.default_rng(0).normal(size=(batch, 2, *MAP)).astype(np.float32)
    np.testing.assert_allclose(answers(program, x)[0], np.concatenate([np.tanh(x), np.maximum(x, 0)], 1), atol=1e-6)


def test_an_activation_of_a_concat_leaves_its_inputs_unchanged() -> None:
    made = graph([node("Tanh", ["x"], "a"), concat(["a", "a"], "b"), concat(["a", "b"], "y", act="Relu")], ["a", "y"])
    x = np.random.default_rng(0).normal(size=(1, 2, *MAP)).astype(np.float32)
    a, y = answers(compiled(made), x)
    np.testing.assert_allclose(a, np.tanh(x), atol=1e-6)
    np.testing.assert_array_equal(y, np.maximum(np.concatenate([a, a, a], 1), 0))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    nodes: list[Node] = []
    channels = {"x": 2}
    for index in range(draw(st.integers(1, 12))):
        known, name = list(channels), f"t{index}"
        kind = draw(st.sampled_from(["one", "two", "join", "join", "view"]))
        a = draw(st.sampled_from(known))
        if kind == "join":
            parts = draw(st.lists(st.sampled_from(known), min_size=1, max_size=4))
            nodes.append(concat(parts, name, draw(st.sampled_from([None, None, "Relu"]))))
            channels[name] = sum(channels[part] for part in parts)
            if channels[name] > 64:
                channels.pop(name)
                nodes.pop()
            continue
        if kind == "two":
            b = draw(st.sampled_from([other for other in known if channels[other] == channels[a]]))
            nodes.append(node("Add", [a, b], name))
        elif kind == "view":
            nodes.append(node("Reshape", [a], name, shape=(0, -1, *MAP)))
        else:
            nodes.append(node(draw(st.sampled_from(["Relu", "Sigmoid", "Tanh"])), [a], name))
        channels[name] = channels[a]
    made = [other.outputs[0] for other in nodes] or ["x"]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    dims = {name: ("n", channels[name], *MAP) for name in outputs if name in channels}
    outputs = [name for name in outputs if name in dims]
    return Graph(
        (TensorSpec("x", ("n", 2, *MAP)),), tuple(TensorSpec(name, dims[name]) for name in outputs), tuple(nodes)
    )


@settings(deadline=None, max_examples=300)
@given(graphs())
def test_the_answer_does_not_depend_on_the_place(made: Graph) -> None:
    x = np.random.default_rng(0).normal(size=(1, 2, *MAP)).astype(np.float32)
    joined, apart = answers(compiled(made), x), answers(compiled(made, lean=True), x)
    for one, other in zip(joined, apart, strict=True):
        np.testing.assert_array_equal(one, other)
