"""A scale of the input of a 1 x 1 convolution: when the convolution takes it, when it stays, and the same answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import check, expected, make_model, onnx, ops, random

node = onnx.helper.make_node

PARAMS = {
    "p": random(5, 3, 1, 1),
    "w": random(5, 3, 3, 3),
    "grouped": random(4, 2, 1, 1),
    "s": random(3, seed=2),
    "t": random(3, seed=3),
    "m": random(3, seed=4),
    "v": random(3, seed=5) ** 2 + 0.1,
    "low": np.float32(-0.5),
    "high": np.float32(0.75),
}
NORM = node("BatchNormalization", ["x", "s", "t", "m", "v"], ["n"])
GATE = [node("GlobalAveragePool", ["x"], ["g"]), node("Sigmoid", ["g"], ["q"])]


def conv(source: str, weights: str = "p", **attributes: Any) -> Any:
    return node("Conv", [source, weights], ["y"], **attributes)


def test_batch_normalization_and_its_activation(tmp_path: Path) -> None:
    for activation, limits in (
        (node("Relu", ["n"], ["r"]), {"input_min": 0.0}),
        (node("Clip", ["n", "low", "high"], ["r"]), {"input_min": -0.5, "input_max": 0.75}),
        (node("Identity", ["n"], ["r"]), {}),
    ):
        graph = check(make_model([NORM, activation, conv("r")], PARAMS), tmp_path)
        assert ops(graph) == ["Conv"]
        assert graph.nodes[0].inputs == ("x", "p", "", "", "p.scale", "p.shift")
        assert {name: value for name, value in graph.nodes[0].attrs.items() if "input" in name} == limits


@pytest.mark.parametrize("order", [["x", "q"], ["q", "x"]])
def test_a_gate(order: list[str], tmp_path: Path) -> None:
    graph = check(make_model([*GATE, node("Mul", order, ["n"]), conv("n")], PARAMS), tmp_path)
    assert graph.nodes[-1].inputs == ("x", "p", "", "", "q")
    assert "Mul" not in ops(graph)


def test_a_gate_with_a_residual_and_bias(tmp_path: Path) -> None:
    nodes = [
        *GATE,
        node("Mul", ["x", "q"], ["n"]),
        node("Conv", ["n", "e", "b"], ["c"]),
        node("Add", ["c", "x"], ["y"]),
    ]
    params = {"e": random(3, 3, 1, 1), "b": random(3, seed=9)}
    graph = check(make_model(nodes, params), tmp_path)
    assert graph.nodes[-1].inputs == ("x", "e", "b", "x", "q")


def test_groups(tmp_path: Path) -> None:
    norm = {name: np.concatenate([PARAMS[name], PARAMS[name][:1]]) for name in "stmv"}
    model = make_model([NORM, conv("n", "grouped", group=2)], PARAMS | norm, inputs={"x": (2, 4, 7, 5)})
    assert ops(check(model, tmp_path)) == ["Conv"]


def test_every_budget_gives_the_same_answer(tmp_path: Path) -> None:
    """Many channels give several tiles. Only the first tile may read the scale from the file."""
    nodes = [
        node("BatchNormalization", ["x", "s", "t", "m", "v"], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("Conv", ["r", "p"], ["y"]),
    ]
    params = {name: random(600, seed=seed) ** 2 + 0.1 for seed, name in enumerate("stmv")} | {
        "p": random(900, 600, 1, 1)
    }
    model = make_model(nodes, params, inputs={"x": ("n", 600, 7, 7)})
    path = streamrt.pack(model, tmp_path / "m.safetensors")
    x = random(3, 600, 7, 7, seed=8)
    wanted = expected(model, {"x": x})[0]
    with streamrt.Model(path, budget=None) as whole:
        least = whole.min_budget(x.shape)
        np.testing.assert_allclose(whole(x), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    with streamrt.Model(path, budget=least) as model:
        assert len(model.plan_for(x.shape).tiles) > 1
        np.testing.assert_allclose(model(x), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "nodes",
    [
        [NORM, conv("n", "w")],
        [NORM, conv("n", pads=(1, 1, 1, 1))],
        [NORM, conv("n", strides=(2, 2))],
        [NORM, node("Sigmoid", ["n"], ["r"]), conv("r")],
        [NORM, conv("n"), node("Relu", ["n"], ["z"])],
        [*GATE, node("Mul", ["x", "q"], ["n"]), node("Relu", ["n"], ["r"]), conv("r")],
        [node("ReduceMean", ["x"], ["q"], keepdims=1), node("Mul", ["x", "q"], ["n"]), conv("n")],
        [node("Sigmoid", ["x"], ["q"]), node("Mul", ["x", "q"], ["n"]), conv("n")],
    ],
    ids=["3x3", "padded", "strided", "Sigmoid", "read again", "a limit after a gate", "one gate for all", "no gate"],
)
def test_scales_that_stay(nodes: list[Any], tmp_path: Path) -> None:
    outputs = ["y", "z"] if "z" in [other.output[0] for other in nodes] else ["y"]
    graph = check(make_model(nodes, PARAMS, outputs=outputs), tmp_path)
    assert all(len(other.inputs) < 5 for other in graph.nodes if other.op == "Conv")


def test_a_gate_that_all_samples_share_stays(tmp_path: Path) -> None:
    """Its shape is that of a gate of one sample."""
    nodes = [node("ReduceMax", ["x", "axes"], ["q"], keepdims=1), node("Mul", ["x", "q"], ["n"]), conv("n")]
    axes = {"axes": np.array([0, 2, 3])}
    graph = check(make_model(nodes, PARAMS | axes, inputs={"x": ("n", 3, 8, 8)}), tmp_path)
    assert "Mul" in ops(graph)


def test_gates_of_a_batch_that_may_differ_stay(tmp_path: Path) -> None:
    nodes = [node("GlobalAveragePool", ["z"], ["q"]), node("Mul", ["x", "q"], ["n"]), conv("n")]
    inputs = {"x": ("n", 3, 8, 8), "z": ("m", 3, 8, 8)}
    path = streamrt.pack(make_model(nodes, PARAMS, inputs=inputs), tmp_path / "m.safetensors")
    x, z = random(4, 3, 8, 8, seed=7), random(1, 3, 8, 8, seed=8)
    with streamrt.Model(path, None) as model:
        same = {"x": x, "z": np.repeat(z, 4, axis=0)}
        np.testing.assert_allclose(model({"x": x, "z": z}), model(same), atol=1e-5)


def test_gates_of_a_batch_that_is_that_of_the_example_stay(tmp_path: Path) -> None:
    nodes = [node("Mul", ["x", "g"], ["n"]), conv("n")]
    model = make_model(nodes, {"p": PARAMS["p"]}, inputs={"x": ("n", 3, 8, 8), "g": (24, 3, 1, 1)})
    assert ops(check(model, tmp_path, {"x": random(1, 3, 8, 8), "g": random(24, 3, 1, 1)})) == ["Mul", "Conv"]
