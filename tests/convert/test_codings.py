"""`pack` with ``weights`` and ``keep``: which weights are stored in which way, and requests that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from streamrt import Layer
from streamrt.errors import FormatError, InputError
from streamrt.format import Segment, Source, read_header, values, write
from streamrt.graph import Graph, Node, TensorSpec

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "int8", "int4": "int4"}
INPUT = ("N", 32, 9, 9)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def layers(dtype: Any = np.float32) -> list[Layer]:
    """A convolution, a depthwise convolution, a convolution of few channels, and two dense layers.

    Their products have 11520, 400, 15000 and 150 weights. 150 are less than 2 % of them, and 550 are not.
    """
    return [
        Layer("Conv", random(40, 32, 3, 3).astype(dtype), random(40).astype(dtype), activation="Relu"),
        Layer("Conv", random(40, 1, 3, 3).astype(dtype), random(40), group=40),
        Layer("Conv", random(20, 20, 1, 1).astype(dtype), group=2),
        Layer("Flatten"),
        Layer("Gemm", random(30, 500).astype(dtype), random(30)),
        Layer("Gemm", random(5, 30).astype(dtype), random(5)),
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def dtypes(path: Path) -> dict[str, str]:
    return {name: tensor.dtype for name, tensor in read_header(path).tensors.items()}


@pytest.mark.parametrize("weights", TYPES)
def test_weights_of_products_are_stored_in_the_type(path: Path, weights: str) -> None:
    streamrt.pack(layers(), path, inputs=INPUT, weights=weights)
    expected = TYPES[weights]
    larger = "F16" if weights in ("int8", "int4") else "F32"
    assert dtypes(path) == {
        "layer0.bias": "F32",
        "layer0.weight": expected,
        "layer1.bias": "F32",
        "layer1.weight": larger,  # depthwise
        "layer2.weight": expected,
        "layer4.bias": "F32",
        "layer4.weight": expected,
        "layer5.bias": "F32",
        "layer5.weight": larger,  # small
    }
    assert read_header(path).tensors["layer4.weight"].block == (32 if weights == "int4" else None)
    assert [tensor.zeros for tensor in read_header(path).tensors.values()] == [False] * 9
    streamrt.verify(path)


@pytest.mark.parametrize("weights", TYPES)
def test_a_model_computes_with_the_values_that_are_stored(path: Path, weights: str, tmp_path: Path) -> None:
    streamrt.pack(layers(), path, inputs=INPUT, weights=weights)
    other = tmp_path / "other.safetensors"
    streamrt.pack(path, other, weights="float32")
    assert set(dtypes(other).values()) == {"F32"}
    x = random(3, *INPUT[1:])
    with streamrt.Model(path) as model, streamrt.Model(other) as plain:
        expected = plain(x)
        np.testing.assert_array_equal(model(x), expected)
        model.set_budget(model.min_budget(x.shape))
        np.testing.assert_array_equal(model(x), expected)
    tolerance = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2, "int8": 3e-2, "int4": 0.4}[weights]
    streamrt.pack(layers(), other, inputs=INPUT)
    with streamrt.Model(other) as model:
        exact = model(x)
    assert np.sqrt(((expected - exact) ** 2).mean() / (exact**2).mean()) < tolerance


@pytest.mark.parametrize("weights", TYPES)
def test_a_weights_file_is_stored_anew(path: Path, tmp_path: Path, weights: str) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    streamrt.pack(layers(), first, inputs=INPUT)
    streamrt.pack(layers(), second, inputs=INPUT, weights=weights)
    streamrt.pack(first, path, weights=weights)
    assert path.read_bytes() == second.read_bytes()
    streamrt.pack(second, path)  # as it is
    assert path.read_bytes() == second.read_bytes()
    streamrt.pack(path, path, weights=weights)  # in place
    assert path.read_bytes() == second.read_bytes()


def test_of_weights_of_equal_size_all_are_small_or_none(path: Path) -> None:
    """2 % of 65,600 weights are 1312: two layers of 320, and no layer of 480, of which only one has room."""
    shapes = [(16, 20), (30, 16), (16, 30), (20, 16), (1600, 20), (20, 1600)]
    for order in (shapes, [shape[::-1] for shape in shapes[::-1]]):
        streamrt.pack([Layer("Gemm", random(*shape)) for shape in order], path, weights="int8")
        found = {tensor.shape: tensor.dtype for tensor in read_header(path).tensors.values()}
        assert {shape for shape, dtype in found.items() if dtype == "F16"} == {(16, 20), (20, 16)}
        assert [found[shape] for shape in order].count("int8") == 4


def test_halves_of_the_source_stay_halves(path: Path) -> None:
    streamrt.pack(layers(np.float16), path, inputs=INPUT)
    found = dtypes(path)
    assert [found[f"layer{i}.weight"] for i in (0, 2, 4, 5)] == ["F16"] * 4
    assert [found["layer1.weight"], found["layer0.bias"]] == ["F32", "F32"]
    file = read_header(path)
    tensor = file.tensors["layer4.weight"]
    data = path.read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
    stored = np.concatenate(list(values(tensor.coding, tensor.shape, [memoryview(data)])))
    np.testing.assert_array_equal(stored.reshape(30, 500), random(30, 500).astype(np.float16).astype(np.float32))
    streamrt.pack(layers(np.float16), path, inputs=INPUT, weights="float32")
    assert set(dtypes(path).values()) == {"F32"}


def test_halves_with_a_folded_scale_become_float32(path: Path) -> None:
    scale = np.abs(random(40)) + 1
    folded = [layers(np.float16)[0], Layer("BatchNormalization", scale, random(40), random(40), scale)]
    streamrt.pack([Layer("Conv", folded[0].params[0]), folded[1]], path, inputs=INPUT)
    assert dtypes(path)["layer0.weight"] == "F32"
    streamrt.pack([Layer("Conv", folded[0].params[0]), folded[1]], path, inputs=INPUT, weights="float16")
    assert dtypes(path)["layer0.weight"] == "F16"


def test_single_weights_are_kept(path: Path) -> None:
    keep = {
        "layer5.weight": "float16",
        "layer0.weight": "float32",
        "layer1.weight": "bfloat16",
        "layer4.bias": "float16",
    }
    streamrt.pack(layers(), path, inputs=INPUT, weights="int8", keep=keep)
    found = dtypes(path)
    assert {name: found[name] for name in keep} == {
        "layer5.weight": "F16",
        "layer0.weight": "F32",
        "layer1.weight": "BF16",
        "layer4.bias": "F16",
    }
    assert found["layer4.weight"] == "int8"
    x = random(2, *INPUT[1:])
    other = path.with_name("other.safetensors")
    streamrt.pack(path, other, weights="float32", keep=dict.fromkeys(found, "float32"))
    with streamrt.Model(path) as model, streamrt.Model(other) as plain:
        np.testing.assert_array_equal(model(x), plain(x))
    streamrt.pack(other, path, keep={"layer4.weight": "int4"})
    assert sorted(dtypes(path).values()) == ["F32"] * 8 + ["int4"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"weights": "float8"}, "weights: expected 'float32', .* or None, found 'float8'"),
        ({"weights": 8}, "weights: expected .* found 8"),
        ({"weights": "F16"}, "weights: expected"),
        ({"keep": "int8"}, "keep: expected a mapping of names of weights to types, found str"),
        ({"keep": {"layer0.weight": "double"}}, "keep: 'layer0.weight': expected 'float32', .*found 'double'"),
        ({"keep": {"layer0.weight": None}}, "keep: 'layer0.weight': expected"),
        ({"keep": {"head": "int8"}}, "keep: the model has no weight 'head'; it has 'layer0.* and 4 more"),
        ({"keep": {"layer0.bias": "int8"}}, r"keep: 'layer0.bias': int8 needs rows: shape \(40,\)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("source", ["layers", "file"])
def test_requests_that_are_refused_write_nothing(
    path: Path, tmp_path: Path, options: dict[str, Any], reason: str, source: str
) -> None:
    packed = tmp_path / "source.safetensors"
    streamrt.pack(layers(), packed, inputs=INPUT)
    given = {"source": layers(), "inputs": INPUT} if source == "layers" else {"source": packed}
    with pytest.raises(InputError, match=reason):
        streamrt.pack(dest=path, **given, **options)
    assert sorted(tmp_path.iterdir()) == [packed]


@pytest.mark.parametrize(("weights", "value"), [("float16", 65600.0), ("int8", np.nan), ("int4", -np.inf)])
def test_weights_beyond_the_type_write_nothing(path: Path, tmp_path: Path, weights: str, value: float) -> None:
    matrix = random(20, 40)
    matrix[3, 4] = value
    with pytest.raises(FormatError, match=r"weight 'layer0.weight' has the value"):
        streamrt.pack([Layer("Gemm", matrix)], path, weights=weights)
    assert list(tmp_path.iterdir()) == []


def test_a_weight_that_something_else_reads_stays_float32(path: Path) -> None:
    shared = random(30, 30)
    streamrt.pack([Layer("Gemm", shared), Layer("Relu"), Layer("Gemm", shared)], path, weights="int8")
    assert dtypes(path) == {"layer0.weight": "int8"}
    streamrt.pack([Layer("Gemm", shared), Layer("Relu"), Layer("MatMul", shared)], path, weights="int8")
    assert dtypes(path) == {"layer0.weight": "F32"}
    streamrt.pack([Layer("Gemm", shared), Layer("MatMul", random(31, 30), transB=1)], path, weights="int8")
    assert dtypes(path) == {"layer0.weight": "int8", "layer1.weight": "int8"}


@pytest.mark.parametrize(("attrs", "kept"), [({}, "int8"), ({"axis": -2}, "int8"), ({"axis": 1}, "F32")], ids=str)
def test_an_embedding_that_is_tied_to_a_dense_layer(
    path: Path, tmp_path: Path, attrs: dict[str, int], kept: str
) -> None:
    nodes = (
        Node("rows", "Gather", ("w",), ("e",), {"indices": (3, 0, 7), **attrs}),
        Node("sum", "ReduceSum", ("e",), ("s",), {"axes": (0, 1), "keepdims": 0}),
        Node("logits", "Gemm", ("x", "w"), ("g",)),
        Node("shifted", "Add", ("g", "s"), ("y",)),
    )
    graph = Graph((TensorSpec("x", ("N", 40)),), (TensorSpec("y", ("N", 20)),), nodes)
    write(tmp_path / "source", graph, [Segment([Source.of("w", random(20, 40))])])
    streamrt.pack(tmp_path / "source", path, weights="int8")
    assert dtypes(path) == {"w": kept}
    streamrt.pack(path, tmp_path / "plain", weights="float32")
    x = random(2, 40)
    with streamrt.Model(path) as model, streamrt.Model(tmp_path / "plain") as plain:
        np.testing.assert_array_equal(model(x), plain(x))


def test_integers_of_the_type_that_is_asked_for_stay_as_they_are(path: Path, tmp_path: Path) -> None:
    streamrt.pack(layers(), path, inputs=INPUT, keep={"layer4.weight": "int4"})
    streamrt.pack(path, tmp_path / "again", weights="int4")
    streamrt.pack(layers(), tmp_path / "direct", inputs=INPUT, weights="int4")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "direct").read_bytes()


def test_weights_that_do_not_fit_integers_stay_as_they_are(path: Path, tmp_path: Path) -> None:
    small = [Layer("Gemm", random(5, 9).astype(np.float16)), Layer("Gemm", random(30, 5))]
    streamrt.pack(small, path, weights="int8")
    assert dtypes(path) == {"layer0.weight": "F16", "layer1.weight": "F32"}
    streamrt.pack(small, tmp_path / "halves")
    streamrt.pack(tmp_path / "halves", tmp_path / "again", weights="int8")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("shape", [(), (4,)])
@pytest.mark.parametrize("op", ["Conv", "Gemm"])
@pytest.mark.parametrize("weights", [None, "float16", "int8"])
def test_weights_without_rows_in_a_file_that_nothing_can_run(
    path: Path, tmp_path: Path, op: str, shape: tuple[int, ...], weights: str | None
) -> None:
    attrs = {"group": 2} if op == "Conv" else {}
    graph = Graph(
        (TensorSpec("x", ("N", 3)),), (TensorSpec("y", ("N", 4)),), (Node("node", op, ("x", "w"), ("y",), attrs),)
    )
    array = np.ones(shape, np.float32)
    write(tmp_path / "source", graph, [Segment([Source.of("w", array)])])
    streamrt.pack(tmp_path / "source", path, weights=weights)
    assert dtypes(path) == {"w": "F32"}
    streamrt.pack(path, path, keep={"w": "float32"})
    if not shape:
        with pytest.raises(InputError, match="keep: 'w': F16 without dimensions"):
            streamrt.pack(path, path, keep={"w": "float16"})
