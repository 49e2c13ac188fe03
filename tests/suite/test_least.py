"""What streamrt tells the benchmark for T*, in bands: the least memory beside weights, and each weight once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import streamrt
from bench.peers.streamrt import _facts
from kernels.isas import NUMPY, using
from model import zoo
from model.test_again import SHAPE, gated
from streamrt import _core
from streamrt.format import read_header


@pytest.fixture(autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        yield


@pytest.mark.parametrize("part", [0, 0.05])
def test_no_plan_has_more_room_for_weights_than_tstar_assumes(tmp_path: Path, part: float) -> None:
    path = gated(tmp_path / "model")
    with streamrt.Model(path) as model:
        least, most = model.min_budget(SHAPE), model.plan_for(SHAPE).total
    with streamrt.Model(path, least + int(part * (most - least))) as model:
        model(zoo.random_input(*SHAPE))
        assert model.plan is not None
        assert model.plan.bands
        facts = _facts(model, path, SHAPE[1:])
    workspace, window = facts["least_workspace"], facts["least_window"]
    assert isinstance(workspace, int)
    assert isinstance(window, int)
    assert workspace + window == least
    assert window > 0
    for seventh in range(8):
        with streamrt.Model(path, least + seventh * (most - least) // 7) as model:
            assert model.plan_for(SHAPE).workspace >= workspace


def test_each_weight_counts_once_for_tstar(tmp_path: Path) -> None:
    path = gated(tmp_path / "model")
    with streamrt.Model(path) as model:
        model.set_budget(model.min_budget(SHAPE))
        model(zoo.random_input(*SHAPE))
        layers = _facts(model, path, SHAPE[1:])["layers"]
        stats = model.stats
    assert isinstance(layers, list)
    assert stats is not None
    assert [(name, seconds) for name, _, seconds in layers] == [(layer.name, layer.compute) for layer in stats.layers]
    sizes = {name: size for name, size, _ in layers}
    assert sizes["Conv_2"] > sizes["Conv_2 (run 2)"] == 0
    assert sum(sizes.values()) == sum(tensor.nbytes for tensor in read_header(path).tensors.values())


def test_the_weights_of_a_whole_pass_are_those_of_the_plan(tmp_path: Path) -> None:
    path = gated(tmp_path / "model")
    with streamrt.Model(path) as model:
        model(zoo.random_input(*SHAPE))
        layers = _facts(model, path, SHAPE[1:])["layers"]
        stats = model.stats
    assert stats is not None
    assert layers == [(layer.name, layer.weights, layer.compute) for layer in stats.layers]
