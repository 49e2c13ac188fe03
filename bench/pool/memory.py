"""The time and the memory that many registered models take beside the budget."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from bench.pool import inside
from bench.process import cgroup

if TYPE_CHECKING:
    import streamrt


def register(registered: inside.Registered) -> tuple[streamrt.ModelPool, dict[str, Any]]:
    """Make a pool, register the models, and then request each of them once. The process has not imported streamrt yet.

    Returns:
        The pool, and figures: ``registering``, seconds in which all models were registered; ``interpreter``, bytes of
        anonymous memory of an interpreter with NumPy; what then added to it: ``imported``, ``registered`` and
        ``requested``; ``held``, the most bytes that the pool counted; ``charged``, the most bytes of the cgroup, or
        None.
    """
    interpreter = inside.anonymous()
    import streamrt

    imported = inside.anonymous()
    pool = streamrt.ModelPool(registered.budget, timeout=inside.PATIENCE)
    start = perf_counter()
    for index, path in enumerate(registered.paths):
        pool.register(str(index), path)
    seconds = perf_counter() - start
    after = inside.anonymous()
    registered.request_each(pool)
    return pool, {
        "registering": seconds,
        "interpreter": interpreter,
        "imported": imported - interpreter,
        "registered": after - imported,
        "requested": inside.anonymous() - after,
        "held": pool.stats().peak,
        "charged": cgroup.own_peak(),
    }


def beside(figures: dict[str, Any]) -> float:
    """Bytes beside the budget and an interpreter with NumPy, after each model was requested once.

    The cgroup's peak is the kernel's count: it includes page tables, inodes, and pages that the pool has let go. Where
    the kernel does not tell it, only anonymous memory is known.
    """
    if figures["charged"] is None:
        return float(sum(figures[name] for name in ("imported", "registered", "requested")))
    return float(figures["charged"] - figures["held"] - figures["interpreter"])
