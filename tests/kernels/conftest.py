"""Every test of this folder runs once for each instruction set. It is skipped for sets that this processor lacks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from kernels.isas import ISAS, using
from streamrt import _core


@pytest.fixture(params=ISAS, autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set that the kernels use in this test."""
    with using(request.param) as name:
        yield name


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = _core.threads()
    yield
    _core.set_threads(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)
