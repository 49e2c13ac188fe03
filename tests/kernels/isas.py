"""The instruction sets that there are kernels for, to parametrise tests with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from markers import LACKING_INSTRUCTIONS
from streamrt import _core

#: The instruction sets, the least first, each with its extensions as /proc/cpuinfo names them.
EXTENSIONS: dict[str, set[str]] = {
    "scalar": set(),
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl"},
    "neon": {"asimd", "crc32"},
}


def _marks(name: str) -> list[pytest.MarkDecorator]:
    lacking = name not in _core._isas()
    return [pytest.mark.skip(reason=LACKING_INSTRUCTIONS + name)] if lacking else []


#: Parameters for all instruction sets. A test is skipped for sets that this processor lacks, in CI, too.
ISAS = [pytest.param(name, marks=_marks(name)) for name in EXTENSIONS]
#: The name by which NumPy computes products. Its other loops are those of plain C.
NUMPY = "numpy"


@contextmanager
def using(name: str) -> Iterator[str]:
    """Make the kernels use an instruction set inside the ``with`` statement."""
    before = _core.isa()
    _core._use_isa(name)
    try:
        yield name
    finally:
        _core._use_isa(before)
