"""Loads ``bench`` by its place: with the checkout on the path, the uncompiled ``streamrt`` there would be imported."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


def _load_bench() -> None:
    folder = CHECKOUT / "bench"
    spec = importlib.util.spec_from_file_location(
        "bench", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec
    assert spec.loader
    sys.modules["bench"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if "bench" not in sys.modules:  # the micro-benchmarks may have been collected before
    _load_bench()

from bench import machine  # noqa: E402
from bench.process import cgroup, spawn  # noqa: E402

_CHILD = """
import json, os, sys

job = json.loads(sys.argv[2])

def answer(values):
    with os.fdopen(int(sys.argv[1]), "w") as file:
        json.dump(values, file)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``child(code)`` is what `spawn.run` starts from now on; ``job`` and ``answer`` are at hand in it."""
    script = tmp_path / "child.py"

    def write(code: str) -> None:
        script.write_text(_CHILD + textwrap.dedent(code))

    monkeypatch.setattr(spawn, "_CHILD", script)
    return write


@pytest.fixture
def memory_cgroup() -> Callable[[int | None], AbstractContextManager[cgroup.Cgroup]]:
    """`cgroup.memory_cgroup`, but the test is skipped, with the reason, where no group can be made."""

    @contextmanager
    def make(limit: int | None) -> Iterator[cgroup.Cgroup]:
        try:
            with cgroup.memory_cgroup(limit) as group:
                yield group
        except cgroup.NoCgroupError as error:
            pytest.skip(str(error))

    return make


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty folder whose files can leave memory."""
    if (filesystem := machine.describe(tmp_path)["filesystem"]) in ("tmpfs", "ramfs"):
        pytest.skip(f"temporary files are in memory ({filesystem})")
    return tmp_path


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder that holds ``bench`` and the uncompiled ``streamrt``."""
    return CHECKOUT
