"""Servers, and the models that they serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model import zoo
from serve.process import TOKEN, Server
from streamrt.format import write
from streamrt.graph import Graph, Node, TensorSpec


@pytest.fixture(scope="package")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``mlp`` (a file of 20 KiB, inputs of 16), ``two`` (inputs a and b) and ``kinds`` (three types)."""
    folder = tmp_path_factory.mktemp("repository")
    zoo.mlp(folder, 16, 64, 32, 10)

    def spec(name: str, dtype: str = "float32") -> TensorSpec:
        return TensorSpec(name, ("batch", 2), dtype)

    nodes = (Node("add", "Add", ("a", "b"), ("sum",)), Node("sub", "Sub", ("a", "b"), ("difference",)))
    write(folder / "two.safetensors", Graph((spec("a"), spec("b")), (spec("sum"), spec("difference")), nodes), [])
    kinds = (
        Node("relu", "Relu", ("x",), ("positive",)),
        Node("greater", "Greater", ("x", "positive"), ("above",)),
        Node("arg", "ArgMax", ("x",), ("best",), {"axis": 1, "keepdims": 0}),
    )
    outputs = (spec("positive"), spec("above", "bool"), TensorSpec("best", ("batch",), "int64"))
    write(folder / "kinds.safetensors", Graph((spec("x"),), outputs, kinds), [])
    return folder


@pytest.fixture(scope="package")
def server(repository: Path) -> Iterator[Server]:
    """Serves ``repository`` to whoever has `TOKEN`. What a test unloads it loads again."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    pytest.importorskip("prometheus_client")
    running = Server(repository, "--budget", "16MiB", "--max-body", "1MiB", "--max-json", "256KiB", token=TOKEN)
    yield running
    assert running.stop() == 0
