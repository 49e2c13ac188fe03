"""The models of the real runs: MLPs of given sizes, made once, and the same with weights in fewer bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

#: Weights of the models as they are made, and from which the others are packed.
FLOAT32 = "float32"


def paths(folder: Path, sizes: Sequence[int], weights: str = FLOAT32) -> list[Path]:
    """The files of models of these sizes in float32, stored as ``weights``; they may not exist yet."""
    suffix = "" if weights == FLOAT32 else f"-{weights}"
    return [folder / f"pool-{len(sizes)}-{sum(sizes)}{suffix}" / f"{index}.safetensors" for index in range(len(sizes))]


def make(folder: Path, sizes: Sequence[int], weights: str = FLOAT32) -> None:
    """Make the missing models; each has about ``size`` bytes of weights in float32, and is stored as ``weights``."""
    import streamrt

    if weights == FLOAT32:
        _make(folder, sizes)
        return
    make(folder, sizes)
    for original, path in zip(paths(folder, sizes), paths(folder, sizes, weights), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            streamrt.pack(original, path, weights=weights)


def _make(folder: Path, sizes: Sequence[int]) -> None:
    import numpy as np

    import streamrt

    for path, size in zip(paths(folder, sizes), sizes, strict=True):
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        width = next(width for width in (1024, 512, 256, 128, 64) if width == 64 or size >= 8 * width * width)
        rows, random = size // (4 * width), np.random.default_rng(size)
        layers = []
        while rows > 0:
            count = width if rows >= 2 * width else rows
            weights = random.standard_normal((count, width), np.float32) / np.float32(width**0.5)
            layers.append(streamrt.Layer("Gemm", weights, activation="Relu"))
            rows -= count
            if count != width:
                break
        streamrt.pack(layers, path)


def width(path: Path) -> int:
    """The width of the input of a model in float32."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    first = next(value for name, value in header.items() if name != "__metadata__" and value["dtype"] == "F32")
    return int(first["shape"][-1])
