"""The order in which a scenario is measured, and what is measured in a turn. No process is started."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import driver
from bench.driver import Options
from bench.limits import LIMITS
from bench.process.job import Job
from bench.process.spawn import Outcome
from bench.scenarios import Case, Scenario
from suite.driving import ALWAYS, CAP, FACTS, SHARED, Measure, Processes, case, peer, turns


def test_contenders_take_turns(measure: Measure, processes: Processes) -> None:
    lines = measure(case(1), case(8), peers="ABC", rounds=4)
    wanted = [
        (index, batch, name)
        for index, names in enumerate(("ABC", "BCA", "CAB", "ABC"))
        for batch in (1, 8)
        for name in names
    ]
    assert turns(lines) == wanted
    assert [(it.job.batches, it.job.peer) for it in processes.of("passes")] == [((b,), name) for _, b, name in wanted]
    assert turns(lines, "memory") == [(None, batch, name) for batch in (1, 8) for name in "ABC"]
    assert measure.failures == 0
    assert all(line["status"] == "ok" for line in lines)


def test_everything_is_prepared_and_checked_before_anything_is_timed(measure: Measure, processes: Processes) -> None:
    measure(case(8), case(1), case(1, cap=CAP), peers="AB", threads=(1, 4))
    kinds = [it.job.kind for it in processes.asked]
    before = kinds[: kinds.index("passes")]
    assert before == ["source", "prepare", "prepare"] + ["check"] * 4
    assert kinds.count("check") == 4  # once for each batch, whatever the cap and the threads
    assert processes.asked[0].job.batches == (1, 8)


def test_each_number_of_threads(measure: Measure, processes: Processes) -> None:
    lines = measure(case(), peers="AB", rounds=1, threads=(2, 1))
    assert [(line["threads"], line["peer"]) for line in lines if line["kind"] == "timing"] == [
        (2, "A"), (2, "B"), (1, "A"), (1, "B"),
    ]  # fmt: skip
    assert [it.job.threads for it in processes.of("passes")] == [2, 2, 1, 1]


def test_the_way_between_processors_is_measured_around_uncapped_processes(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where threads share work and nothing streams."""
    found = iter(range(1, 9))
    monkeypatch.setattr(driver, "hop", lambda: float(next(found)))
    lines = measure(case(), case(cap=CAP), peers="AB", rounds=1, threads=(2, 1), weigh=False)
    told = [(line["threads"], line["case"]["cap"], line.get("hops")) for line in lines if line["kind"] == "timing"]
    assert told == [(2, None, [1.0, 2.0]), (2, None, [3.0, 4.0]), (2, CAP, None), (2, CAP, None)] + [
        (1, cap, None) for cap in (None, None, CAP, CAP)
    ]
    monkeypatch.setattr(driver, "hop", lambda: None)  # there is no compiler
    assert all("hops" not in line for line in measure(case(), rounds=1))


def test_limits_are_measured_in_every_round(measure: Measure, processes: Processes) -> None:
    cases = case(1), case(8), replace(case(8), cap=1 << 30)  # "compute" is measured once for each batch
    lines = measure(*cases, peers=[peer("streamrt"), peer("A")], rounds=2)
    limits = [(line["round"], line["peer"]) for line in lines if line["kind"] == "limit"]
    assert limits == [(index, name) for index in (0, 1) for name in (*ALWAYS, "compute", "compute")]
    files = {it.job.peer: it.job.file for it in processes.of("limit")}
    assert {name for name, file in files.items() if file} == {name for name in LIMITS if name.startswith("disk")}
    # No contender reads the file with which the disk is measured, and it is made before.
    ((made, sizes),) = {(it.job.file, it.job.sizes) for it in processes.of("disk")}
    assert sizes == (1 << 30,)
    assert {file for file in files.values() if file} == {made}
    assert Path(made).parent == measure.path.parents[1]
    told = {line["peer"] for line in lines if line["kind"] == "limit" and line.get("file") == Path(made).name}
    assert told == {name for name in LIMITS if name.startswith("disk")}
    facts = {(line["kind"], *line["values"]["facts"]) for line in lines if "facts" in line.get("values", {})}
    assert facts == {
        ("limit", *FACTS),
        ("timing", *(name for name in FACTS if name != "layers")),
    }  # only limits have the layers, because these are long


def test_each_way_of_streamrt_has_a_limit_of_its_own(measure: Measure, processes: Processes) -> None:
    """With its tolerance and its environment, and with the disk measured between its passes."""
    int8 = replace(peer("streamrt int8"), tolerance=0.2, environ=(("A", "b"),))
    well = processes.well
    processes.answers = lambda job, sampled: (
        Outcome("ok", well(job) | {"error": 0.1}) if (job.kind, job.peer) == ("passes", int8.name) else None
    )
    lines = measure(case(), case(8), peers=[peer("streamrt"), int8, peer("A")], rounds=1)
    limits = [line for line in lines if line["kind"] == "limit" and line["peer"] not in LIMITS]
    assert {(line["peer"], line["case"]["batch"], line["status"]) for line in limits} == {
        (name, batch, "ok") for name in ("compute", "compute, streamrt int8") for batch in (1, 8)
    }
    of = [it.job for it in processes.of("passes") if it.job.peer == int8.name]
    assert [bool(job.file) for job in of] == [False, False, True, True]
    assert {job.environ for job in of} == {int8.environ}


def test_the_peak_of_an_instruction_set_is_measured_beside_its_way(measure: Measure) -> None:
    for options in ({"peak": True, "limits": False}, {"limits": True}):
        for name, beside in (("streamrt", False), ("streamrt avx2", True)):
            lines = measure(case(kind="profile"), peers=[peer(name)], rounds=1, **options)
            limits = [line["peer"] for line in lines if line["kind"] == "limit"]
            assert "fma" in limits
            assert ("fma avx2" in limits) == beside


def test_the_peak_is_measured_in_every_round_beside_profiles(measure: Measure, processes: Processes) -> None:
    """And nothing else: no other limit and no memory."""
    cases = case(), case(kind="profile")
    lines = measure(*cases, peers="AB", rounds=2, threads=(2, 1), limits=False, peak=True, weigh=False)
    ran = [(line["kind"], line["threads"], line["peer"]) for line in lines if line["kind"] != "check"]
    wanted = [[("limit", "fma"), *(("timing", name) for name in names)] for names in ("ABAB", "BABA")]
    assert ran == [(kind, threads, name) for of_round in wanted for threads in (2, 1) for kind, name in of_round]
    assert len(processes.of("passes")) == len(processes.of("profile")) == 2 * 2 * 2
    assert not processes.of("passes", sampled=True)
    (limit, *_) = processes.of("limit")
    assert limit.job.file is None
    assert {line["label"] for line in lines if line["kind"] == "timing"} == {
        "mlp-2x8, batch 1", "mlp-2x8, batch 1, profiled",
    }  # fmt: skip


def test_the_disk_is_measured_between_passes_of_streamrt(measure: Measure, processes: Processes) -> None:
    """Only where rows are compared with T*: not while memory is sampled, and not without steady passes."""
    measure(case(), peers=[peer("streamrt"), peer("A")], rounds=1)
    timed = {it.job.peer: it.job.file for it in processes.of("passes") if it.group is None and it.job.seconds == 2.0}
    (made,) = processes.of("disk")
    assert made.job.file
    assert timed == {"streamrt": made.job.file, "A": None}
    assert [it.job.file for it in processes.of("passes", sampled=True)] == [None, None]
    processes.asked.clear()
    measure(case(), peers=[peer("streamrt")], rounds=1, seconds=0.0)
    assert not any(it.job.file for it in processes.of("passes"))


def test_memory_is_sampled_in_separate_processes(measure: Measure, processes: Processes) -> None:
    lines = measure(case(), case(8, cap=CAP), peers="AB", rounds=3)
    assert len(processes.of("passes")) == 3 * 4
    weighed = processes.of("passes", sampled=True)
    assert [(it.job.peer, it.job.seconds) for it in weighed] == [("A", 0), ("B", 0)] * 2
    assert [it.group.limit for it in weighed] == [None, None, CAP, CAP]
    memory = [line for line in lines if line["kind"] == "memory"]
    sampled = {"anonymous": 1, "file_pages": 2, "both": 3, "beyond": 3 - 1 - 1, "cgroup_peak": 5}
    assert [line["values"] for line in memory] == [sampled] * 4
    assert all("cgroup_peak" not in line["values"] for line in lines if line["kind"] == "timing")


def test_only_capped_cases_run_in_a_group(measure: Measure, processes: Processes) -> None:
    measure(case(1), case(8, cap=CAP), peers="A", rounds=1)
    assert [it.group and it.group.limit for it in processes.of("passes")] == [None, CAP]
    assert not any(it.group for it in processes.of("source", "prepare", "check"))


def test_a_function_runs_by_itself_and_is_told_its_memory(
    measure: Measure, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other cases, its answers are compared before, and its memory is sampled after the rounds."""
    monkeypatch.setattr(driver.function, "run", processes.run)
    monkeypatch.setattr(driver.spawn, "run", lambda job, limit: Outcome("ok", processes.well(job)))
    lines = measure(case(cap=CAP, kind="serverless"), peers="AB", rounds=1, limits=False)
    assert [line["kind"] for line in lines] == ["check", "check", "timing", "timing", "memory", "memory"]
    assert all(line["status"] == "ok" for line in lines)
    assert {(it.job.kind, it.job.environ, it.group.limit) for it in processes.asked} == {
        ("serverless", (("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),), CAP)
    }
    assert lines[-1]["values"]["cgroup_peak"] == 5


def test_only_the_headlines_of_a_scenario() -> None:
    cases = case(1), case(8)
    scenario = Scenario("made", "Made up", "For tests.", cases, cases[:1], headlines=(cases[1].label,))
    assert Options(Path(), None, (1,)).cases_of(scenario) == cases
    assert Options(Path(), None, (1,), headlines=True).cases_of(scenario) == cases[1:]


def test_an_interrupted_run_keeps_its_results(measure: Measure, processes: Processes) -> None:
    def interrupt_in_the_second_round(job: Job, sampled: bool) -> None:
        if job.kind == "passes" and len(processes.of("passes")) == 5:
            raise KeyboardInterrupt

    processes.answers = interrupt_in_the_second_round
    with pytest.raises(KeyboardInterrupt):
        measure(case(), peers="ABC", rounds=3)
    text = measure.path.with_suffix(".partial.jsonl").read_text()
    assert text.endswith("}\n")
    lines = [json.loads(line) for line in text.splitlines()]
    assert turns(lines) == [(0, 1, "A"), (0, 1, "B"), (0, 1, "C"), (1, 1, "B")]
    assert turns(lines, "memory") == []


def test_weights_are_dropped_before_cold_runs_and_after(
    measure: Measure, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, ...]] = []
    monkeypatch.setattr(driver.pagecache, "make_cold", lambda paths: events.append(tuple(map(str, paths))))
    processes.answers = lambda job, sampled: events.append((job.kind,))
    measure(case(), Case("passes", ("steady", "first"), "mlp-2x8", 8), peers="A", rounds=1)
    cold, warm = ("/nowhere/A",), ()
    run_cold, run_warm = [cold, ("passes",), cold], [warm, ("passes",), warm]
    assert events[events.index(("passes",)) - 1 :] == run_cold + run_warm + run_cold + run_cold  # memory: cold


def test_packages_are_imported_once_each(measure: Measure, processes: Processes) -> None:
    """Two contenders of one package share one import."""
    lines = measure(
        Case("import", ("seconds",)), peers=[peer("A", module="a"), peer("A mmap", module="a"), peer("B")], rounds=2
    )
    assert [line["peer"] for line in lines if line["kind"] == "timing"] == ["A", "B", "B", "A"]
    assert {it.job.kind for it in processes.asked} == {"import"}


def test_a_cold_start_makes_one_pass(measure: Measure, processes: Processes) -> None:
    measure(case(), peers="A", rounds=1, seconds=0.0)
    (timed,), (weighed,) = processes.of("passes"), processes.of("passes", sampled=True)
    assert (timed.job.least_passes, timed.job.seconds) == (0, 0.0)
    assert weighed.job.seconds == 0.0


def test_every_line_can_be_understood_by_itself(measure: Measure, processes: Processes) -> None:
    processes.answers = lambda job, sampled: Outcome("killed") if (job.kind, job.peer) == ("passes", "A") else None
    lines = measure(case(), peers=[peer("streamrt"), peer("A"), peer("B", "cnn"), peer("C")], missing=("C",))
    assert {line["kind"] for line in lines} == {"skip", "check", "limit", "timing", "memory"}
    for line in lines:
        assert SHARED.items() <= line.items()
        assert line["scenario"] == "made"
        assert line["peer"]
        assert line["at"].endswith("+00:00")
        if line["kind"] != "skip":
            assert line["threads"] == 2
        if line["kind"] in ("limit", "timing", "memory"):
            assert line["label"] == "mlp-2x8, batch 1"
            assert line["case"]["model"] == "mlp-2x8"
