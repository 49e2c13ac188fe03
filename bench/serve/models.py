"""The files of a row: the weights files that streamrt serves, and the ONNX files that the peers serve."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.machine import sources_digest
from bench.models import Source, mlp, source
from bench.serve.rows import SAMPLES, Row


def packed(row: Row, data: Path) -> Path:
    """The folder of weights files, which is what ``streamrt serve`` serves."""
    return _folder(row, data) / "packed"


def onnx_files(row: Row, data: Path) -> dict[str, Path]:
    """The ONNX file of each model by its name."""
    if row.models == 1:
        return {row.model: source(row.model, data).onnx}
    return {name: _folder(row, data) / "onnx" / name / "model.onnx" for name in row.names}


def weights(row: Row, data: Path) -> int:
    """Bytes of the weights files of all models."""
    return sum(path.stat().st_size for path in packed(row, data).iterdir())


def answers(row: Row, data: Path) -> list[NDArray[np.float64]]:
    """For each model, the answers (`SAMPLES`, ...) to ``source.input(SAMPLES)`` in float64."""
    of_source = np.load(source(row.model, data).answer(SAMPLES))
    return [of_source + index for index in range(row.models)]


def make(row: Row, data: Path) -> None:
    """Make the missing files; the source has been made before."""
    import streamrt

    origin, folder = source(row.model, data), _folder(row, data)
    mark = folder / "made"
    package = sources_digest(Path(streamrt.__file__).parent)  # the format changes between versions
    made_by = "\n".join([package, (origin.folder / "made").read_text(), Path(__file__).read_text()])
    if mark.exists() and mark.read_text() == made_by:
        return
    shutil.rmtree(folder, ignore_errors=True)
    packed(row, data).mkdir(parents=True)
    for index, (name, path) in enumerate(onnx_files(row, data).items()):
        if row.models > 1:
            path.parent.mkdir(parents=True)
            _vary(origin, path, index)
        streamrt.pack(path, packed(row, data) / f"{name}.safetensors")
    mark.write_text(made_by)


def _folder(row: Row, data: Path) -> Path:
    return data / f"serve-{row.model}-{row.models}"


def _vary(origin: Source, path: Path, index: int) -> None:
    """A copy of an MLP at ``path``, whose last bias is larger by ``index``: its answers tell it from the others."""
    shape = mlp.Shape.of(origin)
    shutil.copyfile(origin.onnx, path)
    file = path.parent / mlp.weights_file(origin).name
    shutil.copyfile(mlp.weights_file(origin), file)
    bias = np.memmap(file, np.float32, "r+", file.stat().st_size - 4 * shape.width, (shape.width,))
    bias += np.float32(index)
    bias.flush()
