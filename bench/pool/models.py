"""The models of the real runs: MLPs of given sizes, made once, and the same with weights in fewer bytes."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

#: Weights of the models as they are made, and from which the others are packed.
FLOAT32 = "float32"
#: Bytes of a bystander: small, so that 10,000 of them are read soon, and large enough that few are open together. An
#: open model takes 100 KiB beside the budget.
_BYSTANDER = 512 << 10


def sizes(models: int, least: int, most: int, seed: int = 2) -> list[int]:
    """Bytes of each model, from ``least`` to ``most``: their logarithms are uniform."""
    r = random.Random(seed)
    return [int(least * (most / least) ** r.random()) for _ in range(models)]


def paths(folder: Path, sizes: Sequence[int], weights: str = FLOAT32, package: str = "") -> list[Path]:
    """The files of models of these sizes in float32, stored as ``weights``; they may not exist yet.

    ``package`` names the streamrt that packs them, if it is another than the installed package.
    """
    suffix = "".join(f"-{part}" for part in ("" if weights == FLOAT32 else weights, package) if part)
    return [folder / f"pool-{len(sizes)}-{sum(sizes)}{suffix}" / f"{index}.safetensors" for index in range(len(sizes))]


def make(folder: Path, sizes: Sequence[int], weights: str = FLOAT32, package: str = "") -> None:
    """Make the missing models; each has about ``size`` bytes of weights in float32, and is stored as ``weights``."""
    import streamrt

    if weights == FLOAT32:
        for path, size in zip(paths(folder, sizes, package=package), sizes, strict=True):
            _make(path, size)
        return
    make(folder, sizes, package=package)
    originals = paths(folder, sizes, package=package)
    for original, path in zip(originals, paths(folder, sizes, weights, package), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            streamrt.pack(original, path, weights=weights)


def bystanders(folder: Path, count: int, budget: int) -> list[Path]:
    """Paths of ``count`` small models, which are registered beside others.

    Several paths lead to one file. But between any two of them are more models than fit in ``budget``, so a pool that
    is asked for one after the other seldom has a file open twice.
    """
    inside = folder / f"pool-bystanders-{distinct(budget)}"
    return [inside / f"{index}.safetensors" for index in range(count)]


def make_bystanders(folder: Path, count: int, budget: int) -> None:
    """Make the missing files of `bystanders`."""
    found, files = bystanders(folder, count, budget), distinct(budget)
    for index, path in enumerate(found):
        if path.exists():
            continue
        if index == 0:
            _make(path, _BYSTANDER)
        elif index < files:
            shutil.copyfile(found[0], partial := path.with_suffix(".partial"))
            partial.rename(path)
        else:
            path.unlink(missing_ok=True)
            path.symlink_to(found[index % files].name)


def distinct(budget: int) -> int:
    """How many files the bystanders have: the first so many paths."""
    return budget // _BYSTANDER + 50


def _make(path: Path, size: int) -> None:
    """Make one model with weights in float32, unless it exists."""
    import numpy as np

    import streamrt

    if path.exists():
        return
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
