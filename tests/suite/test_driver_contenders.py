"""Which contenders take part in a scenario, and the treatment of those that fail. No process is started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench import driver
from bench.process.cgroup import NoCgroupError
from bench.process.job import TOLERANCE, Job
from bench.process.spawn import Outcome
from suite.driving import CAP, STEADY, Measure, Processes, case, peer, rotated, turns


def test_functions_are_skipped_without_their_client(measure: Measure) -> None:
    lines = measure(case(), case(cap=CAP, kind="serverless"), peers="A", rounds=1, absent=("awslambdaric",))
    (skipped,) = [line for line in lines if line["kind"] == "skip"]
    assert skipped["reason"] == "it needs awslambdaric, not installed"
    assert turns(lines) == [(0, 1, "A")]


def test_a_missing_peer_is_skipped_by_name(measure: Measure) -> None:
    lines = measure(case(), peers="ABC", rounds=1, missing=("B",))
    (skipped,) = [line for line in lines if line["kind"] == "skip"]
    assert (skipped["peer"], skipped["reason"]) == ("B", "not installed: its module")
    assert turns(lines) == [(0, 1, "A"), (0, 1, "C")]
    assert measure.failures == 0


def test_a_peer_skips_models_that_it_does_not_run(measure: Measure) -> None:
    """The reason is recorded once."""
    cases = case(), case(model="vgg16"), case(model="mlp-9x9")
    lines = measure(*cases, peers=[peer("A"), peer("B", "cnn")], rounds=1)
    assert [(line["peer"], line["reason"]) for line in lines if line["kind"] == "skip"] == [("B", "runs no MLPs")]
    ran = [(line["peer"], line["case"]["model"]) for line in lines if line["kind"] == "timing"]
    assert ran == [("A", "mlp-2x8"), ("A", "vgg16"), ("B", "vgg16"), ("A", "mlp-9x9")]


def test_a_model_that_cannot_be_made_is_skipped(measure: Measure, processes: Processes) -> None:
    lines = measure(case(), case(model="vgg16"), case(model="regnety_002"), peers="A", rounds=1, absent=("timm",))
    (skipped,) = [line for line in lines if line["kind"] == "skip"]
    assert (skipped["peer"], skipped["reason"]) == ("regnety_002", "making it needs timm, not installed")
    assert {it.job.model for it in processes.asked} == {"mlp-2x8", "vgg16"}
    assert measure.failures == 0

    processes.answers = lambda job, sampled: Outcome("error", reason="disk full") if job.kind == "source" else None
    lines = measure(case(), peers="A")
    assert [(line["kind"], line["reason"]) for line in lines] == [("skip", "cannot be made: disk full")]
    assert measure.failures == 1


def test_a_peer_that_cannot_prepare_is_skipped(measure: Measure, processes: Processes) -> None:
    bad = Outcome("error", reason="unsupported")
    processes.answers = lambda job, sampled: bad if (job.kind, job.peer) == ("prepare", "A") else None
    lines = measure(case(), peers="AB", rounds=1)
    assert lines[0]["reason"] == "cannot prepare mlp-2x8: unsupported"
    assert turns(lines) == [(0, 1, "B")]
    assert measure.failures == 1


def test_only_the_named_peers(measure: Measure) -> None:
    lines = measure(case(), peers="ABC", rounds=1, names=frozenset("C"))
    assert turns(lines) == [(0, 1, "C")]
    assert not [line for line in lines if line["kind"] == "skip"]


def test_optional_peers_take_part_where_they_are_named(measure: Measure, processes: Processes) -> None:
    forced = replace(peer("A avx2"), optional=True, environ=(("STREAMRT_ISA", "avx2"),))
    contenders = [peer("A"), forced]
    assert turns(measure(case(), peers=contenders, rounds=1)) == [(0, 1, "A")]
    assert turns(measure(case(), peers=contenders, rounds=1, also=frozenset({"A avx2"}))) == [
        (0, 1, "A"),
        (0, 1, "A avx2"),
    ]
    assert turns(measure(case(), peers=contenders, rounds=1, names=frozenset({"A avx2"}))) == [(0, 1, "A avx2")]
    for kind in ("prepare", "check", "passes"):
        jobs = [spawned.job for spawned in processes.of(kind)]
        assert {(job.peer, job.environ) for job in jobs} == {("A", ()), ("A avx2", forced.environ)}


def test_a_case_for_streamrt_alone(measure: Measure) -> None:
    lines = measure(case(1), replace(case(8), alone=True), peers=[peer("streamrt"), peer("A")], rounds=1)
    assert turns(lines) == [(0, 1, "streamrt"), (0, 1, "A"), (0, 8, "streamrt")]
    assert [(line["peer"], line["batch"]) for line in lines if line["kind"] == "check"] == [
        ("streamrt", 1), ("streamrt", 8), ("A", 1),
    ]  # fmt: skip


def test_a_case_for_streamrt_alone_is_for_all_of_its_ways(measure: Measure) -> None:
    contenders = [peer("streamrt"), replace(peer("streamrt int8"), optional=True), peer("streamrtlike")]
    lines = measure(replace(case(), alone=True), peers=contenders, rounds=1, also=frozenset({"streamrt int8"}))
    assert turns(lines) == [(0, 1, "streamrt"), (0, 1, "streamrt int8")]


def test_each_peer_has_its_tolerance(measure: Measure, processes: Processes) -> None:
    """It counts before anything is timed and after every pass, and the record has it."""
    rounded = replace(peer("A int8"), tolerance=0.5, arithmetic="int8")
    errors = {"A": 2 * TOLERANCE, "A int8": 0.4}

    def answers(job: Job, sampled: bool) -> Outcome | None:
        if job.kind not in ("check", "passes"):
            return None
        return Outcome("ok", processes.well(job) | {"error": errors[job.peer]})

    processes.answers = answers
    lines = measure(case(), peers=[peer("A"), rounded], rounds=1)
    told = ("peer", "status", "error", "tolerance", "arithmetic")
    assert [tuple(line[name] for name in told) for line in lines if line["kind"] == "check"] == [
        ("A", "wrong", 2 * TOLERANCE, TOLERANCE, "float32"),
        ("A int8", "ok", 0.4, 0.5, "int8"),
    ]
    assert turns(lines) == [(0, 1, "A int8")]
    assert {line["status"] for line in lines if line["kind"] == "timing"} == {"ok"}


def test_a_scenario_for_streamrt_alone(measure: Measure, processes: Processes) -> None:
    plain, verified = case(), replace(case(), verify=True)
    lines = measure(plain, verified, peers=[peer("A"), peer("streamrt")], rounds=1, only=frozenset({"streamrt"}))
    assert [(line["peer"], line["label"]) for line in lines if line["kind"] == "timing"] == [
        ("streamrt", plain.label),
        ("streamrt", f"{plain.label}, verified"),
    ]
    timed = [spawned for spawned in processes.of("passes") if spawned.job.peer == "streamrt"]
    assert [spawned.job.verify for spawned in timed if spawned.job.seconds][-2:] == [False, True]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome("ok", {"error": 2 * TOLERANCE}), "wrong"),
        (Outcome("ok", {"error": float("inf")}), "wrong"),
        (Outcome("error", reason="ValueError: no"), "error"),
        (Outcome("killed", reason="killed"), "killed"),
    ],
)
def test_a_peer_that_fails_the_check_is_never_timed(
    measure: Measure, processes: Processes, outcome: Outcome, status: str
) -> None:
    """At this batch. At the other batch its answer is right, and it is timed."""
    asked = ("check", "B", (8,))
    processes.answers = lambda job, sampled: outcome if (job.kind, job.peer, job.batches) == asked else None
    lines = measure(case(1), case(8), case(8, cap=CAP), peers="AB", threads=(1, 2))
    found = {(line["peer"], line["batch"]): line["status"] for line in lines if line["kind"] == "check"}
    assert found == {("A", 1): "ok", ("A", 8): "ok", ("B", 1): "ok", ("B", 8): status}
    passes = processes.of("passes") + processes.of("passes", sampled=True)
    assert {(it.job.peer, *it.job.batches) for it in passes} == {("A", 1), ("A", 8), ("B", 1)}
    assert measure.failures == 1


@pytest.mark.parametrize(
    ("outcome", "status", "failures"),
    [
        (Outcome("killed", reason="for want of memory"), "killed", 0),
        (Outcome("slow", reason="given up after 180 s"), "slow", 0),
        (Outcome("error", reason="OSError: no"), "error", 1),
        (Outcome("ok", {"steady": STEADY, "first": 1.0, "error": 1.0}), "wrong", 1),
    ],
)
def test_a_bad_end_of_a_timed_process_is_a_result(
    measure: Measure, processes: Processes, outcome: Outcome, status: str, failures: int
) -> None:
    """The process is tried once more, unless its answer is wrong, and not for its memory."""
    bad = ("passes", "B", (8,))
    processes.answers = lambda job, sampled: outcome if (job.kind, job.peer, job.batches) == bad else None
    lines = measure(case(1), case(8), peers="ABC", rounds=3)
    ended = [line for line in lines if line.get("status") != "ok"]
    tries = 1 if status == "wrong" else 2
    assert [(line["kind"], line["round"], line["status"]) for line in ended] == [
        ("timing", index, status) for index in range(tries)
    ]
    assert ended[0]["reason"] == outcome.reason
    assert len([it for it in processes.asked if (it.job.kind, it.job.peer, it.job.batches) == bad]) == tries
    rest = [it for it in turns(lines) if it[1:] != (8, "B")]
    assert rest == [
        (index, batch, name)
        for index in range(3)
        for batch in (1, 8)
        for name in rotated("ABC", index)
        if (batch, name) != (8, "B")
    ]
    assert measure.failures == failures * tries


@pytest.mark.parametrize(
    ("bad", "rounds"), [((0,), "kooo"), ((1,), "okoo"), ((0, 2), "kok"), ((2, 3), "ookk"), ((0, 1), "kk")]
)
def test_one_bad_round_is_no_end(measure: Measure, processes: Processes, bad: tuple[int, ...], rounds: str) -> None:
    """After two the contender is left alone. It is weighed if a round ended well and it was not left alone."""

    def killed(job: Job, sampled: bool) -> Outcome | None:
        mine = [it for it in processes.of("passes") if it.job.peer == "A"]
        return Outcome("killed", seconds=1.5) if job.peer == "A" and len(mine) - 1 in bad and not sampled else None

    processes.answers = lambda job, sampled: killed(job, sampled) if job.kind == "passes" else None
    lines = measure(case(cap=CAP), peers="AB", rounds=4)
    timed = [line for line in lines if line["kind"] == "timing" and line["peer"] == "A"]
    assert "".join(line["status"][0] for line in timed) == rounds
    assert [line["ended"] for line in timed if line["status"] != "ok"] == [{"seconds": 1.5, "cgroup_peak": 5}] * len(
        bad
    )
    assert not any("ended" in line for line in timed if line["status"] == "ok")
    weighed = [it.job.peer for it in processes.of("passes", sampled=True)]
    assert weighed == (["A", "B"] if len(bad) == 1 else ["B"])


def test_without_cgroups_capped_cases_are_skipped_with_the_reason(
    measure: Measure, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(limit: int | None) -> Any:
        raise NoCgroupError("cannot make a memory cgroup in /here: Permission denied")

    monkeypatch.setattr(driver, "memory_cgroup", none)
    lines = measure(case(1), case(8, cap=CAP), peers="AB", rounds=2)
    skipped = [line for line in lines if line.get("status") == "skipped"]
    assert [(line["kind"], line["round"], line["peer"], line["case"]["cap"]) for line in skipped] == [
        ("timing", 0, "A", CAP),
        ("timing", 0, "B", CAP),
    ]
    assert {line["reason"] for line in skipped} == {"cannot make a memory cgroup in /here: Permission denied"}
    assert {it.job.batches for it in processes.of("passes")} == {(1,)}
    memory = [line for line in lines if line["kind"] == "memory"]
    assert [line["values"] for line in memory] == [{"anonymous": 1, "file_pages": 2, "both": 3, "beyond": 1}] * 2
    assert measure.failures == 0


def test_a_file_that_cannot_be_made_cold_is_an_error(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(paths: Any) -> None:
        if paths:
            raise driver.pagecache.NotColdError("4096 bytes of a stay in the page cache")

    monkeypatch.setattr(driver.pagecache, "make_cold", refuse)
    lines = measure(case(), peers="A", rounds=1)
    (timing,) = [line for line in lines if line["kind"] == "timing"]
    assert (timing["status"], timing["reason"]) == ("error", "4096 bytes of a stay in the page cache")
    assert measure.failures == 1
