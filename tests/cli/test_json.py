"""``--json``: each command prints one object, and docs/command-line.md names all of its keys."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from streamrt import cli
from streamrt.cli.output import print_json
from streamrt.format import read_header

Output = pytest.CaptureFixture[str]
Run = Callable[..., dict[str, Any]]
MLP = Path(str(resources.files("streamrt.data"))) / "digits_mlp.safetensors"
DOCUMENT = Path(__file__).parents[2] / "docs" / "command-line.md"
#: Objects whose keys are names of a model.
NAMED = ("shapes", "inputs", "outputs")


@pytest.fixture
def run(capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The object that a command prints, in a folder with inputs and labels."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).uniform(0, 1, (2, 1, 8, 8)).astype(np.float32))
    Path("labels").write_text("\n".join("abcdefghij"))

    def call(*args: object) -> dict[str, Any]:
        assert cli.main([*map(str, args), "--json"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        found = json.loads(out)
        assert found["command"] == args[0]
        assert found["version"] == streamrt.__version__
        return dict(found)

    return call


def keys(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from keys(each)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if name not in NAMED:
                yield key
            yield from keys(each, key)


@pytest.mark.parametrize(
    "args",
    [
        ("pack", MLP, "packed", "-q"),
        ("pack", MLP, "packed", "-q", "--weights", "int8", "--compare", "x.npy"),
        ("unpack", MLP, "plain", "-q"),
        ("verify", MLP, "-q"),
        ("inspect", MLP, "--budget", "300KiB"),
        ("tune", MLP, "--budgets", "300KiB,none", "--calls", 1),
        ("tune", MLP, "--memory", "100KiB"),
        ("run", MLP, "x.npy", "--labels", "labels", "--layers"),
    ],
    ids=lambda args: " ".join(map(str, args[::2])) if isinstance(args, tuple) else None,
)
def test_every_key_is_documented(run: Run, args: tuple[object, ...]) -> None:
    section = DOCUMENT.read_text().partition("## JSON")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", section))
    found = set(keys(run(*args)))
    assert found - documented == set()
    assert len(found) >= 4


def test_pack(run: Run) -> None:
    found = run("pack", MLP, "packed", "-q")
    header = read_header("packed")
    assert found["path"] == "packed"
    assert found["size"] == header.size == Path("packed").stat().st_size
    assert found["weights"] == sum(tensor.nbytes for tensor in header.tensors.values())
    assert found["checksum"] == header.checksum
    assert found["comparison"] is None
    compared = run("pack", MLP, "small", "-q", "--weights", "int8", "--compare", "x.npy")["comparison"]
    assert [each["name"] for each in compared["outputs"]] == ["logits"]
    assert 0 < compared["outputs"][0]["rms"] < 0.1
    assert compared["layers"][0]["dtypes"] == ["F32", "int8"]


def test_unpack_and_verify(run: Run) -> None:
    assert run("unpack", MLP, "plain", "-q")["size"] == Path("plain").stat().st_size
    found = run("verify", MLP, "-q")
    assert found["intact"] is True
    assert found["path"] == str(MLP)
    assert found["size"] == MLP.stat().st_size


def test_numbers_that_are_not_finite_are_null(capsys: Output) -> None:
    print_json("x", {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": (-math.inf, "Infinity")}})
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"], found["c"]) == (None, [None, 1.5], {"d": [None, "Infinity"]})
