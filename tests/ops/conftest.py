"""Fixtures of the operators' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernels.isas import ISAS, NUMPY, using


@pytest.fixture(params=[NUMPY, *ISAS])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set that operators use in a test that asks for it."""
    with using(request.param) as name:
        yield name
