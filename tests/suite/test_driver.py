"""The order in which a scenario is measured, and the treatment of contenders that fail. No process is started."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from bench import driver
from bench.driver import Options, Run
from bench.limits import LIMITS, OF_A_WAY
from bench.models import NEEDS
from bench.peers import Peer
from bench.process.cgroup import NoCgroupError
from bench.process.job import TOLERANCE, Job
from bench.process.spawn import MemorySampler, Outcome
from bench.record import Record, Recorder, read
from bench.scenarios import Case, Scenario

SHARED = {"machine": {"cores": 2}, "versions": {"a": "1"}, "commit": "0123456789ab", "quick": False}
CAP = 256 << 20
#: The limits that are measured whatever the contenders are.
ALWAYS = [name for name in LIMITS if name not in OF_A_WAY]
#: Facts that only streamrt reports. Here its budget is used up.
FACTS: dict[str, Any] = {"budget": 1, "weights": 2, "workspace": 0, "layers": []}
STEADY = {"least": 1.0, "lower": 1.0, "median": 1.0, "upper": 1.0, "most": 1.0, "count": 3}


@dataclass(frozen=True)
class Spawned:
    """A process that the driver asked for."""

    job: Job
    group: object
    sampled: bool


@dataclass
class Processes:
    """Stands in for `spawn.run`: remembers each job, and answers with ``answers``, or `well` where that has None."""

    answers: Callable[[Job, bool], Outcome | None] = lambda job, sampled: None
    asked: list[Spawned] = field(default_factory=list)

    def run(
        self, job: Job, *, group: object = None, limit: float = 900, sampler: MemorySampler | None = None
    ) -> Outcome:
        self.asked.append(Spawned(job, group, sampler is not None))
        if sampler:
            sampler.most = {"anonymous": 1, "file_pages": 2, "both": 3}
        return self.answers(job, sampler is not None) or Outcome("ok", self.well(job))

    @staticmethod
    def well(job: Job) -> dict[str, Any]:
        passes = {"steady": STEADY, "first": 2.0, "error": 0.0, "interpreter": 1, "facts": dict(FACTS)}
        return {
            "source": {},
            "disk": {},
            "prepare": {"files": [f"/nowhere/{job.peer}"], "bytes": 1},
            "check": {"error": TOLERANCE},
            "passes": passes,
            "serverless": {"opening": 1.0, "first": 2.0, "to_first_output": 3.0, "steady": STEADY, "error": 0.0},
            "import": {"seconds": 1.0, "anonymous": 1, "mapped": 1},
            "limit": {"value": 1e9},
            "profile": {"steady": STEADY, "error": 0.0, "between": 0.0, "nodes": []},
        }[job.kind]

    def of(self, *kinds: str, sampled: bool = False) -> list[Spawned]:
        return [it for it in self.asked if it.job.kind in kinds and it.sampled == sampled]


class Group:
    """Stands in for a memory cgroup."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit

    def peak(self) -> int:
        return 5


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    processes = Processes()
    monkeypatch.setattr(driver.spawn, "run", processes.run)

    @contextmanager
    def memory_cgroup(limit: int | None) -> Iterator[Group]:
        yield Group(limit)

    monkeypatch.setattr(driver, "memory_cgroup", memory_cgroup)
    return processes


def peer(name: str, *families: str, module: str = "") -> Peer:
    def never(*arguments: object) -> Any:
        raise AssertionError("only a child does this")

    return Peer(name, (module or name,), (name,), frozenset(families or ("mlp", "cnn")), never, never, never)


def case(batch: int = 1, *, cap: int | None = None, model: str = "mlp-2x8", kind: str = "passes") -> Case:
    return Case(kind, ("steady", "first"), model, batch, cap, cold=True)


class Measure:
    """``measure(*cases)`` runs a scenario of these cases and returns the lines of its file.

    Attributes:
        path: the file.
        failures: the failures that the last run returned.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch
        self.path = folder / "results" / "made.jsonl"
        self.failures = 0

    def __call__(
        self,
        *cases: Case,
        peers: str | list[Peer] = "ABC",
        rounds: int = 2,
        threads: tuple[int, ...] = (2,),
        missing: tuple[str, ...] = (),
        absent: tuple[str, ...] = (),
        names: frozenset[str] | None = None,
        seconds: float = 2.0,
        only: frozenset[str] | None = None,
        also: frozenset[str] = frozenset(),
        **fields: bool,
    ) -> list[Record]:
        found = {it.name: it for it in (map(peer, peers) if isinstance(peers, str) else peers)}
        self._monkeypatch.setattr(driver, "peers", lambda: found)
        scenario = Scenario(
            "made", "Made up", "For tests.", cases, cases[:1], rounds, seconds, peers=only, also=also, **fields
        )
        installed = {
            "peers": {name: {"missing": "its module"} if name in missing else {"versions": {}} for name in found},
            "needs": {module: None if module in absent else "1" for module in NEEDS},
        }
        with Recorder(self.path, SHARED) as recorder:
            self.failures = Run(scenario, Options(self._folder, names, threads), installed, recorder).run()
        return read([self.path])


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Processes) -> Measure:
    return Measure(tmp_path, monkeypatch)


def turns(lines: list[Record], kind: str = "timing") -> list[tuple[int | None, int, str]]:
    """(round, batch, peer) of these lines."""
    return [(line.get("round"), line["case"]["batch"], line["peer"]) for line in lines if line["kind"] == kind]


def rotated(names: str, index: int) -> str:
    """The contenders of a case in the order of a round."""
    first = index % len(names)
    return names[first:] + names[:first]


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


def test_functions_are_skipped_without_their_client(measure: Measure) -> None:
    lines = measure(case(), case(cap=CAP, kind="serverless"), peers="A", rounds=1, absent=("awslambdaric",))
    (skipped,) = [line for line in lines if line["kind"] == "skip"]
    assert skipped["reason"] == "it needs awslambdaric, not installed"
    assert turns(lines) == [(0, 1, "A")]


def test_only_the_headlines_of_a_scenario() -> None:
    cases = case(1), case(8)
    scenario = Scenario("made", "Made up", "For tests.", cases, cases[:1], headlines=(cases[1].label,))
    assert Options(Path(), None, (1,)).cases_of(scenario) == cases
    assert Options(Path(), None, (1,), headlines=True).cases_of(scenario) == cases[1:]


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


def test_a_file_that_cannot_be_made_cold_is_an_error(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(paths: Any) -> None:
        if paths:
            raise driver.pagecache.NotColdError("4096 bytes of a stay in the page cache")

    monkeypatch.setattr(driver.pagecache, "make_cold", refuse)
    lines = measure(case(), peers="A", rounds=1)
    (timing,) = [line for line in lines if line["kind"] == "timing"]
    assert (timing["status"], timing["reason"]) == ("error", "4096 bytes of a stay in the page cache")
    assert measure.failures == 1


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
