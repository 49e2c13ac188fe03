"""``python -m bench pool``: each policy and whole-model LRU on each trace, simulated, and then run in a cgroup.

Models with weights in fewer bytes take turns with those in float32, under the same budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.pool import limits
from bench.pool.models import FLOAT32, paths
from bench.pool.simulation import simulate
from bench.pool.traces import STATIONARY, TRACES, sizes
from bench.process import pagecache, spawn
from bench.process.cgroup import NoCgroupError, memory_cgroup
from bench.process.job import Job
from bench.record import Recorder

MIB = 1 << 20
#: Bytes of the cgroup beside the budget: for the interpreter, BLAS, and the headers of 200 models.
_BESIDE = 100 * MIB
_SEED = 7
CONTENDERS = ("whole-model LRU", "streamrt adaptive", "streamrt gdsf", "streamrt lru")
LOADED = "{:16} {:20} {:9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}"


@dataclass(frozen=True, slots=True)
class Setting:
    """The size of a benchmark.

    Attributes:
        models: how many models there are.
        total: bytes of all models in float32; the budget is 1/5 of them.
        requests: requests of a trace.
        hits: hits whose times are measured beside other requests.
    """

    models: int = 200
    total: int = 500 * MIB
    requests: int = 5000
    hits: int = 2000


QUICK = Setting(40, 80 * MIB, 300, 200)


@dataclass(frozen=True, slots=True)
class Options:
    """Which part of the benchmark to run.

    Attributes:
        contenders: the contenders of real runs; without any, the traces are only simulated.
        traces: names of traces.
        weights: types of the models' weights.
        rounds: how often each contender plays each trace with each type of weights.
        beside: whether hits are timed beside other requests, too.
    """

    contenders: tuple[str, ...]
    traces: tuple[str, ...] = tuple(TRACES)
    weights: tuple[str, ...] = (FLOAT32,)
    rounds: int = 1
    beside: bool = True


def run(setting: Setting, data: Path, recorder: Recorder, options: Options) -> int:
    """Simulate the traces and run the contenders, each with a line of output; returns how many runs failed."""
    wanted = sizes(setting.models, setting.total)
    budget = setting.total // 5
    print(LOADED.format("trace", "contender", "", "÷ best", "÷ LRU", "hits", "p50", "p99", "all"))
    failures = 0
    bytes_of: dict[str, list[int]] = {}
    for weights in options.weights if options.contenders else ():
        made = spawn.run(_job("pool-models", setting, data, weights), limit=3600)
        if made.status != "ok":
            print(f"the models cannot be made: {made.reason}")
            return 1
        bytes_of[weights] = made.values["bytes"]
    for name in options.traces:
        trace = TRACES[name](setting.models, setting.requests, _SEED)
        simulated = simulate(trace, wanted, budget)
        for contender in CONTENDERS:
            _tell(name, contender, "simulated", simulated[contender], simulated)
        recorder.write("simulated", trace=name, requests=setting.requests, loaded=simulated)
        reference = {
            weights: {
                "best fixed set": limits.best_fixed(trace, found, budget),
                "whole-model LRU": limits.whole_lru(trace, found, budget),
            }
            for weights, found in bytes_of.items()
        }
        times: dict[tuple[str, str], dict[int, float]] = {
            (contender, weights): {} for contender in options.contenders for weights in options.weights
        }
        for index in range(options.rounds):
            for (contender, weights), seconds in times.items():
                job = _job("pool-trace", setting, data, weights, contender, name, budget)
                outcome = _measure(job, name, contender, index, recorder, reference[weights])
                failures += outcome.status not in ("ok", "skipped")
                if outcome.status == "ok":
                    seconds[index] = outcome.values["seconds"]
        for line in compared(times):
            print(f"{name}: {line}", flush=True)
    for name in ("hits", "misses") if options.contenders and options.beside else ():
        job = _job("pool-beside", setting, data, options.weights[0], model=name, budget=budget)
        outcome = _measure(job, f"hits beside {name}", "streamrt gdsf", 0, recorder, {})
        failures += outcome.status not in ("ok", "skipped")
    return failures


def compared(times: dict[tuple[str, str], dict[int, float]]) -> Iterator[str]:
    """The seconds of a trace, by contender and weights, divided round by round by those with the first weights."""
    first = {contender: seconds for (contender, _), seconds in reversed(times.items())}
    for (contender, weights), seconds in times.items():
        base = first[contender]
        ratios = [value / base[index] for index, value in seconds.items() if index in base]
        if seconds is not base and ratios:
            spread = f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
            yield f"{contender}: {weights} takes {spread} of the time"


def _job(
    kind: str, setting: Setting, data: Path, weights: str, peer: str = "", model: str = "", budget: int = 0
) -> Job:
    count = setting.hits if kind == "pool-beside" else setting.requests
    return Job(
        kind,
        data=str(data),
        peer=peer,
        model=model,
        threads=2,
        budget=str(budget),
        batches=(setting.models, setting.total),
        most_passes=count,
        weights=weights,
    )


def _measure(
    job: Job, trace: str, contender: str, index: int, recorder: Recorder, reference: dict[str, int]
) -> spawn.Outcome:
    models, total = job.batches
    files = paths(Path(job.data), sizes(models, total), job.weights)
    budget = int(job.budget or 0)
    try:
        pagecache.make_cold(files)
        with memory_cgroup(budget + _BESIDE) as group:
            outcome = spawn.run(job, group=group, limit=3600)
            peak = group.peak()
    except NoCgroupError as error:
        print(f"skipped: {error}")
        return spawn.Outcome("skipped", reason=str(error))
    finally:
        pagecache.make_cold(files)
    values: dict[str, Any] = outcome.values | {"cgroup_peak": peak, "limits": reference, "budget": budget}
    recorder.write(
        "timing",
        trace=trace,
        peer=contender,
        weights=job.weights,
        round=index,
        status=outcome.status,
        reason=outcome.reason,
        values=values,
    )
    if outcome.status == "ok":
        _tell(trace, contender, job.weights, values.get("device", 0), reference, values)
    else:
        print(f"{trace}: {contender}, {job.weights}: {outcome.status}: {outcome.reason}")
    return outcome


def _tell(
    trace: str, contender: str, how: str, loaded: int, reference: dict[str, int], values: dict[str, Any] | None = None
) -> None:
    ratios = [
        f"{loaded / reference[name]:.3f}" if name in reference else "" for name in ("best fixed set", CONTENDERS[0])
    ]
    hits = f"{values['hit_ratio']:.1%}" if values else ""
    times = [f"{values[name] * 1e3:.2f} ms" if values else "" for name in ("p50", "p99")]
    seconds = f"{values['seconds']:.2f} s" if values and "seconds" in values else ""
    marks = "*" if trace in STATIONARY else ""
    print(LOADED.format(trace + marks, contender, how, *ratios, hits, *times, seconds), flush=True)
