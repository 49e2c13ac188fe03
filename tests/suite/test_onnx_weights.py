"""ONNX files whose weights are rewritten in fewer bytes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import onnx_weights

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")
FLOAT = onnx.TensorProto.FLOAT


def noise(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def rewrite(folder: Path, nodes: list[Any], tensors: dict[str, Any], coding: onnx_weights.Coding) -> Any:
    """The rewritten model of these nodes, from x to y. The source and what is written have external data."""
    value = onnx.helper.make_tensor_value_info
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", FLOAT, None)], [value("y", FLOAT, None)], stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    source = folder / "source" / "model.onnx"
    source.parent.mkdir()
    onnx.save(model, source, save_as_external_data=True, location="source.bin", size_threshold=256)
    onnx_weights.write(source, folder, coding)
    return onnx.load(onnx_weights.model_file(folder))


def gemm(w: str, *, x: str = "x", y: str = "y", **attributes: int) -> Any:
    return onnx.helper.make_node("Gemm", [x, w, "b"], [y], name=f"of {w}", **{"transB": 1} | attributes)


def conv(w: str, *, x: str = "x", y: str = "y", group: int = 1) -> Any:
    return onnx.helper.make_node("Conv", [x, w], [y], name=f"of {w}", group=group)


def stored(model: Any) -> dict[str, Any]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def answer(model: Any, x: Any) -> Any:
    return reference.ReferenceEvaluator(model).run(None, {"x": x})[0]


def test_weights_in_float16_are_cast(tmp_path: Path) -> None:
    w, b, x = noise(48, 64), noise(48), noise(3, 64)
    model = rewrite(tmp_path, [gemm("w")], {"w": w, "b": b}, onnx_weights.float16)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Gemm"]
    halves = stored(model)["w.float16"]
    assert halves.dtype == np.float16
    assert np.allclose(answer(model, x), x @ halves.astype(np.float32).T + b, atol=1e-4)
    assert np.abs(halves - w).max() <= 2**-11 * np.abs(w).max()
    assert stored(model)["b"].tobytes() == b.tobytes()


def test_weights_in_int8_have_a_scale_for_each_output(tmp_path: Path) -> None:
    w, x = noise(8, 4, 3, 3), noise(2, 4, 5, 5)
    w[2] = 0.0
    model = rewrite(tmp_path, [conv("w")], {"w": w}, onnx_weights.int8)
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "Conv"]
    codes, scales = stored(model)["w.codes"], stored(model)["w.scales"]
    assert (codes.dtype, codes.shape, scales.shape) == (np.int8, w.shape, (8,))
    assert np.abs(codes * scales[:, None, None, None] - w).max() <= 0.5001 * scales.max()
    assert np.allclose(scales, np.abs(w).max(axis=(1, 2, 3)) / 127)
    found, wanted = answer(model, x), conv_of(x, w)
    assert 0 < np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()


def conv_of(x: Any, w: Any) -> Any:
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, w)


@pytest.mark.parametrize(("bits", "error"), [(8, 0.005), (4, 0.07)])
def test_a_gemm_becomes_an_operator_of_onnx_runtime(tmp_path: Path, bits: int, error: float) -> None:
    """Decoded here as that operator's documentation says."""
    w, b = noise(16, 96), noise(16)
    w[3, 32:64] = 0.0
    w[4, :32] = np.linspace(-1, 1, 32)
    model = rewrite(tmp_path, [gemm("w")], {"w": w, "b": b}, partial(onnx_weights.blocks, bits=bits, level=1))
    (node,) = model.graph.node
    assert (node.op_type, node.domain, list(node.output)) == ("MatMulNBits", "com.microsoft", ["y"])
    assert list(node.input) == ["x", "w.codes", "w.scales", "", "", "b"]
    assert {attribute.name: attribute.i for attribute in node.attribute} == {
        "N": 16, "K": 96, "bits": bits, "block_size": 32, "accuracy_level": 1,
    }  # fmt: skip
    codes, scales = stored(model)["w.codes"], stored(model)["w.scales"]
    assert (codes.dtype, codes.shape, scales.shape) == (np.uint8, (16, 3, 4 * bits), (16, 3))
    if bits == 4:  # the even element of a pair is in the lower half
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(16, 3, 32)
    decoded = (codes.astype(np.float32) - (1 << bits - 1)) * scales[..., None]
    largest = np.abs(w.reshape(16, 3, 32)).max(axis=-1, keepdims=True)
    assert (np.abs(decoded - w.reshape(16, 3, 32)) <= 2 * error * largest).all()
    assert np.abs(decoded.reshape(w.shape) - w).max() > 0


def test_other_weights_stay_as_they_are(tmp_path: Path) -> None:
    """Of a depthwise convolution, of another order, and of two nodes."""
    tensors = {"deep": noise(8, 1, 1, 1), "pair": noise(8, 8, 1, 1), "grouped": noise(8, 4, 1, 1)}
    tensors |= {"shape": np.array([0, -1]), "turned": noise(32, 32), "b": noise(32)}
    nodes = [
        conv("deep", y="1", group=8),
        conv("pair", x="1", y="2"),
        conv("pair", x="2", y="3"),
        conv("grouped", x="3", y="4", group=2),
        onnx.helper.make_node("Reshape", ["4", "shape"], ["5"]),
        gemm("turned", x="5", transB=0),
    ]
    model = rewrite(tmp_path, nodes, tensors, onnx_weights.int8)
    found = stored(model)
    assert found.keys() == tensors.keys() - {"grouped"} | {"grouped.codes", "grouped.scales"}
    assert all(found[name].tobytes() == tensors[name].tobytes() for name in tensors if name != "grouped")
    assert [node.op_type for node in model.graph.node] == [
        "Conv", "Conv", "Conv", "DequantizeLinear", "Conv", "Reshape", "Gemm",
    ]  # fmt: skip
    assert np.isfinite(answer(model, noise(2, 8, 2, 2))).all()


def test_large_tensors_are_in_a_file_that_can_be_mapped(tmp_path: Path) -> None:
    rewrite(tmp_path, [gemm("w")], {"w": noise(300, 33), "b": noise(300)}, onnx_weights.float16)
    graph = onnx.load(onnx_weights.model_file(tmp_path), load_external_data=False).graph
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in graph.initializer]
    assert [int(place["length"]) for place in places] == [2 * 300 * 33, 4 * 300]
    assert all(int(place["offset"]) % 4096 == 0 for place in places)
    assert {place["location"] for place in places} == {onnx_weights.weights_file(tmp_path).name}
    assert onnx_weights.model_file(tmp_path).stat().st_size < 1000
