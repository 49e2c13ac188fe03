"""Networks for large pictures, ``NETWORK-HEIGHTxWIDTH``: their activations take more memory than their weights.

* ``unet``: 3-32-64-128-256 channels, two 3x3 convolutions a level, one channel out.
* ``resnet18``, ``fcn_resnet50`` and ``deeplabv3_resnet50`` of torchvision.
* ``superresolution``: 16 residual blocks of 64 channels, and pixel shuffles that enlarge 4 times (Lim et al. 2017).
* ``decoder``: like that of latent diffusion (Rombach et al. 2022): GroupNorm, residual blocks of 512, 512, 256 and 128
  channels, nearest resizes; it enlarges 8 times.

The input is a mapped file, so that a process needs no memory for it.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

#: The channels of the input of each network.
CHANNELS = {
    "unet": 3,
    "resnet18": 3,
    "fcn_resnet50": 3,
    "deeplabv3_resnet50": 3,
    "superresolution": 3,
    "decoder": 4,
}

#: The most bytes of columns that a convolution in float64 lays out at a time.
_COLUMNS = 32 << 20
#: Networks of torchvision that answer with a class for each pixel.
_DENSE = ("fcn_resnet50", "deeplabv3_resnet50")
#: The most rows and columns of a picture that a network is traced with.
_TRACED = 64
#: The weight of the last BatchNorm of each residual branch of a ResNet-50, see `_of_dense`.
_BRANCH = 0.25


def shape_of(name: str) -> tuple[int, int, int] | None:
    """(channels, height, width) of the input, by the name of the model; None for other names."""
    match = re.fullmatch(r"(\w+)-(\d+)x(\d+)", name)
    if not match or match[1] not in CHANNELS:
        return None
    return CHANNELS[match[1]], int(match[2]), int(match[3])


def shape_to_trace(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a sample with which a trace of the network fits ``shape``, small if it can be.

    Networks that answer with a class for each pixel resize to the size of the input, which a trace keeps as a number.
    """
    if not shape_of(name) or name.startswith(_DENSE):
        return shape
    return (shape[0], *(min(extent, _TRACED) for extent in shape[1:]))


def network(name: str) -> Any:
    """The network as a torch module with random weights."""
    import torchvision

    kind = name.partition("-")[0]
    if kind == "resnet18":
        return torchvision.models.resnet18(weights=None)
    if kind in _DENSE:
        return _of_dense(torchvision.models.get_model(kind, weights=None, weights_backbone=None))
    return {"unet": _unet, "superresolution": _superresolution, "decoder": _decoder}[kind]()


def in_strips(module: Any) -> None:
    """Let convolutions of a float64 module compute some rows at a time.

    torch's own lay out the columns of all windows first: 19 GB for 64 channels of 2048 x 2048.
    """
    import torch

    for layer in module.modules():
        if type(layer) is torch.nn.Conv2d and layer.groups == 1 and layer.kernel_size != (1, 1):
            layer.forward = _strips(layer)


def by_rows(module: Any, rows: int) -> None:
    """Let a super-resolution network enlarge so many rows at a time: its last maps would take 51 GB in float64.

    Each part has two more rows at both ends, for three windows of 3x3, the last two of which are on enlarged maps.
    """
    import torch

    whole = module.larger.forward

    def forward(x: Any) -> Any:
        parts = []
        for begin in range(0, x.shape[2], rows):
            first = max(0, begin - 2)
            part = whole(x[:, :, first : begin + rows + 2])
            parts.append(part[:, :, 4 * (begin - first) :][:, :, : 4 * rows])
        return torch.cat(parts, dim=2)

    module.larger.forward = forward


def _strips(layer: Any) -> Any:
    import torch

    def forward(x: Any) -> Any:
        (tall, wide), (down, right), (row, column) = layer.kernel_size, layer.dilation, layer.stride
        x = torch.nn.functional.pad(x, (layer.padding[1],) * 2 + (layer.padding[0],) * 2)
        height, width = (
            (x.shape[2] - down * (tall - 1) - 1) // row + 1,
            (x.shape[3] - right * (wide - 1) - 1) // column + 1,
        )
        weight, bias = layer.weight.flatten(1), 0.0 if layer.bias is None else layer.bias[:, None]
        strip = min(height, max(1, _COLUMNS // (weight.shape[1] * width * x.element_size())))
        columns = x.new_empty(weight.shape[1] * strip * width)  # used again and again: new memory is slow
        y = x.new_empty(x.shape[0], len(weight), height, width)
        for sample, begin in itertools.product(range(len(x)), range(0, height, strip)):
            rows = min(strip, height - begin)
            windows = columns[: weight.shape[1] * rows * width].view(-1, tall, wide, rows, width)
            for i, j in itertools.product(range(tall), range(wide)):
                part = x[sample, :, begin * row + i * down :: row, j * right :: column]
                windows[:, i, j] = part[:, :rows, :width]
            products = weight @ windows.view(weight.shape[1], -1)
            y[sample, :, begin : begin + rows] = (products + bias).view(-1, rows, width)
        return y

    return forward


def _of_dense(inner: Any) -> Any:
    """A network of torchvision that answers with a class for each pixel, without its dictionary.

    The last BatchNorm of each residual branch gets a weight of 25 %, as trained networks have small ones. With 1, FCN
    magnifies a change of its input 200 times on the way to the answer (RMS), and the errors of all runtimes lie at the
    bar of 1e-4. With 0.25 it is 10 times, and errors lie between 4e-6 and 2e-5.
    """
    import torch
    from torchvision.models.resnet import Bottleneck

    for block in inner.modules():
        if isinstance(block, Bottleneck):
            torch.nn.init.constant_(block.bn3.weight, _BRANCH)

    class Dense(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any) -> Any:
            return self.inner(x)["out"]

    return Dense()


def _unet() -> Any:
    import torch
    from torch import nn

    def two(inner: int, outer: int) -> Any:
        layers = [(nn.Conv2d(a, outer, 3, 1, 1), nn.BatchNorm2d(outer), nn.ReLU()) for a in (inner, outer)]
        return nn.Sequential(*(layer for triple in layers for layer in triple))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (32, 64, 128, 256)
            self.down = nn.ModuleList(two(a, b) for a, b in zip((3, *widths), widths, strict=False))
            self.rise = nn.ModuleList(nn.ConvTranspose2d(2 * a, a, 2, 2) for a in widths[-2::-1])
            self.up = nn.ModuleList(two(2 * a, a) for a in widths[-2::-1])
            self.last = nn.Conv2d(widths[0], 1, 1)

        def forward(self, x: Any) -> Any:
            skips = []
            for level in self.down[:-1]:
                x = level(x)
                skips.append(x)
                x = nn.functional.max_pool2d(x, 2)
            x = self.down[-1](x)
            for rise, level, skip in zip(self.rise, self.up, reversed(skips), strict=True):
                x = level(torch.cat([skip, rise(x)], 1))
            return self.last(x)

    return UNet()


def _superresolution() -> Any:
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(64, 64, 3, 1, 1), nn.Conv2d(64, 64, 3, 1, 1)

        def forward(self, x: Any) -> Any:
            return x + self.two(nn.functional.relu(self.one(x))) * 0.1

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.body = nn.Conv2d(3, 64, 3, 1, 1), nn.Sequential(*(Block() for _ in range(16)))
            self.middle = nn.Conv2d(64, 64, 3, 1, 1)
            larger = [(nn.Conv2d(64, 256, 3, 1, 1), nn.PixelShuffle(2)) for _ in range(2)]
            self.larger = nn.Sequential(*(layer for pair in larger for layer in pair), nn.Conv2d(64, 3, 3, 1, 1))

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            return self.larger(x + self.middle(self.body(x)))

    return Network()


def _decoder() -> Any:
    from torch import nn

    def normed(inner: int, outer: int) -> Any:
        return nn.Sequential(nn.GroupNorm(32, inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, 1, 1))

    class Block(nn.Module):
        def __init__(self, inner: int, outer: int) -> None:
            super().__init__()
            self.body = nn.Sequential(normed(inner, outer), normed(outer, outer))
            self.short = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

        def forward(self, x: Any) -> Any:
            y = self.body(x)
            return self.short(x) + y  # the order of published decoders: the input is needed until here anyway

    layers: list[Any] = [nn.Conv2d(4, 512, 3, 1, 1), Block(512, 512), Block(512, 512)]
    widths = (512, 512, 256, 128)
    for index, (inner, outer) in enumerate(zip((512, *widths), widths, strict=False)):
        layers += [Block(inner, outer), Block(outer, outer), Block(outer, outer)]
        if index < 3:
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(outer, outer, 3, 1, 1)]
    return nn.Sequential(*layers, normed(128, 3))
