"""safetensors: ``safe_open`` on a NumPy model, a tensor at a time, and matmul."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.models import Source, mlp
from bench.peers import Array, Opened, Peer, Setting


def _file(folder: Path) -> Path:
    return folder / "model.safetensors"


def _prepare(source: Source, folder: Path) -> None:
    from safetensors.numpy import save_file

    tensors = {}
    for index, (weights, bias) in enumerate(mlp.layers(source)):
        tensors |= {f"{index}.weight": weights, f"{index}.bias": bias}
    save_file(tensors, _file(folder))


def _open(source: Source, folder: Path, setting: Setting) -> Opened:
    from safetensors import safe_open

    file = safe_open(_file(folder), framework="numpy")
    count = mlp.Shape.of(source).layers

    def run(x: Array) -> Array:
        y = np.ascontiguousarray(x.T)
        for index in range(count):
            y = file.get_tensor(f"{index}.weight") @ y
            y += file.get_tensor(f"{index}.bias")[:, None]
            if index < count - 1:
                np.maximum(y, 0, out=y)
        return y.T

    return Opened(run)


PEERS = [
    Peer(
        name="safetensors",
        modules=("safetensors.numpy",),
        packages=("safetensors", "numpy"),
        families=frozenset({"mlp"}),
        prepare=_prepare,
        open=_open,
        files=lambda source, folder: [_file(folder)],
    )
]
