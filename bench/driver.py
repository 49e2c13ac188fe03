"""Runs a scenario: prepares the contenders' files, checks their answers, and measures them in turn.

A round measures each case with each contender, one after the other. Then the next round begins with another contender,
so that a disturbance of the machine affects all contenders. Memory is sampled in separate processes, because sampling
takes time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import models
from bench.limits import LIMITS, OF_A_FILE, OF_A_WAY
from bench.limits.hop import hop
from bench.peers import Peer, peers
from bench.process import pagecache, spawn
from bench.process.cgroup import NoCgroupError, memory_cgroup
from bench.process.job import TOLERANCE, Job
from bench.record import Recorder
from bench.scenarios import Case, Scenario
from bench.scenarios.case import ANSWERING, SERVERLESS
from bench.serverless import function
from bench.ways import computing, is_way

#: The fewest steady passes that one process times, even if they take longer than the scenario's seconds.
_LEAST_PASSES = 2
#: Bytes of the file with which the disk is measured: a second of a slow disk, and of a quick run one stretch.
_DISK, _QUICK_DISK = 1 << 30, 256 << 20
#: Rounds that end badly before a contender is not tried again. One may be the machine's fault.
_TRIES = 2
#: Ends that no other round can mend.
_FINAL = ("wrong", "skipped")
#: Seconds after which making, converting or checking a model is given up. Answers in float64 take minutes.
_PREPARING = 3600.0


@dataclass(frozen=True, slots=True)
class Options:
    """Which part of a scenario to run, and where.

    Attributes:
        data: the folder of models; they stay there for the next run.
        names: names of peers to measure; None for all that are not optional, and those that the scenario names.
        threads: numbers of threads; each case is measured with each of them.
        rounds: rounds to measure; None for the scenario's own number.
        quick: whether to run the scenario's small cases, in one round.
        headlines: whether to run only the cases of the README's rows.
    """

    data: Path
    names: frozenset[str] | None
    threads: tuple[int, ...]
    rounds: int | None = None
    quick: bool = False
    headlines: bool = False

    def rounds_of(self, scenario: Scenario) -> int:
        return self.rounds or (1 if self.quick else scenario.rounds)

    def cases_of(self, scenario: Scenario) -> tuple[Case, ...]:
        cases = scenario.quick if self.quick else scenario.cases
        return tuple(case for case in cases if case.label in scenario.headlines) if self.headlines else cases


@dataclass(frozen=True, slots=True)
class _Turn:
    """The measurement of one process of each round: a contender with a case, or a limit."""

    case: Case
    threads: int
    peer: str
    job: Job
    files: tuple[Path, ...] = ()
    limit: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        return self.peer, self.case.label, self.threads


class Run:
    """One scenario being run.

    Args:
        scenario: the scenario to run.
        options: the part of it to run.
        installed: the answer of the child's ``probe``.
        recorder: takes the results.

    Attributes:
        failures: how many steps failed. A process that was killed or took too long is a result and not a failure.
    """

    def __init__(self, scenario: Scenario, options: Options, installed: dict[str, Any], recorder: Recorder) -> None:
        self._scenario = scenario
        self._options = options
        self._installed = installed
        self._write = partial(recorder.write, scenario=scenario.name)
        self._cases = options.cases_of(scenario)
        self._job = partial(Job, data=str(options.data))
        self._files: dict[tuple[str, str], tuple[Path, ...]] = {}  # by peer and model: the files that were prepared
        size = _QUICK_DISK if options.quick else _DISK
        self._disk = options.data / f"disk-{size >> 20}MiB.bin"
        self._disk_bytes = size
        self._out: set[tuple[str, str, int]] = set()  # turns that are not tried again
        self._bad: Counter[tuple[str, str, int]] = Counter()  # rounds of a turn that ended badly
        self._good: set[tuple[str, str, int]] = set()  # turns of which a round ended well
        self._skipped: set[tuple[str, str]] = set()
        self.failures = 0

    def run(self) -> int:
        """Run the scenario with a progress bar on the terminal; returns `failures`."""
        with tqdm(desc=self._scenario.name, unit="process", dynamic_ncols=True, smoothing=0) as bar:
            self._bar = bar
            pairs = list(self._pairs())
            self._prepare(pairs)
            self._check(pairs)
            turns = list(self._turns(pairs))
            rounds = self._options.rounds_of(self._scenario)
            bar.total = bar.n + rounds * len(turns) + sum(self._has_memory(turn) for turn in turns)
            for turn in turns:
                if turn.case.kind in ("import", "open"):
                    self._execute(turn, turn.job)  # its packages have not run yet, and their files may be cold
            for index in range(rounds):
                for turn in _rotated(turns, index):
                    self._time(turn, index)
            for turn in turns:
                if self._has_memory(turn):
                    self._weigh(turn)
        return self.failures

    # ---- the contenders

    def _pairs(self) -> Iterator[tuple[Case, Peer]]:
        """Each case with each peer that can run it. A peer that cannot run it is recorded once, with the reason."""
        names, also = self._options.names, self._scenario.also
        chosen = [p for p in peers().values() if (p.name in names if names else not p.optional or p.name in also)]
        if self._scenario.peers is not None:
            chosen = [peer for peer in chosen if peer.name in self._scenario.peers]
        here = []
        for peer in chosen:
            if peer.frugal and not self._scenario.frugal:
                self._skip(peer.name, "holds fewer weights at the cost of speed")
            elif missing := self._installed["peers"][peer.name].get("missing"):
                self._skip(peer.name, f"not installed: {missing}")
            else:
                here.append(peer)
        for model, group in groupby(self._cases, lambda case: case.model):
            cases = list(group)
            source = models.source(model, self._options.data) if model else None
            if source and (absent := [need for need in source.needs if self._installed["needs"][need] is None]):
                self._skip(model, f"making it needs {', '.join(absent)}, not installed")
                continue
            able = []
            for peer in here:
                if source and source.family not in peer.families:
                    self._skip(peer.name, f"runs no {source.family.upper()}s")
                else:
                    able.append(peer)
            for case in cases:
                if absent := [need for need in case.needs if self._installed["needs"][need] is None]:
                    self._skip(case.label, f"it needs {', '.join(absent)}, not installed")
                    continue
                yield from ((case, peer) for peer in able if is_way(peer.name) or not case.alone)

    def _skip(self, name: str, reason: str) -> None:
        if (name, reason) not in self._skipped:
            self._skipped.add((name, reason))
            tqdm.write(f"skipped: {name}: {reason}")
            self._write("skip", peer=name, status="skipped", reason=reason)

    # ---- before anything is timed

    def _prepare(self, pairs: list[tuple[Case, Peer]]) -> None:
        """Make the models, the reference's answers, and the files that each peer converts the models to."""
        if self._scenario.limits and any(is_way(peer.name) for _, peer in pairs):
            job = self._job("disk", file=str(self._disk), sizes=(self._disk_bytes,))
            outcome = self._step("making the file of the disk's limits", job)
            if outcome.status != "ok":
                self._skip("disk", f"its file cannot be made: {outcome.reason}")
                self.failures += 1
        threads = max(self._options.threads)
        for model in dict.fromkeys(case.model for case, _ in pairs if case.model):
            batches = {case.batch for case, _ in pairs if case.model == model}
            job = self._job("source", model=model, batches=tuple(sorted(batches)), threads=threads)
            outcome = self._step(f"making {model}", job)
            if outcome.status != "ok":
                self._skip(model, f"cannot be made: {outcome.reason}")
                self.failures += 1
                continue
            for peer in dict.fromkeys(peer for case, peer in pairs if case.model == model):
                outcome = self._step(
                    f"{peer.name}: preparing {model}",
                    self._job("prepare", peer=peer.name, model=model, threads=threads, environ=peer.environ),
                )
                if outcome.status == "ok":
                    self._files[peer.name, model] = tuple(map(Path, outcome.values["files"]))
                else:
                    self._skip(peer.name, f"cannot prepare {model}: {outcome.reason}")
                    self.failures += 1

    def _check(self, pairs: list[tuple[Case, Peer]]) -> None:
        """Compare the answers of all peers to all cases that will be timed, without a cap."""
        threads = max(self._options.threads)
        for name, model in list(self._files):
            peer = peers()[name]
            found = [case for case, one in pairs if one.name == name and case.model == model and case.kind in ANSWERING]
            for batch in sorted({case.batch for case in found}):
                job = self._job(
                    "check", peer=name, model=model, batches=(batch,), threads=threads, environ=peer.environ
                )
                outcome = self._step(f"{name}: checking {model}, batch {batch}", job)
                error = outcome.values.get("error")
                right = error is not None and error <= peer.tolerance
                status = "ok" if right else outcome.status if error is None else "wrong"
                fields = {"model": model, "batch": batch, "error": error, "reason": outcome.reason}
                fields |= {"tolerance": peer.tolerance, "arithmetic": peer.arithmetic}
                self._write("check", peer=name, threads=threads, status=status, **fields)
                if not right:
                    tqdm.write(f"{name}: {model}, batch {batch}: {status}: {outcome.reason or f'error {error:.2g}'}")
                    self.failures += 1
                    self._out |= {(name, c.label, t) for c in found if c.batch == batch for t in self._options.threads}

    def _step(self, says: str, job: Job) -> spawn.Outcome:
        self._bar.set_postfix_str(says)
        outcome = spawn.run(job, limit=_PREPARING)
        self._bar.update()
        return outcome

    # ---- measuring

    def _turns(self, pairs: list[tuple[Case, Peer]]) -> Iterator[_Turn]:
        """The turns of one round."""
        for threads in self._options.threads:
            for _, group in groupby(pairs, lambda pair: pair[0].model):
                cases = list(group)
                if self._scenario.peak:
                    for name in ("fma", *(name for name in OF_A_WAY if _is_beside(name, cases))):
                        yield self._limit(name, cases[0][0], threads)
                if self._scenario.limits:
                    yield from self._limits(cases, threads)
                seen = set()
                for case, peer in cases:
                    if case.kind == "import" and peer.modules in seen:
                        continue  # another way to use the same package
                    seen.add(peer.modules)
                    if case.model and (peer.name, case.model) not in self._files:
                        continue
                    yield self._turn(case, peer, threads)

    def _turn(self, case: Case, peer: Peer, threads: int) -> _Turn:
        between = str(self._disk) if self._scenario.limits and is_way(peer.name) else None
        job = self._job(
            case.kind,
            peer=peer.name,
            model=case.model,
            modules=peer.modules,
            file=between if case.kind == "passes" and self._scenario.seconds else None,
            batches=(case.batch,),
            threads=threads,
            budget=case.budget,
            callers=case.callers,
            verify=case.verify,
            cap=case.cap,
            least_passes=_LEAST_PASSES if self._scenario.seconds else 0,
            seconds=min(self._scenario.seconds, 0.5) if self._options.quick else self._scenario.seconds,
            environ=peer.environ + function.told(case),
        )
        return _Turn(case, threads, peer.name, job, self._files.get((peer.name, case.model), ()))

    def _limits(self, pairs: list[tuple[Case, Peer]], threads: int) -> Iterator[_Turn]:
        """The best speed of disk and processor, and the time that streamrt computes with all weights in memory."""
        ours = [(case, peer) for case, peer in pairs if is_way(peer.name) and (peer.name, case.model) in self._files]
        if not ours:
            return  # without streamrt the rows have no T*
        for name in LIMITS:
            if name not in OF_A_WAY or _is_beside(name, pairs):
                yield self._limit(name, pairs[0][0], threads)
        for case, way in {(case.batch, peer.name): (case, peer) for case, peer in reversed(ours)}.values():
            job = self._job("passes", peer=way.name, model=case.model, batches=(case.batch,), threads=threads)
            job = replace(job, seconds=1.0, environ=way.environ)
            yield _Turn(_uncapped(case), threads, computing(way.name), job, (), True)

    def _limit(self, name: str, case: Case, threads: int) -> _Turn:
        """One limit of the machine; a limit of the disk reads a file that no contender reads."""
        files = (self._disk,) if name in OF_A_FILE else ()
        job = self._job("limit", peer=name, file=str(files[0]) if files else None, threads=threads)
        return _Turn(_uncapped(case), threads, name, job, files, True)

    def _time(self, turn: _Turn, index: int) -> None:
        self._bar.update()
        if turn.key in self._out:
            return
        self._bar.set_postfix_str(f"round {index + 1}: {turn.peer}, {turn.case.label}")
        shares = turn.threads > 1 and not turn.limit and turn.case.cap is None
        before = hop() if shares else None
        outcome, group = self._execute(turn, turn.job)
        values: dict[str, Any] = outcome.values
        if not turn.limit:
            values.get("facts", {}).pop("layers", None)  # T* takes the layers of the limit
        status = outcome.status
        peer = peers().get(turn.job.peer)  # none of a limit of the machine
        tolerance = peer.tolerance if peer else TOLERANCE
        if status == "ok" and not values.get("error", 0.0) <= tolerance:
            status = "wrong"
        fields = {} if status == "ok" else {"ended": {"seconds": outcome.seconds} | group}
        if turn.limit and turn.files:
            fields["file"] = turn.files[0].name
        if before is not None:
            fields["hops"] = [before, hop()]
        self._write(
            "limit" if turn.limit else "timing",
            case=turn.case,
            peer=turn.peer,
            threads=turn.threads,
            round=index,
            status=status,
            reason=outcome.reason,
            values=values,
            **fields,
        )
        if status == "ok":
            self._good.add(turn.key)
            return
        tqdm.write(f"{turn.peer}: {turn.case.label}: {status}: {outcome.reason}")
        self._bad[turn.key] += 1
        if status in _FINAL or self._bad[turn.key] == _TRIES:
            self._out.add(turn.key)
        self.failures += status in ("error", "wrong")

    def _has_memory(self, turn: _Turn) -> bool:
        return self._scenario.weigh and not turn.limit and turn.case.kind in ANSWERING

    def _weigh(self, turn: _Turn) -> None:
        self._bar.update()
        if turn.key in self._out or turn.key not in self._good:
            return
        self._bar.set_postfix_str(f"memory: {turn.peer}, {turn.case.label}")
        sampler = spawn.MemorySampler(turn.files)
        job = replace(turn.job, file=None, least_passes=1, seconds=0.0)
        outcome, group = self._execute(turn, job, sampler)
        values = sampler.most | group
        facts = outcome.values.get("facts", {})
        if (budget := facts.get("budget")) and facts["weights"] + facts["workspace"] > budget:  # it is used up
            values["beyond"] = sampler.most["both"] - outcome.values["interpreter"] - budget
        if outcome.status != "ok":
            tqdm.write(f"memory of {turn.peer}: {turn.case.label}: {outcome.status}: {outcome.reason}")
            self.failures += outcome.status == "error"
        self._write(
            "memory",
            case=turn.case,
            peer=turn.peer,
            threads=turn.threads,
            status=outcome.status,
            reason=outcome.reason,
            values=values,
        )

    def _execute(
        self, turn: _Turn, job: Job, sampler: spawn.MemorySampler | None = None
    ) -> tuple[spawn.Outcome, dict[str, int | None]]:
        """Run one process, cold and capped as the case says; returns its outcome, and the peak of its cgroup."""
        start = function.run if turn.case.kind == SERVERLESS else spawn.run
        run = partial(start, job, limit=self._scenario.patience, sampler=sampler)
        cap = turn.case.cap
        cold = turn.files if turn.case.cold or turn.limit or sampler else ()
        try:
            pagecache.make_cold(cold)
            if cap is None and sampler is None:
                return run(), {}
            with memory_cgroup(cap) as group:
                outcome = run(group=group)
                return outcome, {"cgroup_peak": group.peak()}
        except NoCgroupError as error:
            return (run(), {}) if cap is None else (spawn.Outcome("skipped", reason=str(error)), {})
        except pagecache.NotColdError as error:
            return spawn.Outcome("error", reason=str(error)), {}
        finally:
            # The next process must not wait until the kernel has reclaimed these pages.
            with suppress(pagecache.NotColdError):
                pagecache.make_cold(cold)


def _rotated(turns: list[_Turn], index: int) -> Iterator[_Turn]:
    """The turns of a round. In each round another contender of a case is the first; limits stay in their order."""
    for (limit, _, _), group in groupby(turns, lambda turn: (turn.limit, turn.case, turn.threads)):
        same = list(group)
        first = 0 if limit else index % len(same)
        yield from same[first:] + same[:first]


def _is_beside(limit: str, pairs: list[tuple[Case, Peer]]) -> bool:
    """Whether the way that a limit belongs to is measured."""
    return any(peer.name == OF_A_WAY[limit] for _, peer in pairs)


def _uncapped(case: Case) -> Case:
    """The case without cap, budget and cold pages: limits are measured with it."""
    return replace(case, cap=None, budget=None, cold=False)
