"""Torchvision models with seeded weights, and statistics of BatchNormalization that are not trivial."""

from __future__ import annotations

from typing import Any


def seeded(name: str) -> Any:
    """The model ``name`` in evaluation mode; the same weights every time."""
    import torch
    import torchvision

    torch.manual_seed(0)
    arguments = {"aux_logits": True, "init_weights": True} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **arguments).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.75, 1.25)
                module.weight.uniform_(0.75, 1.25)
                module.bias.normal_(0, 0.1)
    return model


def images(batch: int, size: int = 224) -> Any:
    """A batch of noise, (batch, 3, size, size)."""
    import torch

    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))
