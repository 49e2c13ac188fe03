"""The peak of the multiply-add units."""

from __future__ import annotations

import shutil

import pytest

from bench.limits import LIMITS
from bench.limits.processor import sgemm


def test_no_product_exceeds_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for the noise of a busy machine."""
    monkeypatch.delenv("CC", raising=False)
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    found = max(LIMITS["fma"](None, 1) or 0.0 for _ in range(3))
    assert found > 1e9
    assert sgemm(None, 1) < 1.2 * found


def test_without_a_compiler_there_is_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    for compiler in ("/nowhere/cc", "false"):
        monkeypatch.setenv("CC", compiler)
        assert LIMITS["fma"](None, 1) is None
