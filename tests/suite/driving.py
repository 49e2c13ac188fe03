"""Stands in for the processes of the driver, and runs made-up scenarios. No process is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench import driver
from bench.driver import Options, Run
from bench.limits import LIMITS, OF_A_WAY
from bench.models import NEEDS
from bench.peers import Peer
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


def turns(lines: list[Record], kind: str = "timing") -> list[tuple[int | None, int, str]]:
    """(round, batch, peer) of these lines."""
    return [(line.get("round"), line["case"]["batch"], line["peer"]) for line in lines if line["kind"] == kind]


def rotated(names: str, index: int) -> str:
    """The contenders of a case in the order of a round."""
    first = index % len(names)
    return names[first:] + names[:first]
