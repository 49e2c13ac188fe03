"""`streamrt.compare`: its numbers against those computed from the weights, and models that cannot be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from streamrt.engine import comparison
from streamrt.errors import InputError
from streamrt.format import read_header, values


def matrix(rows: int, columns: int) -> np.ndarray:
    return (np.random.default_rng(rows).normal(size=(rows, columns)) / columns**0.5).astype(np.float32)


def pack(path: Path, matrices: list[np.ndarray], **options: Any) -> Path:
    layers = [streamrt.Layer("Gemm", w, activation="Relu" if w is not matrices[-1] else None) for w in matrices]
    return streamrt.pack(layers, path, **options)


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a - b) ** 2).mean() / (a**2).mean()))


def test_numbers_of_outputs_and_layers(tmp_path: Path) -> None:
    weights = [matrix(60, 40), matrix(50, 60), matrix(10, 50)]
    keep = {"layer1.weight": "float32"}
    first = pack(tmp_path / "first", weights)
    second = pack(tmp_path / "second", weights, weights="int4", keep=keep)
    x = matrix(30, 40)
    with streamrt.Model(first) as one, streamrt.Model(second) as two:
        found = streamrt.compare(one, two, x)
        exact, other = one(x), two(x)
        hidden = [model(x, ["layer0"]) for model in (one, two)]
    (output,) = found.outputs
    assert output.name == "output"
    assert output.rms == pytest.approx(rms(exact, other), rel=1e-5)
    assert output.largest == pytest.approx(np.abs(exact - other).max() / np.abs(exact).max(), rel=1e-5)
    assert output.same_class == (exact.argmax(axis=1) == other.argmax(axis=1)).mean()
    assert 0 < output.same_class <= 1
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name.keys() == {"layer0", "layer2"}
    assert {layer.dtypes for layer in found.layers} == {("F32", "int4")}
    assert by_name["layer0"].rms == pytest.approx(rms(*hidden), rel=1e-5)
    assert by_name["layer2"].rms == output.rms
    for index in (0, 2):
        tensor = read_header(second).tensors[f"layer{index}.weight"]
        data = second.read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
        stored = np.concatenate(list(values(tensor.coding, tensor.shape, [memoryview(data)])))
        own = rms(weights[index].reshape(-1), stored)
        assert by_name[f"layer{index}"].weights == pytest.approx(own, rel=1e-5)
    assert found.layers[0].weights >= found.layers[1].weights > 0.05
    text = str(found).splitlines()
    assert text[0].startswith("output: relative RMS 0.")
    assert len(text) == 3


def test_equal_models_do_not_differ(tmp_path: Path) -> None:
    path = pack(tmp_path / "model", [matrix(20, 40), matrix(20, 20)])
    with streamrt.Model(path) as one, streamrt.Model(path) as two:
        found = streamrt.compare(one, two, np.zeros((3, 40), np.float32))
    assert found == streamrt.Comparison((streamrt.Difference("output", 0.0, 0.0, 1.0),), ())


def test_many_tensors_are_asked_for_in_parts(tmp_path: Path) -> None:
    weights = [matrix(30, 30) for _ in range(25)]
    first, second = pack(tmp_path / "first", weights), pack(tmp_path / "second", weights, weights="int8")
    with streamrt.Model(first, "1MiB") as one, streamrt.Model(second, "1MiB") as two:
        found = streamrt.compare(one, two, matrix(4, 30))
    assert len(found.layers) == 25
    assert str(found).endswith("and 20 more layers, whose weights lose less")


def test_models_of_different_graphs_are_refused(tmp_path: Path) -> None:
    first, second = (
        pack(tmp_path / "first", [matrix(20, 40)]),
        pack(tmp_path / "second", [matrix(20, 40)] * 1 + [matrix(5, 20)]),
    )
    with (
        streamrt.Model(first) as one,
        streamrt.Model(second) as two,
        pytest.raises(InputError, match="different graphs"),
    ):
        streamrt.compare(one, two, matrix(3, 40))


def test_large_weights_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [matrix(70, 90)]
    first, second = pack(tmp_path / "first", weights), pack(tmp_path / "second", weights, weights="int8")
    with streamrt.Model(first) as one, streamrt.Model(second) as two:
        whole = streamrt.compare(one, two, matrix(4, 90))
        monkeypatch.setattr(comparison, "_PIECE", 1000)
        assert streamrt.compare(one, two, matrix(4, 90)).layers[0].weights == pytest.approx(whole.layers[0].weights)
