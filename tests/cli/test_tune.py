"""``streamrt tune``: its output, exit codes, Ctrl-C, and pictures."""

from __future__ import annotations

import itertools
import json
import signal
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from cli.terminal import on_terminal
from model import zoo
from streamrt import cli

Output = pytest.CaptureFixture[str]
MLP = Path(str(resources.files("streamrt.data"))) / "digits_mlp.safetensors"


def run(*args: object) -> int:
    return cli.main(["tune", *(str(arg) for arg in args)])


def test_a_table_and_a_picture(capsys: Output) -> None:
    assert run(MLP, "--calls", 1) == 0
    out, err = capsys.readouterr()
    assert err == ""  # no bar where stderr is no terminal
    assert out.startswith(f"model   {MLP}: 653 KiB of weights\ninputs  image (1, 1, 8, 8)\n")
    assert "bound by" in out
    assert "<- knee" in out
    assert "# measured, | predicted" in out
    assert "* The knee is " in out
    assert "within" not in err


def test_json(capsys: Output) -> None:
    assert run(MLP, "--calls", 2, "--budgets", "256KiB,none,400KB", "--batch", 3, "--within", "50%", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["command"] == "tune"
    assert [point["budget"] for point in found["points"]] == [262144, 400000, found["everything"]]
    assert found["knee"] in [point["budget"] for point in found["points"]]
    assert found["within"] == 0.5
    assert found["shapes"] == {"image": [3, 1, 8, 8]}
    assert [point["calls"] for point in found["points"]] == [2, 2, 2]


def test_inputs_of_a_file(tmp_path: Path, capsys: Output) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 8, 8), np.float32))
    assert run(MLP, "--inputs", tmp_path / "x.npy", "--budgets", "none", "--calls", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["shapes"] == {"image": [2, 1, 8, 8]}


def test_the_options_of_the_model(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    seen: list[dict[str, Any]] = []
    real = streamrt.Model.__init__

    def init(self: streamrt.Model, *args: Any, **options: Any) -> None:
        seen.append(options)
        real(self, *args, **options)

    monkeypatch.setattr(streamrt.Model, "__init__", init)
    assert run(MLP, "--budgets", "300KiB", "--calls", 1, "--threads", 1, "--io", "pread", "--json") == 0
    assert seen == [{"threads": 1, "io": "pread"}]
    assert json.loads(capsys.readouterr().out)["io"] == "pread"


def test_what_fits(capsys: Output) -> None:
    assert run(MLP, "--memory", "128KiB") == 0
    out = capsys.readouterr().out
    for text in ("128 KiB (131072 bytes)", "float32 *", "float16", "int8", "int4", "pack MODEL DEST --weights TYPE"):
        assert text in out
    assert run(MLP, "--memory", "128KiB", "--batch", 2, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["command"] == "tune"
    assert found["memory"] == 131072
    assert {row["batch"] for row in found["rows"]} >= {2, 4}


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--memory", "1MiB", "--budgets", "1MiB"], "--memory runs nothing: leave out --budgets"),
        (["--memory", "1MiB", "--plot", "x.png"], "--memory runs nothing: leave out --plot"),
        (["--memory", "1MiB", "--inputs", "x.npy"], "--memory runs nothing: leave out --inputs"),
        (["--inputs", "x.npy", "--batch", "2"], "--inputs has the shapes: leave out --batch and --shape"),
        (["--inputs", "x.npy", "--shape", "image=1,1,8,8"], "--inputs has the shapes"),
        (["--budgets", "1MiB,,2MiB"], "expected a number and a unit"),
        (["--within", "100"], "expected percent"),
        (["--within", "nan"], "expected percent"),
        (["--seconds", "0"], "expected seconds"),
        (["--memory", "none"], "expected a number and a unit"),
        (["surplus"], "unrecognized arguments: surplus"),
    ],
)
def test_wrong_usage_is_exit_code_2(capsys: Output, args: list[str], reason: str) -> None:
    assert run(MLP, *args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["missing"], "missing: No such file or directory"),
        ([MLP, "--budgets", "1KiB"], "smallest budget"),
        ([MLP, "--shape", "image=1,8"], "input 'image': expected shape"),
        ([MLP, "--inputs", "missing.npy"], "missing.npy: No such file or directory"),
        ([MLP, "--plot", "missing/x.png"], "missing/x.png: the folder 'missing' does not exist"),
        (["missing", "--memory", "1MiB"], "missing: No such file or directory"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, args: list[object], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*args) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("streamrt: error: ")
    assert reason in err


@pytest.mark.extras
def test_the_curve_is_drawn(tmp_path: Path, capsys: Output) -> None:
    pytest.importorskip("matplotlib")
    assert run(MLP, "--calls", 1, "--plot", tmp_path / "curve.png", "--json") == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert run(MLP, "--calls", 1, "--seconds", 0.001, "--plot", tmp_path / "curve.svg") == 0
    drawn = (tmp_path / "curve.svg").read_text()
    assert drawn.startswith("<?xml")
    assert "not measured" in capsys.readouterr().out


@pytest.mark.extras
def test_an_unknown_ending_is_refused_before_anything_runs(tmp_path: Path, capsys: Output) -> None:
    pytest.importorskip("matplotlib")
    assert run(MLP, "--plot", tmp_path / "curve.txt") == 1
    assert "expected the name of a file that ends in one of " in capsys.readouterr().err


def test_a_picture_without_matplotlib_is_refused(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(MLP, "--plot", tmp_path / "curve.png") == 1
    assert "pip install 'streamrt[plot]'" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code", "printed"), [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, False)])
def test_a_signal_ends_the_measurement(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, number: int, code: int, printed: bool
) -> None:
    calls, real = itertools.count(1), streamrt.Model.__call__

    def call(self: streamrt.Model, *args: Any) -> Any:
        if next(calls) == 7:
            signal.raise_signal(number)
        return real(self, *args)

    monkeypatch.setattr(streamrt.Model, "__call__", call)
    assert run(MLP, "--calls", 4) == code
    out, err = capsys.readouterr()
    assert err == ("streamrt: interrupted\n" if printed else "streamrt: terminated\n")
    assert ("budgets were not measured" in out) == printed
    assert ("bound by" in out) == printed


@pytest.mark.parametrize(("options", "shown"), [([], True), (["--quiet"], False)])
def test_a_bar_on_a_terminal(tmp_path: Path, options: list[str], shown: bool) -> None:
    packed = zoo.mlp(tmp_path, 64, 64)
    err = on_terminal("tune", packed.path, "--calls", 1, *options, stream="stderr")
    assert ("tuning: 100%" in err) == shown


@pytest.mark.parametrize("memory", [[], ["--memory", "1MiB"]])
def test_text_fits_into_the_terminal(tmp_path: Path, memory: list[str]) -> None:
    packed = zoo.mlp(tmp_path, 64, 64)
    out = on_terminal("tune", packed.path, "--calls", 1, *memory, stream="stdout", columns=72)
    lines = out.split("\n")
    assert max(map(len, lines)) <= 72
    assert len(lines) > 8
