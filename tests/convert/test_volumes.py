"""Networks over volumes: what folds into a 3-D convolution as into a 2-D one, and weights that stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import check, expected, make_model, onnx, ops, random
from streamrt.format import read_header

node = onnx.helper.make_node

SHAPE = {"x": (2, 3, 4, 5, 6)}
PARAMS = {
    "p": random(5, 3, 1, 1, 1),
    "w": random(5, 3, 3, 3, 3),
    "back": random(5, 3, 3, 3, 3, seed=6),
    "up": random(3, 5, 2, 2, 2, seed=1),
    "s": random(5, seed=2),
    "t": random(5, seed=3),
    "m": random(5, seed=4),
    "v": random(5, seed=5) ** 2 + 0.1,
    "few": np.abs(random(3, seed=7)) + 0.1,
    "amounts": np.array([0, 0, 1, 0, 2, 0, 0, 0, 1, 1], np.int64),
}
NORM = [node("BatchNormalization", ["c", *"stmv"], ["n"]), node("Relu", ["n"], ["y"])]


def packed(nodes: list[Any], folder: Path) -> Any:
    return check(make_model(nodes, PARAMS, inputs=SHAPE), folder)


def test_batch_normalization_and_activation_fold(tmp_path: Path) -> None:
    assert ops(packed([node("Conv", ["x", "w"], ["c"], pads=[1] * 6), *NORM], tmp_path)) == ["Conv+Relu"]


def test_batch_normalization_folds_into_a_transposed_convolution(tmp_path: Path) -> None:
    """It stays behind the rearranged channels, where an activation is part of it."""
    nodes = [node("ConvTranspose", ["x", "up"], ["c"], strides=[2, 2, 2]), *NORM]
    assert ops(packed(nodes, tmp_path)) == ["Conv", "DepthToSpace", "BatchNormalization+Relu"]


def test_a_sum_folds(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "p"], ["a"]),
        node("Conv", ["x", "w"], ["c"], pads=[1] * 6),
        node("Add", ["c", "a"], ["y"]),
    ]
    graph = packed(nodes, tmp_path)
    assert ops(graph) == ["Conv", "Conv"]
    assert graph.nodes[1].inputs[3] == graph.nodes[0].outputs[0]


def test_padding_folds(tmp_path: Path) -> None:
    nodes = [node("Pad", ["x", "amounts"], ["c"]), node("Conv", ["c", "w"], ["y"], pads=[0, 1, 0, 1, 0, 0])]
    graph = packed(nodes, tmp_path)
    assert ops(graph) == ["Conv"]
    assert graph.nodes[0].attrs["pads"] == (1, 1, 2, 1, 1, 1)


def test_a_scaled_input_folds(tmp_path: Path) -> None:
    scaling = [node("BatchNormalization", ["x", *["few"] * 4], ["n"]), node("Conv", ["n", "p"], ["y"])]
    graph = packed(scaling, tmp_path)
    assert ops(graph) == ["Conv"]
    assert graph.nodes[0].inputs == ("x", "p", "", "", "p.scale", "p.shift")
    gate = [
        node("GlobalAveragePool", ["x"], ["g"]),
        node("Sigmoid", ["g"], ["q"]),
        node("Mul", ["x", "q"], ["n"]),
        node("Conv", ["n", "p"], ["y"]),
    ]
    assert ops(packed(gate, tmp_path)) == ["GlobalAveragePool+Sigmoid", "Conv"]


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsampling_folds_an_activation(mode: str, tmp_path: Path) -> None:
    sizes = np.array([2, 3, 8, 5, 9], np.int64)
    nodes = [node("Resize", ["x", "", "", "sizes"], ["c"], mode=mode), node("Relu", ["c"], ["y"])]
    assert ops(check(make_model(nodes, {"sizes": sizes}, inputs=SHAPE), tmp_path)) == ["Resize+Relu"]


@pytest.mark.parametrize(
    "attrs",
    [
        {"strides": [2**30] * 3, "pads": [2**30] * 6},
        {"strides": [2**40, 1, 1]},
        {"dilations": [2**31, 1, 1]},
        {"pads": [2**62] * 6},
        {"kernel_shape": [3, 3]},
        {"pads": [2**20] * 6},
        {"auto_pad": "SAME_UPPER", "dilations": [2**40] * 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_attributes_out_of_range(op: str, attrs: dict[str, Any], tmp_path: Path) -> None:
    weights = {"w": random(3, 3, 3, 3, 3)}
    with pytest.raises(streamrt.StreamrtError):
        streamrt.pack(make_model([node(op, ["x", "w"], ["y"], **attrs)], weights, inputs=SHAPE), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weights", ["float32", "float16", "int4"])
def test_weights_stream(weights: str, tmp_path: Path) -> None:
    """Each of the weights has several tiles in the least budget."""
    constants = {name: random(64, 64, 5, 5, 5, seed=seed) / 90 for seed, name in enumerate("abc")}
    nodes = [
        node("Conv", ["x", "a"], ["p"], pads=[2] * 6),
        node("Relu", ["p"], ["q"]),
        node("Conv", ["q", "b"], ["r"], pads=[2] * 6, strides=[1, 2, 2]),
        node("ConvTranspose", ["r", "c"], ["s"], pads=[2] * 6, strides=[1, 1, 2], output_padding=[0, 0, 1]),
        node("Relu", ["s"], ["y"]),
    ]
    model = make_model(nodes, constants, inputs={"x": ("N", 64, 3, 4, 6)})
    path = streamrt.pack(model, tmp_path / "out.safetensors", weights=weights)
    size = sum(tensor.nbytes for tensor in read_header(path).tensors.values())
    x = random(2, 64, 3, 4, 6)
    with streamrt.Model(path, budget=None) as whole:
        least, wanted = whole.min_budget(x.shape), whole(x)
    assert least < size
    for budget in (least, (least + size) // 2):
        with streamrt.Model(path, budget) as few:
            for _ in range(2):
                np.testing.assert_array_equal(few(x), wanted)
            assert few.stats.peak_weights + few.stats.workspace <= budget
    if weights == "float32":
        np.testing.assert_allclose(wanted, expected(model, {"x": x})[0], rtol=1e-4, atol=1e-4)
