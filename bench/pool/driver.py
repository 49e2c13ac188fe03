"""``python -m bench pool``: each policy and whole-model LRU on each trace, simulated, and then run in a cgroup."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.pool import limits
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
LOADED = "{:16} {:20} {:9} {:>9} {:>9} {:>9} {:>9} {:>9}"


@dataclass(frozen=True, slots=True)
class Setting:
    """The size of a benchmark.

    Attributes:
        models: how many models there are.
        total: bytes of all models; the budget is 1/5 of them.
        requests: requests of a trace.
        hits: hits whose times are measured beside other requests.
    """

    models: int = 200
    total: int = 500 * MIB
    requests: int = 5000
    hits: int = 2000


QUICK = Setting(40, 80 * MIB, 300, 200)


def run(setting: Setting, data: Path, recorder: Recorder, real: tuple[str, ...]) -> int:
    """Simulate all traces and run the contenders ``real``, each with a line of output; returns how many failed."""
    wanted = sizes(setting.models, setting.total)
    budget = setting.total // 5
    print(LOADED.format("trace", "contender", "", "÷ best", "÷ LRU", "hits", "p50", "p99"))
    failures = 0
    if real:
        made = spawn.run(_job("pool-models", setting, data), limit=3600)
        if made.status != "ok":
            print(f"the models cannot be made: {made.reason}")
            return 1
        bytes_of = made.values["bytes"]
    for name, make in TRACES.items():
        trace = make(setting.models, setting.requests, _SEED)
        simulated = simulate(trace, wanted, budget)
        for contender in CONTENDERS:
            _tell(name, contender, "simulated", simulated[contender], simulated)
        recorder.write("simulated", trace=name, requests=setting.requests, loaded=simulated)
        if real:
            reference = {
                "best fixed set": limits.best_fixed(trace, bytes_of, budget),
                "whole-model LRU": limits.whole_lru(trace, bytes_of, budget),
            }
            for contender in real:
                job = _job("pool-trace", setting, data, contender, name, budget)
                failures += not _measure(job, name, contender, budget, recorder, reference)
    if real:
        for name in ("hits", "misses"):
            job = _job("pool-beside", setting, data, model=name, budget=budget)
            failures += not _measure(job, f"hits beside {name}", "streamrt gdsf", budget, recorder, {})
    return failures


def _job(kind: str, setting: Setting, data: Path, peer: str = "", model: str = "", budget: int = 0) -> Job:
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
    )


def _measure(job: Job, trace: str, contender: str, budget: int, recorder: Recorder, reference: dict[str, int]) -> bool:
    from bench.pool.models import paths

    models, total = job.batches
    files = paths(Path(job.data), sizes(models, total))
    try:
        pagecache.make_cold(files)
        with memory_cgroup(budget + _BESIDE) as group:
            outcome = spawn.run(job, group=group, limit=3600)
            peak = group.peak()
    except NoCgroupError as error:
        print(f"skipped: {error}")
        return True
    finally:
        pagecache.make_cold(files)
    values: dict[str, Any] = outcome.values | {"cgroup_peak": peak, "limits": reference, "budget": budget}
    recorder.write("timing", trace=trace, peer=contender, status=outcome.status, reason=outcome.reason, values=values)
    if outcome.status != "ok":
        print(f"{trace}: {contender}: {outcome.status}: {outcome.reason}")
        return False
    _tell(trace, contender, "real", values.get("device", 0), reference, values)
    return True


def _tell(
    trace: str, contender: str, how: str, loaded: int, reference: dict[str, int], values: dict[str, Any] | None = None
) -> None:
    ratios = [
        f"{loaded / reference[name]:.3f}" if name in reference else "" for name in ("best fixed set", CONTENDERS[0])
    ]
    hits = f"{values['hit_ratio']:.1%}" if values else ""
    times = [f"{values[name] * 1e3:.2f} ms" if values else "" for name in ("p50", "p99")]
    marks = "*" if trace in STATIONARY else ""
    print(LOADED.format(trace + marks, contender, how, *ratios, hits, *times), flush=True)
