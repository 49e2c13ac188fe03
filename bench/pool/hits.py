"""The cost of a hit: a request to a pool whose model is in memory, beside a call of the same model by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

from bench.pool import memory
from bench.pool.inside import Registered

#: Models that are requested in turn, and stretches of calls and of requests that alternate.
_HOT, _STRETCHES = 4, 20


def cost(registered: Registered, calls: int) -> dict[str, Any]:
    """Seconds that a hit takes more than a call: the median over pairs of stretches, of the difference of medians.

    The models are the four of medium size. Both sides call them in turn, with the same threads. With it come the
    figures of `bench.pool.memory.register`, since the pool is the same.
    """
    hot = registered.medium(_HOT)
    pool, figures = memory.register(registered)
    with pool, registered.alone(hot) as call:
        request = registered.request(pool)
        for does in (call, request):
            for turn in range(10 * _HOT):
                does(hot[turn % _HOT])
        before = pool.stats()
        pairs = [[median(_times(does, hot, calls)) for does in (call, request)] for _ in range(_STRETCHES)]
        after = pool.stats()
    differences = [hit - alone for alone, hit in pairs]
    return figures | {
        "cost": median(differences),
        "least": min(differences),
        "most": max(differences),
        "call": median(alone for alone, _ in pairs),
        "hit": median(hit for _, hit in pairs),
        "hit_ratio": (after.hits - before.hits) / (after.requests - before.requests),
    }


def _times(does: Callable[[int], None], hot: Sequence[int], calls: int) -> list[float]:
    times = []
    for turn in range(calls):
        start = perf_counter()
        does(hot[turn % len(hot)])
        times.append(perf_counter() - start)
    return times
