"""The order in which pools are measured, and the treatment of contenders that fail. No process is started."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.pool import driver, earlier
from bench.pool.contenders import EARLIER, POLICIES, WHOLE, floor_of
from bench.pool.sets import ModelSet
from bench.process.cgroup import NoCgroupError
from bench.process.job import Job
from bench.process.pagecache import NotColdError
from bench.process.spawn import Outcome
from bench.record import Record, Recorder, read

SET = ModelSet("tiny", 6, 1 << 20, 1 << 20, 40, registered=(6, 100))
BROUGHT = [1 << 20, 0, 0, 1 << 20]
#: The interpreter of the earlier package.
PYTHON = Path("/nowhere/python")


@dataclass
class Processes:
    """Stands in for `spawn.run`: remembers each job, and answers with ``answers``, or well where that has None."""

    answers: Callable[[Job], Outcome | None] = lambda job: None
    asked: list[tuple[Job, int | None, Path | None]] = field(default_factory=list)
    brought: list[Any] = field(default_factory=list)

    def run(self, job: Job, *, group: Any = None, limit: float = 900, python: Path | None = None) -> Outcome:
        self.asked.append((job, group.limit if group else None, python))
        if job.file:
            self.brought.append(json.loads(Path(job.file).read_text()))
        return self.answers(job) or self.well(job)

    @staticmethod
    def well(job: Job) -> Outcome:
        if job.kind == "pool-models":
            return Outcome("ok", {"bytes": [1 << 20] * SET.models})
        if job.kind in ("pool-trace", "pool-floor"):
            times = {"seconds": 0.25 if job.weights == "int8" else 1.0, "p50": 1.0, "p99": 2.0}
            brought = {"brought": BROUGHT} if job.kind == "pool-trace" else {}
            return Outcome("ok", times | {"device": 5, "hit_ratio": 0.5} | brought)
        return Outcome("ok", {"cost": 1e-6})

    @property
    def kinds(self) -> list[str]:
        return [job.kind.removeprefix("pool-") for job, _, _ in self.asked]


@dataclass
class Group:
    """Stands in for a memory cgroup."""

    limit: int

    def peak(self) -> int:
        return 7


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    processes = Processes()
    monkeypatch.setattr(driver.spawn, "run", processes.run)

    @contextmanager
    def memory_cgroup(limit: int) -> Iterator[Group]:
        yield Group(limit)

    def make_cold(paths: object) -> None:
        pass

    def interpreter(data: Path) -> Path:
        return PYTHON

    monkeypatch.setattr(driver, "memory_cgroup", memory_cgroup)
    monkeypatch.setattr(driver.pagecache, "make_cold", make_cold)
    monkeypatch.setattr(driver.earlier, "interpreter", interpreter)
    return processes


def play(folder: Path, **options: Any) -> tuple[int, list[Record]]:
    """The failures, and the lines of the file."""
    path = folder / "pool.jsonl"
    with Recorder(path, {}) as recorder:
        failures = driver.run(SET, folder, recorder, driver.Options(**options))
    return failures, read([path])


def of_kind(lines: list[Record], kind: str) -> list[Record]:
    return [line for line in lines if line["kind"] == kind]


def test_rounds_are_outermost_and_begin_with_the_next_contender(processes: Processes, tmp_path: Path) -> None:
    contenders = (WHOLE, "streamrt lru")
    failures, lines = play(tmp_path, contenders=contenders, traces=("zipf 0.9", "cyclic"), rounds=3, hits=False)
    units = [(WHOLE,), ("streamrt lru", floor_of("streamrt lru"))]
    wanted = [
        (index, trace, peer)
        for index, order in enumerate([units, units[::-1], units])
        for trace in ("zipf 0.9", "cyclic")
        for unit in order
        for peer in unit
    ]
    assert [(line["round"], line["trace"], line["peer"]) for line in of_kind(lines, "timing")] == wanted
    assert failures == 0


def test_types_of_weights_take_turns_with_the_same_budget(processes: Processes, tmp_path: Path) -> None:
    _, lines = play(
        tmp_path, contenders=(WHOLE,), traces=("zipf 0.9",), weights=("float32", "int8"), rounds=2, hits=False
    )
    wanted = [(index, weights) for index in (0, 1) for weights in ("float32", "int8")]
    assert [(line["round"], line["weights"]) for line in of_kind(lines, "timing")] == wanted
    jobs = [job for job, _, _ in processes.asked]
    assert [(job.kind, job.weights) for job in jobs[:2]] == [("pool-models", "float32"), ("pool-models", "int8")]
    assert {job.budget for job in jobs} == {str(SET.budget)}
    assert {limit for _, limit, _ in processes.asked[2:]} == {SET.budget + (100 << 20)}


def test_a_floor_gets_the_misses_of_the_run_before_it(processes: Processes, tmp_path: Path) -> None:
    _, lines = play(tmp_path, contenders=(WHOLE, *POLICIES), traces=("cyclic",), rounds=1, hits=False)
    assert processes.kinds == ["models", "trace", *["trace", "floor"] * 3]
    assert processes.brought == [BROUGHT] * 3
    assert all("brought" not in line["values"] for line in of_kind(lines, "timing"))
    assert list(tmp_path.iterdir()) == [tmp_path / "pool.jsonl"]  # the files for the floors are gone


def test_a_run_that_fails_has_no_floor(processes: Processes, tmp_path: Path) -> None:
    processes.answers = lambda job: Outcome("killed") if job.kind == "pool-trace" else None
    failures, lines = play(tmp_path, contenders=POLICIES[:1], traces=("cyclic",), rounds=1, hits=False)
    assert processes.kinds == ["models", "trace"]
    assert failures == 1
    assert lines[-1]["status"] == "killed"


def test_the_earlier_package_has_its_own_interpreter_and_models(processes: Processes, tmp_path: Path) -> None:
    _, lines = play(
        tmp_path, contenders=(EARLIER, WHOLE), traces=("cyclic",), weights=("float32", "int8"), rounds=1, hits=False
    )
    theirs = [(job.kind, job.weights, python) for job, _, python in processes.asked if job.peer == EARLIER]
    assert theirs == [("pool-models", "float32", PYTHON), ("pool-trace", "float32", PYTHON)]
    assert all(python is None for job, _, python in processes.asked if job.peer != EARLIER)
    (skipped,) = of_kind(lines, "skip")
    assert (skipped["peer"], skipped["weights"]) == (EARLIER, "int8")
    assert "int8" in skipped["reason"]


def test_an_earlier_package_that_cannot_be_built_is_skipped(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interpreter(data: Path) -> Path:
        raise earlier.NotMadeError("no such commit")

    monkeypatch.setattr(driver.earlier, "interpreter", interpreter)
    failures, lines = play(tmp_path, contenders=(EARLIER, WHOLE), traces=("cyclic",), rounds=1, hits=False)
    assert failures == 0
    assert [line["reason"] for line in of_kind(lines, "skip")] == ["no such commit"]
    assert [line["peer"] for line in of_kind(lines, "timing")] == [WHOLE]


def test_hits_are_measured_in_every_round_unless_traces_are_named(processes: Processes, tmp_path: Path) -> None:
    options: dict[str, Any] = {"contenders": (WHOLE,), "traces": ("cyclic",)}
    _, lines = play(tmp_path, **options, rounds=2, hits=True)
    rows = [(line["round"], line["row"], line["registered"]) for line in of_kind(lines, "hits")]
    wanted = [("hit", 6), ("lock", 6), ("hit", 100), ("lock", 100), ("callers", 6)]
    assert rows == [(index, *row) for index in (0, 1) for row in wanted]
    assert processes.asked[0][0].registered == 100  # the bystanders are made, too
    assert all(line["values"]["cgroup_peak"] == 7 for line in of_kind(lines, "hits"))
    processes.asked.clear()
    play(tmp_path, **options, rounds=1, hits=False)
    assert processes.kinds == ["models", "trace"]
    assert processes.asked[0][0].registered == 0


def test_without_contenders_nothing_is_run(processes: Processes, tmp_path: Path) -> None:
    failures, lines = play(tmp_path, contenders=(), traces=("cyclic", "bursty"), weights=("float32", "int8"))
    assert [line["kind"] for line in lines] == ["set", *["simulated"] * 4]
    assert processes.asked == []
    assert failures == 0


def test_a_run_without_a_cgroup_is_skipped_and_one_that_is_not_cold_fails(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"contenders": POLICIES[:1], "traces": ("cyclic",), "rounds": 1, "hits": False}

    def warm(paths: object) -> None:
        raise NotColdError("12 bytes stay")

    with monkeypatch.context() as patch:
        patch.setattr(driver.pagecache, "make_cold", warm)
        failures, lines = play(tmp_path, **options)
    assert (failures, lines[-1]["status"], lines[-1]["reason"]) == (1, "error", "12 bytes stay")

    def none(limit: int) -> Any:
        raise NoCgroupError("no")

    monkeypatch.setattr(driver, "memory_cgroup", none)
    failures, lines = play(tmp_path, **options)
    assert (failures, lines[-1]["status"], lines[-1]["reason"]) == (0, "skipped", "no")


def test_models_that_cannot_be_made_end_the_run(processes: Processes, tmp_path: Path) -> None:
    processes.answers = lambda job: Outcome("error", reason="disk full")
    failures, lines = play(tmp_path, contenders=(WHOLE,), traces=("cyclic",))
    assert failures == 1
    assert [line["kind"] for line in lines] == ["set"]
