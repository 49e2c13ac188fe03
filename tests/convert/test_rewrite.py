"""Folding: nodes that are removed, nodes that must stay, and the same answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import check, integers, make_model, onnx, ops, random
from streamrt.format import read_header

node = onnx.helper.make_node


def conv(source: str = "x", target: str = "c", **attributes: Any) -> Any:
    return node("Conv", [source, "w", "b"], [target], **attributes)


CONV = {"w": random(4, 3, 3, 3), "b": random(4, seed=1)}
NORM = {"s": random(4, seed=2), "t": random(4, seed=3), "m": random(4, seed=4), "v": random(4, seed=5) ** 2 + 0.1}


def normalise(source: str, target: str) -> Any:
    return node("BatchNormalization", [source, "s", "t", "m", "v"], [target])


def test_batch_normalization_and_activation_fold_into_the_convolution(tmp_path: Path) -> None:
    graph = check(make_model([conv(), normalise("c", "n"), node("Relu", ["n"], ["y"])], CONV | NORM), tmp_path)
    assert ops(graph) == ["Conv+Relu"]
    assert graph.nodes[0].inputs == ("x", "w", "b")


def test_batch_normalization_gives_a_convolution_a_bias(tmp_path: Path) -> None:
    model = make_model(
        [node("Conv", ["x", "conv.weight"], ["c"]), normalise("c", "y")], {"conv.weight": CONV["w"]} | NORM
    )
    graph = check(model, tmp_path)
    assert ops(graph) == ["Conv"]
    assert graph.nodes[0].inputs == ("x", "conv.weight", "conv.bias")


def test_batch_normalization_folds_into_a_gemm(tmp_path: Path) -> None:
    model = make_model(
        [node("Gemm", ["x", "g"], ["h"]), normalise("h", "y")], {"g": random(5, 4)} | NORM, inputs={"x": (3, 5)}
    )
    assert ops(check(model, tmp_path)) == ["Gemm"]


def test_batch_normalization_stays_where_another_node_reads_its_input(tmp_path: Path) -> None:
    model = make_model([conv(), normalise("c", "n"), node("Add", ["c", "n"], ["y"])], CONV | NORM)
    assert ops(check(model, tmp_path)) == ["Conv", "BatchNormalization", "Add"]


def test_batch_normalization_stays_where_its_input_is_an_output(tmp_path: Path) -> None:
    model = make_model([conv(), normalise("c", "y")], CONV | NORM, outputs=["c", "y"])
    assert ops(check(model, tmp_path)) == ["Conv", "BatchNormalization"]


def test_activation_stays_where_its_input_is_an_output(tmp_path: Path) -> None:
    model = make_model([conv(), node("Relu", ["c"], ["y"])], CONV, outputs=["c", "y"])
    assert ops(check(model, tmp_path)) == ["Conv", "Relu"]


def test_weights_shared_by_two_convolutions_are_folded_for_one_only(tmp_path: Path) -> None:
    nodes = [conv(), normalise("c", "n"), conv("x", "d"), node("Sub", ["n", "d"], ["y"])]
    graph = check(make_model(nodes, CONV | NORM), tmp_path)
    assert ops(graph) == ["Conv", "Conv", "Sub"]
    assert graph.nodes[0].inputs[1] != graph.nodes[1].inputs[1] == "w"


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (), (1,)])
def test_arithmetic_by_channel_folds(op: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    constants = CONV | {"k": np.abs(random(*shape, seed=6)) + np.float32(0.5)}
    assert ops(check(make_model([conv(), node(op, ["c", "k"], ["y"])], constants), tmp_path)) == ["Conv"]


@pytest.mark.parametrize(("op", "folds"), [("Add", True), ("Sub", True), ("Mul", True), ("Div", False)])
def test_arithmetic_with_the_constant_on_the_left(op: str, folds: bool, tmp_path: Path) -> None:
    constants = CONV | {"k": random(4, 1, 1, seed=6)}
    graph = check(make_model([conv(), node(op, ["k", "c"], ["y"])], constants), tmp_path, tolerance=1e-4)
    assert ops(graph) == (["Conv"] if folds else ["Conv", op])


@pytest.mark.parametrize("shape", [(6,), (6, 1), (2, 1, 1, 1), (1, 2, 4, 1, 1)])
def test_arithmetic_along_other_axes_stays(shape: tuple[int, ...], tmp_path: Path) -> None:
    constants = CONV | {"k": random(*shape, seed=6)}
    assert ops(check(make_model([conv(), node("Add", ["c", "k"], ["y"])], constants), tmp_path)) == ["Conv", "Add"]


def test_arithmetic_after_a_batch_normalization_folds_into_it(tmp_path: Path) -> None:
    nodes = [
        node("Concat", ["x", "x"], ["c"], axis=1),
        normalise("c", "n"),
        node("Mul", ["n", "k"], ["p"]),
        node("Add", ["p", "l"], ["q"]),
        node("Relu", ["q"], ["y"]),
    ]
    constants = NORM | {"k": random(4, 1, 1, seed=6), "l": random(1, 4, 1, 1, seed=7)}
    graph = check(make_model(nodes, constants, inputs={"x": (2, 2, 3, 3)}), tmp_path)
    assert ops(graph) == ["Concat", "BatchNormalization+Relu"]


def test_matmul_and_add_become_a_gemm(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["b", "p"], ["q"]), node("Tanh", ["q"], ["y"])]
    graph = check(make_model(nodes, {"w": random(5, 4), "b": random(4)}, inputs={"x": (3, 5)}), tmp_path)
    assert ops(graph) == ["Gemm+Tanh"]


def test_matmul_of_a_sequence_keeps_its_bias(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "b"], ["y"])]
    graph = check(make_model(nodes, {"w": random(5, 4), "b": random(4)}, inputs={"x": (3, 2, 5)}), tmp_path)
    assert ops(graph) == ["MatMul"]
    assert graph.nodes[0].attrs == {"transB": 1}


SIXTH = np.float32(1 / 6)
TANH = {
    "three": np.float32(3),
    "small": np.float32(0.044715),
    "root": np.float32((2 / np.pi) ** 0.5),
    "one": np.float32(1),
    "half": np.float32(0.5),
}
SPELLED = {
    "Swish": ([node("Sigmoid", ["c"], ["g"]), node("Mul", ["g", "c"], ["y"])], {}),
    "Swish of a multiple": (
        [node("Mul", ["c", "k"], ["d"]), node("Sigmoid", ["d"], ["g"]), node("Mul", ["g", "c"], ["y"])],
        {"k": np.float32(1.702)},
    ),
    "Mish": ([node("Softplus", ["c"], ["s"]), node("Tanh", ["s"], ["g"]), node("Mul", ["c", "g"], ["y"])], {}),
    "HardSwish": ([node("HardSigmoid", ["c"], ["g"], alpha=1 / 6, beta=0.5), node("Mul", ["c", "g"], ["y"])], {}),
    "HardSwish of clip, divided last": (
        [
            node("Add", ["c", "three"], ["a"]),
            node("Clip", ["a", "zero", "six"], ["g"]),
            node("Mul", ["c", "g"], ["p"]),
            node("Div", ["p", "six"], ["y"]),
        ],
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
    ),
    "HardSwish of clip, divided first": (
        [
            node("Add", ["three", "c"], ["a"]),
            node("Clip", ["a", "zero", "six"], ["g"]),
            node("Mul", ["g", "sixth"], ["p"]),
            node("Mul", ["p", "c"], ["y"]),
        ],
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "sixth": SIXTH},
    ),
    "HardSigmoid of clip": (
        [
            node("Add", ["c", "three"], ["a"]),
            node("Clip", ["a", "zero", "six"], ["g"]),
            node("Div", ["g", "six"], ["y"]),
        ],
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
    ),
    "Gelu": (
        [
            node("Div", ["c", "root"], ["a"]),
            node("Erf", ["a"], ["e"]),
            node("Add", ["e", "one"], ["f"]),
            node("Mul", ["c", "f"], ["p"]),
            node("Mul", ["p", "half"], ["y"]),
        ],
        {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)},
    ),
    "Gelu, halved first": (
        [
            node("Mul", ["c", "root"], ["a"]),
            node("Erf", ["a"], ["e"]),
            node("Add", ["e", "one"], ["f"]),
            node("Mul", ["c", "half"], ["h"]),
            node("Mul", ["h", "f"], ["y"]),
        ],
        {"root": np.float32(0.5**0.5), "one": np.float32(1), "half": np.float32(0.5)},
    ),
    "Gelu, by tanh": (
        [
            node("Pow", ["c", "three"], ["cube"]),
            node("Mul", ["cube", "small"], ["t"]),
            node("Add", ["c", "t"], ["a"]),
            node("Mul", ["a", "root"], ["r"]),
            node("Tanh", ["r"], ["e"]),
            node("Add", ["one", "e"], ["f"]),
            node("Mul", ["c", "half"], ["h"]),
            node("Mul", ["h", "f"], ["y"]),
        ],
        TANH,
    ),
    "Gelu, by tanh and products": (
        [
            node("Mul", ["c", "c"], ["square"]),
            node("Mul", ["square", "c"], ["cube"]),
            node("Mul", ["small", "cube"], ["t"]),
            node("Add", ["t", "c"], ["a"]),
            node("Mul", ["root", "a"], ["r"]),
            node("Tanh", ["r"], ["e"]),
            node("Add", ["e", "one"], ["f"]),
            node("Mul", ["f", "c"], ["p"]),
            node("Mul", ["p", "half"], ["y"]),
        ],
        TANH,
    ),
}


@pytest.mark.parametrize("name", SPELLED)
def test_activation_spelled_out(name: str, tmp_path: Path) -> None:
    nodes, constants = SPELLED[name]
    graph = check(make_model([conv(), *nodes], CONV | constants), tmp_path)
    assert ops(graph) == [f"Conv+{name.split()[0].rstrip(',')}"]


def test_a_product_that_is_no_activation_stays(tmp_path: Path) -> None:
    nodes = [conv(), node("Sigmoid", ["c"], ["g"]), node("Mul", ["g", "k"], ["h"]), node("Mul", ["h", "c"], ["y"])]
    graph = check(make_model(nodes, CONV | {"k": np.float32(2)}), tmp_path)
    assert "Swish" not in " ".join(ops(graph))


def test_a_cube_of_another_tensor_is_no_gelu(tmp_path: Path) -> None:
    nodes, constants = SPELLED["Gelu, by tanh"]
    other = node("Pow", ["d", "three"], ["cube"])
    nodes = [conv(), node("Relu", ["c"], ["d"]), other, *nodes[1:]]
    assert "Gelu" not in " ".join(ops(check(make_model(nodes, CONV | constants), tmp_path)))


def pad(value: float | None, amounts: tuple[int, ...], **attributes: Any) -> tuple[Any, dict[str, Any]]:
    constants: dict[str, Any] = {"pads": integers(*amounts)}
    if value is not None:
        constants["value"] = np.float32(value)
    return node("Pad", ["x", *constants], ["p"], **attributes), constants


AROUND = (0, 0, 1, 0, 0, 0, 2, 1)


@pytest.mark.parametrize(
    ("value", "amounts", "mode", "merges"),
    [
        (None, AROUND, "constant", True),
        (0.0, AROUND, "constant", True),
        (1.0, AROUND, "constant", False),
        (None, AROUND, "reflect", False),
        (None, (1, 0, 1, 0, 0, 0, 1, 0), "constant", False),
    ],
)
@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID", "SAME_UPPER"])
def test_padding_before_a_convolution(
    value: float | None, amounts: tuple[int, ...], mode: str, merges: bool, auto_pad: str, tmp_path: Path
) -> None:
    padding, constants = pad(value, amounts, mode=mode)
    own: dict[str, Any] = {"pads": [0, 1, 0, 1]} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    graph = check(make_model([padding, conv("p", "y", **own)], CONV | constants), tmp_path)
    assert ops(graph) == (["Conv"] if merges and auto_pad != "SAME_UPPER" else ["Pad", "Conv"])


def test_cropping_before_a_convolution_stays(tmp_path: Path) -> None:
    crop, constants = pad(None, (0, 0, -1, 0, 0, 0, -2, 1))
    cut = node("Slice", ["x", "start", "end", "axis"], ["s"])
    widen = node("Pad", ["s", "pads"], ["p"])
    same = {"start": integers(1), "end": integers(-2), "axis": integers(2), "pads": integers(0, 0, 0, 0, 0, 0, 0, 1)}
    model, other = (
        make_model([crop, conv("p", "y")], CONV | constants),
        make_model([cut, widen, conv("p", "y")], CONV | same),
    )
    assert ops(check(model, tmp_path, same_as=other)) == ["Pad", "Conv"]


@pytest.mark.parametrize(
    ("own", "merges"),
    [
        ({}, True),
        ({"count_include_pad": 1, "pads": [1, 0, 0, 0]}, True),
        ({"pads": [1, 0, 0, 0]}, False),
        ({"ceil_mode": 1}, False),
    ],
)
def test_padding_before_average_pooling(own: dict[str, Any], merges: bool, tmp_path: Path) -> None:
    padding, constants = pad(None, AROUND)
    pool = node("AveragePool", ["p"], ["y"], kernel_shape=[3, 3], strides=[2, 2], **own)
    graph = check(make_model([padding, pool], constants), tmp_path)
    assert ops(graph) == (["AveragePool"] if merges else ["Pad", "AveragePool"])


@pytest.mark.parametrize(("value", "merges"), [(-np.inf, True), (float(np.finfo(np.float32).min), True), (0.0, False)])
def test_padding_before_max_pooling(value: float, merges: bool, tmp_path: Path) -> None:
    padding, constants = pad(value, AROUND)
    graph = check(make_model([padding, node("MaxPool", ["p"], ["y"], kernel_shape=[3, 3])], constants), tmp_path)
    assert ops(graph) == (["MaxPool"] if merges else ["Pad", "MaxPool"])


def test_nodes_that_do_nothing_are_removed(tmp_path: Path) -> None:
    nodes = [
        node("Identity", ["x"], ["a"]),
        node("Dropout", ["a"], ["d"]),
        node("Cast", ["d"], ["e"], to=onnx.TensorProto.FLOAT16),
        node("Cast", ["e"], ["f"], to=onnx.TensorProto.FLOAT),
        node("AveragePool", ["f"], ["g"], kernel_shape=[1, 1]),
        node("Slice", ["g", "start", "end"], ["h"]),
        node("Sum", ["h"], ["i"]),
        node("Concat", ["i"], ["j"], axis=1),
        node("Expand", ["j", "shape"], ["k"]),
        node("Relu", ["k"], ["l"]),
        node("Identity", ["l"], ["y"]),
    ]
    constants = {"start": integers(0), "end": integers(2**63 - 1), "shape": integers(1, 1)}
    graph = check(make_model(nodes, constants), tmp_path, tolerance=1e-2)  # the reference rounds to float16
    assert ops(graph) == ["Relu"]


def test_an_identity_between_an_input_and_an_output_stays(tmp_path: Path) -> None:
    nodes = [node("Identity", ["x"], ["y"]), node("Relu", ["x"], ["r"]), node("Identity", ["r"], ["z"])]
    graph = check(make_model(nodes, outputs=["y", "r", "z"]), tmp_path)
    assert ops(graph) == ["Identity", "Relu", "Identity"]


def test_a_renamed_result_keeps_its_readers(tmp_path: Path) -> None:
    nodes = [
        node("Split", ["x"], ["a", "b"], axis=3, num_outputs=2),
        node("Relu", ["a"], ["r"]),
        node("Identity", ["a"], ["y"]),
        node("Add", ["a", "b"], ["s"]),
    ]
    graph = check(make_model(nodes, outputs=["y", "r", "s"]), tmp_path)
    assert ops(graph) == ["Split", "Relu", "Add"]


def test_dead_nodes_and_their_weights_are_removed(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Mul", ["x", "k"], ["dead"]), node("NoSuchOperator", ["dead"], ["end"])]
    graph = check_without_dead(make_model(nodes, {"k": random(8)}), tmp_path)
    assert ops(graph) == ["Relu"]


def check_without_dead(model: Any, folder: Path) -> Any:
    file = read_header(streamrt.pack(model, folder / "out.safetensors"))
    assert not file.tensors
    return file.graph


SQUARE = {"w": random(3, 3, 3, 3), "b": random(3, seed=1), "p": random(3, 3, 1, 1, seed=2), "d": random(3, 1, 3, 3)}
PADS = {"pads": (1, 1, 1, 1)}


@pytest.mark.parametrize("order", [["c", "x"], ["x", "c"]])
def test_a_sum_folds_into_the_convolution_that_computes_a_term(order: list[str], tmp_path: Path) -> None:
    nodes = [conv(**PADS), node("Add", order, ["s"]), node("Relu", ["s"], ["y"])]
    graph = check(make_model(nodes, SQUARE), tmp_path)
    assert ops(graph) == ["Conv+Relu"]
    assert graph.nodes[0].inputs == ("x", "w", "b", "x")


def test_a_sum_folds_into_the_later_of_two_convolutions(tmp_path: Path) -> None:
    nodes = [conv("x", "c", **PADS), node("Conv", ["x", "p"], ["e"]), node("Add", ["c", "e"], ["y"])]
    graph = check(make_model(nodes, SQUARE), tmp_path)
    assert ops(graph) == ["Conv", "Conv"]
    assert graph.nodes[1].inputs == ("x", "p", "", "c")


def test_a_chain_of_sums_folds_into_one_convolution_for_each(tmp_path: Path) -> None:
    nodes = [conv(**PADS), node("Add", ["c", "x"], ["s"]), conv("s", "e", **PADS), node("Add", ["s", "e"], ["y"])]
    assert ops(check(make_model(nodes, SQUARE), tmp_path)) == ["Conv", "Conv"]


@pytest.mark.parametrize(
    "nodes",
    [
        [conv(**PADS), node("Add", ["c", "c"], ["y"])],
        [conv(**PADS), node("GlobalMaxPool", ["x"], ["g"]), node("Add", ["c", "g"], ["y"])],
        [conv(**PADS), node("Relu", ["c"], ["r"]), node("Add", ["r", "x"], ["y"])],
        [conv(**PADS), node("Add", ["c", "x"], ["s"]), node("Mul", ["s", "c"], ["y"])],
        [node("Conv", ["x", "d"], ["c"], group=3, **PADS), node("Add", ["c", "x"], ["y"])],
        [conv(**PADS), node("Sub", ["c", "x"], ["y"])],
    ],
    ids=["twice the same", "broadcast", "an activation between", "read again", "depthwise", "no sum"],
)
def test_a_sum_that_stays(nodes: list[Any], tmp_path: Path) -> None:
    graph = check(make_model(nodes, SQUARE), tmp_path)
    assert all(len(other.inputs) < 4 for other in graph.nodes)


def test_a_sum_stays_where_a_term_is_an_output(tmp_path: Path) -> None:
    model = make_model([conv(**PADS), node("Add", ["c", "x"], ["y"])], SQUARE, outputs=["c", "y"])
    assert ops(check(model, tmp_path)) == ["Conv", "Add"]


def test_a_sum_of_two_batches_that_may_differ_stays(tmp_path: Path) -> None:
    nodes = [conv(**PADS), node("Add", ["c", "z"], ["y"])]
    inputs = {"x": ("n", 3, 8, 8), "z": ("m", 3, 8, 8)}
    path = tmp_path / "m.safetensors"
    streamrt.pack(make_model(nodes, SQUARE, inputs=inputs), path)
    assert [other.op for other in read_header(path).graph.nodes] == ["Conv", "Add"]
    x, z = random(4, 3, 8, 8, seed=7), random(1, 3, 8, 8, seed=8)
    with streamrt.Model(path, None) as model:
        apart = model({"x": x, "z": np.zeros_like(z)}) + z
        np.testing.assert_allclose(model({"x": x, "z": z}), apart, atol=1e-5)


def test_a_sum_of_extents_with_two_names_stays(tmp_path: Path) -> None:
    """For other sizes one of the terms may be broadcast."""
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Add", ["c", "z"], ["y"])]
    inputs = {"x": ("N", 3, "H", "W"), "z": ("N", 4, "A", "B")}
    model = make_model(nodes, {"w": random(4, 3, 1, 1)}, inputs=inputs)
    for height, width in ((5, 6), (1, 6), (5, 1)):
        feeds = {"x": random(2, 3, 5, 6), "z": random(2, 4, height, width)}
        assert ops(check(model, tmp_path, feeds)) == ["Conv", "Add"]


def test_a_sum_after_a_convolution_that_is_a_gemm_stays(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "p"], ["c"]), node("Add", ["c", "x"], ["y"])]
    assert ops(check(make_model(nodes, SQUARE, inputs={"x": (2, 3, 1, 1)}), tmp_path)) == ["Conv", "Add"]
