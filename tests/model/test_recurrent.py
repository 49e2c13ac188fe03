"""Recurrent layers whose weights stream: held for a call if they fit, else read for every step, with equal results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from model.zoo import assert_close, evict, with_run
from streamrt import Layer, _core
from streamrt.cli.inspection import inspect_model
from streamrt.format import read_header

Array = NDArray[np.float32]

STEPS, FEATURES, HIDDEN = 6, 64, 256
#: Bytes of the recurrent weights of the LSTM, and of those of the GRU.
LSTM, GRU = 4 * HIDDEN**2 * 4, 3 * HIDDEN**2 * 4


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32) / 16


def packed(folder: Path, weights: str | None = None) -> Path:
    """An LSTM and a GRU whose reset gate comes after a product with a bias."""
    layers = [
        Layer("MatMul", random(4 * HIDDEN, FEATURES), random(4 * HIDDEN), transB=1),
        Layer("LSTM", random(4 * HIDDEN, HIDDEN, seed=1)),
        Layer("Reshape", shape=(STEPS, -1, HIDDEN)),
        Layer("MatMul", random(3 * HIDDEN, HIDDEN, seed=2), random(3 * HIDDEN), transB=1),
        Layer(
            "GRU", random(3 * HIDDEN, HIDDEN, seed=3), random(3 * HIDDEN), linear_before_reset=1, direction="reverse"
        ),
    ]
    return streamrt.pack(layers, folder / "m.safetensors", inputs=(STEPS, "N", FEATURES), weights=weights)


def assert_same(found: Array, wanted: Array) -> None:
    """Equal bits. BLAS may add in another order when weights come in other tiles: then equal within 1e-6."""
    if _core.gemm_pays():
        np.testing.assert_array_equal(found, wanted)
    else:
        assert_close(found, wanted, 1e-6)


def weights_of(path: Path) -> int:
    return sum(tensor.nbytes for tensor in read_header(path).tensors.values())


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_results_do_not_depend_on_the_budget(tmp_path: Path, io: str) -> None:
    path, x = packed(tmp_path), random(STEPS, 2, FEATURES, seed=5)
    with streamrt.Model(path, io=io) as model:
        whole, least = model(x), model.min_budget(x.shape)
        workspace = model.plan.workspace
        assert model.plan.streamed_bytes == 0
        assert least - workspace < GRU / 4
        for budget in (least, least + 100_000, workspace + LSTM // 2, workspace + LSTM + 2**16, workspace + 2 * LSTM):
            evict(path)
            model.set_budget(budget)
            for _ in range(2):
                assert_same(model(x), whole)
            plan, stats = model.plan, model.stats
            assert plan.total <= budget
            assert stats.bytes_streamed == plan.streamed_bytes > 0
            assert stats.peak_weights <= plan.pinned_bytes + plan.window


@pytest.mark.parametrize("weights", [None, "float16", "int8"])
def test_the_plan_says_how_often_weights_are_read(tmp_path: Path, weights: str | None) -> None:
    path, x = packed(tmp_path, weights), random(STEPS, 2, FEATURES, seed=5)
    stored = {name: tensor.nbytes for name, tensor in read_header(path).tensors.items()}
    lstm, gru = stored["layer1.weight"], stored["layer4.weight"]
    others = weights_of(path) - lstm - gru
    with streamrt.Model(path) as model:
        plan = model.plan_for(x.shape)
        model.set_budget(plan.workspace + lstm + 2**16)  # room for one of the two, which are used one after the other
        held = model.plan_for(x.shape)
        assert held.pinned_bytes + held.streamed_bytes == pytest.approx(others + lstm + gru, rel=0.02)
        model.set_budget(model.min_budget(x.shape))
        least = model.plan_for(x.shape)
    assert least.pinned_bytes == 0
    assert least.streamed_bytes == pytest.approx(others + STEPS * (lstm + gru), rel=0.02)


def test_layers_are_shown_with_the_bytes_that_they_read(tmp_path: Path) -> None:
    path = packed(tmp_path)
    shapes = {"input": (STEPS, 2, FEATURES)}
    workspace = inspect_model(path, shapes=shapes).plan.workspace
    for budget, times in ((None, 0), (workspace + 2**17, STEPS)):
        found = inspect_model(path, budget, shapes=shapes)
        lstm = found.layers[1]
        assert lstm.op == "LSTM"
        assert lstm.streamed == times * (LSTM - lstm.pinned)
        assert (lstm.pinned, lstm.tiles) == (LSTM, 1) if budget is None else lstm.tiles >= 2 * STEPS
        assert sum(layer.streamed for layer in found.layers) == pytest.approx(found.plan.streamed_bytes, rel=0.02)
        assert sum(layer.pinned for layer in found.layers) == pytest.approx(found.plan.pinned_bytes, rel=0.1)


def test_a_call_after_one_that_was_given_up(tmp_path: Path) -> None:
    """The state of the steps before is forgotten."""
    path, x = packed(tmp_path), random(STEPS, 2, FEATURES, seed=5)
    with streamrt.Model(path) as model:
        whole, least = model(x), model.min_budget(x.shape)
        model.set_budget(least)
        model(x)
        steps = model._engine.session._steps
        kept = steps[len(steps) // 3]

        def stop(first: int, last: int) -> None:
            raise KeyboardInterrupt

        steps[len(steps) // 3] = with_run(kept, stop)
        with pytest.raises(KeyboardInterrupt):
            model(x)
        steps[len(steps) // 3] = kept
        assert_same(model(x), whole)


def test_verified_weights_are_read_in_every_step(tmp_path: Path) -> None:
    path, x = packed(tmp_path), random(STEPS, 2, FEATURES, seed=5)
    with streamrt.Model(path, verify="read") as model:
        whole = model(x)
        model.set_budget(model.min_budget(x.shape))
        assert_same(model(x), whole)
    data = bytearray(path.read_bytes())
    data[read_header(path).tensors["layer1.weight"].offset + 1000] ^= 1
    path.write_bytes(data)
    with streamrt.Model(path, verify="read") as model:
        model.set_budget(model.min_budget(x.shape))
        with pytest.raises(streamrt.WeightsIOError, match="damaged"):
            model(x)


def test_a_pool_counts_repeated_weights_once(tmp_path: Path) -> None:
    path, x = packed(tmp_path), random(STEPS, 2, FEATURES, seed=5)
    with streamrt.Model(path) as model:
        whole, plan = model(x), model.plan_for(x.shape)
    for budget in (plan.workspace + LSTM, plan.workspace + 2 * LSTM, 2 * plan.total):
        with streamrt.ModelPool(budget) as pool:
            pool.register("m", path)
            for _ in range(3):
                with pool.lease("m") as lease:
                    assert_same(lease(x), whole)
            assert pool.stats().held <= budget


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_batches_with_samples_first_are_divided(tmp_path: Path, op: str) -> None:
    """Seven samples at once and in parts; with steps first they are not divided, and not mixed either."""
    rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * HIDDEN
    layers = [Layer("MatMul", random(rows, FEATURES), transB=1), Layer(op, random(rows, HIDDEN, seed=1), layout=1)]
    path = streamrt.pack(layers, tmp_path / "m.safetensors", inputs=("N", STEPS, FEATURES))
    x = random(7, STEPS, FEATURES, seed=5)
    with streamrt.Model(path) as model:
        whole = model(x)
        assert whole.shape == (7, STEPS, 1, HIDDEN)
        model.set_budget(model.min_budget(x[:3].shape))
        np.testing.assert_allclose(model(x), whole, rtol=1e-5, atol=1e-6)
        assert 0 < model.plan.micro_batch < 7
    layers = [Layer("MatMul", random(rows, FEATURES), transB=1), Layer(op, random(rows, HIDDEN, seed=1))]
    streamrt.pack(layers, path, inputs=(STEPS, "N", FEATURES))
    with streamrt.Model(path) as model:
        np.testing.assert_allclose(
            model(x.transpose(1, 0, 2))[:, 0].transpose(1, 0, 2), whole[:, :, 0], rtol=1e-5, atol=1e-6
        )
