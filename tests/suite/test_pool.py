"""The benchmark of pools: its traces, its models, and the limits with which the results are compared."""

from __future__ import annotations

from itertools import combinations
from math import log
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

import streamrt
from bench.pool import contenders, limits, models, simulation
from bench.pool.sets import LARGE, MIB, QUICK, SETS, SMALL, ModelSet
from bench.pool.traces import TRACES
from streamrt.pool.adaptive import POLICIES


@pytest.mark.parametrize("name", TRACES)
def test_a_seed_gives_the_same_trace_of_the_length_asked_for(name: str) -> None:
    trace = TRACES[name](20, 333, 1)
    assert trace == TRACES[name](20, 333, 1)
    assert len(trace) == 333
    assert set(trace) <= set(range(20))


@pytest.mark.parametrize("chosen", [*SETS.values(), QUICK])
def test_logarithms_of_sizes_are_uniform(chosen: ModelSet) -> None:
    found = models.sizes(*chosen.shape)
    assert found == models.sizes(*chosen.shape)
    assert len(found) == chosen.models
    assert all(chosen.least <= size <= chosen.most for size in found)
    middle = mean(map(log, found))
    assert middle == pytest.approx((log(chosen.least) + log(chosen.most)) / 2, abs=log(chosen.most / chosen.least) / 8)


def test_budgets() -> None:
    """A fifth of the small models, and 1 GiB for the large models, which are about 5 GB."""
    assert SMALL.budget == sum(models.sizes(200, MIB, 8 * MIB)) // 5
    assert LARGE.budget == 1024 * MIB
    assert 4.5e9 < sum(models.sizes(*LARGE.shape)) < 5.5e9


def test_no_fixed_set_of_whole_models_loads_less_than_the_best_set_of_bytes() -> None:
    kilobytes = [3, 1, 4, 1, 5, 9]
    for name, make in TRACES.items():
        trace = make(6, 200, 2)
        for budget in (0, 2, 7, 11, 23):
            least = min(
                sum(
                    kilobytes[model] * (min(1, trace.count(model)) if model in kept else trace.count(model))
                    for model in range(6)
                )
                for count in range(7)
                for kept in combinations(range(6), count)
                if sum(kilobytes[model] for model in kept) <= budget
            )
            best = limits.best_fixed(trace, kilobytes, budget)
            assert best <= least, name
            assert best == least or budget not in (0, 23)  # equal if no model fits, or all models


def test_whole_models_by_recency() -> None:
    assert limits.whole_lru([0, 1, 0, 1], [5, 5], 10) == 10
    assert limits.whole_lru([0, 1, 2, 0, 1, 2], [5, 5, 5], 10) == 30
    assert limits.whole_lru([0, 1, 0, 2, 0], [5, 5, 5], 10) == 15
    assert limits.whole_lru([0, 1, 1, 0], [5, 50], 10) == 105  # a model that is too large evicts no other


def test_every_policy_is_a_contender() -> None:
    assert sorted(contenders.POLICIES) == sorted(f"streamrt {name}" for name in POLICIES)
    assert sorted(contenders.CONTENDERS) == sorted([contenders.EARLIER, contenders.WHOLE, *contenders.POLICIES])
    assert [contenders.policy_of(name) for name in contenders.POLICIES] == list(POLICIES)


def test_each_round_begins_with_the_next_contender() -> None:
    assert [contenders.rotated("abc", index) for index in range(4)] == [
        list("abc"),
        list("bca"),
        list("cab"),
        list("abc"),
    ]
    assert contenders.rotated("", 1) == []


def test_no_policy_loads_less_than_every_model_once() -> None:
    wanted = models.sizes(20, 1000, 20_000)
    trace = TRACES["zipf 0.9"](20, 400, 1)
    found = simulation.simulate(trace, wanted, sum(wanted) // 5)
    once = sum(wanted[model] for model in set(trace))
    assert all(loaded >= once for loaded in found.values())
    assert found["streamrt adaptive"] < found["whole-model LRU"]


def test_models_with_weights_in_fewer_bytes_are_the_same_models(tmp_path: Path) -> None:
    wanted = [150_000, 300_000, 450_000]
    models.make(tmp_path, wanted, "int8")
    for original, path in zip(models.paths(tmp_path, wanted), models.paths(tmp_path, wanted, "int8"), strict=True):
        assert path.stat().st_size < 0.35 * original.stat().st_size
        with streamrt.Model(original) as exact, streamrt.Model(path) as rounded:
            x = np.ones((1, models.width(original)), np.float32)
            difference = np.abs(exact(x) - rounded(x)).max() / np.abs(exact(x)).max()
        assert 0 < difference < 0.1


def test_another_package_has_models_of_its_own() -> None:
    ours, theirs = (models.paths(Path("data"), [1, 2], package=package) for package in ("", "abc"))
    assert not set(ours) & set(theirs)
    assert [path.name for path in ours] == [path.name for path in theirs]


def test_bystanders_have_paths_of_their_own_and_share_files(tmp_path: Path) -> None:
    budget = 1 << 20
    files = models.distinct(budget)
    count = files + 5
    models.make_bystanders(tmp_path, count, budget)
    models.make_bystanders(tmp_path, count, budget)  # again: all are there
    found = models.bystanders(tmp_path, count, budget)
    assert len({path.resolve() for path in found}) == files
    assert found[files + 1].resolve() == found[1].resolve()
    assert len(set(found)) == count
    with streamrt.Model(found[-1]) as model:
        model(np.ones((1, models.width(found[-1])), np.float32))
        assert model.plan.pinned_bytes * files > budget  # not all files fit in the budget
