"""The instruction sets that there are kernels for, to parametrise tests with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from markers import LACKING_INSTRUCTIONS
from streamrt import _core

#: The least first, each with what /proc/cpuinfo calls the extensions that it is made of.
EXTENSIONS: dict[str, set[str]] = {
    "scalar": set(),
    "avx2": {"avx2", "fma"},
    "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl"},
}


def _marks(name: str) -> list[pytest.MarkDecorator]:
    lacking = name not in _core._isas()
    return [pytest.mark.skip(reason=LACKING_INSTRUCTIONS + name)] if lacking else []


#: All of them. A test is skipped for those that this processor lacks, in CI, too.
ISAS = [pytest.param(name, marks=_marks(name)) for name in EXTENSIONS]


@contextmanager
def using(name: str) -> Iterator[str]:
    """The kernels use that instruction set meanwhile."""
    before = _core.isa()
    _core._use_isa(name)
    try:
        yield name
    finally:
        _core._use_isa(before)
