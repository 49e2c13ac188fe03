"""The peak of the multiply-add units, and the way of a cache line between processors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from bench.limits import LIMITS, hop
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


@pytest.fixture
def fresh_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A loop that no other test has built, and that no other test gets."""
    monkeypatch.delenv("CC", raising=False)
    hop._library.cache_clear()
    yield
    hop._library.cache_clear()


@pytest.mark.usefixtures("fresh_loop")
def test_a_cache_line_gets_from_one_processor_to_another() -> None:
    """In more than the time of a few instructions, and in less than a millisecond."""
    processors = os.sched_getaffinity(0)
    found = hop.hop()
    assert (found is not None) == (len(processors) > 1 and shutil.which("cc") is not None)
    assert found is None or 1e-9 < found < 1e-3
    assert os.sched_getaffinity(0) == processors  # only the loop's own threads stay on a processor


@pytest.mark.usefixtures("fresh_loop")
def test_there_is_no_way_without_a_compiler_or_on_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as alone:
        alone.setattr(os, "sched_getaffinity", lambda _: {0})
        assert hop.hop() is None
    monkeypatch.setenv("CC", "false")
    hop._library.cache_clear()
    assert hop.hop() is None


@pytest.mark.usefixtures("fresh_loop")
def test_there_is_no_way_to_a_processor_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thread ends, though the second one cannot begin."""
    here = min(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {here, 1023})
    assert hop.hop() is None
