"""The benchmark of pools: its traces, and the limits with which the results are compared."""

from itertools import combinations

import pytest

from bench.pool import driver, limits, simulation
from bench.pool.traces import TRACES, sizes
from streamrt.pool.adaptive import POLICIES


@pytest.mark.parametrize("name", TRACES)
def test_a_seed_gives_the_same_trace_of_the_length_asked_for(name):
    trace = TRACES[name](20, 333, 1)
    assert trace == TRACES[name](20, 333, 1)
    assert len(trace) == 333
    assert set(trace) <= set(range(20))


def test_sizes_add_up():
    found = sizes(200, 1_000_000)
    assert len(found) == 200
    assert 990_000 <= sum(found) <= 1_000_200
    assert max(found) > 10 * min(found)


def test_no_fixed_set_of_whole_models_loads_less_than_the_best_set_of_bytes():
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


def test_whole_models_by_recency():
    assert limits.whole_lru([0, 1, 0, 1], [5, 5], 10) == 10
    assert limits.whole_lru([0, 1, 2, 0, 1, 2], [5, 5, 5], 10) == 30
    assert limits.whole_lru([0, 1, 0, 2, 0], [5, 5, 5], 10) == 15
    assert limits.whole_lru([0, 1, 1, 0], [5, 50], 10) == 105  # a model that is too large evicts no other


def test_every_policy_is_a_contender():
    assert sorted(driver.CONTENDERS) == sorted(["whole-model LRU", *(f"streamrt {name}" for name in POLICIES)])


def test_no_policy_loads_less_than_every_model_once():
    wanted = sizes(20, 100_000)
    trace = TRACES["zipf 0.9"](20, 400, 1)
    found = simulation.simulate(trace, wanted, 20_000)
    once = sum(wanted[model] for model in set(trace))
    assert all(loaded >= once for loaded in found.values())
    assert found["streamrt adaptive"] < found["whole-model LRU"]
