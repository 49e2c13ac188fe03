"""A repository of small models, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model import zoo
from serve import packing
from serve.process import TOKEN, Server


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("extras"):
        for module in ("starlette", "uvicorn", "prometheus_client"):
            pytest.importorskip(module)


@pytest.fixture(scope="package")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``mlp`` (a file of 20 KiB, inputs of 16), ``two`` (inputs a and b) and ``kinds`` (three types)."""
    folder = tmp_path_factory.mktemp("repository")
    zoo.mlp(folder, 16, 64, 32, 10)
    packing.two(folder)
    packing.kinds(folder)
    return folder


@pytest.fixture(scope="package")
def server(repository: Path) -> Iterator[Server]:
    """Serves ``repository``, with control calls for `TOKEN`. A test that unloads a model must load it again."""
    with Server(repository, "--budget", "16MiB", "--max-body", "1MiB", "--max-json", "256KiB", token=TOKEN) as running:
        yield running
