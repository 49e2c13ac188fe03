"""The benchmark of pools: its traces, and the limits with which the results are compared."""

from contextlib import contextmanager
from itertools import combinations

import numpy as np
import pytest

import streamrt
from bench.pool import driver, limits, models, simulation
from bench.pool.traces import TRACES, sizes
from bench.process.cgroup import NoCgroupError
from bench.process.spawn import Outcome
from bench.record import Recorder, read
from streamrt.pool.adaptive import POLICIES

SETTING = driver.Setting(models=6, total=6 << 20, requests=40, hits=10)


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


@pytest.fixture
def processes(monkeypatch):
    """The jobs of all processes that were asked for. None is started; int8 takes 1/4 of the time."""
    asked = []

    def run(job, *, group=None, limit=900):
        asked.append((job, group))
        if job.kind == "pool-models":
            return Outcome("ok", {"bytes": [1 << 20] * SETTING.models})
        seconds = 0.25 if job.weights == "int8" else 1.0
        return Outcome("ok", {"seconds": seconds, "device": 5, "hit_ratio": 0.5, "p50": 1.0, "p99": 2.0})

    class Group:
        def peak(self):
            return 7

    @contextmanager
    def memory_cgroup(limit):
        yield Group()

    monkeypatch.setattr(driver.spawn, "run", run)
    monkeypatch.setattr(driver, "memory_cgroup", memory_cgroup)
    monkeypatch.setattr(driver.pagecache, "make_cold", lambda paths: None)
    return asked


def play(folder, **options):
    """The failures, and the lines of the file."""
    path = folder / "pool.jsonl"
    with Recorder(path, {}) as recorder:
        failures = driver.run(SETTING, folder, recorder, driver.Options(**options))
    return failures, read([path])


def test_types_of_weights_take_turns_with_the_same_budget(processes, tmp_path, capsys):
    contenders = ("streamrt lru", "whole-model LRU")
    failures, lines = play(
        tmp_path, contenders=contenders, traces=("zipf 0.9",), weights=("float32", "int8"), rounds=2, beside=False
    )
    wanted = [(index, name, weights) for index in (0, 1) for name in contenders for weights in ("float32", "int8")]
    timed = [line for line in lines if line["kind"] == "timing"]
    assert [(line["round"], line["peer"], line["weights"]) for line in timed] == wanted
    assert {line["trace"] for line in lines} == {"zipf 0.9"}
    jobs = [job for job, _ in processes]
    assert [(job.kind, job.weights) for job in jobs[:2]] == [("pool-models", "float32"), ("pool-models", "int8")]
    assert [(job.peer, job.weights) for job in jobs[2:]] == [wanted_[1:] for wanted_ in wanted]
    assert {job.budget for job in jobs[2:]} == {str(SETTING.total // 5)}
    assert failures == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "takes" in line] == [
        f"zipf 0.9: {name}: int8 takes 0.25 (0.25 - 0.25) of the time" for name in contenders
    ]


def test_hits_are_timed_beside_others_unless_traces_are_named(processes, tmp_path):
    _, lines = play(tmp_path, contenders=("streamrt lru",))
    assert [line["trace"] for line in lines if line["kind"] == "timing"] == [
        *TRACES, "hits beside hits", "hits beside misses",
    ]  # fmt: skip
    processes.clear()
    _, lines = play(tmp_path, contenders=())
    assert {line["kind"] for line in lines} == {"simulated"}
    assert processes == []


def test_times_are_compared_round_by_round():
    times = {("A", "float32"): {0: 1.0, 1: 10.0}, ("A", "int8"): {0: 0.5, 1: 2.0, 2: 9.0}, ("B", "float32"): {0: 1.0}}
    assert list(driver.compared(times)) == ["A: int8 takes 0.35 (0.20 - 0.50) of the time"]
    assert list(driver.compared({("A", "float32"): {}, ("A", "int8"): {0: 1.0}})) == []


def test_a_run_that_fails_is_counted_and_one_without_a_cgroup_is_not(processes, tmp_path, monkeypatch):
    options = {"contenders": ("streamrt lru",), "traces": ("cyclic",), "beside": False}
    run = driver.spawn.run

    def killed(job, **rest):
        return run(job) if job.kind == "pool-models" else Outcome("killed")

    monkeypatch.setattr(driver.spawn, "run", killed)
    failures, lines = play(tmp_path, **options)
    assert failures == 1
    assert lines[-1]["status"] == "killed"

    def none(limit):
        raise NoCgroupError("no")

    monkeypatch.setattr(driver, "memory_cgroup", none)
    assert play(tmp_path, **options)[0] == 0


def test_models_with_weights_in_fewer_bytes_are_the_same_models(tmp_path):
    wanted = sizes(3, 900_000)
    models.make(tmp_path, wanted, "int8")
    for original, path in zip(models.paths(tmp_path, wanted), models.paths(tmp_path, wanted, "int8"), strict=True):
        assert path.stat().st_size < 0.35 * original.stat().st_size
        with streamrt.Model(original) as exact, streamrt.Model(path) as rounded:
            x = np.ones((1, models.width(original)), np.float32)
            difference = np.abs(exact(x) - rounded(x)).max() / np.abs(exact(x)).max()
        assert 0 < difference < 0.1
