"""The environment of the earlier package: built once, skipped with a reason where it cannot be built."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from bench.pool import earlier


class Commands:
    """Stands in for `subprocess.run`. ``fails`` tells which commands fail, and ``imported`` what Python imports."""

    def __init__(self, data: Path) -> None:
        self.ran: list[list[str]] = []
        self.fails: Callable[[list[str]], bool] = lambda command: False
        self._folder = data / f"streamrt-{earlier.COMMIT}-{sys.implementation.cache_tag}"
        self.packages = self._folder / "lib" / "python3.11" / "site-packages"
        self.imported = self.packages / "streamrt" / "__init__.py"

    def __call__(self, command: list[str] | tuple[str, ...], **options: object) -> CompletedProcess[str]:
        command = list(command)
        self.ran.append(command)
        if self.fails(command):
            return CompletedProcess(command, 1, "", "a warning\nerror: no\n")
        if "venv" in command:
            self.packages.mkdir(parents=True)
            (self._folder / "bin").mkdir()
            (self._folder / "bin" / "python").touch()
        return CompletedProcess(command, 0, f"{self.imported}\n", "")

    @property
    def steps(self) -> list[str]:
        words = ("cat-file", "archive", "venv", "pip", "-c")
        return [next(word for word in words if word in command) for command in self.ran]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands(tmp_path)
    monkeypatch.setattr(earlier.subprocess, "run", commands)
    return commands


def test_it_is_built_once(commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = earlier.interpreter(tmp_path)
    assert python.is_relative_to(tmp_path)
    assert commands.steps == ["cat-file", "archive", "venv", "pip", "-c"]
    assert "once" in capsys.readouterr().out
    shared = (commands.packages / "shared.pth").read_text().splitlines()
    assert shared == [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    assert earlier.interpreter(tmp_path) == python
    assert len(commands.ran) == 5
    assert capsys.readouterr().out == ""


def test_it_is_built_again_for_another_interpreter(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier.interpreter(tmp_path)
    monkeypatch.setattr(sys, "version", "3.99")
    earlier.interpreter(tmp_path)
    assert commands.steps == ["cat-file", "archive", "venv", "pip", "-c"] * 2


@pytest.mark.parametrize("step", ["cat-file", "archive", "venv", "pip", "-c"])
def test_a_step_that_fails_is_the_reason(commands: Commands, tmp_path: Path, step: str) -> None:
    commands.fails = lambda command: step in command
    with pytest.raises(earlier.NotMadeError, match="error: no"):
        earlier.interpreter(tmp_path)
    assert commands.steps[-1] == step
    commands.fails = lambda command: False
    assert earlier.interpreter(tmp_path)  # what was half made does not count


def test_without_git_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: object, **options: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(earlier.subprocess, "run", run)
    with pytest.raises(earlier.NotMadeError, match=f"no commit {earlier.COMMIT}"):
        earlier.interpreter(tmp_path)


def test_a_build_that_does_not_end_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(earlier.subprocess, "run", run)
    with pytest.raises(earlier.NotMadeError, match="timed out"):
        earlier.interpreter(tmp_path)


def test_another_package_is_refused(commands: Commands, tmp_path: Path) -> None:
    commands.imported = Path("/elsewhere/streamrt/__init__.py")
    with pytest.raises(earlier.NotMadeError, match="another package"):
        earlier.interpreter(tmp_path)
