"""numpy.memmap and matmul: ten lines of code, with the page cache as the only manager of memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.models import Source, mlp
from bench.peers import Array, Opened, Peer, Setting


def _prepare(source: Source, folder: Path) -> None:
    """Nothing to prepare: NumPy maps the source's own file."""


def _open(source: Source, folder: Path, setting: Setting) -> Opened:
    layers = list(mlp.layers(source))
    return Opened(lambda x: forward(layers, x))


def forward(layers: list[tuple[Array, Array]], x: Array) -> Array:
    """(batch, in) through ReLU layers, computed feature-major, where OpenBLAS is fastest at these sizes."""
    y = np.ascontiguousarray(x.T)
    for index, (weights, bias) in enumerate(layers):
        y = weights @ y
        y += bias[:, None]
        if index < len(layers) - 1:
            np.maximum(y, 0, out=y)
    return y.T


PEERS = [
    Peer(
        name="numpy.memmap",
        modules=("numpy",),
        packages=("numpy",),
        families=frozenset({"mlp"}),
        prepare=_prepare,
        open=_open,
        files=lambda source, folder: [mlp.weights_file(source)],
    )
]
