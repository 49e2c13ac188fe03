"""One real run, in the process that is measured: a trace, or hits beside other requests."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import streamrt

Lease = Callable[[int], AbstractContextManager[streamrt.Model]]

#: The name of `WholeModels` as a contender.
WHOLE = "whole-model LRU"


class WholeModels:
    """Keeps whole models in memory. The least recently used model makes room. One request runs at a time.

    A model that is larger than the budget streams: otherwise its requests would have no answer.
    """

    def __init__(self, paths: Sequence[Path], budget: int) -> None:
        self._paths, self._budget = paths, budget
        self._open: OrderedDict[int, tuple[streamrt.Model, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.loaded = self.hits = 0

    @contextmanager
    def lease(self, index: int) -> Iterator[streamrt.Model]:
        with self._lock:
            if index in self._open:
                self._open.move_to_end(index)
                self.hits += 1
            else:
                self._load(index)
            model, _ = self._open[index]
            yield model
            stats = model.stats
            self.loaded += stats.bytes_pinned + stats.bytes_streamed if stats else 0

    def _load(self, index: int) -> None:
        model = streamrt.Model(self._paths[index], None)
        size = min(model.plan.total, self._budget)
        if size == self._budget:
            model.set_budget(size)
        while self._open and sum(held for _, held in self._open.values()) + size > self._budget:
            self._open.popitem(last=False)[1][0].close()
        self._open[index] = (model, size)

    def close(self) -> None:
        for model, _ in self._open.values():
            model.close()


def replay(contender: str, paths: Sequence[Path], widths: Sequence[int], budget: int, trace: list[int]) -> Any:
    """Bytes loaded, hit ratio, and the time of requests from asking for a lease to the answer."""
    inputs = {width: np.ones((1, width), np.float32) for width in set(widths)}
    whole = contender == WHOLE
    pool: Any = WholeModels(paths, budget) if whole else _pool(contender, paths, budget)
    lease: Lease = pool.lease if whole else lambda index: pool.lease(str(index))
    before, times = _device(), []
    start = time.perf_counter()
    for index in trace:
        asked = time.perf_counter()
        with lease(index) as model:
            model(inputs[widths[index]])
        times.append(time.perf_counter() - asked)
    seconds = time.perf_counter() - start
    stats = None if whole else pool.stats()
    found = {
        "loaded": pool.loaded if stats is None else stats.bytes_loaded,
        "device": _device() - before,
        "hit_ratio": pool.hits / len(trace) if stats is None else stats.hit_ratio,
        "peak": None if stats is None else stats.peak,
        "seconds": seconds,
    } | _percentiles(times)
    pool.close()
    return found


def beside(paths: Sequence[Path], widths: Sequence[int], budget: int, misses: bool, count: int) -> Any:
    """The time of a hit beside two threads whose requests are all misses, or all hits."""
    inputs = {width: np.ones((1, width), np.float32) for width in set(widths)}
    pool = _pool("streamrt gdsf", paths, budget)
    order = sorted(range(len(paths)), key=lambda index: paths[index].stat().st_size)
    hot, others = order[: len(order) // 4], order[-len(order) // 2 :]

    def request(index: int) -> float:
        asked = time.perf_counter()
        with pool.lease(str(index)) as model:
            model(inputs[widths[index]])
        return time.perf_counter() - asked

    for _ in range(5):
        for index in hot:
            request(index)
    over, done = threading.Event(), [0, 0]
    busy = others if misses else hot[2:]

    def work(which: int) -> None:
        position = which * len(busy) // 2
        while not over.is_set():
            request(busy[position % len(busy)])
            position += 1
            done[which] += 1

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    before = pool.stats()
    for thread in threads:
        thread.start()
    times = [request(hot[turn % 2]) for turn in range(count)]
    over.set()
    for thread in threads:
        thread.join()
    after = pool.stats()
    hits = (after.hits - before.hits) / (after.requests - before.requests)
    pool.close()
    return {"hit_ratio": hits, "others": sum(done)} | _percentiles(times)


def _pool(contender: str, paths: Sequence[Path], budget: int) -> streamrt.ModelPool:
    pool = streamrt.ModelPool(budget, policy=contender.removeprefix("streamrt "), timeout=300.0)
    for index, path in enumerate(paths):
        pool.register(str(index), path)
    return pool


def _device() -> int:
    """Bytes that were read from devices for this process."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times, (50, 99))
    return {"p50": float(p50), "p99": float(p99)}
