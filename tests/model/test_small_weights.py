"""Trained networks with weights in fewer bytes: how much their answers change, and the bytes that are counted."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from kernels.isas import NUMPY
from streamrt import _core
from streamrt.format import read_header

DATA = Path(str(resources.files("streamrt.data")))
#: The largest relative RMS of the differences, and the smallest share of the same classes.
BOUNDS = {"float16": (5e-4, 1.0), "bfloat16": (5e-3, 1.0), "int8": (0.01, 1.0), "int4": (0.06, 0.98)}


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    with np.load(DATA / "digits_test.npz") as test:
        return (test["images"][:, None] / 16).astype(np.float32)


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn"])
@pytest.mark.parametrize("weights", BOUNDS)
def test_trained_networks_keep_their_answers(
    tmp_path: Path, images: NDArray[np.float32], name: str, weights: str
) -> None:
    source, path = DATA / f"{name}.safetensors", tmp_path / "small.safetensors"
    streamrt.pack(source, path, weights=weights)
    with streamrt.Model(source) as model, streamrt.Model(path) as small:
        exact, found = model(images), small(images)
    error, same = BOUNDS[weights]
    assert len(images) >= 300
    assert np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()) <= error
    assert (found.argmax(axis=1) == exact.argmax(axis=1)).mean() >= same


@pytest.mark.parametrize("weights", ["float16", "int8", "int4"])
def test_budgets_and_accounts_count_the_bytes_that_are_there(tmp_path: Path, weights: str) -> None:
    source, path = tmp_path / "model.safetensors", tmp_path / "small.safetensors"
    layers = [streamrt.Layer("Gemm", np.random.default_rng(i).normal(size=(1024, 1024)).astype("f")) for i in range(4)]
    streamrt.pack(layers, source)
    streamrt.pack(layers, path, weights=weights)
    stored = sum(tensor.nbytes for tensor in read_header(path).tensors.values())
    share = {"float16": 0.5, "int8": 0.251, "int4": 0.157}[weights]
    assert stored == pytest.approx(share * 16 * 2**20, rel=0.01)
    decoded = 1024 * 1024 * 4 if _core.isa() == NUMPY else 0  # BLAS multiplies float32 only
    x = np.ones((1, 1024), np.float32)
    with streamrt.Model(source) as model, streamrt.Model(path) as small:
        whole, least = small.plan_for(x.shape), small.min_budget(x.shape)
        assert stored <= whole.pinned_bytes <= stored + 2**16
        assert least <= model.min_budget(x.shape) + decoded + 4096  # a tile of rows that do not end with a page
        small.set_budget(least)
        small(x)
        small(x)
        plan, stats = small.plan, small.stats
        assert plan.total <= least
        assert plan.pinned_bytes + plan.streamed_bytes == pytest.approx(stored, rel=0.01)
        assert stats.bytes_streamed == plan.streamed_bytes
        assert sum(layer.weights for layer in stats.layers) == stored
    with streamrt.ModelPool(4 * whole.total) as pool:
        pool.register("small", path)
        with pool.lease("small") as lease:
            lease(x)
        assert stored <= pool.stats().bytes_loaded <= stored + 2**16
        assert stored <= pool.stats().held <= stored + decoded + 2**20
