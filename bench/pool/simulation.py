"""Simulates each policy of the pool: the policies' own code on a pool without models."""

from __future__ import annotations

from collections.abc import Sequence

from bench.pool import limits
from bench.pool.contenders import WHOLE

#: The best fixed set of bytes in hindsight.
BEST = "best fixed set"


def simulate(trace: Sequence[int], sizes: Sequence[int], budget: int) -> dict[str, int]:
    """Bytes loaded by each policy, by whole-model LRU, and by the best fixed set of bytes."""
    from streamrt.pool.adaptive import POLICIES
    from streamrt.pool.shadow import Shadow

    found = {
        BEST: limits.best_fixed(trace, sizes, budget),
        WHOLE: limits.whole_lru(trace, sizes, budget),
    }
    for name, make in POLICIES.items():
        shadow = Shadow(budget, make(budget))
        found[f"streamrt {name}"] = sum(
            shadow.request(str(model), sizes[model], float(sizes[model])) for model in trace
        )
    return found
