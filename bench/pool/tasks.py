"""What the processes of a pool's benchmark do, by kind of job. With an earlier package, they make models and replay."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.pool import models, traces
from bench.pool.contenders import EARLIER
from bench.pool.earlier import COMMIT

if TYPE_CHECKING:
    from bench.pool.inside import Registered
    from bench.process.job import Job

SEED = 7
#: The trace whose requests tell how long the lock is held.
LOCK_TRACE = "zipf 0.9"


def make(job: Job) -> dict[str, Any]:
    """Make the models and the bystanders; the bytes of weights of each model."""
    import streamrt

    folder, wanted = Path(job.data), models.sizes(*job.sizes)
    models.make(folder, wanted, job.weights, _package(job))
    if job.registered > len(wanted):
        models.make_bystanders(folder, job.registered, int(job.budget or 0))
    os.sync()
    found = []
    for path in models.paths(folder, wanted, job.weights, _package(job)):
        with streamrt.Model(path, None) as model:
            found.append(sum(r.length for r in model.plan.ranges))
    return {"bytes": found}


def trace(job: Job) -> dict[str, Any]:
    """Play a trace of requests."""
    from bench.pool import replay

    return replay.replay(job.peer, *_models(job), _trace(job))


def floor(job: Job) -> dict[str, Any]:
    """Replay the misses that the file of the job has."""
    from bench.pool import floor

    assert job.file
    paths, widths, _ = _models(job)
    return floor.floor(paths, widths, _trace(job), json.loads(Path(job.file).read_text()))


def hit(job: Job) -> dict[str, Any]:
    """Time hits beside calls of the models by themselves; and what registered models take."""
    from bench.pool import hits

    return hits.cost(_registered(job), job.most_passes)


def lock(job: Job) -> dict[str, Any]:
    """Time how long the lock is held, with one caller and with several."""
    from bench.pool import locks

    return locks.held(_registered(job), _trace(job), (1, job.callers))


def callers(job: Job) -> dict[str, Any]:
    """Time requests of four threads."""
    from bench.pool import callers

    return callers.together(_registered(job), job.seconds)


TASKS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "pool-models": make,
    "pool-trace": trace,
    "pool-floor": floor,
    "pool-hit": hit,
    "pool-lock": lock,
    "pool-callers": callers,
}


def _package(job: Job) -> str:
    """The name of the package that packs the models of a job, if it is not the installed one."""
    return COMMIT if job.peer == EARLIER else ""


def _trace(job: Job) -> traces.Trace:
    return traces.TRACES[job.model](job.sizes[0], job.most_passes, SEED)


def _models(job: Job) -> tuple[list[Path], list[int], int]:
    """Files and widths of the models, and the budget."""
    folder, wanted, package = Path(job.data), models.sizes(*job.sizes), _package(job)
    widths = [models.width(path) for path in models.paths(folder, wanted, package=package)]
    return models.paths(folder, wanted, job.weights, package), widths, int(job.budget or 0)


def _registered(job: Job) -> Registered:
    from bench.pool.inside import Registered

    paths, widths, budget = _models(job)
    more = max(0, job.registered - len(paths))
    bystanders = models.bystanders(Path(job.data), more, budget)
    width = [models.width(bystanders[0])] if bystanders else []
    return Registered([*paths, *bystanders], [*widths, *width * more], len(paths), budget)
