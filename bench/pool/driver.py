"""``python -m bench pool``: each contender on each trace, simulated, and then run in a cgroup; and the cost of hits.

Every round plays all traces with all contenders, and measures hits. In each round another contender begins. A floor
comes directly after the contender whose misses it replays.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.pool import earlier, models
from bench.pool.contenders import CONTENDERS, EARLIER, POLICIES, WHOLE, floor_of, rotated
from bench.pool.models import FLOAT32
from bench.pool.sets import CALLERS, MIB, ModelSet
from bench.pool.simulation import BEST, simulate
from bench.pool.tasks import LOCK_TRACE, SEED
from bench.pool.traces import STATIONARY, TRACES
from bench.process import pagecache, spawn
from bench.process.cgroup import NoCgroupError, memory_cgroup
from bench.process.job import Job
from bench.record import Recorder

#: Bytes of the cgroup beside the budget: for the interpreter, BLAS, and the headers of 200 models.
_BESIDE = 100 * MIB
#: The same where many models are registered. It is more than they may take, so that the memory can be measured.
_BESIDE_MANY = 500 * MIB
_THREADS = 2  # that compute a request
_LIMIT = 3600  # seconds of a process
LINE = "{:14} {:32} {:9} {:>7} {:>7} {:>7} {:>10} {:>10} {:>9}"


@dataclass(frozen=True, slots=True)
class Options:
    """Which part of the benchmark to run.

    Attributes:
        contenders: the contenders of real runs; without any, the traces are only simulated.
        traces: names of traces.
        weights: types of the models' weights.
        rounds: how often each contender plays each trace with each type of weights.
        hits: whether the rows about hits are measured, too, with the first type of weights.
        seconds: of a stretch in which four threads make requests. In one second each makes some thousand, so that the
            99th percentile is no single request.
    """

    contenders: tuple[str, ...] = CONTENDERS
    traces: tuple[str, ...] = tuple(TRACES)
    weights: tuple[str, ...] = (FLOAT32,)
    rounds: int = 3
    hits: bool = True
    seconds: float = 1.0


#: A test of everything but the earlier package, whose build takes minutes.
QUICK = Options(contenders=(WHOLE, *POLICIES), traces=("zipf 0.9", "bursty", "cyclic"), rounds=1, seconds=0.1)


def run(chosen: ModelSet, data: Path, recorder: Recorder, options: Options) -> int:
    """Measure one set of models, with a line of output for each run; returns how many runs failed."""
    return Run(chosen, data, recorder, options).run()


class Run:
    """The measurements of one set of models.

    Attributes:
        failures: how many runs failed.
    """

    def __init__(self, chosen: ModelSet, data: Path, recorder: Recorder, options: Options) -> None:
        self.failures = 0
        self._set, self._data, self._recorder, self._options = chosen, data, recorder, options
        self._python: Path | None = None  # the interpreter with the earlier package
        self._sizes = {weights: models.sizes(*chosen.shape) for weights in options.weights}  # bytes of weights
        self._simulated: dict[tuple[str, str], dict[str, int]] = {}

    def run(self) -> int:
        options, chosen = self._options, self._set
        described: dict[str, Any] = {"models": chosen.models, "least": chosen.least, "most": chosen.most}
        self._recorder.write("set", set=chosen.name, budget=chosen.budget, requests=chosen.requests, **described)
        if options.traces:
            print(LINE.format("trace", "contender", "", "÷ best", "÷ LRU", "hits", "p50", "p99", "all"))
        if options.contenders and not self._prepare():
            return self.failures
        self._simulate()
        for index in range(options.rounds if options.contenders else 0):
            for name in options.traces:
                for weights in options.weights:
                    for contender in rotated(self._contenders(weights), index):
                        self._play(name, weights, contender, index)
            if options.hits and chosen.registered:
                self._hits(index)
        return self.failures

    # ---------------------------------------------------------------- before the rounds

    def _prepare(self) -> bool:
        """Make all models; whether that succeeded."""
        registered = max(self._set.registered, default=0) if self._options.hits else 0
        for weights in self._options.weights:
            made = spawn.run(self._job("models", weights, registered=registered), limit=_LIMIT)
            if made.status != "ok":
                return self._cannot(made.reason)
            self._sizes[weights] = made.values["bytes"]
        if EARLIER not in self._options.contenders or not self._options.traces:
            return True
        for weights in self._options.weights:
            if weights != FLOAT32:
                self._skip(f"the package of {earlier.COMMIT} has no weights in {weights}", weights)
        if FLOAT32 in self._options.weights:
            try:
                self._python = earlier.interpreter(self._data)
            except earlier.NotMadeError as error:
                self._skip(str(error), FLOAT32)
                return True
            made = spawn.run(self._job("models", FLOAT32, peer=EARLIER), limit=_LIMIT, python=self._python)
            if made.status != "ok":
                return self._cannot(made.reason)
        return True

    def _cannot(self, reason: str) -> bool:
        print(f"the models cannot be made: {reason}")
        self.failures += 1
        return False

    def _skip(self, reason: str, weights: str) -> None:
        print(f"skipped: {EARLIER}, {weights}: {reason}")
        self._recorder.write("skip", set=self._set.name, peer=EARLIER, weights=weights, reason=reason)

    def _contenders(self, weights: str) -> list[str]:
        """The contenders that can play with these weights."""
        return [
            name
            for name in self._options.contenders
            if name != EARLIER or (weights == FLOAT32 and self._python is not None)
        ]

    def _simulate(self) -> None:
        chosen = self._set
        for name in self._options.traces:
            trace = TRACES[name](chosen.models, chosen.requests, SEED)
            for weights, sizes in self._sizes.items():
                found = self._simulated[name, weights] = simulate(trace, sizes, chosen.budget)
                for contender in (WHOLE, *POLICIES):
                    self._tell(name, weights, contender, found[contender])
                self._recorder.write(
                    "simulated", set=chosen.name, trace=name, weights=weights, requests=chosen.requests, loaded=found
                )

    # ---------------------------------------------------------------- rounds

    def _play(self, trace: str, weights: str, contender: str, index: int) -> None:
        """Run a contender, and for a pool the floor of this run."""
        of: dict[str, Any] = {"trace": trace, "weights": weights, "round": index}
        job = self._job("trace", weights, peer=contender, model=trace)
        python = self._python if contender == EARLIER else None
        outcome = self._measure(job, python=python, kind="timing", peer=contender, **of)
        brought = outcome.values.get("brought")
        if contender not in POLICIES or brought is None:
            return
        with tempfile.TemporaryDirectory(dir=self._data) as folder:
            file = Path(folder) / "brought.json"
            file.write_text(json.dumps(brought))
            job = replace(job, kind="pool-floor", peer="", file=str(file))
            self._measure(job, kind="timing", peer=floor_of(contender), **of)

    def _hits(self, index: int) -> None:
        """Measure the rows about hits."""
        weights, crowd = self._options.weights[0], {"callers": max(CALLERS), "threads": max(CALLERS)}
        for registered in self._set.registered:
            job = self._job("hit", weights, registered=registered)
            self._row(replace(job, most_passes=self._set.calls), index)
            self._row(replace(job, kind="pool-lock", model=LOCK_TRACE, **crowd), index)
        job = self._job("callers", weights, registered=self._set.models)
        self._row(replace(job, seconds=self._options.seconds, **crowd), index)

    def _row(self, job: Job, index: int) -> None:
        row = job.kind.removeprefix("pool-")
        fields: dict[str, Any] = {"row": row, "registered": job.registered, "weights": job.weights}
        outcome = self._measure(job, beside=_BESIDE_MANY, kind="hits", round=index, **fields)
        if outcome.status == "ok":
            print(f"{row}, {job.registered} registered: {_shown(outcome.values)}", flush=True)

    def _job(self, kind: str, weights: str, **fields: Any) -> Job:
        return Job(
            f"pool-{kind}",
            data=str(self._data),
            threads=_THREADS,
            budget=str(self._set.budget),
            sizes=self._set.shape,
            most_passes=self._set.requests,
            weights=weights,
            **fields,
        )

    def _measure(
        self, job: Job, *, beside: int = _BESIDE, python: Path | None = None, kind: str, **fields: Any
    ) -> spawn.Outcome:
        """Run a process in a cgroup, with cold files, and write its line."""
        outcome = self._spawn(job, beside, python)
        values = {name: value for name, value in outcome.values.items() if name != "brought"}
        line = {"set": self._set.name} | fields | {"status": outcome.status, "reason": outcome.reason}
        self._recorder.write(kind, **line, values=values)
        if outcome.status != "ok":
            about = [str(fields[name]) for name in ("trace", "peer", "row", "registered", "weights") if name in fields]
            print(f"{', '.join(about)}: {outcome.status}: {outcome.reason}", flush=True)
            self.failures += outcome.status != "skipped"
        elif kind == "timing":
            self._tell(fields["trace"], fields["weights"], fields["peer"], values["device"], values)
        return outcome

    def _spawn(self, job: Job, beside: int, python: Path | None) -> spawn.Outcome:
        files = self._files(job)
        try:
            pagecache.make_cold(files)
            with memory_cgroup(self._set.budget + beside) as group:
                outcome = spawn.run(job, group=group, limit=_LIMIT, python=python)
                return replace(outcome, values=outcome.values | {"cgroup_peak": group.peak()})
        except NoCgroupError as error:
            return spawn.Outcome("skipped", reason=str(error))
        except pagecache.NotColdError as error:
            return spawn.Outcome("error", reason=str(error))
        finally:
            # The next process must not wait until the kernel has reclaimed these pages.
            with suppress(pagecache.NotColdError):
                pagecache.make_cold(files)

    def _files(self, job: Job) -> list[Path]:
        """The files that a job reads."""
        package = earlier.COMMIT if job.peer == EARLIER else ""
        files = models.paths(self._data, models.sizes(*self._set.shape), job.weights, package)
        if job.registered:
            files += models.bystanders(self._data, models.distinct(self._set.budget), self._set.budget)
        return files

    def _tell(
        self, trace: str, weights: str, contender: str, loaded: int, values: dict[str, Any] | None = None
    ) -> None:
        reference = self._simulated[trace, weights]
        ratios = [f"{loaded / reference[name]:.3f}" for name in (BEST, WHOLE)]
        hits = f"{values['hit_ratio']:.1%}" if values else ""
        times = [f"{values[name] * 1e3:.2f} ms" if values else "" for name in ("p50", "p99")]
        seconds = f"{values['seconds']:.2f} s" if values else "simulated"
        marks = "*" if trace in STATIONARY else ""
        print(LINE.format(trace + marks, contender, weights, *ratios, hits, *times, seconds), flush=True)


def _shown(values: dict[str, Any]) -> str:
    """Figures by name as text."""
    shown = (
        f"{name} ({_shown(value)})" if isinstance(value, dict) else f"{name} {value:.4g}"
        for name, value in values.items()
        if value is not None
    )
    return ", ".join(shown)
