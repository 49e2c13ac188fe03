"""A text detector: CRAFT (Baek et al., "Character Region Awareness for Text Detection", 2019), as a torch module.

Modules have the names of the published weights. The trunk is VGG16 with batch normalization, with two
convolutions instead of the last block and the dense layers. Four steps add the maps of earlier layers.
The output has a score for text and one for the link between characters at every second pixel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

#: Outputs of the convolutions of each block of the trunk; between blocks, maps are halved.
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512))
#: The layers of the trunk, numbered as torchvision numbers them, after which each part of the published weights ends.
_PARTS = (12, 19, 29, 39)


def _trunk() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for index, block in enumerate(_BLOCKS):
        layers += [nn.MaxPool2d(2)] if index else []
        for count in block:
            layers += [nn.Conv2d(channels, count, 3, padding=1), nn.BatchNorm2d(count), nn.ReLU()]
            channels = count
    return layers


class _Base(nn.Module):
    """The maps that the later steps need, the coarsest first."""

    def __init__(self) -> None:
        super().__init__()
        layers = _trunk()
        first = 0
        for number, end in enumerate(_PARTS, 1):
            part = nn.Sequential()
            for index in range(first, end):
                part.add_module(str(index), layers[index])
            self.add_module(f"slice{number}", part)
            first = end
        dilated = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
        self.slice5 = nn.Sequential(nn.MaxPool2d(3, 1, 1), dilated, nn.Conv2d(1024, 1024, 1))

    def forward(self, x: Any) -> list[Any]:
        maps: list[Any] = []
        for number in range(1, 6):
            x = getattr(self, f"slice{number}")(x)
            # Parts 1 to 3 end before a ReLU that the next part begins with. Training computed it in place.
            maps.insert(0, torch.relu(x) if number < 4 else x)
        return maps


class _Merge(nn.Module):
    def __init__(self, before: int, width: int, after: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(before, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.Conv2d(width, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Any) -> Any:
        return self.conv(x)


class Detector(nn.Module):
    """(N, 3, H, W) to scores (N, H / 2, W / 2, 2). H and W are multiples of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.basenet = _Base()
        self.upconv1 = _Merge(1536, 512, 256)
        self.upconv2 = _Merge(768, 256, 128)
        self.upconv3 = _Merge(384, 128, 64)
        self.upconv4 = _Merge(192, 64, 32)
        layers: list[nn.Module] = []
        for before, after, window in ((32, 32, 3), (32, 32, 3), (32, 16, 3), (16, 16, 1)):
            layers += [nn.Conv2d(before, after, window, padding=window // 2), nn.ReLU()]
        self.conv_cls = nn.Sequential(*layers, nn.Conv2d(16, 2, 1))

    def forward(self, x: Any) -> Any:
        coarse, *finer = self.basenet(x)
        y = self.upconv1(torch.cat([coarse, finer[0]], 1))
        for step, found in zip((self.upconv2, self.upconv3, self.upconv4), finer[1:], strict=True):
            y = functional.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)
            y = step(torch.cat([y, found], 1))
        return self.conv_cls(y).permute(0, 2, 3, 1)


def load(path: str) -> Detector:
    """The detector with the weights of a file. Their names begin with that of a wrapper."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    detector = Detector()
    detector.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    return detector.eval()
