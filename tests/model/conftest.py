"""Models that several tests open."""

import pytest

from model import zoo


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """About 1 MiB of weights in four layers."""
    return zoo.mlp(tmp_path_factory.mktemp("small"), 64, 512, 384, 128, 10)


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """About 64 MiB of weights in four layers, each of them larger than a small window."""
    return zoo.mlp(tmp_path_factory.mktemp("large"), 2048, 2048, 2048, 2048, 2048)
