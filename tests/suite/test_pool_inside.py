"""The work of the measured processes: replays, floors, hits, locks, registering. Models are tiny."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import pytest

import streamrt
from bench.pool import callers, floor, hits, locks, memory, models, replay, tasks
from bench.pool.contenders import CONTENDERS, EARLIER, WHOLE
from bench.pool.earlier import COMMIT
from bench.pool.inside import Registered, pool_of
from bench.pool.tasks import TASKS
from bench.pool.whole import WholeModels
from bench.process import spawn
from bench.process.job import Job

SIZES = [40_000, 80_000, 120_000, 160_000, 200_000, 240_000]
TRACE = [0, 1, 0, 5, 5, 4, 3, 0]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    models.make(folder, SIZES)
    return models.paths(folder, SIZES)


@pytest.fixture(scope="module")
def widths(paths: list[Path]) -> list[int]:
    return [models.width(path) for path in paths]


def registered(paths: list[Path], widths: list[int], budget: int = 2 << 20, bystanders: int = 0) -> Registered:
    more = paths[:bystanders]
    return Registered([*paths, *more], [*widths, *widths[:bystanders]], len(paths), budget)


def weights_of(path: Path) -> int:
    with streamrt.Model(path, None) as model:
        return sum(r.length for r in model.plan.ranges)


def total_of(path: Path) -> int:
    with streamrt.Model(path, None) as model:
        return model.plan.total


# ---------------------------------------------------------------- replay and floor


@pytest.mark.parametrize("contender", CONTENDERS)
def test_bytes_are_noted_request_by_request(paths: list[Path], widths: list[int], contender: str) -> None:
    """All models fit, so each is brought in once: by its first request."""
    found = replay.replay(contender, paths, widths, 4 << 20, TRACE)
    first = [index not in TRACE[:at] for at, index in enumerate(TRACE)]
    assert [size > 0 for size in found["brought"]] == first
    assert found["brought"] == [weights_of(paths[model]) * new for model, new in zip(TRACE, first, strict=True)]
    assert found["loaded"] == sum(found["brought"])
    assert found["hit_ratio"] == first.count(False) / len(TRACE)
    assert 0 < found["p50"] <= found["p99"] <= found["seconds"]


def test_the_least_recently_used_whole_model_makes_room(paths: list[Path]) -> None:
    pool = WholeModels(paths, total_of(paths[0]) + total_of(paths[5]))
    opened = []
    for index in (0, 5, 0, 4, 0, 5):
        with pool.lease(index) as model:
            opened.append(model)
    assert pool.hits == 2  # of 0
    assert opened[0] is opened[2] is opened[4]
    assert opened[1] is not opened[5]
    pool.close()


def test_a_model_larger_than_the_budget_streams(paths: list[Path], widths: list[int]) -> None:
    found = replay.replay(WHOLE, paths, widths, 100_000, [5, 5])
    assert found["brought"][1] > 0


def test_noting_takes_no_part_of_the_times(
    paths: list[Path], widths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def brought(model: object) -> int:
        now[0] += 100.0
        return 1

    def clock() -> float:
        now[0] += 0.125
        return now[0]

    monkeypatch.setattr(replay, "_brought", brought)
    monkeypatch.setattr(replay, "perf_counter", clock)
    found = replay.replay(WHOLE, paths, widths, 4 << 20, [0, 0, 0])
    assert found["seconds"] == 3 * 0.25  # from asking to the answer, and from the note to the end of the lease


def test_a_floor_adds_reading_and_computing(
    paths: list[Path], widths: list[int], disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [500_000, 900_000]
    models.make(disk, wanted)
    own = models.paths(disk, wanted)
    seconds = {own[0]: 0.5, own[1]: 0.25}

    def computing(path: Path, width: int) -> float:
        return seconds[path]

    monkeypatch.setattr(floor, "_computing", computing)
    brought = [500_000, 0, 900_000]
    found = floor.floor(own, [models.width(path) for path in own], [0, 0, 1], brought)
    assert found["computing"] == 1.25
    assert found["seconds"] == pytest.approx(found["reading"] + 1.25)
    assert found["reading"] > 0
    assert found["loaded"] == sum(brought)
    assert found["hit_ratio"] == pytest.approx(1 / 3)
    if found["direct"]:
        assert found["device"] >= sum(brought)


def test_computing_is_measured_with_weights_in_memory(paths: list[Path], widths: list[int]) -> None:
    assert 0 < floor._computing(paths[0], widths[0]) < 1


def test_parts_of_a_read() -> None:
    chunk = 16 << 20
    assert list(floor.parts(0, 4096)) == []
    assert list(floor.parts(5, 4096)) == [(0, 5)]
    assert list(floor.parts(10_000, 4096)) == [(0, 4096), (0, 4096), (0, 1808)]
    assert list(floor.parts(chunk + 3, 2 * chunk)) == [(0, chunk), (chunk, 3)]
    assert list(floor.parts(5, 0)) == []


def test_a_reader_reads_every_byte_that_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 16 * 3)  # three pages
    with floor.Reader() as reader:
        reader.open(path)
        for size in (1, 4096, 5000, 3 * 4096, 7 * 4096):
            reader.read(path, size)
        assert reader._buffer[:4096] == bytes(range(256)) * 16
        path.write_bytes(b"")
        with pytest.raises(OSError, match="fewer bytes"):
            reader.read(path, 4096)


# ---------------------------------------------------------------- hits


def test_only_hits_are_compared_with_calls(paths: list[Path], widths: list[int]) -> None:
    found = hits.cost(registered(paths, widths, bystanders=3), calls=20)
    assert found["hit_ratio"] == 1
    assert found["least"] <= found["cost"] <= found["most"]
    assert min(found["call"], found["hit"]) > 0


def test_models_of_medium_size(paths: list[Path], widths: list[int]) -> None:
    assert registered(paths, widths).medium(4) == [1, 2, 3, 4]
    assert registered(paths, widths, bystanders=2).by_size() == [0, 1, 2, 3, 4, 5]


def test_a_pool_that_is_measured_knows_all_its_models(paths: list[Path], widths: list[int]) -> None:
    with registered(paths, widths, bystanders=3).pool() as pool:
        assert [status.requests for status in pool.index()] == [1] * 9
        assert all(status.weights for status in pool.index())


def test_misses_of_one_caller_are_misses(paths: list[Path], widths: list[int]) -> None:
    """The budget has room for the four models of medium size, and for little else."""
    budget = sum(weights_of(path) for path in paths[1:5]) + (100 << 10)
    found = callers.together(registered(paths, widths, budget), seconds=0.03)
    assert found["misses"] > 0
    assert found["throughput"] > 0
    assert found["raised"] == found["raised"]  # a number
    assert 0 <= found["miss_ratio"] <= 1


def test_a_stretch_counts_calls_of_all_and_times_those_of_the_first_three() -> None:
    threads: set[int] = set()
    over = threading.Event()

    def quick() -> None:
        threads.add(threading.get_ident())
        over.wait(0.05)

    def slow() -> None:
        threads.add(threading.get_ident())
        over.wait(1.0)

    rate, p99 = callers.stretch([quick, quick, quick, slow], 0.2)
    assert len(threads) == 4
    assert 0.05 <= p99 < 0.6
    assert rate > 2  # four calls at least, in little over a second
    _, alone = callers.stretch([quick], 0.02)
    assert alone >= 0.05


def test_an_error_of_a_caller_ends_the_measurement() -> None:
    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        callers.stretch([fails], 0.01)


# ---------------------------------------------------------------- locks


class Inner:
    """Stands in for a condition. Waiting takes 100 s of the clock."""

    def __init__(self, clock: list[float]) -> None:
        self._clock, self._depth = clock, 0
        self.calls: list[str] = []

    def __enter__(self) -> object:
        if not self._depth:
            self._clock[0] += 10.0  # another thread has the lock
        self._depth += 1
        self.calls.append("enter")
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        self.calls.append("exit")

    def wait(self, timeout: float | None = None) -> bool:
        self._clock[0] += 100.0
        self.calls.append(f"wait {timeout}")
        return False

    def notify_all(self) -> None:
        self.calls.append("notify")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]

    def read() -> float:
        return now[0]

    monkeypatch.setattr(locks, "perf_counter", read)
    return now


def test_neither_waiting_for_the_lock_nor_for_a_change_counts(clock: list[float]) -> None:
    held: list[float] = []
    inner = Inner(clock)
    condition = locks.TimedCondition(inner, held)
    with condition:
        clock[0] += 1.0
        with condition:  # it is reentrant
            clock[0] += 2.0
            assert condition.wait(5.0) is False
            clock[0] += 4.0
        condition.notify_all()
        clock[0] += 8.0
    with suppress(ValueError), condition:
        clock[0] += 16.0
        raise ValueError
    assert held == [3.0, 12.0, 16.0]
    assert inner.calls == ["enter", "enter", "wait 5.0", "exit", "notify", "exit", "enter", "exit"]


def test_a_lock_that_is_not_reentrant_is_timed(clock: list[float]) -> None:
    runtime = locks.TimedRuntime()
    with suppress(ValueError), runtime.lock():
        clock[0] += 3.0
        raise ValueError
    with runtime.lock():
        clock[0] += 4.0
    assert runtime.held == [3.0, 4.0]


def test_a_pool_works_with_a_lock_that_measures(paths: list[Path], widths: list[int]) -> None:
    runtime = locks.TimedRuntime()
    with pool_of(paths, 2 << 20, _runtime=runtime) as pool:
        for name in ("0", "5", "0"):
            with pool.lease(name):
                pass
        assert pool.stats().requests == 3
    assert len(runtime.held) > 6
    assert all(seconds >= 0 for seconds in runtime.held)


def test_the_lock_is_timed_while_callers_share_a_trace(paths: list[Path], widths: list[int]) -> None:
    found = locks.held(registered(paths, widths, 300_000), TRACE * 3, (1, 4))
    assert found.keys() == {"1", "4"}
    for times in found.values():
        assert times["count"] >= 2 * len(TRACE) * 3  # each lease takes it to begin and to end
        assert 0 < times["median"] <= times["p99"] <= times["most"]


@pytest.mark.parametrize("count", [1, 3])
def test_callers_share_a_trace(count: int) -> None:
    asked: list[tuple[int, int]] = []

    def request(index: int) -> None:
        asked.append((threading.get_ident(), index))

    locks._share(request, list(range(10)), count)
    assert sorted(index for _, index in asked) == list(range(10))


def test_an_error_of_a_request_ends_the_measurement(paths: list[Path], widths: list[int]) -> None:
    with pytest.raises(IndexError):
        locks.held(registered(paths, widths), [99], (2,))


# ---------------------------------------------------------------- registering, and the processes


def test_registered_models_are_all_requested(paths: list[Path], widths: list[int]) -> None:
    pool, figures = memory.register(registered(paths, widths, bystanders=3))
    with pool:
        assert [status.requests for status in pool.index()] == [1] * 9
    assert figures["registering"] > 0
    assert figures["interpreter"] > 0
    assert 0 < figures["held"] <= 2 << 20


def test_memory_beside_the_budget() -> None:
    figures = {"charged": 1000, "held": 500, "interpreter": 200, "imported": 1, "registered": 10, "requested": 100}
    assert memory.beside(figures) == 300
    assert memory.beside(figures | {"charged": None}) == 111


def test_the_earlier_package_plays_with_models_of_its_own(tmp_path: Path) -> None:
    job = Job("pool-models", str(tmp_path), peer=EARLIER, model="cyclic", sizes=(2, 70_000, 90_000), most_passes=4)
    assert len(tasks.make(job)["bytes"]) == 2
    (folder,) = tmp_path.iterdir()
    assert folder.name.endswith(COMMIT)
    assert len(tasks.trace(replace(job, budget="1000000"))["brought"]) == 4


def test_every_task_runs_in_a_process_of_its_own(disk: Path) -> None:
    brought = disk / "brought.json"
    brought.write_text(f"{[4096] * 8}")
    for kind in TASKS:
        job = Job(
            kind,
            str(disk),
            peer="streamrt adaptive",
            model="zipf 0.9",
            file=str(brought),
            threads=2,
            callers=2,
            budget=str(2 << 20),
            seconds=0.02,
            most_passes=8,
            sizes=(6, 64 << 10, 256 << 10),
            registered=8,
        )
        outcome = spawn.run(job)
        assert outcome.status == "ok", (kind, outcome.reason)
        assert outcome.values


def test_another_interpreter_can_run_a_job(child: Callable[[str], None], tmp_path: Path) -> None:
    child("answer({'other': os.environ.get('OTHER')})")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nOTHER=1 exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    assert spawn.run(Job("probe", data=""), python=python).values == {"other": "1"}
    assert spawn.run(Job("probe", data="")).values == {"other": None}
