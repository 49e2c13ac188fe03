"""``streamrt run`` of a picture that lies in a file: in bands, rows go from file to file, and a bar shows the steps."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from cli.commands import Output, error_line, run
from cli.terminal import on_terminal, opened
from cli.test_ending import SIGNALS
from kernels.isas import NUMPY, using
from model import zoo
from model.test_bands import unet
from streamrt import _core
from streamrt.cli import arrays
from streamrt.cli.results import NpyRows
from streamrt.format.files import SETTLE_EVERY, Replacement

SHAPE = 2, 3, 160, 128


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with pytest.MonkeyPatch.context() as patch, using("scalar" if _core.isa() == NUMPY else _core.isa()):
        patch.setenv("STREAMRT_ISA", _core.isa())  # of other processes
        yield


class Picture:
    """A U-Net, two pictures in ``x.npy``, the result, and the least budget."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model, self.x = folder, unet(folder / "model", "nearest", *SHAPE[2:]), folder / "x.npy"
        self.values = zoo.random_input(*SHAPE)
        np.save(self.x, self.values)
        with streamrt.Model(self.model) as model:
            self.budget = model.min_budget(SHAPE)
        with streamrt.Model(self.model, self.budget) as model:
            self.y = model(self.values)
            self.steps = len(model._engine.session.steps)
            self.bands = model.plan.bands[0].count

    def arguments(self, x: Path, y: Path, *options: object) -> list[str]:
        return ["run", *map(str, (self.model, x, y, "--budget", self.budget, *options))]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Picture:
    return Picture(tmp_path_factory.mktemp("picture"))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Elements of each write to a result."""
    sizes: list[int] = []
    write = NpyRows.__setitem__

    def counted(self: NpyRows, index: Any, values: np.ndarray) -> None:
        sizes.append(values.size)
        write(self, index, values)

    monkeypatch.setattr(NpyRows, "__setitem__", counted)
    return sizes


def saved(values: np.ndarray) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_rows_go_from_file_to_file(picture: Picture, tmp_path: Path, written: list[int]) -> None:
    assert run(*picture.arguments(picture.x, tmp_path / "y.npy")) == 0
    assert (tmp_path / "y.npy").read_bytes() == saved(picture.y)
    assert sum(written) == picture.y.size
    assert max(written) <= 4 * picture.y[0].size // picture.bands


@pytest.mark.parametrize("dtype", ["float16", "uint8", ">f4"])
def test_other_types_are_converted_by_rows(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    read: list[int] = []
    convert = arrays._as_float

    def counted(array: np.ndarray, dtype: Any) -> Any:
        read.append(array.size)
        return convert(array, dtype)

    monkeypatch.setattr(arrays, "_as_float", counted)
    values = (picture.values * 3).astype(dtype) if dtype != "uint8" else picture.values.view(np.uint8)[..., :128]
    np.save(tmp_path / "x.npy", values)
    assert run(*picture.arguments(tmp_path / "x.npy", tmp_path / "y.npy")) == 0
    with streamrt.Model(picture.model, picture.budget) as model:
        expected = model(values.astype(np.float32))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    assert sum(read) == values.size
    assert max(read) <= values[0].size // picture.bands + 3 * 128


def test_summaries_are_of_the_file(picture: Picture, tmp_path: Path, capsys: Output) -> None:
    assert run(*picture.arguments(picture.x, tmp_path / "y.npy", "--json", "--repeat", 2)) == 0
    found = json.loads(capsys.readouterr().out)
    (summary,) = found["outputs"].values()
    assert summary["shape"] == list(picture.y.shape)
    assert summary["finite"] == picture.y.size
    assert (summary["min"], summary["max"]) == (float(picture.y.min()), float(picture.y.max()))
    assert summary["mean"] == pytest.approx(float(picture.y.mean(dtype=np.float64)))
    assert found["inputs"]["x"] == {"shape": list(SHAPE), "dtype": "float32"}
    assert len(found["runs"]) == 2


def test_summaries_of_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrt.cli.running._BLOCK", 3)
    values = np.array([[5, np.nan, 2, np.inf], [np.nan, np.nan, np.nan, -1], [0.5, 7, 1, 1]], np.float32)
    found = streamrt.cli.running._described(values)
    assert (found["finite"], found["min"], found["max"]) == (7, -1.0, 7.0)
    assert found["mean"] == pytest.approx(15.5 / 7)


def test_a_disk_without_room_is_found_before_the_model_runs(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, written: list[int]
) -> None:
    free = picture.y.nbytes + 127

    def full(self: Replacement, size: int) -> None:
        if size > free:
            raise OSError(errno.ENOSPC, "does not fit", self.path)

    monkeypatch.setattr(Replacement, "check_space", full)
    assert run(*picture.arguments(picture.x, tmp_path / "y.npy")) == 1
    assert "does not fit" in error_line(capsys)
    assert not written
    assert not list(tmp_path.iterdir())
    free += 1
    assert run(*picture.arguments(picture.x, tmp_path / "y.npy")) == 0


@pytest.mark.parametrize(
    ("shape", "dtype", "index"),
    [
        ((2, 3, 7, 5), "float32", (slice(1, 2), slice(None), slice(2, 6))),
        ((2, 3, 7, 5), "float64", (slice(0, 1), slice(None), slice(0, 7))),
        ((1, 3, 7, 5), "float16", (slice(0, 1), slice(None), slice(6, 7))),
        ((1, 3, 7, 5), "float32", (slice(0, 1), slice(None), slice(0, 6))),
        ((6, 4), "int64", (slice(2, 5),)),
        ((6, 4), "bool", (slice(0, 6),)),
        ((6,), "uint8", slice(1, 6)),
        ((3, 2), "float32", ...),
        ((), "float32", ...),
        ((0, 3), "float32", ...),
    ],
)
def test_slices_of_a_file(tmp_path: Path, shape: tuple[int, ...], dtype: str, index: Any) -> None:
    wanted = np.zeros(shape, dtype)
    values = np.random.default_rng(0).integers(0, 2, wanted[index].shape).astype(dtype)
    with Replacement(str(tmp_path / "y.npy")) as file:
        rows = NpyRows(file, shape, dtype)
        rows[...] = wanted
        rows[index] = values
        with pytest.raises(io.UnsupportedOperation):
            rows[index]
        file.commit()
    wanted[index] = values
    assert (tmp_path / "y.npy").read_bytes() == saved(wanted)


def test_large_results_leave_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[int] = []
    total = 0
    monkeypatch.setattr(Replacement, "settle", lambda self: settled.append(total))
    monkeypatch.setattr(Replacement, "write", lambda self, data, offset: None)
    monkeypatch.setattr(Replacement, "check_space", lambda self, size: None)
    piece = np.zeros((1, SETTLE_EVERY // 2), np.uint8)
    with Replacement(str(tmp_path / "y.npy")) as file:
        rows = NpyRows(file, (5, piece.size), "uint8")
        for row in range(5):
            total += 1
            rows[row : row + 1] = piece
    assert settled == [2, 4]


def test_a_bar_shows_the_steps_of_bands(picture: Picture, tmp_path: Path) -> None:
    arguments = picture.arguments(picture.x, tmp_path / "y.npy")
    shown = on_terminal(*arguments, stream="stderr")
    assert "running: 100%|" in shown
    assert f"{2 * picture.steps}/{2 * picture.steps} [" in shown
    assert on_terminal(*arguments, "--quiet", stream="stderr") == ""
    arguments[arguments.index("--budget") + 1] = "none"
    assert on_terminal(*arguments, stream="stderr") == ""


def test_no_bar_without_a_terminal(picture: Picture, tmp_path: Path, capsys: Output) -> None:
    assert run(*picture.arguments(picture.x, tmp_path / "y.npy")) == 0
    assert capsys.readouterr() == ("", "")


@SIGNALS
@pytest.mark.parametrize("nameless", [True, False])
def test_a_signal_within_a_pass_leaves_the_old_file(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, nameless: bool
) -> None:
    if not nameless:
        monkeypatch.setattr(Replacement, "_open_nameless", lambda self: -1)
    (tmp_path / "y.npy").write_bytes(b"old")
    threads, calls = set(threading.enumerate()), 0
    write = Replacement.write

    def interrupted(self: Replacement, data: Any, offset: int) -> None:
        nonlocal calls
        calls += 1
        write(self, data, offset)
        if calls == 6:
            signal.raise_signal(number)

    monkeypatch.setattr(Replacement, "write", interrupted)
    assert run(*picture.arguments(picture.x, tmp_path / "y.npy")) == code
    assert calls == 6
    assert [path.name for path in tmp_path.iterdir()] == ["y.npy"]
    assert (tmp_path / "y.npy").read_bytes() == b"old"
    assert set(threading.enumerate()) <= threads


@SIGNALS
def test_a_process_that_is_interrupted_leaves_nothing(picture: Picture, tmp_path: Path, number: int, code: int) -> None:
    """It is interrupted while its bar moves."""
    terminal, child = opened()
    arguments = picture.arguments(picture.x, tmp_path / "y.npy", "--repeat", 100000)
    process = subprocess.Popen([sys.executable, "-m", "streamrt", *arguments], stderr=child, stdin=subprocess.DEVNULL)
    os.close(child)
    shown = b""
    try:
        deadline = time.monotonic() + 60
        while not re.search(rb" \d+/\d+ \[", shown):  # the steps that are done, and all steps
            assert time.monotonic() < deadline
            shown += os.read(terminal, 65536)
        process.send_signal(number)
        try:
            while part := os.read(terminal, 65536):
                shown += part
        except OSError:  # the other end is closed: the process has ended
            pass
        assert process.wait(60) == code
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert (b"terminated" if number == signal.SIGTERM else b"interrupted") in shown
    assert b"Traceback" not in shown
    assert not list(tmp_path.iterdir())
