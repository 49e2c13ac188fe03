"""`Model(exact=...)` runs with and without Winograd's algorithm. A small budget does without it, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model import zoo
from streamrt import Layer, Model, _core, pack


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three convolutions of 3 x 3, large enough for Winograd's algorithm."""
    weights = [zoo.random_input(64, 64, 3, 3, seed=seed) / 24 for seed in range(3)]
    layers = [Layer("Conv", w, pads=(1, 1, 1, 1), activation="Relu") for w in weights]
    return pack(layers, tmp_path_factory.mktemp("exact") / "m.safetensors", inputs=("n", 64, 40, 40))


def test_exact_sums_differ_from_fast_ones_by_rounding(path: Path) -> None:
    x = zoo.random_input(2, 64, 40, 40)
    with Model(path, None) as fast, Model(path, None, exact=True) as exact:
        a, b = fast(x), exact(x)
        assert (fast.plan.workspace > exact.plan.workspace) == _core.products_pay()
    zoo.assert_close(a, b, 2e-5)
    assert np.array_equal(a, b) != _core.products_pay()  # NumPy computes all sums in one way


def test_a_budget_without_room_for_winograd_gets_exact_sums(path: Path) -> None:
    x = zoo.random_input(3, 64, 40, 40)
    with Model(path, None, exact=True) as model:
        wanted, least = model(x), model.min_budget(x.shape)
    with Model(path) as model:
        assert model.min_budget(x.shape) == least
    with Model(path, least) as model:
        np.testing.assert_array_equal(model(x), wanted)
        assert model.stats.peak_weights + model.stats.workspace <= least
