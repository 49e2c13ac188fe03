"""Small torch modules, one for each way of exporting. tests/vision has the networks of torchvision."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from markers import needs
from streamrt.format import read_header
from streamrt.graph import Graph

pytestmark = pytest.mark.extras

torch, _ = needs("torch", "onnxscript")
nn = torch.nn


class Shuffle(nn.Module):  # type: ignore[misc, name-defined]
    """Reads the extents of its input as ShuffleNet does."""

    def forward(self, x: Any) -> Any:
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous()
        return torch.flatten(x.view(n, -1, h, w), 1)


class TwoInputs(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 3), nn.Linear(4, 3)

    def forward(self, left: Any, right: Any) -> Any:
        total = self.left(left) + self.right(right)
        return total, torch.sigmoid(total)


class FixedBatch(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, x: Any) -> Any:
        return x.view(self.batch, 2, 3).mean(1) * 2


def cnn() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 5),
        nn.Softmax(dim=-1),
    )
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 1.5)
    return model


def pack(module: Any, path: Path, example: Any) -> Graph:
    return read_header(streamrt.pack(module, path / "out", example=example)).graph


def check(module: Any, folder: Path, batches: tuple[int, ...] = (1, 2, 5)) -> None:
    module.eval()
    with streamrt.Model(folder / "out", budget=None) as packed:
        for batch in batches:
            inputs = [torch.randn(batch, *spec.dims[1:]) for spec in packed.inputs]
            with torch.no_grad():
                wanted = module(*inputs)
            feeds = {spec.name: x.numpy() for spec, x in zip(packed.inputs, inputs, strict=True)}
            found = packed(feeds)
            wanted = wanted if isinstance(wanted, tuple) else (wanted,)
            found = [found[spec.name] for spec in packed.outputs] if isinstance(found, dict) else [found]
            for y, reference in zip(found, wanted, strict=True):
                np.testing.assert_allclose(y, reference.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_cnn(batch: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = cnn()
    graph = pack(module, tmp_path, torch.randn(batch, 4, 9, 9))
    assert capfd.readouterr() == ("", "")
    assert module.training
    assert all(part.training for part in module)
    assert [spec.dims for spec in graph.inputs] == [("batch", 4, 9, 9)]
    assert [spec.dims for spec in graph.outputs] == [("batch", 5)]
    assert {node.op for node in graph.nodes}.isdisjoint({"BatchNormalization", "Dropout", "Identity", "Sigmoid", "Mul"})
    check(module, tmp_path)


def test_parts_keep_their_own_mode(tmp_path: Path) -> None:
    module = cnn()
    module[1].eval()
    pack(module, tmp_path, torch.randn(1, 4, 9, 9))
    assert [part.training for part in module] == [part is not module[1] for part in module]


def test_shapes_that_follow_the_batch(tmp_path: Path) -> None:
    pack(Shuffle(), tmp_path, torch.randn(1, 6, 3, 3))
    check(Shuffle(), tmp_path)


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    module = TwoInputs()
    graph = pack(module, tmp_path, (torch.randn(1, 5), torch.randn(1, 4)))
    assert [spec.name for spec in graph.inputs] == ["left", "right"]
    assert len(graph.outputs) == 2
    check(module, tmp_path)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_module_for_one_batch_is_fixed_to_it_with_a_warning(batch: int, tmp_path: Path) -> None:
    module = FixedBatch(batch)
    with pytest.warns(UserWarning, match=f"fixed at {batch}"):
        graph = pack(module, tmp_path, torch.randn(batch, 6))
    assert graph.inputs[0].dims == (batch, 6)
    check(module, tmp_path, batches=(batch,))


def test_a_decoder(tmp_path: Path) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.InstanceNorm2d(8, affine=True),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.LPPool2d(2, 3, stride=2),
        nn.PixelShuffle(1),
        nn.Conv2d(6, 4, 1),
        nn.PixelShuffle(2),
        nn.SELU(),
    )
    pack(module, tmp_path, torch.randn(1, 3, 8, 12))
    check(module, tmp_path)


def test_layers_of_volumes(tmp_path: Path) -> None:
    module = nn.Sequential(
        nn.Conv3d(3, 8, 3, stride=2, padding=1),
        nn.InstanceNorm3d(8, affine=True),
        nn.ReLU(),
        nn.ConvTranspose3d(8, 6, 4, stride=(2, 1, 2), padding=1, output_padding=(0, 0, 1), groups=2),
        nn.GroupNorm(3, 6),
        nn.Upsample(scale_factor=(2, 1, 2), mode="nearest"),
        nn.ConstantPad3d((1, 2, 0, 1, 2, 0), 0.5),
        nn.Conv3d(6, 6, (3, 3, 2), groups=6),
        nn.AvgPool3d((2, 3, 2), stride=2, padding=(0, 1, 1), ceil_mode=True, count_include_pad=False),
        nn.BatchNorm3d(6),
        nn.LPPool3d(2, (1, 2, 2)),
        nn.Upsample(size=(7, 6, 9), mode="trilinear", align_corners=False),
        nn.LayerNorm((6, 9)),
        nn.Conv3d(6, 4, 1),
        nn.MaxPool3d(3, stride=2, padding=1, dilation=(1, 2, 1)),
        nn.AdaptiveMaxPool3d(1),
    )
    module[9].running_mean.normal_()
    module[9].running_var.uniform_(0.5, 1.5)
    pack(module, tmp_path, torch.randn(1, 3, 6, 8, 10))
    check(module, tmp_path)


@pytest.mark.parametrize("module", [nn.Softplus(2, 1), nn.Softshrink(), nn.Hardshrink(), nn.Threshold(0.1, 20)])
def test_piecewise_activations(module: Any, tmp_path: Path) -> None:
    pack(module, tmp_path, torch.randn(2, 3, 5))
    check(module, tmp_path)


class Classes(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        return x.argmax(1), x.max(1).values > 0.5


def test_indices_and_truth_values(tmp_path: Path) -> None:
    pack(Classes(), tmp_path, torch.randn(2, 3, 5))
    check(Classes(), tmp_path)
    with streamrt.Model(tmp_path / "out", budget=None) as model:
        assert [spec.dtype for spec in model.outputs] == ["int64", "bool"]


class Sized(nn.Module):  # type: ignore[misc, name-defined]
    """Shuffles channels, and resizes to the size of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Any) -> Any:
        n, c, h, w = x.shape
        y = torch.relu(self.down(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)))
        pooled = nn.functional.interpolate(y.mean((2, 3), keepdim=True), y.shape[2:], mode="bilinear")
        return nn.functional.interpolate(self.up(y + pooled), (h, w), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("batch", [1, 2])
def test_height_and_width_may_be_free(batch: int, tmp_path: Path) -> None:
    module = Sized().eval()
    example = torch.randn(batch, 4, 16, 16)
    streamrt.pack(module, tmp_path / "out", example=example, inputs=("N", 4, "H", "W"))
    with streamrt.Model(tmp_path / "out", budget=None) as model:
        assert [spec.dims for spec in model.inputs] == [("N", 4, "H", "W")]
        assert [spec.dims for spec in model.outputs] == [("N", 2, "H", "W")]
        for shape in ((1, 4, 16, 16), (3, 4, 9, 14), (2, 4, 5, 31)):
            x = torch.randn(*shape)
            with torch.no_grad():
                np.testing.assert_allclose(model(x.numpy()), module(x).numpy(), rtol=1e-4, atol=1e-5)


def test_extents_of_two_inputs(tmp_path: Path) -> None:
    example = (torch.randn(2, 5), torch.randn(2, 4))
    streamrt.pack(TwoInputs(), tmp_path / "out", example=example, inputs={"left": ("N", 5), "right": ("N", 4)})
    with streamrt.Model(tmp_path / "out", budget=None) as model:
        assert [spec.dims for spec in model.inputs] == [("N", 5), ("N", 4)]
    with pytest.raises(streamrt.InputError, match=r"the model has no input 'x'; it has 'left' \(2, 5\), 'right'"):
        streamrt.pack(TwoInputs(), tmp_path / "out", example=example, inputs={"x": ("N", 5)})


@pytest.mark.parametrize("inputs", [("N", 4, "H"), ("N", 3, "H", "W"), ()])
def test_free_extents_of_another_shape(inputs: Any, tmp_path: Path) -> None:
    with pytest.raises(streamrt.InputError, match="inputs: "):
        streamrt.pack(Sized(), tmp_path / "out", example=torch.randn(1, 4, 8, 8), inputs=inputs)


def test_extents_that_the_module_fixes_cannot_be_free(tmp_path: Path) -> None:
    with pytest.raises(streamrt.UnsupportedModelError, match="torch cannot export the module for"):
        streamrt.pack(nn.Linear(4, 3), tmp_path / "out", example=torch.randn(2, 4), inputs=("N", "C"))


def test_names_of_weights_are_the_modules(tmp_path: Path) -> None:
    pack(TwoInputs(), tmp_path, (torch.randn(2, 5), torch.randn(2, 4)))
    assert set(read_header(tmp_path / "out").tensors) == {"left.weight", "left.bias", "right.weight", "right.bias"}


class Folded(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        once = nn.functional.fold(x, (4, 4), (2, 2), stride=2)
        return nn.functional.fold(once.flatten(2).repeat(1, 4, 1), (8, 8), (2, 2), stride=2)


def test_operators_without_a_conversion_are_listed(tmp_path: Path) -> None:
    with pytest.raises(streamrt.UnsupportedModelError, match=r"Col2Im[\s\S]*Col2Im"):
        pack(Folded(), tmp_path, torch.randn(1, 12, 4))
    assert not (tmp_path / "out").exists()


def test_a_module_that_torch_cannot_export(tmp_path: Path) -> None:
    class Broken(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            raise RuntimeError("out of order")

    with pytest.raises(streamrt.UnsupportedModelError, match="out of order"):
        pack(Broken(), tmp_path, torch.randn(1, 3))


@pytest.mark.parametrize("example", [None, (), np.ones((1, 3)), ("x",)])
def test_an_example_is_needed(example: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="example="):
        pack(nn.Linear(3, 3), tmp_path, example)


def test_same_module_same_bytes(tmp_path: Path) -> None:
    module = cnn()
    files = set()
    for _ in range(2):
        with warnings.catch_warnings():
            pack(module, tmp_path, torch.randn(1, 4, 9, 9))
        files.add((tmp_path / "out").read_bytes())
    assert len(files) == 1
