"""Recurrent networks of torch: recognisers of text with a free batch, by both of torch's exporters."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import onnx
from markers import needs
from streamrt.format import read_header

pytestmark = pytest.mark.extras

torch, _ = needs("torch", "onnxscript")
nn = torch.nn


class Recurrent(nn.Module):  # type: ignore[misc, name-defined]
    """Two layers in both directions; one output, or the last states, too."""

    def __init__(self, layer: Any, batch_first: bool, states: bool = False) -> None:
        super().__init__()
        self.layer = layer(24, 16, 2, bidirectional=True, batch_first=batch_first)
        self.states = states

    def forward(self, x: Any) -> Any:
        y, states = self.layer(x)
        return (y, states) if self.states else y


class Recogniser(nn.Module):  # type: ignore[misc, name-defined]
    """Convolutions, whose columns are the steps of a recurrent layer in both directions, and a dense layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()
        )
        self.layer = layer(16 * 16, 64, 2, bidirectional=True)
        self.head = nn.Linear(128, 40)

    def forward(self, x: Any) -> Any:
        y = self.features(x)
        y = y.reshape(y.shape[0], y.shape[1] * y.shape[2], y.shape[3])
        return self.head(self.layer(y.permute(2, 0, 1))[0])


def exported(module: Any, example: Any, axis: int, dynamo: bool) -> Any:
    """The module as an ONNX model with a free extent along ``axis``, of either exporter."""
    with warnings.catch_warnings(action="ignore"):
        if dynamo:
            free = ({axis: torch.export.Dim("N")},)
            return torch.onnx.export(
                module, (example,), dynamo=True, dynamic_shapes=free, input_names=["x"], verbose=False
            ).model_proto
        buffer = io.BytesIO()
        free = {"x": {axis: "N"}}
        torch.onnx.export(module, (example,), buffer, dynamo=False, input_names=["x"], dynamic_axes=free)
        return onnx.load_from_string(buffer.getvalue())


def check(path: Path, module: Any, *shapes: tuple[int, ...], tolerance: float = 1e-5) -> None:
    with streamrt.Model(path) as model:
        for shape in shapes:
            x = torch.randn(*shape)
            with torch.no_grad():
                answer = module(x)
            outputs = [answer] if isinstance(answer, torch.Tensor) else [answer[0], *answer[1]]
            found = model(x.numpy())
            values = [found] if isinstance(found, np.ndarray) else [found[spec.name] for spec in model.outputs]
            for value, wanted in zip(values, outputs, strict=True):
                assert value.shape == tuple(wanted.shape)
                assert np.abs(value - wanted.numpy()).max() <= tolerance * wanted.abs().max().item()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_layers_with_the_older_exporter(tmp_path: Path, name: str, batch_first: bool) -> None:
    torch.manual_seed(0)
    module = Recurrent(getattr(nn, name), batch_first).eval()
    model = exported(module, torch.randn(5, 3, 24), 0 if batch_first else 1, dynamo=False)
    path = streamrt.pack(model, tmp_path / "out.safetensors")
    others = [(1, 3, 24), (7, 3, 24)] if batch_first else [(5, 1, 24), (5, 7, 24)]
    check(path, module, (5, 3, 24), *others)
    assert sum(node.op == name for node in read_header(path).graph.nodes) == 4


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_modules(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    module = Recurrent(getattr(nn, name), batch_first=True).eval()
    path = streamrt.pack(module, tmp_path / "out.safetensors", example=torch.randn(2, 5, 24))
    check(path, module, (2, 5, 24), (1, 5, 24), (7, 5, 24))


def test_last_states(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Recurrent(nn.LSTM, batch_first=False, states=True).eval()
    path = streamrt.pack(exported(module, torch.randn(5, 3, 24), 1, dynamo=False), tmp_path / "out.safetensors")
    check(path, module, (5, 3, 24), (5, 4, 24))


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_recognisers(tmp_path: Path, name: str, dynamo: bool) -> None:
    """A fixed number of steps and a free batch; also with the least memory, and with smaller weights."""
    torch.manual_seed(0)
    module = Recogniser(getattr(nn, name)).eval()
    model = exported(module, torch.randn(2, 1, 32, 40), 0, dynamo)
    path = streamrt.pack(model, tmp_path / "out.safetensors")
    check(path, module, (2, 1, 32, 40), (1, 1, 32, 40), (7, 1, 32, 40))
    x = np.random.default_rng(1).standard_normal((3, 1, 32, 40), np.float32)
    with streamrt.Model(path) as whole:
        answer = whole(x)
        with streamrt.Model(path, budget=whole.min_budget(x.shape)) as least:
            np.testing.assert_allclose(least(x), answer, rtol=1e-5, atol=1e-6)
            assert least.plan.streamed_bytes > 0
    streamrt.pack(model, path, weights="float16")
    check(path, module, (2, 1, 32, 40), tolerance=5e-3)
