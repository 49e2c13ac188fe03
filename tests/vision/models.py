"""Torchvision models with seeded weights, and with statistics of BatchNormalization that are not 0 and 1."""

from __future__ import annotations

import re
from typing import Any

#: Modules of torchvision whose models are no MLPs or CNNs.
ATTENTION = ("vision_transformer", "swin_transformer", "maxvit")


def registry() -> list[list[str]]:
    """The names of all classification and segmentation models, a list for each family, the smallest model first."""
    from torchvision import models

    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for module in (models, models.segmentation):
        for name in models.list_models(module=module):
            place = models.get_model_builder(name).__module__
            if place.rpartition(".")[2] not in ATTENTION:
                family = re.sub(r"_?\d.*|_(tiny|small|base|large)$", "", name)
                size = models.get_model_weights(name).DEFAULT.meta["num_params"]
                found.setdefault((place, family), []).append((size, name))
    return [[name for _, name in sorted(names)] for _, names in sorted(found.items())]


def seeded(name: str) -> Any:
    """The model ``name`` in evaluation mode, with one output; the same weights every time."""
    import torch
    from torchvision import models

    torch.manual_seed(0)
    arguments: dict[str, Any] = {"weights": None}
    if name == "googlenet":
        arguments |= {"aux_logits": True, "init_weights": True}
    elif name == "inception_v3":
        arguments |= {"init_weights": False}
    is_segmentation = models.get_model_builder(name).__module__.startswith(models.segmentation.__name__)
    if is_segmentation:
        arguments |= {"weights_backbone": None}
    model = with_statistics(models.get_model(name, **arguments))
    return segmenter(model) if is_segmentation else model


def detectors() -> list[list[str]]:
    """The names of all detection models, a list for each kind of body, the smallest model first."""
    import torch
    from torchvision import models

    found: dict[object, list[tuple[int, str]]] = {}
    for name in models.list_models(module=models.detection):
        with torch.device("meta"):  # shapes without values
            body = models.get_model(name, weights=None, weights_backbone=None).backbone
        parts = tuple(sorted({type(part).__name__ for part in body.modules()}))
        size = sum(parameter.numel() for parameter in body.parameters())
        found.setdefault(parts, []).append((size, name))
    return [[name for _, name in sorted(names)] for names in found.values()]


def seeded_body(name: str) -> Any:
    """The body of the detection model ``name``; it takes images and gives several maps by name."""
    import torch
    from torchvision import models

    torch.manual_seed(0)
    return with_statistics(models.get_model(name, weights=None, weights_backbone=None).backbone)


def with_statistics(model: Any) -> Any:
    """``model`` in evaluation mode, with random statistics instead of the 0 and 1 of an untrained network."""
    import torch
    from torchvision.ops import FrozenBatchNorm2d

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d | FrozenBatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.75, 1.25)
                module.weight.uniform_(0.75, 1.25)
                module.bias.normal_(0, 0.1)
    return model.eval()


def segmenter(model: Any) -> Any:
    """``model`` with its first output alone."""
    import torch

    class Segmenter(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            return self.model(x)["out"]

    return Segmenter().eval()


def images(batch: int, name: str = "") -> Any:
    """A batch of noise, (batch, 3, size, size), in the size that the model ``name`` was made for."""
    import torch

    size = 299 if name == "inception_v3" else 224
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))
