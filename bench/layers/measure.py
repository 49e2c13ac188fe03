"""Times the passes of a model and the nodes of every pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from bench.peers import Array, NodeTimes, Profiled
from bench.process.job import Job


def passes(profiled: Profiled, x: Array, job: Job) -> tuple[list[float], list[NodeTimes], Array]:
    """Seconds of the steady passes, their nodes, and the answer of the last pass."""
    profiled.run(x)
    kept, times = [profiled.keep()], list[float]()
    while len(times) < job.least_passes or (sum(times) < job.seconds and len(times) < job.most_passes):
        start = time.perf_counter()
        y = profiled.run(x)
        times.append(time.perf_counter() - start)
        kept.append(profiled.keep())
    return times, profiled.nodes(kept), y


def summary(times: Sequence[float], nodes: Sequence[NodeTimes]) -> dict[str, Any]:
    """Medians over the passes: seconds of every node, and seconds between the nodes of a pass."""
    sums = [sum(of_pass) for of_pass in zip(*(node.seconds for node in nodes), strict=True)]
    whole = times if len(sums) == len(times) else [mean(times)]  # a runtime may tell only means
    return {
        "between": median(seconds - inside for seconds, inside in zip(whole, sums, strict=True)),
        "nodes": [{"names": node.names, "op": node.op, "seconds": median(node.seconds)} for node in nodes],
    }
