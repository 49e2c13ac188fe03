"""How many samples one pass should serve.

More samples share one reading of the weights. Their activations take memory from pinned weights, so a pass reads more.
"""

from __future__ import annotations

from collections.abc import Callable

from streamrt.plan import Plan

#: Multiples of a batch that share a pass: powers of two, and the numbers half-way between them.
_COUNTS = (1, 2, *(count << power for power in range(20) for count in (3, 4)))
#: Treat results within 5 % of the best as ties.
_TIE = 1.05
#: Stop doubling the batch once it gains under 2 % per sample.
_GAIN = 0.98
#: Bytes that inputs and results of a shared pass may take beside the budget: 1/16 of it, or 32 MiB if that is more. The
#: budget ``"auto"`` leaves as much free.
_LEAST_HELD = 32 << 20
_HELD_SHARE = 16


def rounded(samples: int, batch: int) -> int:
    """The size of a pass for ``samples`` of several requests, the first of which has ``batch`` samples.

    There are few sizes, so that one plan, with its pinned and prefetched weights, serves any number of callers.
    """
    return next((batch * count for count in _COUNTS if batch * count >= samples), samples)


def most_held(budget: int, sample_bytes: int) -> int:
    """The most samples whose inputs and results, ``sample_bytes`` each, may lie beside ``budget`` bytes."""
    return max(_LEAST_HELD, budget // _HELD_SHARE) // max(1, sample_bytes)


def best_size(batch: int, most: int, compute: float, plan_for: Callable[[int], Plan | None]) -> int:
    """The samples in one pass that give the most samples a second; the fewest of ties.

    Args:
        batch: samples of one request. The result is a multiple of it.
        most: larger multiples of ``batch`` are not tried.
        compute: the least seconds that one sample computes. If a pass takes no longer per sample, more samples gain
            nothing.
        plan_for: makes the plan of a pass for a number of samples; None if they do not fit.
    """
    costs: dict[int, float] = {}  # seconds per sample of a pass, by its number of samples

    def tried(samples: int) -> Plan | None:
        plan = plan_for(samples) if samples <= max(most, batch) else None
        if plan is not None:
            costs[samples] = plan.seconds / samples
        return plan

    def cheapest() -> int:
        tie = min(costs.values()) * _TIE
        return min(samples for samples, cost in costs.items() if cost <= tie)

    samples, plan = batch, tried(batch)
    if plan is None:
        return batch
    while plan.streamed_bytes and costs[samples] > compute * _TIE:
        samples *= 2
        plan = tried(samples)
        if plan is None or costs[samples] > costs[samples // 2] * _GAIN:
            break
    best = cheapest() // batch
    for count in (best * 3 // 4, best * 3 // 2):
        if count in _COUNTS and batch * count not in costs:
            tried(batch * count)
    return cheapest()
