"""Models that cannot be packed: all problems are listed at once, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import integers, make_model, onnx, random

node = onnx.helper.make_node


def problems(model: Any, folder: Path) -> list[str]:
    """The problems of packing a model over a file, which must not change."""
    dest = folder / "out.safetensors"
    dest.write_bytes(b"before")
    with pytest.raises(streamrt.UnsupportedModelError) as caught:
        streamrt.pack(model, dest)
    assert dest.read_bytes() == b"before"
    assert list(folder.iterdir()) == [dest]
    return caught.value.problems


def test_everything_is_listed(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv", mystery=1, auto_pad="SOME", strides=[0, 1], dilations=[1]),
        node("Sig", ["c"], ["e"], name="sig"),
        node("Pad", ["e", "pads"], ["p"], name="pad", mode="sideways"),
        node("MaxPool", ["p"], ["q", "indices"], name="pool", kernel_shape=[2, 2]),
        node("Custom", ["q"], ["r"], name="custom", domain="com.example"),
        node("Relu", ["r"], ["s"], name="fine"),
        node("Det", ["s"], ["y"], name="det"),
    ]
    constants = {"w": random(4, 3, 3, 3), "pads": integers(0, 0, 1, 1, 0, 0, 1, 1)}
    found = problems(make_model(nodes, constants, outputs=["y", "indices"]), tmp_path)
    for line, words in zip(
        found,
        [
            ("'conv' (Conv)", "'mystery'"),
            ("'conv' (Conv)", "'auto_pad'"),
            ("'conv' (Conv)", "'strides'"),
            ("'conv' (Conv)", "'dilations'"),
            ("'sig' (Sig)", "operator is not supported (near: Sign, Sin, Sigmoid); docs/operators.md"),
            ("'pad' (Pad)", "'mode'", "sideways"),
            ("'pool' (MaxPool)", "'indices'"),
            ("'custom' (Custom)", "com.example"),
            ("'det' (Det)", "operator"),
        ],
        strict=True,
    ):
        assert all(word in line for word in words), line


VALUES = {"s": random(3), "b": random(3), "m": random(3), "v": random(3) ** 2}
CASES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "4-D convolution": (node("Conv", ["x", "w"], ["y"]), {"w": random(4, 3, 2, 2, 2, 2)}, "1-D, 2-D and 3-D"),
    "4-D pooling": (node("MaxPool", ["x"], ["y"], kernel_shape=[2] * 4), {}, "1-D, 2-D and 3-D"),
    "computed weights": (node("Conv", ["x", "x"], ["y"]), {}, "input 1 (W, 'x') is computed"),
    "kernel_shape": (
        node("Conv", ["x", "w"], ["y"], kernel_shape=[2, 2]),
        {"w": random(4, 3, 3, 3)},
        "attribute 'kernel_shape' is (2, 2)",
    ),
    "negative pads": (node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], pads=[-1, 0, 0, 0]), {}, "attribute 'pads'"),
    "strides": (node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[1]), {}, "attribute 'strides' has 1"),
    "auto_pad": (node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], auto_pad="SOME"), {}, "attribute 'auto_pad'"),
    "wrong type": (
        node("MaxPool", ["x"], ["y"], kernel_shape=2.5),
        {},
        "attribute 'kernel_shape' is of the wrong type",
    ),
    "training": (
        node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], training_mode=1),
        VALUES,
        "attribute 'training_mode'",
    ),
    "integer weights": (node("Gemm", ["x", "w"], ["y"]), {"w": integers(2)}, "int64"),
    "computed bound": (node("Clip", ["x", "x"], ["y"]), {}, "input 1 (min, 'x') is computed and has shape"),
    "infinite alpha": (node("Elu", ["x"], ["y"], alpha=float("inf")), {}, "attribute 'alpha'"),
    "cast": (node("Cast", ["x"], ["y"], to=onnx.TensorProto.UINT64), {}, "attribute 'to' is UINT64"),
    "computed condition": (node("Where", ["x", "x", "x"], ["y"]), {}, "input 0 (condition, 'x') is float32"),
    "indices that are not integers": (
        node("Gather", ["x", "x"], ["y"]),
        {},
        "input 1 ('x') is float32, expected integers",
    ),
    "computed shape": (node("Reshape", ["x", "x"], ["y"]), {}, "input 1 (shape, 'x') is computed"),
    "slope": (node("PRelu", ["x", "x"], ["y"]), {}, "input 1 (slope, 'x') is computed"),
    "empty part": (node("Split", ["x", "sizes"], ["y", "z"], axis=1), {"sizes": integers(3, 0)}, "a part of size 0"),
    "text": (node("Constant", [], ["y"], value_string="text"), {}, "Constant"),
}


@pytest.mark.parametrize("case", CASES)
def test_single_problems(case: str, tmp_path: Path) -> None:
    broken, constants, words = CASES[case]
    (line,) = problems(make_model([broken], constants), tmp_path)
    assert words in line


def test_constant_outputs(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Exp", ["k"], ["z"])]
    (line,) = problems(make_model(nodes, {"k": random(3)}, outputs=["y", "z"]), tmp_path)
    assert "output 'z' does not depend" in line


@pytest.mark.parametrize("kind", ["BFLOAT16", "UINT64", "STRING", "INT4"])
def test_inputs_of_other_types(kind: str, tmp_path: Path) -> None:
    model = make_model([node("Relu", ["x"], ["y"])])
    model.graph.input[0].type.tensor_type.elem_type = getattr(onnx.TensorProto, kind)
    assert any("input 'x' is " + kind in line for line in problems(model, tmp_path))


def test_sparse_weights(tmp_path: Path) -> None:
    model = make_model([node("Relu", ["x"], ["y"])])
    values = onnx.numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = onnx.numpy_helper.from_array(integers(3))
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [8]))
    (line,) = problems(model, tmp_path)
    assert "'sparse'" in line


@pytest.mark.parametrize("outputs", [[], ["nowhere"], ["y", "y"]])
def test_malformed_outputs(outputs: list[str], tmp_path: Path) -> None:
    with pytest.raises(streamrt.FormatError, match="output"):
        streamrt.pack(make_model([node("Relu", ["x"], ["y"])], outputs=outputs), tmp_path / "out")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Relu", ["nowhere"], ["y"])], "'nowhere'"),
        ([node("Add", ["x", "b"], ["y"]), node("Relu", ["x"], ["b"])], "'b'"),
        ([node("Relu", ["x"], ["a"]), node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["y"])], "'a' is defined twice"),
        ([node("Conv", ["x", "w"], ["y"])], "Conv"),
    ],
)
def test_malformed_graphs(nodes: list[Any], message: str, tmp_path: Path) -> None:
    model = make_model(nodes, {"w": random(4, 7, 3, 3)})
    with pytest.raises(streamrt.StreamrtError, match=message):
        streamrt.pack(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dest_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(streamrt.WeightsIOError, match="missing"):
        streamrt.pack(make_model([node("Relu", ["x"], ["y"])]), tmp_path / "missing" / "out")


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (object(), {}),
        ([1, 2], {}),
        (make_model([node("Relu", ["x"], ["y"])]), {"example": 1}),
    ],
)
def test_wrong_arguments(source: Any, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        streamrt.pack(source, tmp_path / "out", **options)


def test_an_operator_whose_result_depends_on_data(tmp_path: Path) -> None:
    (line,) = problems(make_model([node("NonZero", ["x"], ["y"], name="where")]), tmp_path)
    assert line.startswith("node 'where' (NonZero): the operator is not supported: the shape of its result depends on")
    assert "docs/operators.md" in line


def test_nodes_behind_an_unknown_operator_are_checked_too(tmp_path: Path) -> None:
    """Their unknown shapes are not reported, but their own problems are."""
    nodes = [
        node("Custom", ["x"], ["a"], name="custom", domain="com.example"),
        node("Flatten", ["a"], ["b"], name="flat"),
        node("Softmax", ["b"], ["c"], name="soft", mystery=1),
        node("Det", ["c"], ["d"], name="det"),
        node("Elu", ["d"], ["y"], name="elu", mystery=1),
    ]
    names = [line.split("'")[1] for line in problems(make_model(nodes), tmp_path)]
    assert names == ["custom", "soft", "det", "elu"]
