"""A child process whose code the test writes, a driver without processes, and a folder on a disk."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import driver, machine
from bench.process import spawn
from suite.driving import Group, Measure, Processes

_CHILD = """
import json, os, sys

job = json.loads(sys.argv[2])

def answer(values):
    with os.fdopen(int(sys.argv[1]), "w") as file:
        json.dump(values, file)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``child(code)`` makes `spawn.run` start this code, which can use ``job`` and ``answer``."""
    script = tmp_path / "child.py"

    def write(code: str) -> None:
        script.write_text(_CHILD + textwrap.dedent(code))

    monkeypatch.setattr(spawn, "_CHILD", script)
    return write


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty folder whose files can leave memory."""
    if (filesystem := machine.describe(tmp_path)["filesystem"]) in ("tmpfs", "ramfs"):
        pytest.skip(f"temporary files are in memory ({filesystem})")
    return tmp_path


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder that holds ``bench`` and the uncompiled ``streamrt``."""
    return Path(__file__).parents[2]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    processes = Processes()
    monkeypatch.setattr(driver.spawn, "run", processes.run)

    @contextmanager
    def memory_cgroup(limit: int | None) -> Iterator[Group]:
        yield Group(limit)

    monkeypatch.setattr(driver, "memory_cgroup", memory_cgroup)
    return processes


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Processes) -> Measure:
    return Measure(tmp_path, monkeypatch)
