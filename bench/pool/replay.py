"""One real run of a trace, in the process that is measured. It runs with earlier packages, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.pool import inside
from bench.pool.contenders import EARLIER, WHOLE, policy_of
from bench.pool.whole import WholeModels

Lease = Callable[[int], AbstractContextManager[Any]]


def replay(
    contender: str, paths: Sequence[Path], widths: Sequence[int], budget: int, trace: Sequence[int]
) -> dict[str, Any]:
    """Play a trace: bytes loaded, hit ratio, and times.

    The time of a request goes from asking for a lease to its end. The time of the trace is the sum over its requests.
    Meanwhile ``brought`` notes the bytes of weights that each request brought in; that takes no part of these times.
    """
    inputs = inside.ones(widths)
    whole = contender in (WHOLE, EARLIER)
    pool: Any = WholeModels(paths, budget) if whole else inside.pool_of(paths, budget, policy_of(contender))
    lease: Lease = pool.lease if whole else lambda index: pool.lease(str(index))
    before, times, brought = inside.from_device(), list[float](), list[int]()
    for index in trace:
        x = inputs[widths[index]]
        asked = perf_counter()
        with lease(index) as model:
            model(x)
            answered = perf_counter()
            brought.append(_brought(model))
            noted = perf_counter()
        times.append(perf_counter() - noted + answered - asked)
    stats = None if whole else pool.stats()
    found = {
        "loaded": sum(brought) if stats is None else stats.bytes_loaded,
        "device": inside.from_device() - before,
        "hit_ratio": pool.hits / len(trace) if stats is None else stats.hit_ratio,
        "peak": None if stats is None else stats.peak,
        "seconds": sum(times),
        "brought": brought,
    } | inside.percentiles(times)
    pool.close()
    return found


def _brought(model: Any) -> int:
    """Bytes of weights that the last call of a model or lease brought into memory."""
    stats = model.stats
    return stats.bytes_pinned + stats.bytes_streamed if stats else 0
