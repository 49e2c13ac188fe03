"""Predicted times follow the measured speeds, for other budgets, batches and algorithms."""

from __future__ import annotations

from pathlib import Path

import pytest

import streamrt
from model import zoo
from streamrt.engine.prepared import Prepared
from streamrt.format import WeightsFile
from streamrt.host.rates import Rates
from streamrt.tuning.predict import Speeds, computing_speeds, passes_of, predicted

RATES = Rates(disk=1e9, memory=1e10, flops=1e10)


def prepared(model: streamrt.Model, budget: int | None, batch: int = 1) -> tuple[WeightsFile, Prepared]:
    file = model._engine.file
    return file, model._engine.planner.with_budget(budget).prepare(file.graph, {"input": (batch, 512)})


@pytest.fixture
def model(tmp_path: Path) -> streamrt.Model:
    return streamrt.Model(zoo.mlp(tmp_path, 512, 2048, 2048, 512).path, budget=None)


def test_measured_times_come_back(model: streamrt.Model) -> None:
    with model:
        file, all_pinned = prepared(model, None)
        computed = [0.3, 0.1, 0.05]
        nodes = computing_speeds(file, all_pinned, RATES, computed)
        assert set(nodes) == {"layer0", "layer1", "layer2"}
        found = predicted(file, all_pinned, RATES, Speeds(1e9, nodes, rest=0.01))
        assert found == pytest.approx(0.46)


def test_a_larger_batch_computes_longer(model: streamrt.Model) -> None:
    with model:
        file, one = prepared(model, None)
        _, many = prepared(model, None, batch=64)
        nodes = computing_speeds(file, one, RATES, [0.1, 0.1, 0.1])
        assert predicted(file, many, RATES, Speeds(1e9, nodes)) > 2 * predicted(file, one, RATES, Speeds(1e9, nodes))


def test_a_slower_disk_and_a_smaller_budget_take_longer(model: streamrt.Model) -> None:
    with model:
        file, large = prepared(model, 16 << 20)
        _, small = prepared(model, 4 << 20)
        size = small.plan.streamed_bytes
        assert size > large.plan.streamed_bytes > 0
        slow, fast = (predicted(file, small, RATES, Speeds(disk)) for disk in (1e6, 1e7))
        assert slow == pytest.approx(size / 1e6, rel=0.3)
        assert fast == pytest.approx(slow / 10, rel=0.3)
        assert predicted(file, large, RATES, Speeds(1e6)) < slow


def test_passes_of_a_divided_batch_add_up(model: streamrt.Model) -> None:
    with model:
        file, whole = prepared(model, model.min_budget((64, 512)), batch=64)
        assert 0 < whole.plan.micro_batch < 64
        passes = passes_of(whole)
        assert passes == -(-64 // whole.plan.micro_batch)
        assert predicted(file, whole, RATES, Speeds(1e6)) > 0.8 * passes * whole.plan.streamed_bytes / 1e6
