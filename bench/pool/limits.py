"""The bytes that a trace loads with the best fixed set, and with an LRU of whole models."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence


def best_fixed(trace: Sequence[int], sizes: Sequence[int], budget: int) -> int:
    """Bytes loaded when the best fixed set of bytes stays. It is chosen in hindsight, by requests for each byte.

    The last model of the set may be in it in part. Each byte of the set is loaded once, and every other byte at each
    request.
    """
    counts = Counter(trace)
    room, total = budget, 0
    for model, count in counts.most_common():
        kept = min(room, sizes[model])
        room -= kept
        total += sizes[model] * count - kept * (count - 1)
    return total


def whole_lru(trace: Sequence[int], sizes: Sequence[int], budget: int) -> int:
    """Bytes loaded when whole models stay and the least recently used models make room.

    A model larger than the budget is loaded at each request, and evicts no other model.
    """
    held: OrderedDict[int, int] = OrderedDict()
    used = total = 0
    for model in trace:
        if model in held:
            held.move_to_end(model)
            continue
        size = sizes[model]
        total += size
        if size <= budget:
            while used + size > budget:
                used -= held.popitem(last=False)[1]
            held[model] = size
            used += size
    return total
