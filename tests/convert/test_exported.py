"""Exported programs of torch, as objects and as ``.pt2`` files, against torch. Each file is exported in a process."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.exported_files import Archive, named, node
from convert.test_exported_attacks import JUNK, read, walk
from markers import needs
from streamrt.cli import main
from streamrt.format import read_header

pytestmark = pytest.mark.extras

torch, torchvision, _ = needs("torch", "torchvision", "onnxscript")
nn = torch.nn

FREE = torch.export.Dim.DYNAMIC


def save(module: Any, path: Path, example: tuple[Any, ...], dynamic: Any, **options: Any) -> Path:
    program = torch.export.export(module.eval(), example, dynamic_shapes=dynamic, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")
        torch.export.save(program, path)
    return path


def check(module: Any, packed: Path, *inputs: Any) -> None:
    """Compare the answers of a weights file with the module's."""
    with torch.no_grad():
        wanted = module(*inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    with streamrt.Model(packed, budget=None) as model:
        feeds = {spec.name: x.numpy() for spec, x in zip(model.inputs, inputs, strict=True)}
        found = model(feeds)
        outputs = [found[spec.name] for spec in model.outputs] if isinstance(found, dict) else [found]
    for y, reference in zip(outputs, wanted, strict=True):
        np.testing.assert_allclose(y, reference.float().numpy(), rtol=1e-4, atol=1e-5)


def cnn() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 1.5)
    return model.eval()


def test_a_cnn(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = cnn()
    path = save(module, tmp_path / "cnn.pt2", (torch.randn(2, 3, 12, 12),), ({0: FREE},))
    streamrt.pack(path, tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    header = read_header(tmp_path / "out")
    assert [spec.dims[1:] for spec in header.graph.inputs] == [(3, 12, 12)]
    batch = header.graph.inputs[0].dims[0]
    assert isinstance(batch, str)
    assert header.graph.outputs[0].dims == (batch, 5)
    assert set(header.tensors) >= {"0.weight", "4.weight", "8.weight", "8.bias"}
    assert {node.op for node in header.graph.nodes}.isdisjoint({"BatchNormalization", "Dropout"})
    for size in (1, 5):
        check(module, tmp_path / "out", torch.randn(size, 3, 12, 12))


def test_a_vision_transformer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=48, mlp_dim=64, num_classes=7
    )
    nn.init.normal_(module.heads.head.weight)
    path = save(module, tmp_path / "vit.pt2", (torch.randn(2, 3, 16, 16),), ({0: FREE},))
    streamrt.pack(path, tmp_path / "out")
    header = read_header(tmp_path / "out")
    assert isinstance(header.graph.inputs[0].dims[0], str)
    for size in (1, 3):
        check(module, tmp_path / "out", torch.randn(size, 3, 16, 16))


class Layouts(nn.Module):  # type: ignore[misc, name-defined]
    """Weights that share values, are views of others, have other types, or are not saved with the module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(48, 48), nn.Linear(48, 48)
        self.second.weight = self.first.weight
        self.register_buffer("turned", torch.randn(40, 48).t())
        self.register_buffer("row", torch.randn(1, 40).expand(3, 40))
        self.register_buffer("part", torch.randn(10, 40)[4:7, ::2], persistent=False)
        self.halves = nn.Parameter(torch.randn(40, 40).half())
        self.brains = nn.Parameter(torch.randn(40, 40).bfloat16())
        self.register_buffer("mask", torch.arange(40) % 3 == 0)
        self.register_buffer("order", torch.randperm(40))
        self.register_buffer("none", torch.zeros(0, 20))

    def forward(self, x: Any) -> Any:
        with torch.no_grad():
            y = self.second(torch.relu(self.first(x))) @ self.turned
        y = y @ self.halves.float() @ self.brains.float() + self.row.sum(0) + torch.tensor([0.5]) * self.mask
        return y[:, self.order], (y[:, ::2] * torch.cat([self.part, self.none]).sum(0)).sigmoid_()


def test_weights_of_all_layouts(tmp_path: Path) -> None:
    module = Layouts()
    path = save(module, tmp_path / "layouts.pt2", (torch.randn(2, 48),), ({0: FREE},))
    streamrt.pack(path, tmp_path / "out")
    tensors = read_header(tmp_path / "out").tensors
    assert sorted(tensor.dtype for tensor in tensors.values() if tensor.shape == (40, 40)) == ["BF16", "F16"]
    assert [tensor.dtype for tensor in tensors.values() if tensor.shape == (48, 48)] == ["F32"]  # of both layers
    check(module, tmp_path / "out", torch.randn(3, 48))


class Words(nn.Module):  # type: ignore[misc, name-defined]
    """Integers, several inputs, an input that is a constant, computed extents, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)

    def forward(self, words: Any, scale: Any, bias: Any = None, twice: bool = True) -> Any:
        n, length = words.shape
        y = self.table(words).reshape(n, length * 8)
        left, right = torch.split(y * scale, [8, length * 8 - 8], 1)
        with torch.autocast("cpu", enabled=False):
            total = left.sum(1, keepdim=True)
        return total, right * (2 if twice else 1), y.max(1)[1].float()


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Words()
    example = (torch.randint(0, 11, (2, 6)), torch.randn(2, 1), None, True)
    dynamic = ({0: FREE, 1: FREE}, {0: FREE}, None, None)
    path = save(module, tmp_path / "words.pt2", example, dynamic)
    streamrt.pack(path, tmp_path / "free")
    words, scale = read_header(tmp_path / "free").graph.inputs
    assert (words.name, words.dtype, scale.name, scale.dtype) == ("words", "int64", "scale", "float32")
    assert [isinstance(dim, str) for dim in (*words.dims, *scale.dims)] == [True, True, True, False]
    for size, length in ((1, 4), (3, 9)):
        check(module, tmp_path / "free", torch.randint(0, 11, (size, length)), torch.randn(size, 1))


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = nn.Sequential(nn.Linear(6, 40), nn.GELU(), nn.Linear(40, 3))
    path = save(module, tmp_path / "mlp.pt2", (torch.randn(2, 6),), ({0: FREE},))
    out = tmp_path / "mlp.safetensors"
    assert main(["pack", "-q", str(path), str(out), "--input", "input=4x6"]) == 0, capsys.readouterr().err
    assert read_header(out).graph.inputs[0].dims == (4, 6)
    check(module, out, torch.randn(4, 6))
    assert main(["pack", "-q", str(path), str(out), "--input", "input=Nx7"]) == 1
    assert "only extents that the program leaves free can change; it has 'input' (s" in capsys.readouterr().err
    assert main(["pack", "-q", str(path), str(out), "--input", "x=Nx6"]) == 1
    assert "the model has no input 'x'; it has 'input'" in capsys.readouterr().err


def test_a_program_as_an_object(tmp_path: Path) -> None:
    module = cnn()
    dynamic = ({0: FREE, 2: FREE, 3: FREE},)
    program = torch.export.export(module, (torch.randn(2, 3, 12, 12),), dynamic_shapes=dynamic)
    streamrt.pack(program, tmp_path / "free")
    dims = read_header(tmp_path / "free").graph.inputs[0].dims
    assert [isinstance(dim, str) for dim in dims] == [True, False, True, True]
    check(module, tmp_path / "free", torch.randn(3, 3, 9, 20))
    streamrt.pack(program, tmp_path / "fixed", inputs=("N", 3, 10, "W"))
    assert read_header(tmp_path / "fixed").graph.inputs[0].dims == ("N", 3, 10, "W")
    check(module, tmp_path / "fixed", torch.randn(3, 3, 10, 20))
    for inputs, reason in (
        ((2, 4, 12, 12), r"3 to 4: only extents that the program leaves free can change; it has 'input' \(s"),
        ((2, "C", 12, 12), "3 to 'C': only extents"),
        (("N", 3, "N", 12), "two free extents have one name"),
        ((2, 3, 12), "3 extents, expected 4"),
        ({"images": (2, 3, 12, 12)}, "the model has no input 'images'; it has 'input'"),
    ):
        with pytest.raises(streamrt.InputError, match=reason):
            streamrt.pack(program, tmp_path / "refused", inputs=inputs)
    with pytest.raises(TypeError, match="leave example= out"):
        streamrt.pack(program, tmp_path / "refused", example=torch.randn(2, 3, 12, 12))
    assert not (tmp_path / "refused").exists()


def test_a_program_in_training_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(nn.BatchNorm1d(4).train(), (torch.randn(2, 4),))
    with pytest.raises(streamrt.UnsupportedModelError, match=r"call module.eval\(\) before torch.export.export"):
        streamrt.pack(program, tmp_path / "out")
    torch.export.save(program, tmp_path / "train.pt2")
    with pytest.raises(streamrt.UnsupportedModelError, match=r"call module.eval\(\) before torch.export.export"):
        streamrt.pack(tmp_path / "train.pt2", tmp_path / "out")


def test_text_of_the_file_is_not_evaluated(tmp_path: Path) -> None:
    """torch.export.load evaluates expressions, and later makes Python code of names and of guards."""
    proof = tmp_path / "proof"
    code = f"__import__('os').mkdir({str(proof)!r})"
    archive = Archive()
    archive.graph["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = code
    archive.program["guards_code"] = [code]
    call = {"inputs": [], "outputs": [], "in_spec": code, "out_spec": code}
    archive.program["graph_module"]["module_call_graph"] = [{"fqn": "", "signature": call}]
    name = f"x={code}"
    archive.graph["inputs"][2] = archive.signature["input_specs"][2]["user_input"]["arg"] = named(name)
    archive.graph["tensor_values"][name] = archive.graph["tensor_values"].pop("x")
    first = archive.graph["nodes"][0]
    first["inputs"][0]["arg"] = named(name)
    first["outputs"] = [named(f"y = {code}; z")]
    first["name"] = first["metadata"]["stack_trace"] = first["metadata"]["nn_module_stack"] = code
    archive.graph["nodes"].append(node("torch.ops.aten.relu.default", [named("y")], self=first["outputs"][0]))
    sample = io.BytesIO()
    torch.save(((torch.zeros(2, 4),), {}), sample)
    archive.members["data/sample_inputs/model.pt"] = sample.getvalue()
    path = archive.write(tmp_path / "model.pt2")
    streamrt.pack(path, tmp_path / "out")
    with streamrt.Model(tmp_path / "out", budget=None) as model:
        x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
        np.testing.assert_allclose(model(x), np.maximum(x @ archive.weight.T + archive.bias, 0), rtol=1e-5)
        assert [spec.name for spec in model.inputs] == [name]
    assert not proof.exists()
    with pytest.raises(Exception, match=r"\w"):
        torch.export.load(path)
    assert proof.exists()  # loading the file would have done it


@pytest.mark.parametrize(
    ("nodes", "options", "error", "reason"),
    [
        pytest.param(
            [
                node("torch.ops.aten.zeros.default", [named("z")], size={"as_ints": [10**9, 1]}),
                node("torch.ops.aten.unbind.int", [{"as_tensors": [{"name": "y"}]}], self=named("z")),
            ],
            {},
            streamrt.LimitError,
            "MiB of memory",
            id="memory",
        ),
        pytest.param(
            [
                node("torch.ops.aten.zeros.default", [named("z")], size={"as_ints": [1]}),
                node("torch.ops.aten.view.default", [named("y")], self=named("z"), size={"as_ints": [1] * 300_000}),
            ],
            {"max_seconds": 2.0},
            streamrt.LimitError,
            "s to export a program of 2 nodes",
            id="time",
        ),
        pytest.param(
            [node("torch.ops.aten.max_pool2d.default", [named("y")], self=named("x"), kernel_size={"as_ints": [0, 0]})],
            {},
            streamrt.UnsupportedModelError,
            "torch cannot export the program: ",
            id="arguments",
        ),
    ],
)
def test_programs_that_torch_would_not_finish(
    nodes: list[Any], options: Any, error: type[Exception], reason: str, tmp_path: Path
) -> None:
    archive = Archive()
    archive.graph["nodes"] = nodes
    path = archive.write(tmp_path / "model.pt2")
    with pytest.raises(error, match=reason):
        streamrt.pack(path, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_changed_values_of_a_file_of_torch(tmp_path: Path) -> None:
    """As in `test_exported_attacks`, for the document that torch writes."""
    path = save(cnn(), tmp_path / "model.pt2", (torch.randn(2, 3, 12, 12),), ({0: FREE},))
    archive = Archive()
    with zipfile.ZipFile(path) as found:
        archive.members = {name.partition("/")[2]: found.read(name) for name in found.namelist()}
    document = archive.members["models/model.json"]
    assert document is not None
    read_ones = 0
    for seed in range(300):
        choose = random.Random(seed)
        program = json.loads(document)
        container, key = choose.choice(walk(program["graph_module"]["graph"]))
        container[key] = choose.choice(JUNK)
        archive.members["models/model.json"] = json.dumps(program).encode()
        with contextlib.suppress(streamrt.StreamrtError):
            read(archive.write(tmp_path / "changed.pt2"))
            read_ones += 1
    assert 0 < read_ones < 300


def test_the_interpreter_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(streamrt.UnsupportedModelError, match=r"sys\.executable is empty"):
        streamrt.pack(Archive().write(tmp_path / "model.pt2"), tmp_path / "out")
