"""Weights files that several tests put into pools."""

import pytest

from model import zoo


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Six models of 0.2 to 12 MiB, by name; the name ends with the width of the input."""
    widths = [(64, 512, 64), (96, 256, 512, 96), (128, 1024, 1024, 10), (160, 1024, 1024, 1024, 16)]
    widths += [(256, 2048, 512), (512, 1024, 1024, 1024, 512)]
    return {f"m{shape[0]}": zoo.mlp(tmp_path_factory.mktemp(f"m{shape[0]}"), *shape, seed=shape[0]) for shape in widths}
