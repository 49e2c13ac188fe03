"""The parts of the function, without a process: its budget, and copying."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from serverless.function import EXAMPLE

MIB = 1 << 20
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports a module of the function."""
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module


@pytest.mark.parametrize(
    ("told", "available", "anonymous", "budget"),
    [
        (None, 300, 40, 300 - 64),  # another platform: cgroups and the machine
        ("256", 300, 40, 256 - 40 - 64),
        ("256", 200, 40, 200 - 64),  # the group is smaller than Lambda says
        ("128", 300, 40, 128 - 40 - 64),
    ],
)
def test_the_budget_is_the_lower_limit(
    load: Load, monkeypatch: pytest.MonkeyPatch, told: str | None, available: int, anonymous: int, budget: int
) -> None:
    room = load("room")
    monkeypatch.setattr(room.memory, "available", lambda: available * MIB)
    monkeypatch.setattr(room.memory, "anonymous_bytes", lambda: anonymous * MIB)
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", raising=False)
    if told:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", told)
    assert room.budget() == budget * MIB


def test_a_budget_is_at_least_a_byte(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1")
    assert load("room").budget() == 1


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 20 * MIB + 7])
def test_copies_are_equal(load: Load, tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(range(251)) * (size // 251) + b"x" * (size % 251))
    load("copying").copy(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_a_copy_that_fails_leaves_no_file(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copying = load("copying")
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 100)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copying.os, "fdatasync", full)
    with pytest.raises(OSError, match="No space left"):
        copying.copy(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
