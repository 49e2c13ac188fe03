"""The servers, and nginx in front of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadbalancer import farm
from loadbalancer.farm import Instance
from model import zoo

MODELS = 12


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of 2.3 MiB that differ only in the values of their weights."""
    folder = tmp_path_factory.mktemp("repository")
    for seed in range(MODELS):
        zoo.mlp(folder, 64, 1024, 512, seed=seed).path.rename(folder / f"m{seed}.safetensors")
    return folder


@pytest.fixture
def servers(repository: Path, tmp_path: Path) -> Iterator[list[Instance]]:
    """Three servers, each with memory for some of the models."""
    with farm.instances(repository, tmp_path, budget=14 << 20) as found:
        yield found
