"""The options of ``streamrt run``: engine options, chosen outputs, files, labels and JSON."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from streamrt import cli

Output = pytest.CaptureFixture[str]
MLP = Path(str(resources.files("streamrt.data"))) / "digits_mlp.safetensors"


def run(*args: object) -> int:
    return cli.main(["run", *(str(arg) for arg in args)])


@pytest.fixture
def x(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(0, 1, (3, 1, 8, 8)).astype(np.float32))
    return tmp_path / "x.npy"


def test_options_of_the_model(x: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    real = streamrt.Model.__init__

    def init(self: streamrt.Model, *args: Any, **options: Any) -> None:
        seen.append(options)
        real(self, *args, **options)

    monkeypatch.setattr(streamrt.Model, "__init__", init)
    options = ["--threads", 1, "--io", "pread", "--verify", "read", "--budget", "300KiB"]
    assert run(MLP, x, tmp_path / "y.npy", *options) == 0
    assert seen == [{"budget": 300 << 10, "threads": 1, "io": "pread", "verify": "read"}]


@pytest.mark.parametrize("when", ["open", "read"])
def test_a_damaged_file_is_found(x: Path, tmp_path: Path, capsys: Output, when: str) -> None:
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray(MLP.read_bytes())
    content[-5000] ^= 1
    damaged.write_bytes(content)
    assert run(damaged, x, tmp_path / "y.npy", "--verify", when) == 1
    assert "damaged" in capsys.readouterr().err
    assert run(damaged, x, tmp_path / "y.npy") == 0


def test_chosen_outputs(x: Path, tmp_path: Path, capsys: Output) -> None:
    with streamrt.Model(MLP) as model:
        hidden = model._engine.file.graph.nodes[1].outputs[0]
        expected = model(np.load(x), [hidden, "logits"])
    assert run(MLP, x, tmp_path / "y.npz", "--outputs", hidden, "--outputs", "logits") == 0
    with np.load(tmp_path / "y.npz") as found:
        assert set(found.files) == {hidden, "logits"}
        for name in found.files:
            np.testing.assert_array_equal(found[name], expected[name])
    assert run(MLP, x, tmp_path / "h.npy", "--outputs", hidden) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "h.npy"), expected[hidden])
    capsys.readouterr()
    assert run(MLP, x, tmp_path / "no.npy", "--outputs", "no such") == 1
    assert "the graph computes no tensor named 'no such'" in capsys.readouterr().err
    assert run(MLP, x, tmp_path / "no.npy", "--outputs", hidden, "--outputs", "logits") == 1
    assert f"2 outputs ({hidden}, logits): write a .npz file" in capsys.readouterr().err
    assert not (tmp_path / "no.npy").exists()


def test_files_may_stand_on_both_sides_of_an_option(x: Path, tmp_path: Path) -> None:
    assert run(MLP, x, "--budget", "300KiB", tmp_path / "y.npy") == 0
    assert np.load(tmp_path / "y.npy").shape == (3, 10)
    assert run("--budget", "300KiB", MLP, x, tmp_path / "z.npy") == 0
    assert (tmp_path / "z.npy").exists()


def test_labels(x: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "labels").write_text("".join(f"digit {index}\x1b\n" for index in range(10)))
    assert run(MLP, x, "--labels", tmp_path / "labels") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::6] == ["sample 0", "sample 1", "sample 2"]
    with streamrt.Model(MLP) as model:
        best = model(np.load(x)).argmax(axis=1)
    assert [line.split()[-1] for line in lines[1::6]] == [f"{index}\\x1b" for index in best]
    (tmp_path / "labels").write_text("one\ntwo\n")
    assert run(MLP, x, tmp_path / "y.npy", "--labels", tmp_path / "labels") == 1
    assert "as there are 2 labels; found logits (3, 10)" in capsys.readouterr().err
    assert not (tmp_path / "y.npy").exists()


def test_json(x: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "labels").write_text("\n".join(map(str, range(10))))
    options = ["--json", "--repeat", 2, "--layers", "--stats", "--labels", tmp_path / "labels", "--budget", "300KiB"]
    assert run(MLP, x, tmp_path / "y.npy", *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["command"] == "run"
    assert found["version"] == streamrt.__version__
    assert found["path"] == str(MLP)
    assert found["output"] == str(tmp_path / "y.npy")
    y = np.load(tmp_path / "y.npy")
    summary = found["outputs"]["logits"]
    assert summary == {
        "shape": [3, 10],
        "dtype": "float32",
        "finite": 30,
        "min": pytest.approx(y.min()),
        "max": pytest.approx(y.max()),
        "mean": pytest.approx(y.mean(), abs=1e-6),
    }
    assert len(found["runs"]) == 2
    assert all(each["samples"] == 3 and each["seconds"] > 0 for each in found["runs"])
    assert found["runs"][1]["bytes_streamed"] > 0
    assert [layer["name"] for layer in found["layers"]]
    assert [len(classes) for classes in found["classes"]] == [5, 5, 5]
    assert found["classes"][0][0]["index"] == y[0].argmax()


def test_json_of_outputs_without_numbers(tmp_path: Path, capsys: Output) -> None:
    layers = [streamrt.Layer("Gemm", np.full((2, 2), np.nan, np.float32))]
    packed = streamrt.pack(layers, tmp_path / "nan.safetensors")
    np.save(tmp_path / "x.npy", np.ones((1, 2), np.float32))
    assert run(packed, tmp_path / "x.npy", "--json") == 0
    (summary,) = json.loads(capsys.readouterr().out)["outputs"].values()
    assert (summary["finite"], summary["min"], summary["mean"]) == (0, None, None)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["m", "x.npy"], "the answers go nowhere: expected an output"),
        (["m", "x.jpg"], "the answers go nowhere"),
        (["m", "x.jpg", "y.jpg"], "the answers go nowhere"),
        (["m"], "the following arguments are required: FILE"),
        (["m", "x.npy", "z.npy", "y.npy"], "expected one .npy or .npz file, or pictures"),
        (["m", "x.npy", "x.jpg", "y.npy"], "expected one .npy or .npz file, or pictures"),
        (["m", "x.jpg", "x.npy", "y.npy"], "expected one .npy or .npz file, or pictures"),
        (["m", "x.npy", "y.npy", "--size", "224"], "--size is for pictures"),
        (["m", "x.npy", "y.npy", "--mean", "0"], "--mean is for pictures"),
        (["m", "x.npy", "y.npy", "--std", "imagenet"], "--std is for pictures"),
        (["m", "x.jpg", "y.npy", "--size", "0x5"], "expected HEIGHTxWIDTH"),
        (["m", "x.jpg", "y.npy", "--size", "5x"], "expected HEIGHTxWIDTH"),
        (["m", "x.jpg", "y.npy", "--size", "99999"], "expected HEIGHTxWIDTH"),
        (["m", "x.jpg", "y.npy", "--mean", "1,2"], "expected 1 or 3 numbers"),
        (["m", "x.jpg", "y.npy", "--mean", "nan"], "expected 1 or 3 numbers"),
        (["m", "x.jpg", "y.npy", "--std", "0.2,0,0.2"], "expected 1 or 3 numbers above 0"),
        (["m", "x.npy", "y.npy", "--threads", "0"], "expected a whole number"),
        (["m", "x.npy", "y.npy", "--io", "rdma"], "invalid choice: 'rdma'"),
        (["m", "x.npy", "y.npy", "--verify", "never"], "invalid choice: 'never'"),
        (["m", "x.npy", "--paint", "y.npy"], "unrecognized arguments: --paint y.npy"),
    ],
)
def test_wrong_usage_is_exit_code_2(capsys: Output, args: list[str], reason: str) -> None:
    assert run(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err


@pytest.mark.parametrize(
    ("mean", "expected"), [("0.5", (0.5,)), ("1,-2,3", (1.0, -2.0, 3.0)), ("imagenet", (0.485, 0.456, 0.406))]
)
def test_numbers_of_channels(mean: str, expected: tuple[float, ...]) -> None:
    assert cli.commands.arguments.mean(mean) == expected


@pytest.mark.parametrize(("size", "expected"), [("224", (224, 224)), ("8x16", (8, 16))])
def test_sizes_of_pictures(size: str, expected: tuple[int, int]) -> None:
    assert cli.commands.arguments.picture_size(size) == expected
