"""The measured models: seeded weights, made once into a folder that every peer converts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Source:
    """A model before any peer has converted it.

    Attributes:
        name: unique, and a folder's name.
        family: ``"mlp"`` or ``"cnn"``.
        folder: `make` writes ``model.onnx`` (free batch) there, and the other files that the family's peers convert.
        shape: extents of one input sample.
        needs: modules that `make` and `reference` import.
        make: writes the folder.
        reference: computes the answer to an input in float64.
    """

    name: str
    family: str
    folder: Path
    shape: tuple[int, ...]
    needs: tuple[str, ...]
    make: Callable[[Source], None]
    reference: Callable[[Source, NDArray[np.float32]], NDArray[np.float64]]

    @property
    def onnx(self) -> Path:
        """The model as an ONNX file with a free batch."""
        return self.folder / "model.onnx"

    @property
    def onnx_files(self) -> list[Path]:
        """`onnx`, and the file of its external data if it has one: Protobuf ends at 2 GiB."""
        return sorted(self.folder.glob("model.onnx*"))

    def input_file(self, batch: int) -> Path:
        """The file of `input` of a model that has it mapped."""
        return self.folder / f"input-{batch}.npy"

    def input(self, batch: int) -> NDArray[np.float32]:
        """(batch, *shape): the same noise every time; mapped if it is in a file."""
        if (path := self.input_file(batch)).exists():
            return np.load(path, mmap_mode="c")
        return np.random.default_rng(batch).standard_normal((batch, *self.shape), np.float32)

    def answer(self, batch: int) -> Path:
        """The file of the reference's answer to `input`."""
        return self.folder / f"answer-{batch}.npy"


#: Modules that some source or case needs.
NEEDS = ("awslambdaric", "onnx", "onnxscript", "timm", "torch", "torchvision")


def source(name: str, data: Path) -> Source:
    """The model ``name`` with its folder under ``data``.

    Raises:
        KeyError: there is no such model.
    """
    from bench.models import mlp, vision

    for module in (mlp, vision):
        if found := module.source(name, data):
            return found
    raise KeyError(name)
