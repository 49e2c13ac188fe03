"""A small encoder of texts as exporters write one: token ids, token types and a mask, which are integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from convert.support import ReferenceEvaluator, TensorProto, helper, numpy_helper
from streamrt.format import read_header

WORDS, WIDTH, HEADS, LENGTH, LAYERS = 20_000, 64, 4, 12, 2
SIZE = WIDTH // HEADS
node = helper.make_node


class Graph:
    """Nodes and constants of an encoder that are collected."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self._random = np.random.default_rng(4)

    def weight(self, name: str, *shape: int) -> str:
        values = self._random.standard_normal(shape, np.float32) / np.float32(math.sqrt(shape[-1]))
        return self.constant(name, values)

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def add(self, op: str, *inputs: str, name: str = "", **attrs: Any) -> str:
        name = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(node(op, list(inputs), [name], **attrs))
        return name

    def dense(self, x: str, name: str, rows: int, columns: int) -> str:
        product = self.add("MatMul", x, self.weight(f"{name}.weight", columns, rows))
        return self.add("Add", product, self.weight(f"{name}.bias", rows))

    def normalised(self, x: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.scale", WIDTH), self.weight(f"{name}.shift", WIDTH)
        return self.add("LayerNormalization", x, scale, bias, axis=-1)

    def heads(self, x: str, perm: list[int]) -> str:
        split = self.add("Reshape", x, self.constant("by_head", [0, LENGTH, HEADS, SIZE]))
        return self.add("Transpose", split, perm=perm)


def encoder(word_type: int = TensorProto.INT64) -> Any:
    """The model; its ids are of ``word_type``, its token types int32, and its mask int64."""
    graph = Graph()
    add = graph.add
    table = graph.weight("words", WORDS, WIDTH)
    words = add("Gather", table, "ids", name="word_rows")
    types = add("Gather", graph.weight("types", 2, WIDTH), "token_types")
    x = add("Add", add("Add", words, types), graph.weight("positions", 1, LENGTH, WIDTH))
    x = graph.normalised(x, "first")

    apart = add("Unsqueeze", "mask", graph.constant("axes", [1, 2]))
    kept = add("Cast", apart, to=TensorProto.FLOAT)
    away = add("Mul", add("Sub", graph.constant("one", np.float32(1)), kept), graph.constant("far", np.float32(-1e4)))
    for layer in range(LAYERS):
        q, k, v = (graph.dense(x, f"{layer}.{part}", WIDTH, WIDTH) for part in "qkv")
        scores = add("MatMul", graph.heads(q, [0, 2, 1, 3]), graph.heads(k, [0, 2, 3, 1]))
        scaled = add("Add", add("Div", scores, graph.constant("root", np.float32(math.sqrt(SIZE)))), away)
        mixed = add("MatMul", add("Softmax", scaled, axis=-1), graph.heads(v, [0, 2, 1, 3]))
        merged = add("Transpose", mixed, perm=[0, 2, 1, 3])
        joined = add("Reshape", merged, graph.constant("joined", [0, LENGTH, WIDTH]))
        x = graph.normalised(add("Add", x, graph.dense(joined, f"{layer}.out", WIDTH, WIDTH)), f"{layer}.norm1")
        wide = add("Relu", graph.dense(x, f"{layer}.up", 4 * WIDTH, WIDTH))
        x = graph.normalised(add("Add", x, graph.dense(wide, f"{layer}.down", WIDTH, 4 * WIDTH)), f"{layer}.norm2")
    # The mean of the tokens that count.
    weights = add("Cast", add("Unsqueeze", "mask", graph.constant("last", [-1])), to=TensorProto.FLOAT)
    total = add("ReduceSum", add("Mul", x, weights), graph.constant("tokens", [1]), keepdims=0)
    count = add("ReduceSum", "mask", graph.constant("tokens", [1]), keepdims=1, name="count")
    add("Div", total, add("Cast", count, to=TensorProto.FLOAT), name="y")
    ends = {"ids": word_type, "token_types": TensorProto.INT32, "mask": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(name, kind, ["N", LENGTH]) for name, kind in ends.items()]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", WIDTH]),
        helper.make_tensor_value_info("count", TensorProto.INT64, ["N", 1]),
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in graph.constants.items()]
    return helper.make_model(
        helper.make_graph(graph.nodes, "encoder", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 18)],
    )


def texts(count: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random inputs of different lengths."""
    random = np.random.default_rng([seed, count])
    lengths = random.integers(1, LENGTH + 1, (count, 1))
    mask = (np.arange(LENGTH) < lengths).astype(np.int64)
    types = random.integers(0, 2, (count, LENGTH)).astype(np.int32)
    return {"ids": random.integers(0, WORDS, (count, LENGTH)) * mask, "token_types": types, "mask": mask}


@pytest.fixture(scope="module")
def reference() -> Callable[[dict[str, NDArray[Any]]], list[NDArray[Any]]]:
    evaluator = ReferenceEvaluator(encoder())
    return lambda feeds: evaluator.run(None, feeds)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streamrt.pack(encoder(), tmp_path_factory.mktemp("encoder") / "encoder.safetensors")


def close(found: dict[str, Any], expected: list[Any]) -> None:
    np.testing.assert_allclose(found["y"], expected[0], rtol=1e-4, atol=1e-4)
    assert found["count"].dtype == np.int64
    np.testing.assert_array_equal(found["count"], expected[1])


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("budget", ["none", "quarter", "least"])
def test_encoder(packed: Path, reference: Any, budget: str, io: str) -> None:
    feeds = texts(5)
    expected = reference(feeds)
    weights = sum(tensor.nbytes for tensor in read_header(packed).tensors.values())
    with streamrt.Model(packed, budget=None, io=io, verify="read") as model:
        assert [spec.dtype for spec in model.inputs] == ["int64", "int32", "int64"]
        if budget == "quarter":
            model.set_budget(weights // 4)
        elif budget == "least":
            model.set_budget(model.min_budget({name: array.shape for name, array in feeds.items()}))
        for _ in range(2):
            close(model(feeds), expected)
        assert model.plan.by_index == (budget != "none")
        assert model.plan.total <= (model.budget or math.inf)
        assert (model.plan.micro_batch > 0) == (budget == "least")
        rows = model(feeds, ["word_rows"])
        assert rows.shape == (5, LENGTH, WIDTH)


def test_samples_share_passes(packed: Path, reference: Any) -> None:
    batches = [texts(count, seed=count) for count in (1, 3, 2)]
    with streamrt.Model(packed, "1200KiB") as model:
        for found, feeds in zip(model.call_together(batches), batches, strict=True):
            close(found, reference(feeds))
        for found, feeds in zip(model.predict(batches), batches, strict=True):
            close(found, reference(feeds))
        bad = batches[1] | {"ids": np.full((3, LENGTH), WORDS)}
        one, two, three = model.call_together([batches[0], bad, batches[2]])
        close(one, reference(batches[0]))
        assert isinstance(two, streamrt.InputError)
        close(three, reference(batches[2]))


@pytest.mark.parametrize("weights", ["float16", "int8"])
def test_encoder_with_small_weights(packed: Path, weights: str, reference: Any, tmp_path: Path) -> None:
    path = streamrt.pack(packed, tmp_path / "small", weights=weights)
    feeds = texts(4)
    with streamrt.Model(packed, budget=None) as exact, streamrt.Model(path, "1MiB") as model:
        assert model(feeds)["count"].tolist() == feeds["mask"].sum(axis=1, keepdims=True).tolist()
        assert model.plan.by_index
        comparison = streamrt.compare(exact, model, feeds)
        assert comparison.outputs[0].rms < 0.05
        assert comparison.outputs[1].rms == 0


def test_ids_of_another_type(reference: Any, tmp_path: Path) -> None:
    path = streamrt.pack(encoder(TensorProto.INT32), tmp_path / "encoder")
    feeds = texts(2)
    with streamrt.Model(path, budget=None) as model:
        with pytest.raises(
            streamrt.InputError, match="input 'ids': expected a NumPy array of int32, found one of int64"
        ):
            model(feeds)
        close(model(feeds | {"ids": feeds["ids"].astype(np.int32)}), reference(feeds))
