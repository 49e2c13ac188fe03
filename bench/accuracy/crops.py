"""The inputs: squares of photographs that packages ship. ``pictures.tsv`` and ``crops.tsv`` list them.

The boxes were drawn at random, with sides spread evenly in the logarithm. Boxes with little contrast were left out, and
boxes that share more than 60 % of their area with another. Textures have fewer boxes than scenes.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture inside a package.

    Attributes:
        name: unique in the list.
        package: the distribution that ships it.
        path: the file, relative to the folder where packages are installed.
        width: pixels.
        height: pixels.
        sha256: of the file, in hexadecimal digits.
    """

    name: str
    package: str
    path: str
    width: int
    height: int
    sha256: str

    def file(self) -> Path:
        """The file, with the bytes that the list was made from.

        Raises:
            FileNotFoundError: the package is not installed, or does not ship the picture.
            ValueError: the file has other bytes.
        """
        try:
            path = Path(str(metadata.distribution(self.package).locate_file(self.path)))
        except metadata.PackageNotFoundError:
            raise FileNotFoundError(f"{self.name}: the package {self.package} is not installed") from None
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
            raise ValueError(f"{path}: the picture has changed since its boxes were listed")
        return path


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of a picture, in pixels."""

    picture: Picture
    left: int
    top: int
    side: int


def pictures() -> dict[str, Picture]:
    """All pictures by name."""
    with (_HERE / "pictures.tsv").open() as file:
        found = [
            Picture(row["picture"], row["package"], row["path"], int(row["width"]), int(row["height"]), row["sha256"])
            for row in csv.DictReader(file, delimiter="\t")
        ]
    return {picture.name: picture for picture in found}


def crops() -> list[Crop]:
    """All crops, in the order of the list."""
    known = pictures()
    with (_HERE / "crops.tsv").open() as file:
        return [
            Crop(known[row["picture"]], int(row["left"]), int(row["top"]), int(row["side"]))
            for row in csv.DictReader(file, delimiter="\t")
        ]


def spread(count: int, total: int) -> list[int]:
    """At most ``count`` of ``total`` indices, with equal distances."""
    return [index * total // count for index in range(count)] if count < total else list(range(total))


def pixels(some: Sequence[Crop], side: int) -> NDArray[np.uint8]:
    """Crops scaled to ``side``: (crops, side, side, 3), red, green and blue.

    Raises:
        FileNotFoundError: as `Picture.file`.
        ValueError: as `Picture.file`.
    """
    from PIL import Image

    found = np.empty((len(some), side, side, 3), np.uint8)
    opened: dict[str, Image.Image] = {}
    for index, crop in enumerate(some):
        if crop.picture.name not in opened:
            with Image.open(crop.picture.file()) as picture:
                opened[crop.picture.name] = picture.convert("RGB")
        box = (crop.left, crop.top, crop.left + crop.side, crop.top + crop.side)
        whole = opened[crop.picture.name]
        found[index] = whole.resize((side, side), Image.Resampling.BILINEAR, box)
    return found
