"""Signals during a command: files are complete or absent, and the exit code names the signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import zoo
from streamrt import cli
from streamrt.cli import commands
from streamrt.format.files import Replacement

SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``mlp.safetensors``, ``x.npy``, and ``y.npy`` and ``y.npz`` to be replaced."""
    zoo.mlp(tmp_path, 16, 32, 8)
    np.save(tmp_path / "x.npy", zoo.random_input(3, 16))
    (tmp_path / "y.npy").write_bytes(b"old")
    (tmp_path / "y.npz").write_bytes(b"old")
    return tmp_path


def run(folder: Path, *options: str, output: str = "y.npy") -> int:
    return cli.main(["run", *(str(folder / name) for name in ("mlp.safetensors", "x.npy", output)), *options])


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int) -> None:
    """Wraps a function so that a signal arrives as soon as it returns."""
    original: Callable[..., Any] = getattr(owner, name)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        found = original(*arguments, **options)
        signal.raise_signal(number)
        return found

    monkeypatch.setattr(owner, name, interrupted)


@SIGNALS
@pytest.mark.parametrize(
    ("owner", "name", "output", "nameless"),
    [
        (Replacement, "write", "y.npy", True),
        (Replacement, "write", "y.npy", False),
        (np.lib.format, "write_array", "y.npz", True),
        (np.lib.format, "write_array", "y.npz", False),
        (os, "fsync", "y.npy", True),
        (os, "fsync", "y.npy", False),
        (os, "link", "y.npy", True),
    ],
)
def test_an_output_is_replaced_only_when_it_is_complete(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
    owner: Any,
    name: str,
    output: str,
    nameless: bool,
) -> None:
    if not nameless:
        monkeypatch.setattr(Replacement, "_open_nameless", lambda self: -1)
    before = sorted(folder.iterdir())
    interrupt(monkeypatch, owner, name, number)
    assert run(folder, output=output) == code
    assert "Traceback" not in capsys.readouterr().err
    assert (folder / output).read_bytes() == b"old"
    assert sorted(folder.iterdir()) == before


def test_an_output_that_cannot_be_written_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0

    def full(fd: int, data: memoryview, offset: int) -> int:
        nonlocal written
        if written:
            raise OSError(28, "No space left on device")
        written += len(data)
        return len(data)

    monkeypatch.setattr(os, "pwrite", full)
    assert run(folder) == 1
    assert written == 128  # the header
    assert (folder / "y.npy").read_bytes() == b"old"


@SIGNALS
def test_a_trace_is_complete_or_absent(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    calls = 0

    def fsync(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:  # the first file and its folder are written
            signal.raise_signal(number)

    monkeypatch.setattr(os, "fsync", fsync)
    assert run(folder, "--trace", str(folder / "trace.json")) == code
    assert np.load(folder / "y.npy").shape == (3, 8)
    assert not (folder / "trace.json").exists()


@SIGNALS
def test_a_signal_ends_the_command_after_onnx_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    imported: list[str] = []

    def importing(name: str) -> None:
        signal.raise_signal(number)
        imported.append(name)

    monkeypatch.setattr(commands.importlib, "import_module", importing)
    assert cli.main(["pack", str(tmp_path / "missing.onnx"), str(tmp_path / "dest.safetensors")]) == code
    assert imported == ["streamrt.convert.onnx.importer"]


def test_handlers_are_restored_and_foreign_handlers_stay(folder: Path) -> None:
    seen: list[int] = []
    usual = signal.getsignal(signal.SIGTERM)
    try:
        assert run(folder) == 0
        assert signal.getsignal(signal.SIGTERM) is usual
        signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
        with commands.ENDING:
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert seen == [signal.SIGTERM]
