"""Small models for tests of `streamrt.Model`: packed from layers, with answers that NumPy computes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrt import Layer, pack
from streamrt._core import Step

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Packed:
    """A weights file, and the function that it should compute."""

    path: Path
    answer: Callable[[Array], Array]
    weights: int  # bytes of all parameters


def mlp(folder: Path, *widths: int, seed: int = 0) -> Packed:
    """Dense layers with Relu between them, and none after the last."""
    random = np.random.default_rng(seed)
    shapes = list(pairwise(widths))
    weights = [random.standard_normal((o, i), np.float32) / np.float32(np.sqrt(i)) for i, o in shapes]
    biases = [random.standard_normal(o, np.float32) for _, o in shapes]
    last = len(shapes) - 1
    layers = [
        Layer("Gemm", w, b, activation=None if i == last else "Relu")
        for i, (w, b) in enumerate(zip(weights, biases, strict=True))
    ]
    path = pack(layers, folder / "mlp.safetensors")

    def answer(x: Array) -> Array:
        y = x.astype(np.float64)
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            y = y @ w.T.astype(np.float64) + b
            y = y if i == last else np.maximum(y, 0)
        return y.astype(np.float32)

    return Packed(path, answer, sum(a.nbytes for a in (*weights, *biases)))


def evict(path: Path) -> None:
    """Take the file out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def random_input(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def assert_close(found: Array, wanted: Array, tolerance: float = 1e-5) -> None:
    """Equal within ``tolerance`` of the largest magnitude."""
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def with_run(step: Step, run: Callable[[int, int], None]) -> Step:
    """The same step of a pass with another function to run."""
    return Step(step.node, step.waits, run, step.first, step.last, step.dones)


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until other threads have made a condition true. Fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def load(path: Path) -> Array:
    return np.load(path, allow_pickle=False)
