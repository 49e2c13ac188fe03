"""Simulates each policy of the pool: the policies' own code on a pool without models."""

from __future__ import annotations

from collections.abc import Sequence

from bench.pool import limits


def simulate(trace: Sequence[int], sizes: Sequence[int], budget: int) -> dict[str, int]:
    """Bytes loaded by each policy, by whole-model LRU, and by the best fixed set of bytes."""
    from streamrt.pool.adaptive import POLICIES
    from streamrt.pool.shadow import Shadow

    found = {
        "best fixed set": limits.best_fixed(trace, sizes, budget),
        "whole-model LRU": limits.whole_lru(trace, sizes, budget),
    }
    for name, make in POLICIES.items():
        shadow = Shadow(budget, make(budget))
        found[f"streamrt {name}"] = sum(
            shadow.request(str(model), sizes[model], float(sizes[model])) for model in trace
        )
    return found
