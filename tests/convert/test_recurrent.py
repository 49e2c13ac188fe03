"""Recurrent operators of ONNX: all inputs, attributes and directions, against their equations in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import make_model, onnx, ops, random, run_packed
from convert.test_unsupported import problems
from ops.test_recurrent import DEFAULTS, FUNCTIONS, GATES, STATES, Values, expected
from streamrt.format import read_header

STEPS, SAMPLES, FEATURES, HIDDEN = 5, 3, 6, 7
#: Names of the inputs of an operator, in order.
NAMES = ("x", "w", "r", "b", "lengths", "h", "c", "p")


def values_of(op: str, directions: int = 1, *, layout: int = 0, given: str = "bhcp") -> dict[str, Any]:
    """The inputs of a node by name; ``given`` has the first letters of optional ones."""
    rows, state = GATES[op] * HIDDEN, (directions, SAMPLES, HIDDEN)
    shapes: dict[str, tuple[int, ...]] = {
        "x": (SAMPLES, STEPS, FEATURES) if layout else (STEPS, SAMPLES, FEATURES),
        "w": (directions, rows, FEATURES),
        "r": (directions, rows, HIDDEN),
        "b": (directions, 2 * rows),
        "h": (state[1], state[0], state[2]) if layout else state,
        "c": (state[1], state[0], state[2]) if layout else state,
        "p": (directions, 3 * HIDDEN),
    }
    left_out = {*"bhcp"} - {*given} | (set() if op == "LSTM" else {*"cp"})
    return {
        name: random(*shape, seed=index) / 2
        for index, (name, shape) in enumerate(shapes.items())
        if name not in left_out
    }


def node_of(op: str, values: Any, **attrs: Any) -> Any:
    """A node with all outputs that reads ``values`` by their names."""
    inputs = [name if name in values else "" for name in NAMES]
    while not inputs[-1]:
        inputs.pop()
    return onnx.helper.make_node(op, inputs, ["y", "y_h", "y_c"][: 1 + STATES[op]], hidden_size=HIDDEN, **attrs)


def wanted(op: str, values: dict[str, Any], **attrs: Any) -> list[Values]:
    """All outputs of the node, by the equations for each direction."""
    count = len(values["w"])
    directions = ("forward", "reverse") if count == 2 else (attrs.get("direction", "forward"),)
    axis = attrs.get("layout", 0)
    rows = GATES[op] * HIDDEN
    found = []
    for index, direction in enumerate(directions):
        own = attrs | {"direction": direction}
        if "activations" in own:
            size = len(DEFAULTS[op])
            own["activations"] = ",".join(own["activations"][index * size : (index + 1) * size])
            for name, place in (("activation_alpha", 1), ("activation_beta", 2)):
                own[name] = tuple(FUNCTIONS[n][place] for n in own["activations"].split(","))
        x = values["x"] @ values["w"][index].T
        bias = np.zeros(rows)
        if "b" in values:
            x, bias = x + values["b"][index, :rows], values["b"][index, rows:]
        states = [np.take(values[n], [index], axis) if n in values else None for n in ("h", "c")][: STATES[op]]
        peephole = values["p"][index] if "p" in values else None
        found.append(expected(op, [x, values["r"][index], bias, *states, *([peephole] if op == "LSTM" else [])], own))
    return [np.concatenate(parts, 1 + axis if i == 0 else axis) for i, parts in enumerate(zip(*found, strict=True))]


def check(folder: Path, op: str, values: dict[str, Any], computed: tuple[str, ...] = ("x",), **attrs: Any) -> Path:
    """Pack and run a node that computes ``computed`` and has the other values as constants; returns the file."""
    inputs = {name: values[name].shape for name in computed}
    if values.keys().isdisjoint({"h", "c"}):
        inputs["x"] = [None, None, None]  # else the first states have a batch
    constants = {name: value for name, value in values.items() if name not in computed}
    outputs = ["y", "y_h", "y_c"][: 1 + STATES[op]]
    model = make_model([node_of(op, values, **attrs)], constants, inputs=inputs, outputs=outputs)
    path = streamrt.pack(model, folder / "model.safetensors")
    compare(run_packed(path, {name: values[name] for name in computed}), wanted(op, values, **attrs))
    return path


def compare(found: list[Any], answers: list[Values]) -> None:
    for one, other in zip(found, answers, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_directions_and_layouts(tmp_path: Path, op: str, direction: str, layout: int) -> None:
    values = values_of(op, 2 if direction == "bidirectional" else 1, layout=layout)
    path = check(tmp_path, op, values, direction=direction, layout=layout)
    names = ops(read_header(path).graph)
    assert names.count(op) == names.count("MatMul") == len(values["w"])


@pytest.mark.parametrize("given", ["", "b", "h", "c", "p", "bc"])
@pytest.mark.parametrize("op", GATES)
def test_inputs_that_are_left_out(tmp_path: Path, op: str, given: str) -> None:
    check(tmp_path, op, values_of(op, given=given))


@pytest.mark.parametrize("linear_before_reset", [0, 1])
@pytest.mark.parametrize("given", ["", "b"])
def test_the_reset_gate_of_a_gru(tmp_path: Path, given: str, linear_before_reset: int) -> None:
    """Only if the reset gate comes after the product has the recurrent node a bias."""
    values = values_of("GRU", 2, given=given)
    path = check(tmp_path, "GRU", values, direction="bidirectional", linear_before_reset=linear_before_reset)
    nodes = [node for node in read_header(path).graph.nodes if node.op == "GRU"]
    assert all(len(node.inputs) == (3 if given and linear_before_reset else 2) for node in nodes)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("layout", [0, 1])
def test_computed_first_states(tmp_path: Path, direction: str, layout: int) -> None:
    values = values_of("LSTM", 2 if direction == "bidirectional" else 1, layout=layout)
    check(tmp_path, "LSTM", values, ("x", "h", "c"), direction=direction, layout=layout)


def test_first_states_of_zeros_are_left_out(tmp_path: Path) -> None:
    values = values_of("LSTM", 2, given="bhc")
    values["h"][:] = values["c"][:] = 0.0
    path = check(tmp_path, "LSTM", values, direction="bidirectional")
    assert all(len(node.inputs) == 2 for node in read_header(path).graph.nodes if node.op == "LSTM")


@pytest.mark.parametrize("op", GATES)
def test_zeros_as_many_as_the_batch_needs(tmp_path: Path, op: str) -> None:
    """Exporters write first states and lengths with the extents of the input."""
    values = values_of(op, given="b")
    names = ("h", "c")[: STATES[op]]
    make = onnx.helper.make_node
    nodes = [
        make("Shape", ["x"], ["shape"]),
        make("Gather", ["shape", "one"], ["samples"]),
        make("Gather", ["shape", "zero"], ["steps"]),
        make("Concat", ["one", "samples", "hidden"], ["extents"], axis=0),
        *(make("ConstantOfShape", ["extents"], [name]) for name in names),
        make("Expand", ["steps", "samples"], ["all"]),
        make("Cast", ["all"], ["lengths"], to=onnx.TensorProto.INT32),
        node_of(op, {*values, *names, "lengths"}),
    ]
    indices = {"zero": 0, "one": 1, "hidden": HIDDEN}
    constants = {name: np.array([index], np.int64) for name, index in indices.items()}
    constants |= {name: value for name, value in values.items() if name != "x"}
    model = make_model(nodes, constants, inputs={"x": ["T", "N", FEATURES]}, outputs=["y"])
    path = streamrt.pack(model, tmp_path / "out.safetensors")
    assert ops(read_header(path).graph) == ["MatMul", op]
    for steps, samples in ((STEPS, SAMPLES), (2, 1), (9, 4)):
        values["x"] = random(steps, samples, FEATURES)
        compare(run_packed(path, {"x": values["x"]}), wanted(op, values)[:1])


def test_both_directions_begin_with_a_number_for_each_sample(tmp_path: Path) -> None:
    values = values_of("GRU", 2, given="b")
    make = onnx.helper.make_node
    half = onnx.numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [
        make("Shape", ["x"], ["shape"], start=1, end=2),
        make("Concat", ["two", "shape", "hidden"], ["extents"], axis=0),
        make("ConstantOfShape", ["extents"], ["h"], value=half),
        node_of("GRU", {*values, "h"}, direction="bidirectional"),
    ]
    constants = {"two": np.array([2], np.int64), "hidden": np.array([HIDDEN], np.int64)}
    constants |= {name: value for name, value in values.items() if name != "x"}
    model = make_model(nodes, constants, inputs={"x": ["T", "N", FEATURES]}, outputs=["y"])
    path = streamrt.pack(model, tmp_path / "out.safetensors")
    for samples in (SAMPLES, 1):
        values["x"] = random(STEPS, samples, FEATURES)
        values["h"] = np.full((2, samples, HIDDEN), 0.5, np.float32)
        compare(run_packed(path, {"x": values["x"]}), wanted("GRU", values, direction="bidirectional")[:1])


def test_only_outputs_that_are_read_are_computed(tmp_path: Path) -> None:
    values = values_of("LSTM", 2, given="b")
    constants = {name: value for name, value in values.items() if name != "x"}
    node = node_of("LSTM", values, direction="bidirectional")
    for index, name in enumerate(node.output):
        model = make_model([node], constants, inputs={"x": values["x"].shape}, outputs=[name])
        path = streamrt.pack(model, tmp_path / "out.safetensors")
        compare(run_packed(path, {"x": values["x"]}), [wanted("LSTM", values)[index]])
        assert ops(read_header(path).graph).count("Concat") == 1


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("op", GATES)
def test_clip_and_coupled_gates(tmp_path: Path, op: str, clip: float | None) -> None:
    attrs: dict[str, Any] = {} if clip is None else {"clip": clip}
    check(tmp_path, op, values_of(op), **attrs, **({"input_forget": 1} if op == "LSTM" else {}))


def test_numbers_of_activations_are_taken_in_order(tmp_path: Path) -> None:
    """ONNX has numbers for those functions alone that take some."""
    values = values_of("LSTM", 2)
    names = ["Sigmoid", "LeakyRelu", "Elu", "HardSigmoid", "ScaledTanh", "Softsign"]
    attrs = {"direction": "bidirectional", "activations": names}
    alpha, beta = [0.2, 0.7, 0.3, 1.5], [0.4, 0.5]
    answers = wanted("LSTM", values, **attrs)
    model = make_model(
        [node_of("LSTM", values, activation_alpha=alpha, activation_beta=beta, **attrs)],
        {name: value for name, value in values.items() if name != "x"},
        inputs={"x": values["x"].shape},
        outputs=["y", "y_h", "y_c"],
    )
    compare(run_packed(streamrt.pack(model, tmp_path / "out.safetensors"), {"x": values["x"]}), answers)


@pytest.mark.parametrize(("weights", "dtype", "error"), [("float16", "F16", 1e-3), ("int8", "int8", 0.02)])
def test_weights_in_fewer_bytes(tmp_path: Path, weights: str, dtype: str, error: float) -> None:
    """Both matrices of both directions have them. A matrix of integers has a scale for each row of each direction."""
    rng = np.random.default_rng(0)
    values = {
        "x": rng.standard_normal((9, 2, 48), np.float32),
        "w": rng.standard_normal((2, 4 * 40, 48), np.float32) / 7,
        "r": rng.standard_normal((2, 4 * 40, 40), np.float32) / 7,
        "b": rng.standard_normal((2, 8 * 40), np.float32),
    }
    values["r"][:, ::2] /= 1000
    constants = {name: value for name, value in values.items() if name != "x"}
    node = onnx.helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=40, direction="bidirectional")
    model = make_model([node], constants, inputs={"x": values["x"].shape})
    path, exact = tmp_path / "out.safetensors", streamrt.pack(model, tmp_path / "exact.safetensors")
    names = [name for name, tensor in read_header(exact).tensors.items() if len(tensor.shape) == 2]
    streamrt.pack(model, path, keep=dict.fromkeys(names, weights))
    assert [read_header(path).tensors[name].dtype for name in names] == [dtype] * 4
    (y,), (answer,) = (run_packed(file, {"x": values["x"]}) for file in (path, exact))
    assert 0 < np.sqrt(((y - answer) ** 2).mean() / (answer**2).mean()) < error


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "sequences that end early": ({"lengths": np.array([5, 4, 5], np.int32)}, {}, "sequence_lens"),
    "sequences that are too long": ({"lengths": np.array([6, 6, 6], np.int32)}, {}, "sequence_lens"),
    "weights of one direction": ({}, {"direction": "bidirectional"}, "W has shape"),
    "a direction": ({}, {"direction": "sideways"}, "'direction'"),
    "a hidden size": ({"r": random(1, 28, 8)}, {}, "W has shape"),
    "W of two axes": ({"w": random(28, 6)}, {}, "W has shape"),
    "R of no axes": ({"r": np.float32(1)}, {}, "W has shape"),
    "B of half the size": ({"b": random(1, 28)}, {}, "B"),
    "P of another size": ({"p": random(1, 28)}, {}, "P"),
    "too few activations": ({}, {"activations": ["Tanh"]}, "'activations'"),
    "an unknown activation": ({}, {"activations": ["Sigmoid", "Tanh", "Gelu"]}, "'activations'"),
    "Affine without numbers": ({}, {"activations": ["Affine", "Tanh", "Tanh"]}, "Affine has no default"),
    "too many numbers": ({}, {"activation_alpha": [1.0]}, "'activation_alpha'"),
    "a clip of 0": ({}, {"clip": 0.0}, "'clip'"),
    "an attribute of another operator": ({}, {"linear_before_reset": 1}, "'linear_before_reset'"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused(case: tuple[dict[str, Any], dict[str, Any], str], tmp_path: Path) -> None:
    changed, attrs, reason = case
    values = values_of("LSTM") | changed
    constants = {name: value for name, value in values.items() if name != "x"}
    model = make_model([node_of("LSTM", values, **attrs)], constants, inputs={"x": values["x"].shape})
    assert any(reason in problem for problem in problems(model, tmp_path))


@pytest.mark.parametrize("name", ["w", "r", "b", "p", "lengths"])
def test_inputs_that_must_be_constant(tmp_path: Path, name: str) -> None:
    values = values_of("LSTM")
    computed = {"x": values["x"].shape, name: values[name].shape if name in values else (SAMPLES,)}
    constants = {key: value for key, value in values.items() if key not in computed}
    node = node_of("LSTM", {*values, name})
    if name == "lengths":
        node.input[NAMES.index(name)] = "whole"
    nodes = [onnx.helper.make_node("Cast", ["lengths"], ["whole"], to=6), node] if name == "lengths" else [node]
    reason = f"input {NAMES.index(name)} "
    found = [
        problem for problem in problems(make_model(nodes, constants, inputs=computed), tmp_path) if reason in problem
    ]
    assert len(found) == 1
    assert "is computed, expected a constant" in found[0]


def test_a_size_of_the_state_that_the_weights_do_not_have(tmp_path: Path) -> None:
    values = values_of("LSTM")
    constants = {name: value for name, value in values.items() if name != "x"}
    node = node_of("LSTM", values)
    next(attribute for attribute in node.attribute if attribute.name == "hidden_size").i = 8
    model = make_model([node], constants, inputs={"x": values["x"].shape})
    assert any("'hidden_size' is 8, but R has shape" in problem for problem in problems(model, tmp_path))


def test_a_first_state_of_another_batch(tmp_path: Path) -> None:
    for directions in (1, 2):
        values = values_of("GRU", directions, given="h")
        values["h"] = random(directions, SAMPLES + 1, HIDDEN)
        constants = {name: value for name, value in values.items() if name != "x"}
        direction = ("forward", "bidirectional")[directions - 1]
        model = make_model([node_of("GRU", values, direction=direction)], constants, inputs={"x": values["x"].shape})
        with pytest.raises(streamrt.FormatError, match=rf"expected \(1, {SAMPLES}, {HIDDEN}\)"):
            streamrt.pack(model, tmp_path / "out.safetensors")


@pytest.mark.extras
@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("op", GATES)
def test_onnx_runtime_agrees(tmp_path: Path, op: str, peephole: bool) -> None:
    """Where ONNX's text leaves room: ``clip``, coupled gates, and numbers of activations."""
    runtime = pytest.importorskip("onnxruntime")
    values = values_of(op, 2, given="bhcp" if peephole else "bhc")
    if op == "LSTM":
        values["c"] *= 20  # beyond the clip
    constants = {name: value for name, value in values.items() if name != "x"}
    attrs: dict[str, Any] = {"direction": "bidirectional", "clip": 0.5}
    if op == "LSTM":
        attrs |= {"input_forget": 1, "activations": ["Sigmoid", "LeakyRelu", "Elu", "HardSigmoid", "Tanh", "Softsign"]}
        attrs |= {"activation_alpha": [0.2, 0.7, 0.3], "activation_beta": [0.4]}
    outputs = ["y", "y_h", "y_c"][: 1 + STATES[op]]
    model = make_model(
        [node_of(op, values, **attrs)], constants, inputs={"x": values["x"].shape}, outputs=outputs, opset=17
    )
    model.ir_version = 8
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    path = streamrt.pack(model, tmp_path / "out.safetensors")
    compare(run_packed(path, {"x": values["x"]}), session.run(None, {"x": values["x"]}))
