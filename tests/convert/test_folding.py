"""Constants that are computed when packing, at once or when they are written; and values computed from shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import check, expected, integers, make_model, onnx, ops, random, run_nodes, run_packed
from streamrt.convert.onnx import facts

node = onnx.helper.make_node
BATCH = {"x": ("N", 3, 8, 8)}


def check_batches(model: Any, folder: Path) -> list[str]:
    """Compare for several batches; returns the operators."""
    for batch in (1, 2, 5):
        graph = check(model, folder, {"x": random(batch, 3, 8, 8)})
    return ops(graph)


@pytest.mark.parametrize("lazy", [False, True])
def test_constant_subgraphs_are_folded(lazy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if lazy:
        monkeypatch.setattr(facts, "_LAZY", 0)
    nodes = [
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("Exp", ["t"], ["e"]),
        node("Reshape", ["e", "shape"], ["r"]),
        node("Sqrt", ["r"], ["q"]),
        node("Gemm", ["x", "q"], ["y"], transB=1),
    ]
    model = make_model(nodes, {"w": random(5, 4), "shape": integers(2, 10)}, inputs={"x": (3, 10)})
    assert ops(check(model, tmp_path)) == ["Gemm"]


def test_quantised_weights_are_decoded(tmp_path: Path) -> None:
    nodes = [node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=0), node("Gemm", ["x", "w"], ["y"], transB=1)]
    constants = {
        "q": np.arange(-10, 10, dtype=np.int8).reshape(4, 5),
        "scale": np.array([0.5, 0.25, 1, 2], np.float32),
        "zero": np.array([1, -1, 0, 3], np.int8),
    }
    assert ops(check(make_model(nodes, constants, inputs={"x": (2, 5)}), tmp_path)) == ["Gemm"]


@pytest.mark.parametrize(
    "constant",
    [
        {"value": onnx.numpy_helper.from_array(random(8))},
        {"value_floats": [1.0, 2, 3, 4, 5, 6, 7, 8]},
        {"value_float": 2.5},
    ],
    ids=lambda constant: next(iter(constant)),
)
def test_weights_in_constant_nodes(constant: dict[str, Any], tmp_path: Path) -> None:
    check(make_model([node("Constant", [], ["k"], **constant), node("Mul", ["x", "k"], ["y"])]), tmp_path)


@pytest.mark.parametrize(("extent", "kept"), [(8, []), (24, ["Resize", "Transpose"])])
def test_a_table_that_takes_long_to_resize_is_resized_in_each_pass(
    extent: int, kept: list[str], tmp_path: Path
) -> None:
    """The reference loops in Python over the table for each element of the result."""
    nodes = [
        node("Resize", ["table", "", "", "size"], ["r"], mode="cubic"),
        node("Transpose", ["r"], ["t"], perm=[0, 1, 3, 2]),
        node("Add", ["x", "t"], ["y"]),
    ]
    constants = {"table": random(1, 2, 8, 8), "size": integers(1, 2, extent, extent)}
    model = make_model(nodes, constants, inputs={"x": ("N", 2, extent, extent)})
    feeds = {"x": random(3, 2, extent, extent)}
    assert ops(check(model, tmp_path, feeds)) == [*kept, "Add"]


def test_constant_of_shape(tmp_path: Path) -> None:
    fill = onnx.numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [node("ConstantOfShape", ["shape"], ["k"], value=fill), node("Gemm", ["x", "k"], ["y"])]
    check(make_model(nodes, {"shape": integers(5, 7)}, inputs={"x": (2, 5)}), tmp_path)


def test_random_numbers_are_not_constants(tmp_path: Path) -> None:
    nodes = [node("RandomNormalLike", ["k"], ["r"]), node("Add", ["x", "r"], ["y"])]
    with pytest.raises(streamrt.UnsupportedModelError, match="RandomNormalLike"):
        streamrt.pack(make_model(nodes, {"k": random(8)}), tmp_path / "out")


def test_an_absurdly_large_constant_is_refused(tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", ["shape"], ["k"]), node("Mul", ["x", "k"], ["y"])]
    with pytest.raises(streamrt.FormatError, match=r"expected at most 2\*\*34 elements"):
        streamrt.pack(make_model(nodes, {"shape": integers(2**20, 2**20)}), tmp_path / "out")


def test_reshape_to_a_computed_shape(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "first"], ["n"]),
        node("Concat", ["n", "rest"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["y"]),
    ]
    model = make_model(nodes, {"first": integers(0), "rest": integers(192)}, inputs=BATCH)
    assert check_batches(model, tmp_path) == ["Reshape"]


@pytest.mark.parametrize(
    ("perm", "found"), [([0, 2, 1, 3, 4], ["Gather"]), ([0, 2, 1, 4, 3], ["Reshape", "Transpose", "Reshape"])]
)
def test_channel_shuffle_with_division(tmp_path: Path, perm: list[int], found: list[str]) -> None:
    """Exporters wrote it so for years: every extent is read from the input, and channels are divided by groups.

    With rows and columns exchanged it is no shuffle of channels.
    """
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Shape", ["r"], ["s"]),
        *(node("Gather", ["s", f"i{i}"], [f"d{i}"]) for i in range(4)),
        node("Div", ["d1", "groups"], ["per"]),
        node("Concat", ["d0", "groups", "per", "d2", "d3"], ["split"], axis=0),
        node("Reshape", ["r", "split"], ["a"]),
        node("Transpose", ["a"], ["t"], perm=perm),
        node("Concat", ["d0", "minus", "d2", "d3"], ["join"], axis=0),
        node("Reshape", ["t", "join"], ["y"]),
    ]
    constants = {f"i{i}": integers(i) for i in range(4)} | {"groups": integers(3), "minus": integers(-1)}
    assert check_batches(make_model(nodes, constants, inputs=BATCH), tmp_path) == ["Relu", *found]


def test_batch_folded_into_another_axis(tmp_path: Path) -> None:
    """(N, 3, 8, 8) to (N * 3, 64) and back: the batch is divided out of the first extent."""
    nodes = [
        node("Reshape", ["x", "rows"], ["a"]),
        node("Softmax", ["a"], ["b"]),
        node("Shape", ["b"], ["s"]),
        node("Gather", ["s", "zero"], ["n3"]),
        node("Div", ["n3", "three"], ["n"]),
        node("Concat", ["n", "rest"], ["shape"], axis=0),
        node("Reshape", ["b", "shape"], ["y"]),
    ]
    constants = {
        "rows": integers(-1, 64),
        "zero": integers(0),
        "three": integers(3),
        "rest": integers(3, 8, 8),
    }
    assert check_batches(make_model(nodes, constants, inputs=BATCH), tmp_path) == ["Reshape", "Softmax", "Reshape"]


def test_slice_to_half_of_the_channels(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"], start=3, end=4),
        node("Div", ["s", "two"], ["half"]),
        node("Slice", ["x", "zero", "half", "axis"], ["a"]),
        node("Slice", ["x", "half", "s", "axis"], ["b"]),
        node("Concat", ["b", "a"], ["y"], axis=3),
    ]
    constants = {"two": integers(2), "zero": integers(0), "axis": integers(3)}
    assert check_batches(make_model(nodes, constants, inputs=BATCH), tmp_path) == ["Slice", "Slice", "Concat"]


def test_slice_up_to_a_dynamic_extent(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"], start=2, end=3),
        node("Slice", ["x", "zero", "s", "axis"], ["a"]),
        node("Sub", ["s", "one"], ["t"]),
        node("Slice", ["a", "zero", "t", "axis"], ["y"]),
    ]
    constants = {"zero": integers(0), "one": integers(1), "axis": integers(2)}
    model = make_model(nodes, constants, inputs={"x": ("N", 3, "H", 8)})
    for height in (2, 5):
        graph = check(model, tmp_path, {"x": random(1, 3, height, 8)})
    (cut,) = run_nodes(graph)  # the first Slice does nothing
    assert dict(cut.attrs) == {"starts": (0,), "axes": (2,)}
    assert dict(cut.sizes) == {"ends": "t"}


def test_values_that_depend_on_the_batch(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"], end=1),
        node("Cast", ["s"], ["f"], to=onnx.TensorProto.FLOAT),
        node("Div", ["x", "f"], ["y"]),
    ]
    assert check_batches(make_model(nodes, inputs=BATCH), tmp_path) == ["Div"]
    with streamrt.Model(tmp_path / "model.safetensors") as packed:
        packed(random(2, 3, 8, 8))
        assert not packed._engine.session.prepared.program.batchwise


def test_values_that_depend_on_a_fixed_batch_are_constants(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"], end=1),
        node("Cast", ["s"], ["f"], to=onnx.TensorProto.FLOAT),
        node("Div", ["x", "f"], ["y"]),
    ]
    assert ops(check(make_model(nodes), tmp_path)) == ["Div"]


@pytest.mark.parametrize(
    ("dims", "outputs"),
    [
        (("N", 3, 8, 8), ("N", 4, 4, 4)),
        ((None, 3, 8, 8), ("x_0", 4, 4, 4)),
        (("?", 3, "?", "?"), ("x_0", 4, "y_2", "y_3")),
        (("-1", 3, "None", 8), ("x_0", 4, "y_2", 4)),
        (("N", None, "H", "W"), ("N", 4, "y_2", "y_3")),
        ((2, 3, None, 8), (2, 4, "y_2", 4)),
    ],
)
def test_dims_of_inputs_and_outputs(dims: Any, outputs: Any, tmp_path: Path) -> None:
    conv = node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    model = make_model([conv], {"w": random(4, 3, 3, 3)}, inputs={"x": dims})
    path = streamrt.pack(model, tmp_path / "out.safetensors")
    with streamrt.Model(path, budget=None) as packed:
        (spec,) = packed.inputs
        assert spec.dims == tuple(
            3 if axis == 1 else f"x_{axis}" if dim in (None, "?", "-1", "None") else dim
            for axis, dim in enumerate(dims)
        )
        assert packed.outputs[0].dims == outputs
    feeds = {"x": random(2, 3, 8, 8)}
    np.testing.assert_allclose(run_packed(path, feeds)[0], expected(model, feeds)[0], rtol=1e-4, atol=1e-5)


def test_dynamic_image_with_a_head_for_one_size(tmp_path: Path) -> None:
    """The size is declared free, but the weights of the head fit only 28 x 28. It is one of the examples."""
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Flatten", ["c"], ["f"]),
        node("Gemm", ["f", "g"], ["y"], transB=1),
    ]
    constants = {"w": random(2, 1, 3, 3), "g": random(3, 2 * 26 * 26)}
    model = make_model(nodes, constants, inputs={"x": ("N", 1, "H", "W")})
    check(model, tmp_path, {"x": random(2, 1, 28, 28)}, tolerance=1e-4)
    with (
        streamrt.Model(tmp_path / "model.safetensors") as packed,
        pytest.raises(streamrt.FormatError, match=r"\(Gemm\): weights of shape"),
    ):
        packed(random(2, 1, 30, 28))
