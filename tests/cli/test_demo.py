"""``streamrt demo`` with a small model, and its failures."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrt import BudgetError, Model, cli, pack
from streamrt.cli import commands, demo
from streamrt.host.disk import drop_cache, in_memory, sequential_speed

Output = pytest.CaptureFixture[str]


def test_the_demo_from_end_to_end(tmp_path: Path, capsys: Output) -> None:
    assert cli.main(["demo", "--size", "48MiB", "--budget", "12MiB", "--dir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    accuracies = [float(value) for value in re.findall(r"held-out accuracy ([\d.]+)", out)]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.95
    assert "An MLP of 12 layers of 1024 x 1024, 48.0 MiB" in out
    assert "answer               right" in out
    streamed = re.search(r"each streams ([\d.]+) MiB", out)
    assert streamed
    assert 36 <= float(streamed[1]) <= 48
    assert "streaming" in err  # the progress bar
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn"])
def test_pack_makes_the_shipped_files_from_the_examples(tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnx")
    source = Path(__file__).parents[2] / "examples" / "digits" / f"{name}.onnx"
    packed = pack(source, tmp_path / "packed.safetensors").read_bytes()
    assert len(packed) < 1 << 20
    # If the format or the conversion has changed, run examples/digits/train.py --only-pack.
    assert packed == resources.files("streamrt.data").joinpath(f"{name}.safetensors").read_bytes()


def test_only_the_digits(tmp_path: Path, capsys: Output) -> None:
    assert cli.main(["demo", "--no-stream", "--dir", str(tmp_path / "missing")]) == 0
    out = capsys.readouterr().out
    assert "held-out accuracy" in out
    assert "layers of" not in out


def test_art_uses_characters_that_stdout_can_show(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((1, 8, 8), np.uint8)
    image[0, 0, :] = [0, 0, 4, 8, 12, 16, 16, 16]
    assert demo._art(image, ["a 1"]).splitlines()[0] == "      ░░▒▒▓▓██████"

    class Plain:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stdout", Plain())
    assert demo._art(image, ["a 1"]).splitlines()[0] == "      ..++##@@@@@@"


def test_a_full_disk_is_reported_before_anything_is_written(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100 << 20, 0, 100 << 20))
    assert cli.main(["demo", "--size", "48MiB", "--dir", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "the demo needs 112 MiB on a disk" in err
    assert f"100 MiB free in {tmp_path}" in err


def test_a_budget_that_is_too_small_is_told_before_anything_is_written(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_write", lambda *_: pytest.fail("the large model was written"))
    assert cli.main(["demo", "--size", "48MiB", "--budget", "64KiB", "--dir", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("streamrt: error: a budget of 65536 bytes is too small")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("layers", "width"), [(8, 256), (9, 512), (8, 1024)])
def test_the_smallest_budget_of_the_demo_is_that_of_its_model(tmp_path: Path, layers: int, width: int) -> None:
    demo._write(tmp_path / "mlp.safetensors", layers, width)
    with Model(tmp_path / "mlp.safetensors", budget=None) as model:
        least = model.min_budget()
    demo._check_budget(least, layers, width)
    with pytest.raises(BudgetError) as caught:
        demo._check_budget(least - 1, layers, width)
    assert caught.value.minimum == least


def test_a_wrong_answer_is_an_error(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_reference", lambda x, layers: np.ones_like(x))
    assert cli.main(["demo", "--size", "8MiB", "--budget", "4MiB", "--dir", str(tmp_path)]) == 1
    assert "the answer is wrong" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_removes_its_files(tmp_path: Path, number: int, code: int) -> None:
    # Large enough that the signal always arrives before the end.
    command = [sys.executable, "-m", "streamrt", "demo", "--size", "512MiB", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("module", "name", "before"), [(os, "mkdir", False), (shutil, "rmtree", True)])
def test_a_signal_while_the_folder_is_made_or_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, module: Any, name: str, before: bool
) -> None:
    original = getattr(module, name)

    def interrupted(*arguments: Any, **options: Any) -> None:
        if before:
            signal.raise_signal(number)
        original(*arguments, **options)
        if not before:
            signal.raise_signal(number)

    monkeypatch.setattr(module, name, interrupted)
    assert cli.main(["demo", "--size", "2MiB", "--budget", "1MiB", "--dir", str(tmp_path)]) == code
    assert list(tmp_path.iterdir()) == []


def test_objects_that_an_interrupt_leaves_half_made_print_no_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Bar:
        def __del__(self) -> None:
            raise AttributeError("pos")

    def interrupted(*_: object, **__: object) -> None:
        bar = Bar()
        raise KeyboardInterrupt(id(bar))

    monkeypatch.setattr(commands, "verify", interrupted)
    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    assert commands.main(["verify", "any.safetensors"]) == 130
    assert capsys.readouterr().err == "streamrt: interrupted\n"
    assert seen == []


def test_the_sequential_speed_of_any_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom((5 << 20) + 123))
    speed, way = sequential_speed(path)
    assert speed > 0
    assert way in ("mapped", "direct", "pread")
    drop_cache(path)
    with pytest.raises(FileNotFoundError):
        sequential_speed(tmp_path / "missing")


def test_memory_filesystems_are_recognised(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    (tmp_path / "self").mkdir()
    mounts = tmp_path / "self" / "mountinfo"
    line = f"32 1 {os.major(device)}:{os.minor(device)} / /tmp rw,nosuid shared:5 - {{}} source rw\n"
    for kind, expected in (("tmpfs", True), ("ext4", False)):
        mounts.write_text("31 1 0:99 / /proc rw - proc proc rw\n" + line.format(kind))
        assert in_memory(tmp_path, tmp_path) is expected
    mounts.unlink()
    assert in_memory(tmp_path, tmp_path) is False
