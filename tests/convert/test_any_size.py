"""Networks with free extents, exported by torch: one file gives ONNX Runtime's results at every size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import Array, random
from markers import needs

pytestmark = pytest.mark.extras
torch, torchvision, runtime = needs("torch", "torchvision", "onnxruntime")

nn, F = torch.nn, torch.nn.functional
BATCH = {0: "N"}
IMAGE = {0: "N", 2: "H", 3: "W"}


class Detector(nn.Module):
    """Two levels of a detector. Boxes are decoded at grids of anchors that it makes from the extents of the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 4, 1)
        self.levels = nn.ModuleList([nn.Conv2d(8, 8, 3, 2, 1) for _ in range(2)])
        self.heads = nn.ModuleList([nn.Conv2d(8, 2 * 7, 1) for _ in range(2)])
        self.register_buffer("anchors", torch.tensor([[10.0, 13], [30, 61]]))

    def forward(self, image: Any) -> Any:
        """(N, all anchors, 7): the box, whether there is an object, and two classes."""
        x, found, stride = torch.relu(self.stem(image)), [], 4
        for level, head in zip(self.levels, self.heads, strict=True):
            x, stride = torch.relu(level(x)), stride * 2
            y = head(x)
            n, _, h, w = y.shape
            y = y.view(n, 2, 7, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            rows, columns = torch.arange(h), torch.arange(w)
            grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), 2).float().expand(1, 2, h, w, 2)
            centre = (y[..., :2] * 2 - 0.5 + grid) * stride
            size = (y[..., 2:4] * 2) ** 2 * self.anchors.view(1, 2, 1, 1, 2)
            found.append(torch.cat([centre, size, y[..., 4:]], -1).reshape(n, -1, 7))
        return torch.cat(found, 1)


class Positions(nn.Module):
    """Positions as tables: resized to the map, and cut at its extents."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, 4)
        self.table, self.rows = nn.Parameter(torch.randn(1, 6, 5, 5)), nn.Parameter(torch.randn(1, 6, 40, 1))
        self.token = nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, image: Any) -> Any:
        """(N, positions + 1, 6)."""
        x = self.conv(image)
        x = x + F.interpolate(self.table, x.shape[2:], mode="bilinear") + self.rows[:, :, : x.shape[2]]
        x = x.flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)


class Padded(nn.Module):
    """Pads to multiples of 32, and limits values by the width. The result is cut to the image again."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 2, 2), nn.ConvTranspose2d(4, 3, 2, 2)

    def forward(self, image: Any) -> Any:
        """The shape of the image."""
        h, w = image.shape[2:]
        x = F.pad(image, (0, (32 - w % 32) % 32, 0, (32 - h % 32) % 32))
        x = torch.clamp(self.up(self.down(x)) * w, 0, w / 4)
        return x[:, :, :h, :w] + image


class Shuffled(nn.Module):
    """Windows of 4 x 4 become samples, and are put back."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(12), nn.Linear(12, 12)

    def forward(self, x: Any) -> Any:
        """(N, 12, H, W), of multiples of 4."""
        n, c, h, w = x.shape
        x = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        x = torch.softmax(self.linear(self.norm(x)), -1)
        return x.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


def vit() -> Any:
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    return model


def swin() -> Any:
    return torchvision.models.SwinTransformer([4, 4], 24, [2, 2], [3, 6], [4, 4], num_classes=10)


def timm_vit() -> Any:
    timm = pytest.importorskip("timm")
    return timm.create_model("vit_tiny_patch16_224", depth=2)


#: A network, the shapes to run it with (the first is exported), its free axes, and whether its batch can be divided.
NETWORKS: dict[str, tuple[Callable[[], Any], Sequence[tuple[int, ...]], dict[int, str], bool | None]] = {
    "detector": (Detector, [(2, 3, 64, 96), (1, 3, 100, 36), (3, 3, 32, 32)], IMAGE, True),
    "positions": (Positions, [(2, 3, 32, 24), (1, 3, 20, 20), (3, 3, 60, 44)], IMAGE, True),
    "padded": (Padded, [(2, 3, 40, 50), (1, 3, 32, 64), (3, 3, 7, 33)], IMAGE, True),
    "windows": (Shuffled, [(2, 12, 8, 12), (1, 12, 4, 4), (3, 12, 16, 8)], IMAGE, True),
    "ViT of torchvision": (vit, [(2, 3, 32, 32), (1, 3, 32, 32), (7, 3, 32, 32)], BATCH, None),
    "ViT of timm": (timm_vit, [(2, 3, 224, 224), (1, 3, 224, 224), (3, 3, 224, 224)], BATCH, True),
    "Swin": (swin, [(2, 3, 64, 64), (1, 3, 64, 64), (5, 3, 64, 64)], BATCH, True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_one_file_for_all_sizes(name: str, tmp_path: Path) -> None:
    make, shapes, axes, divisible = NETWORKS[name]
    torch.manual_seed(0)
    module = make().eval()
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            module,
            torch.randn(shapes[0]),
            str(tmp_path / "model.onnx"),
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": axes},
        )
    with warnings.catch_warnings(action="error"):
        path = streamrt.pack(tmp_path / "model.onnx", tmp_path / "packed")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    with streamrt.Model(path, budget=None) as packed:
        assert packed.inputs[0].dims == tuple(axes.get(axis, extent) for axis, extent in enumerate(shapes[0]))
        for shape in shapes:
            x = random(*shape)
            _compare(packed(x), session.run(None, {"x": x})[0])
            if divisible is not None:
                assert packed._engine.session.prepared.program.batchwise == divisible


@pytest.mark.parametrize("make", [vit, swin])
def test_modules_with_a_free_batch(make: Callable[[], Any], tmp_path: Path) -> None:
    """The newest exporter of torch writes other nodes than the one before, such as a Gather for a transposition."""
    torch.manual_seed(0)
    module = make().eval()
    size = 32 if make is vit else 64
    with warnings.catch_warnings(action="error"):
        path = streamrt.pack(module, tmp_path / "packed", example=torch.randn(2, 3, size, size))
    with streamrt.Model(path, budget=None) as packed:
        assert isinstance(packed.inputs[0].dims[0], str)
        for batch in (1, 2, 5):
            x = random(batch, 3, size, size)
            with torch.no_grad():
                _compare(packed(x), module(torch.from_numpy(x)).numpy())


def _compare(found: Array, wanted: Array) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
