"""The command line: its output, its exit codes, and errors of one line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors

import streamrt
from cli.commands import DATA, MLP, Output, error_line, run
from streamrt.cli.inspection import drawn, inspect_model
from streamrt.errors import UnsupportedModelError
from streamrt.format import read_header
from streamrt.host.budget import format_size
from streamrt.plan import Plan, Range


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    with np.load(DATA / "digits_test.npz") as test:
        return (test["images"][:20, None] / 16).astype(np.float32)


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn"])
def test_inspect_shows_layers_and_plan(capsys: Output, name: str) -> None:
    assert run("inspect", DATA / f"{name}.safetensors", "--budget", "256KiB", "--batch", 4) == 0
    out = capsys.readouterr().out
    assert "Gemm + Relu" in out or "Conv + Relu" in out
    assert "image (4, 1, 8, 8)" in out
    assert "256 KiB (262144 bytes)" in out


def test_pack_stores_weights_in_fewer_bytes(capsys: Output, tmp_path: Path) -> None:
    dest = tmp_path / "small.safetensors"
    names = [name for name, tensor in read_header(MLP).tensors.items() if len(tensor.shape) == 2]
    assert run("pack", MLP, dest, "--weights", "int8", "--keep", f"{names[-1]}=float16", "-q") == 0
    assert [read_header(dest).tensors[name].dtype for name in names] == ["int8"] * (len(names) - 1) + ["F16"]
    capsys.readouterr()
    assert run("inspect", dest) == 0
    out = capsys.readouterr().out
    assert [out.count(f" {dtype},") for dtype in ("int8", "F16", "F32")] == [len(names) - 1, 1, 0]
    assert run("inspect", dest, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    stored = {p["name"]: (p["dtype"], p["nbytes"]) for layer in found["layers"] for p in layer["parameters"]}
    assert stored == {name: (tensor.dtype, tensor.nbytes) for name, tensor in read_header(dest).tensors.items()}
    assert found["weights"] == sum(nbytes for _, nbytes in stored.values())


def test_pack_compares_the_answers(capsys: Output, tmp_path: Path, images: np.ndarray) -> None:
    inputs, dest = tmp_path / "inputs.npz", tmp_path / "small.safetensors"
    np.savez(inputs, image=images)
    assert run("pack", MLP, dest, "--weights", "int8", "--compare", inputs, "-q") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{dest}: ")
    assert lines[1].startswith("logits: relative RMS 0.00")
    assert lines[1].endswith(", 100.0% of the samples have the same class")
    assert len(lines) == 2 + 3
    assert all(" (F32 to int8): relative RMS of the weights 0.00" in line for line in lines[2:4])
    assert " (F32 to F16): relative RMS of the weights 0.000" in lines[4]  # few weights stay larger
    assert sorted(tmp_path.iterdir()) == [inputs, dest]
    assert run("pack", dest, dest, "--compare", inputs, "-q") == 0  # nothing changes
    assert "relative RMS 0, largest difference 0, 100.0% of" in capsys.readouterr().out


@pytest.mark.extras
def test_pack_compares_with_the_source_of_another_framework(capsys: Output, tmp_path: Path, images: np.ndarray) -> None:
    pytest.importorskip("onnx")
    source = Path(__file__).parents[2] / "examples" / "digits" / "digits_cnn.onnx"
    inputs, dest = tmp_path / "inputs.npy", tmp_path / "small.safetensors"
    np.save(inputs, images)
    assert run("pack", source, dest, "--weights", "int4", "--compare", inputs, "-q") == 0
    assert " (F32 to int4): relative RMS of the weights 0." in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == [inputs, dest]


@pytest.mark.parametrize("shape", [(3, 1, 8, 9), (64,)])
def test_inputs_that_do_not_fit_write_nothing(capsys: Output, tmp_path: Path, shape: tuple[int, ...]) -> None:
    inputs = tmp_path / "inputs.npy"
    np.save(inputs, np.zeros(shape, np.float32))
    assert run("pack", MLP, tmp_path / "small.safetensors", "--weights", "int8", "--compare", inputs, "-q") == 1
    assert "input 'image'" in error_line(capsys)
    assert list(tmp_path.iterdir()) == [inputs]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--weights", "float8"], "invalid choice: 'float8'"),
        (["--keep", "float16"], "expected NAME=TYPE"),
        (["--keep", "=float16"], "expected NAME=TYPE"),
        (["--input", "Nx3"], "expected NAME=EXTENTS, such as images=Nx3x640x640"),
        (["--input", "image=Nx"], "expected NAME=EXTENTS"),
        (["--input", "=Nx3"], "expected NAME=EXTENTS"),
    ],
)
def test_pack_refuses_options_of_another_form(capsys: Output, tmp_path: Path, options: list[str], reason: str) -> None:
    assert run("pack", MLP, tmp_path / "small.safetensors", *options) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_pack_fixes_the_extents_of_an_input(capsys: Output, tmp_path: Path) -> None:
    (spec,) = read_header(MLP).graph.inputs
    dest = tmp_path / "fixed.safetensors"
    extents = "x".join(["4", *map(str, spec.dims[1:])])
    assert run("pack", MLP, dest, "--input", f"{spec.name}={extents}", "-q") == 0
    assert [spec.dims for spec in read_header(dest).graph.inputs] == [(4, *spec.dims[1:])]
    capsys.readouterr()
    assert run("pack", MLP, tmp_path / "other", "--input", f"x{extents}={extents}", "-q") == 1
    assert error_line(capsys).startswith(f"inputs: the model has no input 'x{extents}'; it has {spec.name!r} (")
    assert list(tmp_path.iterdir()) == [dest]


def test_pack_keep_names_a_weight_that_is_not_there(capsys: Output, tmp_path: Path) -> None:
    assert run("pack", MLP, tmp_path / "small.safetensors", "--keep", "head=float16", "-q") == 1
    assert error_line(capsys).startswith("keep: the model has no weight 'head'; it has ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("budget", ["256KiB", "500KiB", "none"])
def test_inspect_draws_the_plan(capsys: Output, budget: str) -> None:
    assert run("inspect", MLP, "--budget", budget) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("from end to end ")]
    picture, legend = row.removeprefix("from end to end ").strip().split(" ", 1)
    assert legend == "(# pinned, . streamed, + both)"
    plan = inspect_model(MLP, None if budget == "none" else budget).plan
    assert picture == drawn(plan)
    assert len(picture) == 64
    assert ("." in picture) == (budget != "none")
    pinned, total = (sum(r.length for r in plan.ranges if r.pinned or each) for each in (False, True))
    hashes, dots, both = map(picture.count, "#.+")
    # Each character stands for 1/64 of the weights: # if over 3/4 are pinned, . if under 1/4, else +.
    assert 0.75 * hashes + 0.25 * both <= 64 * pinned / total <= hashes + 0.75 * both + 0.25 * dots


def test_inspect_json_adds_up(capsys: Output) -> None:
    assert run("inspect", MLP, "--json", "--budget", "300KiB") == 0
    found = json.loads(capsys.readouterr().out)
    weights = 4 * (64 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10)
    assert found["weights"] == weights
    assert found["size"] == MLP.stat().st_size
    assert found["plan"]["budget"] == 300 << 10
    plan = found["plan"]
    assert plan["pinned"] + plan["window"] + plan["workspace"] <= 300 << 10
    layers = found["layers"]
    assert sum(layer["pinned"] + layer["streamed"] for layer in layers) == weights
    assert 0 < sum(layer["streamed"] for layer in layers) <= plan["streamed_per_pass"]
    for layer in layers:
        assert sum(p["nbytes"] for p in layer["parameters"]) == layer["pinned"] + layer["streamed"]


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([(10, True)], "########"),
        ([(10, False)], "........"),
        ([(5, True), (5, False)], "####...."),
        ([(1, True), (1, False)] * 40, "++++++++"),
        ([(7, False), (1, True)], ".......#"),
        ([], ""),
    ],
)
def test_a_plan_is_drawn_in_the_order_of_execution(ranges: list[tuple[int, bool]], expected: str) -> None:
    pieces = tuple(Range(0, length, pinned) for length, pinned in ranges)
    plan = Plan((), pieces, granule=1, window=0, workspace=0, pinned_bytes=0, streamed_bytes=0, budget=None)
    assert drawn(plan, 8) == expected


def test_inspect_without_a_budget_pins_everything(capsys: Output) -> None:
    assert run("inspect", MLP, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["budget"] is None
    assert [layer["streamed"] for layer in found["layers"]] == [0] * len(found["layers"])


def test_inspect_names_the_smallest_budget_that_works(capsys: Output) -> None:
    assert run("inspect", MLP, "--json") == 0
    least = json.loads(capsys.readouterr().out)["min_budget"]
    assert run("inspect", MLP, "--budget", least) == 0
    capsys.readouterr()
    assert run("inspect", MLP, "--budget", least - 1) == 1
    assert str(least) in error_line(capsys)


def test_run_npy(tmp_path: Path, capsys: Output, images: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", images)
    assert run("run", MLP, tmp_path / "x.npy", tmp_path / "y.npy", "--budget", "256KiB", "--repeat", 2, "--stats") == 0
    with streamrt.Model(MLP, budget=None) as model:
        expected = model(images)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("20 samples" in line for line in lines)


def test_run_prints_layers_and_writes_a_trace(tmp_path: Path, capsys: Output, images: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", images)
    trace = tmp_path / "trace.json"
    assert run("run", MLP, tmp_path / "x.npy", tmp_path / "y.npy", "--layers", "--trace", trace) == 0
    out = capsys.readouterr().out
    assert out.startswith("| layer | operator |")
    assert "| **all** |" in out
    assert json.loads(trace.read_text())["traceEvents"]


@pytest.mark.extras
def test_run_draws(tmp_path: Path, images: np.ndarray) -> None:
    pytest.importorskip("matplotlib")
    np.save(tmp_path / "x.npy", images)
    assert run("run", MLP, tmp_path / "x.npy", tmp_path / "y.npy", "--plot", tmp_path / "pass.png") == 0
    assert (tmp_path / "pass.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.extras
def test_a_picture_of_an_unknown_ending_is_refused_before_the_run(
    tmp_path: Path, capsys: Output, images: np.ndarray
) -> None:
    pytest.importorskip("matplotlib")
    np.save(tmp_path / "x.npy", images)
    assert run("run", MLP, tmp_path / "x.npy", tmp_path / "y.npy", "--stats", "--plot", tmp_path / "p.txt") == 1
    text = error_line(capsys)
    assert "p.txt: expected the name of a file that ends in one of " in text
    for ending in (".pdf", ".png", ".svg"):
        assert ending in text
    assert not (tmp_path / "y.npy").exists()


def test_a_picture_without_matplotlib_is_refused_before_the_run(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, images: np.ndarray
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    np.save(tmp_path / "x.npy", images)
    assert run("run", MLP, tmp_path / "x.npy", tmp_path / "y.npy", "--stats", "--plot", tmp_path / "p.png") == 1
    assert "pip install 'streamrt[plot]'" in error_line(capsys)
    assert not (tmp_path / "y.npy").exists()


@pytest.mark.parametrize("key", ["image", "anything"])
def test_run_npz(tmp_path: Path, capsys: Output, images: np.ndarray, key: str) -> None:
    np.savez(tmp_path / "x.npz", **{key: images.astype(np.float64)})
    assert run("run", MLP, tmp_path / "x.npz", tmp_path / "y.npz", "--budget", "none") == 0
    assert capsys.readouterr().out == ""
    with np.load(tmp_path / "y.npz") as found, streamrt.Model(MLP, budget=None) as model:
        assert found.files == ["logits"]
        np.testing.assert_allclose(found["logits"], model(images), rtol=1e-5, atol=1e-5)


def test_run_with_two_inputs_and_outputs(tmp_path: Path, capsys: Output, two_ends: Path) -> None:
    a, b = np.float32([[1, 2]]), np.float32([[30, 40]])
    np.savez(tmp_path / "x.npz", b=b, a=a)
    assert run("run", two_ends, tmp_path / "x.npz", tmp_path / "y.npz") == 0
    with np.load(tmp_path / "y.npz") as found:
        np.testing.assert_array_equal(found["sum"], a + b)
        np.testing.assert_array_equal(found["difference"], a - b)
    assert run("run", two_ends, tmp_path / "x.npz", tmp_path / "y.npy") == 1
    assert "the model has 2 outputs (sum, difference): write a .npz file" in error_line(capsys)
    np.save(tmp_path / "x.npy", a)
    assert run("run", two_ends, tmp_path / "x.npy", tmp_path / "z.npz") == 1
    assert "the model has 2 inputs (a, b): pass a .npz file" in error_line(capsys)
    np.savez(tmp_path / "c.npz", a=a, c=b)
    assert run("run", two_ends, tmp_path / "c.npz", tmp_path / "z.npz") == 1
    assert "'c'" in error_line(capsys)


@pytest.mark.parametrize(
    ("name", "shape", "size", "reason"),
    [
        ("x", (2, 3), 99999, "input 'image': expected shape (batch, 1, 8, 8), found (2, 3)"),
        ("x", (1, 1, 8, 8), 255, "x.npz: expected a .npy or .npz file of numbers"),
        ("x", (2**60, 1, 8, 8), 256, "x.npz: expected a .npy or .npz file of numbers"),
        ("photo", (1, 1, 8, 8), 99999, "no input is named ['other', 'photo']; the model has 'image'"),
    ],
)
def test_a_npz_file_is_checked_before_its_arrays_are_read(
    tmp_path: Path, capsys: Output, name: str, shape: tuple[int, ...], size: int, reason: str
) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.npy", header.getvalue() + b"\1" * size)
        if name != "x":
            archive.writestr("other.npy", header.getvalue() + b"\1" * size)
    broken = bytearray(path.read_bytes())
    place = broken.index(b"\1" * size)
    broken[place : place + 1] = b"\2"  # reading the array would find a wrong checksum
    path.write_bytes(broken)
    assert run("run", MLP, path, tmp_path / "y.npy") == 1
    assert reason in error_line(capsys)


@pytest.fixture
def two_ends(tmp_path: Path) -> Path:
    """A packed model of two inputs and two outputs."""
    from streamrt.format import write
    from streamrt.graph import Graph, Node, TensorSpec

    def spec(name: str) -> TensorSpec:
        return TensorSpec(name, ("batch", 2))

    nodes = (Node("add", "Add", ("a", "b"), ("sum",)), Node("sub", "Sub", ("a", "b"), ("difference",)))
    path = tmp_path / "two.safetensors"
    write(path, Graph((spec("a"), spec("b")), (spec("sum"), spec("difference")), nodes), [])
    return path


def test_run_with_inputs_of_other_types(tmp_path: Path, capsys: Output) -> None:
    from streamrt.format import write
    from streamrt.graph import Graph, Node, TensorSpec

    specs = tuple(TensorSpec(name, ("batch", 2), dtype) for name, dtype in (("ids", "uint8"), ("mask", "bool")))
    nodes = (
        Node("cast", "Cast", ("ids",), ("f",), {"to": "float32"}),
        Node("where", "Where", ("mask", "f", "mask"), ("y",)),
    )
    path, x = tmp_path / "m.safetensors", tmp_path / "x.npz"
    write(path, Graph(specs, (TensorSpec("y", ("batch", 2)),), nodes), [])
    assert run("inspect", path) == 0
    assert "ids (batch, 2) uint8; mask (batch, 2) bool" in capsys.readouterr().out
    assert run("inspect", path, "--json") == 0
    assert [spec["dtype"] for spec in json.loads(capsys.readouterr().out)["inputs"]] == ["uint8", "bool"]
    np.savez(x, ids=np.array([[255, 0]]), mask=np.array([[True, False]]))
    assert run("run", path, x, tmp_path / "y.npy") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), [[255, 0]])
    for ids, mask, words in (
        (
            np.array([[256, 0]]),
            np.array([[True, False]]),
            "'ids': the model's input is uint8, from 0 to 255; found 0 to",
        ),
        (np.array([[1.5, 0]]), np.array([[True, False]]), "'ids': the model's input is uint8, found float64"),
        (np.array([[1, 0]]), np.array([[1, 0]]), "'mask': the model's input is bool, found int64"),
        (np.array([["a", "b"]]), np.array([[True, False]]), "'ids': expected real numbers"),
    ):
        np.savez(x, ids=ids, mask=mask)
        assert run("run", path, x, tmp_path / "y.npy") == 1
        assert words in error_line(capsys)


def test_verify(tmp_path: Path, capsys: Output) -> None:
    assert run("verify", MLP, "--quiet") == 0
    assert "every checksum is right" in capsys.readouterr().out
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray(MLP.read_bytes())
    content[-5000] ^= 1
    damaged.write_bytes(content)
    assert run("verify", damaged, "-q") == 1
    assert "damaged" in error_line(capsys)


def test_pack(tmp_path: Path, capsys: Output) -> None:
    onnx = pytest.importorskip("onnx")
    relu = onnx.helper.make_node("Relu", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([relu], "g", ends[:1], ends[1:]), opset_imports=[onnx.helper.make_opsetid("", 17)]
    )
    onnx.save(model, tmp_path / "relu.onnx")
    assert run("pack", tmp_path / "relu.onnx", tmp_path / "relu.safetensors", "--quiet") == 0
    out, err = capsys.readouterr()
    assert "relu.safetensors" in out
    assert err == ""
    np.save(tmp_path / "x.npy", np.float32([[-1, 0, 2]]))
    assert run("run", tmp_path / "relu.safetensors", tmp_path / "x.npy", tmp_path / "y.npy") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), [[0, 0, 2]])


def test_pack_and_unpack_a_weights_file(tmp_path: Path, capsys: Output) -> None:
    packed, plain = tmp_path / "packed.safetensors", tmp_path / "plain.safetensors"
    assert run("pack", MLP, packed, "--quiet") == 0
    assert run("unpack", packed, plain, "--quiet") == 0
    out, err = capsys.readouterr()
    assert out == f"{packed}: {format_size(packed.stat().st_size)}\n{plain}: {format_size(plain.stat().st_size)}\n"
    assert err == ""
    assert packed.read_bytes() == MLP.read_bytes()
    with safetensors.safe_open(plain, "numpy") as file:
        assert list(file.offset_keys()) == list(read_header(MLP).tensors)
    assert run("unpack", MLP, plain) == 0
    assert "unpacking: 100%" in capsys.readouterr().err
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray(MLP.read_bytes())
    content[-5000] ^= 1
    damaged.write_bytes(content)
    for command in ("pack", "unpack"):
        assert run(command, damaged, tmp_path / "out", "-q") == 1
        assert "damaged" in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_limits_of_packing(tmp_path: Path, capsys: Output) -> None:
    onnx = pytest.importorskip("onnx")
    make = onnx.helper.make_node
    nodes = [make("Expand", ["k", "s"], ["c"], name="big"), make("ReduceSum", ["c"], ["d"], keepdims=0)]
    nodes.append(make("Add", ["x", "d"], ["y"]))
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    constants = {"k": np.ones(1, np.float32), "s": np.array([10_000], np.int64)}
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    args = ("pack", tmp_path / "m.onnx", tmp_path / "m.safetensors", "--quiet")
    assert run(*args, "--max-memory", "64KiB") == 1
    assert "'big' (Expand)" in (text := error_line(capsys))
    assert "64.0 KiB" in text
    assert "--max-memory" in text
    assert run(*args, "--max-seconds", "1e-9") == 1
    assert "--max-seconds" in error_line(capsys)
    assert run(*args, "--max-memory", "1MiB", "--max-seconds", "100") == 0


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["inspect", "missing.safetensors"], "missing.safetensors: No such file or directory"),
        (["verify", "."], ".: a directory, expected a file"),
        (["inspect", "text"], "text: "),
        (["pack", "missing.onnx", "x.safetensors", "-q"], "missing.onnx: No such file or directory"),
        (["pack", "text", "x.safetensors", "-q"], "text"),
        (["unpack", "missing.safetensors", "x.safetensors"], "missing.safetensors: No such file or directory"),
        (["unpack", "text", "x.safetensors", "-q"], "text: "),
        (["run", MLP, "missing.npy", "y.npy"], "missing.npy: No such file or directory"),
        (["run", MLP, "text", "y.npy"], "text: expected a .npy or .npz file of numbers"),
        (["run", MLP, "pickle.npy", "y.npy"], "pickle.npy: expected a .npy or .npz file of numbers"),
        (["run", MLP, "words.npy", "y.npy"], "words.npy: 'image': expected real numbers"),
        (["run", MLP, "wrong.npy", "y.npy"], "input 'image': expected shape (batch, 1, 8, 8), found (2, 3)"),
        (["run", MLP, "wrong.npy", "y.txt"], "y.txt: expected the name of a file that ends in .npy or .npz"),
        (["run", MLP, "missing.npy", "missing/y.npy"], "missing/y.npy: the folder 'missing' does not exist"),
        (["run", MLP, "good.npy", "y.npy", "--plot", "missing/p.png"], "missing/p.png: the folder 'missing' does not"),
        (["run", MLP, "good.npy", "y.npy", "--trace", "missing/t.json"], "missing/t.json: the folder 'missing' does"),
        (["run", MLP, "good.npy", "y.npy", "--budget", "1KiB"], "smallest budget"),
        (["inspect", MLP, "--shape", "photo=1,1,8,8"], "no input is named ['photo']; the model has image"),
        (["inspect", MLP, "--shape", "image=1,8"], "input 'image': expected shape"),
        (["demo", "--size", "1KiB"], "--size is 1.00 KiB, expected at least 2.00 MiB"),
        (["demo", "--dir", "missing"], "missing: No such file or directory"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, args: list[object], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("no\nmodel\n" * 9)
    np.save("pickle.npy", np.array([{}]), allow_pickle=True)
    np.save("words.npy", np.array(["one"]))
    np.save("wrong.npy", np.zeros((2, 3), np.float32))
    np.save("good.npy", np.zeros((1, 1, 8, 8), np.float32))
    assert run(*args) == 1
    assert reason in error_line(capsys)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["paint"],
        ["run", "m", "x"],
        ["inspect", "m", "--budget", "lots"],
        ["inspect", "m", "--budget", "0"],
        ["inspect", "m", "--batch", "0"],
        ["inspect", "m", "--shape", "1,2"],
        ["inspect", "m", "--shape", "x=1,-2"],
        ["run", "m", "x", "y", "--repeat", "many"],
        ["demo", "--size", "big"],
        ["pack", "m", "x", "--max-memory", "all"],
        ["pack", "m", "x", "--max-seconds", "0"],
        ["pack", "m", "x", "--max-seconds", "inf"],
    ],
)
def test_wrong_usage_is_exit_code_2(capsys: Output, args: list[str]) -> None:
    assert run(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: streamrt")


def test_without_a_command_all_commands_are_shown(capsys: Output) -> None:
    assert run() == 2
    assert "serve the models of a folder" in capsys.readouterr().err


def test_version_and_help(capsys: Output) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"streamrt {streamrt.__version__}\n"
    for command in ("pack", "inspect", "tune", "run", "verify", "unpack", "completion", "serve", "demo"):
        assert run(command, "--help") == 0
        assert f"usage: streamrt {command}" in capsys.readouterr().out


@pytest.mark.parametrize("args", [("--debug", "inspect", "missing"), ("inspect", "missing", "--debug")])
def test_debug_raises(args: tuple[str, ...]) -> None:
    with pytest.raises(streamrt.WeightsIOError):
        run(*args)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "streamrt: interrupted\n"),
        (UnsupportedModelError(["node a: no Loop", "node b: no If"]), 1, "node a: no Loop\n  node b: no If\n"),
        (KeyError("bug"), 1, "streamrt: error: KeyError: 'bug' (--debug shows where)\n"),
        (MemoryError("7 bytes"), 1, "streamrt: error: out of memory 7 bytes\n"),
        (ImportError("packing ONNX\nneeds onnx"), 1, "streamrt: error: packing ONNX needs onnx\n"),
    ],
)
def test_errors_of_a_command_give_its_exit_code_and_text(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("streamrt.cli.commands.verify", fail)
    assert run("verify", MLP) == code
    assert capsys.readouterr().err.endswith(text)


def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        found = subprocess.run(
            [sys.executable, "-m", "streamrt", "inspect", str(MLP)], stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert found.returncode == 141
    assert found.stderr == b""


def test_as_a_module() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "streamrt", "inspect", "missing.safetensors"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert found.stdout == ""
    assert found.stderr == "streamrt: error: missing.safetensors: No such file or directory\n"
