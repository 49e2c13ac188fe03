"""Four threads that use one pool, beside four threads that have a `Model` each."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

from bench.pool.inside import Registered, percentiles

_CALLERS = 4
_ROUNDS = 5  # stretches of each kind, which take turns

Caller = Callable[[], None]


def together(registered: Registered, seconds: float) -> dict[str, Any]:
    """Throughput of hits, and how misses of the fourth thread delay the hits of the other three.

    Each thread has one of the four models of medium size, and each call computes with one thread. Stretches of four
    kinds take turns: a `Model` for each thread; hits of all; hits of three and misses of the fourth; hits of three
    alone. Results are medians over the differences, or ratios, of stretches of the same turn. A stretch takes
    ``seconds``.
    """
    hot = registered.medium(_CALLERS)
    large = [index for index in registered.by_size()[registered.models // 2 :] if index not in hot]
    with registered.pool(threads=1) as pool, registered.alone(hot, threads=1) as call:
        request = registered.request(pool)
        for _ in range(20):
            for index in hot:
                call(index)
                request(index)
        missing = Missing(request, large)
        hits: list[Caller] = [partial(request, index) for index in hot]
        kinds = {
            "own": [partial(call, index) for index in hot],
            "hits": hits,
            "misses": [*hits[:-1], missing],
            "three": hits[:-1],
        }
        before = _hits(pool, large)
        turns = [{kind: stretch(callers, seconds) for kind, callers in kinds.items()} for _ in range(_ROUNDS)]
        found = _hits(pool, large) - before
    return {
        "throughput": median(turn["hits"][0] / turn["own"][0] for turn in turns),
        "raised": median(turn["misses"][1] - turn["hits"][1] for turn in turns),
        "raised_over_three": median(turn["misses"][1] - turn["three"][1] for turn in turns),
        "calls_a_second": median(turn["own"][0] for turn in turns),
        "hits_a_second": median(turn["hits"][0] for turn in turns),
        "p99_hits": median(turn["hits"][1] for turn in turns),
        "p99_misses": median(turn["misses"][1] for turn in turns),
        "p99_three": median(turn["three"][1] for turn in turns),
        "misses": missing.made,
        "miss_ratio": 1 - found / max(1, missing.made),
    }


class Missing:
    """Requests large models in turn, which make each other leave memory."""

    def __init__(self, request: Callable[[int], None], large: Sequence[int]) -> None:
        self._request, self._large = request, itertools.cycle(large)
        self.made = 0

    def __call__(self) -> None:
        self._request(next(self._large))
        self.made += 1


def stretch(callers: Sequence[Caller], seconds: float) -> tuple[float, float]:
    """Calls a second of all callers, each in a thread, and the 99th percentile of the first three callers' times."""
    over, barrier = threading.Event(), threading.Barrier(len(callers) + 1)
    times: list[list[float]] = [[] for _ in callers]
    errors: list[BaseException] = []

    def work(does: Caller, mine: list[float]) -> None:
        barrier.wait()
        try:
            while not over.is_set():
                start = perf_counter()
                does()
                mine.append(perf_counter() - start)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=each) for each in zip(callers, times, strict=True)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = perf_counter()
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join()
    lasted = perf_counter() - start
    if errors:
        raise errors[0]
    first = [value for mine in times[: _CALLERS - 1] for value in mine]
    return sum(map(len, times)) / lasted, percentiles(first)["p99"]


def _hits(pool: Any, models: Sequence[int]) -> int:
    """Hits of these models so far."""
    names = {str(index) for index in models}
    return sum(status.hits for status in pool.index() if status.name in names)
