"""A model from a plain list of layers."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from streamrt import Layer
from streamrt.convert.support import unsupported
from streamrt.format import read_header
from streamrt.graph import Activation, TensorSpec


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    with streamrt.Model(path, budget=None) as model:
        return np.asarray(model(x))


def test_mlp(tmp_path: Path) -> None:
    w1, b1, w2 = random(7, 5), random(7), random(3, 7)
    path = streamrt.pack([Layer("Gemm", w1, b1, activation="Relu"), Layer("Gemm", w2)], tmp_path / "out")
    file = read_header(path)
    assert file.graph.inputs == (TensorSpec("input", ("N", 5)),)
    assert file.graph.outputs == (TensorSpec("output", ("N", 3)),)
    assert list(file.tensors) == ["layer0.bias", "layer0.weight", "layer1.weight"]
    x = random(4, 5)
    np.testing.assert_allclose(run(path, x), np.maximum(x @ w1.T + b1, 0) @ w2.T, rtol=1e-5, atol=1e-5)


def test_attributes_have_onnx_defaults_where_a_node_is_folded(tmp_path: Path) -> None:
    w, scale, var = random(4, 3, 1, 1), random(4), random(4, seed=3) ** 2
    shift = random(4, seed=1)
    layers = [Layer("Conv", w), Layer("BatchNormalization", scale, shift, shift, var)]
    path = streamrt.pack(layers, tmp_path / "out", inputs=("N", 3, 5, 5))
    assert [node.op for node in read_header(path).graph.nodes] == ["Conv"]
    x = random(2, 3, 5, 5)
    product = np.einsum("oi,nihw->nohw", w[:, :, 0, 0], x)
    factor, add = (scale / np.sqrt(var + 1e-5))[:, None, None], shift[:, None, None]
    np.testing.assert_allclose(run(path, x), (product - add) * factor + add, rtol=1e-4, atol=1e-4)


def test_cnn_folds_batch_normalization(tmp_path: Path) -> None:
    scale, bias, mean, var = random(4), random(4, seed=1), random(4, seed=2), random(4, seed=3) ** 2 + 1
    w = random(4, 3, 3, 3)
    layers = [
        Layer("Conv", w, pads=(1, 1, 1, 1)),
        Layer("BatchNormalization", scale, bias, mean, var, epsilon=1e-3),
        Layer("LeakyRelu", alpha=0.2),
        Layer("MaxPool", kernel_shape=np.array([2, 2]), strides=[2, 2]),
        Layer("Flatten"),
        Layer("Softmax", axis=1),
    ]
    path = streamrt.pack(layers, tmp_path / "out", inputs=("N", 3, 6, 6))
    graph = read_header(path).graph
    assert [node.op for node in graph.nodes] == ["Conv", "MaxPool", "Flatten", "Softmax"]
    assert graph.nodes[0].activation == Activation("LeakyRelu", {"alpha": 0.2})
    assert graph.outputs[0].dims == ("N", 36)
    out = run(path, random(2, 3, 6, 6))
    np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-5)

    plain = streamrt.pack([Layer("Conv", w, pads=(1, 1, 1, 1))], tmp_path / "plain", inputs=("N", 3, 6, 6))
    y = run(plain, random(2, 3, 6, 6))
    column = (slice(None), None, None)
    y = (y - mean[column]) / np.sqrt(var[column] + 1e-3) * scale[column] + bias[column]
    y = np.where(y > 0, y, np.float32(0.2) * y)
    y = y.reshape(2, 4, 3, 2, 3, 2).max(axis=(3, 5)).reshape(2, 36)
    wanted = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_arrays_of_any_float_type_and_order(dtype: Any, order: str, tmp_path: Path) -> None:
    w = random(8, 10).astype(dtype)
    w = w[::2, ::-2] if order == "strided" else np.asarray(w, order=order)  # type: ignore[call-overload]
    path = streamrt.pack([Layer("Gemm", w)], tmp_path / "out")
    x = np.eye(w.shape[1], dtype=np.float32)
    np.testing.assert_array_equal(run(path, x), w.astype(np.float32).T)


@pytest.mark.parametrize("order", ["C", "F"])
def test_memmap(order: str, tmp_path: Path) -> None:
    w = np.memmap(tmp_path / "w", np.float32, "w+", shape=(6, 5), order=order)  # type: ignore[call-overload]
    w[:] = random(6, 5)
    path = streamrt.pack([Layer("Gemm", w[1:])], tmp_path / "out")
    np.testing.assert_array_equal(run(path, np.eye(5, dtype=np.float32)), w[1:].T)


def test_a_private_memmap_is_packed_with_its_changes(tmp_path: Path) -> None:
    random(6, 5).tofile(tmp_path / "w")
    w = np.memmap(tmp_path / "w", np.float32, "c", shape=(6, 5))
    w[0] = 7
    path = streamrt.pack([Layer("Gemm", w)], tmp_path / "out")
    np.testing.assert_array_equal(run(path, np.eye(5, dtype=np.float32))[:, 0], np.full(5, 7, np.float32))
    assert (w[0] == 7).all()


def test_an_array_in_two_layers_is_stored_once(tmp_path: Path) -> None:
    w = random(5, 5)
    path = streamrt.pack([Layer("Gemm", w, activation="Tanh"), Layer("Gemm", w)], tmp_path / "out")
    assert list(read_header(path).tensors) == ["layer0.weight"]
    x = random(2, 5)
    np.testing.assert_allclose(run(path, x), np.tanh(x @ w.T) @ w.T, rtol=1e-5, atol=1e-5)


def test_same_layers_same_bytes(tmp_path: Path) -> None:
    first = streamrt.pack([Layer("Gemm", random(5, 5), random(5))], tmp_path / "a").read_bytes()
    assert streamrt.pack([Layer("Gemm", random(5, 5), random(5))], tmp_path / "b").read_bytes() == first


def test_unknown_operators_are_all_listed(tmp_path: Path) -> None:
    layers = [Layer("Gemm", random(5, 5), activation="Sine"), Layer("Twist"), Layer("Relu"), Layer("Turn")]
    with pytest.raises(streamrt.UnsupportedModelError) as caught:
        streamrt.pack(layers, tmp_path / "out")
    assert [line.split("(")[1].split(")")[0] for line in caught.value.problems] == ["Sine", "Twist", "Turn"]


def test_an_unknown_operator_has_near_names_and_the_list(tmp_path: Path) -> None:
    with pytest.raises(streamrt.UnsupportedModelError) as caught:
        streamrt.pack([Layer("Gem", np.ones((2, 2), np.float32))], tmp_path / "out", inputs=("N", 2))
    (line,) = caught.value.problems
    assert line == (
        "node 'layer0' (Gem): the operator is not supported (near: Gemm); "
        'streamrt.operators("layers") lists those that are'
    )
    made = {"QuantizeDequantizeLinear"}  # of a QuantizeLinear and a DequantizeLinear
    assert {"Gemm", "Mish"} | made <= set(streamrt.operators("layers")) <= set(streamrt.operators()) | made
    with pytest.raises(ValueError, match="source is 'torch', expected 'onnx' or 'layers'"):
        streamrt.operators("torch")  # type: ignore[arg-type] # wrong on purpose


def test_a_name_of_millions_of_letters_is_not_compared_as_a_whole() -> None:
    tracemalloc.start()
    try:
        text = unsupported("Gem" + "m" * 10_000_000, "layers")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20  # enough for the name, not for a table of its letters
    finally:
        tracemalloc.stop()
    assert len(text) < 200


def test_an_unknown_first_operator_is_named_without_extents(tmp_path: Path) -> None:
    layers = [Layer("Gem", np.ones((2, 3), np.float32)), Layer("Sofmax")]
    with pytest.raises(streamrt.UnsupportedModelError, match=r"\(Gem\): .*near: Gemm.*(?s:.)*\(Sofmax\)"):
        streamrt.pack(layers, tmp_path / "model.safetensors")


def test_a_layer_without_the_name_of_an_operator() -> None:
    with pytest.raises(TypeError, match="begins with the name of an operator, such as 'Gemm'; found ndarray"):
        Layer(random(2, 3))  # type: ignore[arg-type] # wrong on purpose


def test_weights_that_are_not_numbers_are_all_listed(tmp_path: Path) -> None:
    listed = Layer("Gemm", np.ones((5, 5)), [1, 2])  # type: ignore[arg-type] # wrong on purpose
    layers = [Layer("Gemm", np.ones((5, 5), np.int32)), listed]
    with pytest.raises(streamrt.UnsupportedModelError) as caught:
        streamrt.pack(layers, tmp_path / "out", inputs=("N", 5))
    expected = "expected an array of floating-point numbers"
    assert caught.value.problems == [
        f"layer0 (Gemm): weight is an array of int32, {expected}",
        f"layer1 (Gemm): bias is list, {expected}",
    ]


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([Layer("Gemm", random(5, 4)), Layer("Gemm", random(5, 4))], "layer1"),
        ([Layer("Gemm", random(5, 4)), Layer("Relu", alpha=1.0)], "alpha"),
        ([Layer("Gemm", random(5, 4)), Layer("Softmax", axis=7)], "axis"),
    ],
)
def test_layers_that_do_not_fit(layers: list[Layer], words: str, tmp_path: Path) -> None:
    with pytest.raises(streamrt.FormatError, match=words):
        streamrt.pack(layers, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("batch", "shown"), [("N", 1), (3, 3)])
def test_layers_that_do_not_fit_are_told_for_one_sample_or_the_batch_of_the_caller(
    batch: int | str, shown: int, tmp_path: Path
) -> None:
    layers = [Layer("Gemm", random(5, 4)), Layer("Gemm", random(5, 4))]
    with pytest.raises(streamrt.FormatError) as caught:
        streamrt.pack(layers, tmp_path / "out", inputs=(batch, 4))
    assert str(caught.value) == (
        f"node 'layer1' (Gemm): weights of shape (5, 4) and an input of shape ({shown}, 5), "
        "expected (rows, inner) and (..., inner)"
    )


def test_the_layer_that_does_not_fit_is_named_though_another_needs_two_samples(tmp_path: Path) -> None:
    layers = [Layer("Reshape", shape=(-1, 8)), Layer("Gemm", random(5, 4))]
    with pytest.raises(streamrt.FormatError, match=r"layer1.*weights of shape \(5, 4\)"):
        streamrt.pack(layers, tmp_path / "out", inputs=("N", 4))


@pytest.mark.parametrize("layers", [[], [Layer("Conv", random(4, 3, 3, 3))]])
def test_missing_extents(layers: list[Layer], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layers|inputs="):
        streamrt.pack(layers, tmp_path / "out")


def test_attributes_that_a_graph_cannot_hold() -> None:
    with pytest.raises(TypeError, match="attribute 'pads' is dict"):
        Layer("Conv", random(1, 1, 1, 1), pads={})


MEMORY = """
    import sys, threading, time
    import numpy as np
    import streamrt
    from streamrt import Layer

    shape, order = eval(sys.argv[1]), sys.argv[2]

    def figure(name):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(name)) >> 10

    layers = []
    for i in range(4):
        w = np.memmap(f"w{i}", np.float32, "w+", shape=shape, order=order)  # sparse: takes no space on the disk
        layers.append(Layer("Gemm", w))
    before = figure("VmRSS")
    peak = before
    running = True

    def watch():
        global peak
        while running:
            peak = max(peak, figure("VmRSS"))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    streamrt.pack(layers, "out")
    running = False
    watcher.join()
    print(peak - before)
"""


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_while_packing(order: str, tmp_path: Path, run_python: Callable[..., CompletedProcess[str]]) -> None:
    """Four mapped layers of 144 MiB each: no whole layer is ever in memory."""
    done = run_python(MEMORY, (6144, 6144), order)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 144
    assert (tmp_path / "out").stat().st_size > 4 * 6144 * 6144 * 4
