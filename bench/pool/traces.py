"""Seeded traces: the model that each request asks for."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

Trace = list[int]


def zipf(alpha: float, models: int, count: int, seed: int) -> Trace:
    """The model of rank k is requested in proportion to k**-alpha; ranks do not depend on sizes."""
    r = random.Random(seed)
    return r.choices(_shuffled(models, r), _weights(alpha, models), k=count)


def cyclic(models: int, count: int, seed: int) -> Trace:
    """All models, in turn."""
    return [index % models for index in range(count)]


def bursty(models: int, count: int, seed: int) -> Trace:
    """Five models are busy at a time, each for about 20 requests; then another model takes its place."""
    r = random.Random(seed)
    trace: Trace = []
    busy: list[list[int]] = []
    while len(trace) < count:
        while len(busy) < 5:
            busy.append([r.randrange(models), 1 + int(r.expovariate(1 / 20))])
        burst = r.choice(busy)
        trace.append(burst[0])
        burst[1] -= 1
        if burst[1] <= 0:
            busy.remove(burst)
    return trace


def drifting(models: int, count: int, seed: int) -> Trace:
    """Zipf 0.9, but after each 0.5 % of the trace three pairs of models exchange their popularity."""
    r = random.Random(seed)
    order, weights = _shuffled(models, r), _weights(0.9, models)
    trace: Trace = []
    while len(trace) < count:
        trace += r.choices(order, weights, k=max(1, count // 200))
        for _ in range(3):
            a, b = r.randrange(models), r.randrange(models)
            order[a], order[b] = order[b], order[a]
    return trace[:count]


def one_hit(models: int, count: int, seed: int) -> Trace:
    """Every other request is for a model that does not come again soon; the rest is Zipf 0.9 over 1/2 of the models."""
    half = models // 2
    popular = zipf(0.9, half, count, seed)
    return [half + index // 2 % half if index % 2 else popular[index] for index in range(count)]


def _shuffled(models: int, r: random.Random) -> list[int]:
    order = list(range(models))
    r.shuffle(order)
    return order


def _weights(alpha: float, models: int) -> list[float]:
    return [(rank + 1) ** -alpha for rank in range(models)]


#: By name, a function of models, requests and seed.
TRACES: dict[str, Callable[[int, int, int], Trace]] = {
    "zipf 0.6": partial(zipf, 0.6),
    "zipf 0.9": partial(zipf, 0.9),
    "zipf 1.2": partial(zipf, 1.2),
    "bursty": bursty,
    "drifting": drifting,
    "cyclic": cyclic,
    "one-hit": one_hit,
}

#: Traces on which keeping a fixed set of bytes is optimal. A pool should come close to it.
STATIONARY = ("zipf 0.6", "zipf 0.9", "zipf 1.2", "cyclic")
