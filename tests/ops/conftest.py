"""Fixtures of the operators' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernels.isas import ISAS, using


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set that the kernels use in a test that asks for it."""
    with using(request.param) as name:
        yield name
