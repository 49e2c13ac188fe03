"""The bars that the default policy should meet, and whether it does: the median over the rounds decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from bench.pool.contenders import DEFAULT, EARLIER, WHOLE, floor_of
from bench.pool.figures import Figures
from bench.pool.memory import beside
from bench.pool.models import FLOAT32
from bench.pool.sets import CALLERS
from bench.report.summary import Spread

#: The most that a trace's total time may be, divided by that of the earlier LRU.
OVER_EARLIER = {
    "zipf 0.6": 0.75, "zipf 0.9": 0.75, "zipf 1.2": 0.75, "one-hit": 0.75,
    "cyclic": 0.85, "drifting": 0.85, "bursty": 1.0,
}  # fmt: skip
#: What the total time over today's LRU may be above the ratio of simulated bytes.
_OVER_BYTES = 0.05
_OVER_FLOOR = 1.5
_HIT_COSTS = 30e-6  # seconds
_LOCK_MEDIAN, _LOCK_P99 = 10e-6, 100e-6
_THROUGHPUT = 0.9
_RAISED = 1e-3
_REGISTERING = 1.0
_BESIDE = 64 << 20

#: The names of the bars of a trace.
TRACE_BARS = ("time ÷ earlier LRU", "time ÷ LRU", "p50 - LRU's", "p99 ÷ LRU's", "time ÷ floor")


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, and what was measured.

    Attributes:
        name: of the figure.
        limit: the most that it may be, or the least.
        measured: the figure; None if it was not measured.
        unit: ``""`` for ratios, ``"s"`` or ``"bytes"``.
        least: whether the limit is the least.
        weights: of the models.
        trace: that was played; empty for rows about hits.
    """

    name: str
    limit: float
    measured: Spread | None
    unit: str = ""
    least: bool = False
    weights: str = ""
    trace: str = ""

    @property
    def verdict(self) -> str:
        """``"met"``, ``"missed"`` or ``"not measured"``."""
        if self.measured is None:
            return "not measured"
        value = self.measured.median
        return "met" if (value >= self.limit if self.least else value <= self.limit) else "missed"


def bars(found: Figures) -> list[Bar]:
    """The bars of one set of models: of each type of weights and trace, and of hits if their rows were measured."""
    of_traces = [bar for weights in found.weights for trace in found.traces for bar in _of_trace(found, weights, trace)]
    return of_traces + list(_of_hits(found))


def _of_trace(found: Figures, weights: str, trace: str) -> Iterator[Bar]:
    of: dict[str, Any] = {"weights": weights, "trace": trace}
    loaded = found.simulated[weights, trace]
    limits = (
        OVER_EARLIER[trace],
        loaded[DEFAULT] / loaded[WHOLE] + _OVER_BYTES,
        _HIT_COSTS,
        0.85 if trace.startswith("zipf") else 1.0,
        _OVER_FLOOR,
    )
    measured = (
        found.ratio(weights, trace, (DEFAULT, EARLIER), "seconds"),
        found.ratio(weights, trace, (DEFAULT, WHOLE), "seconds"),
        found.difference(weights, trace, (DEFAULT, WHOLE), "p50"),
        found.ratio(weights, trace, (DEFAULT, WHOLE), "p99"),
        found.ratio(weights, trace, (DEFAULT, floor_of(DEFAULT)), "seconds"),
    )
    for name, limit, spread in zip(TRACE_BARS, limits, measured, strict=True):
        if weights == FLOAT32 or name != TRACE_BARS[0]:  # the earlier package has float32 only
            yield Bar(name, limit, spread, "s" if "p50" in name else "", **of)


def _of_hits(found: Figures) -> Iterator[Bar]:
    for key in found.rows:
        row, registered = key
        by = f"{registered} registered"
        if row == "hit":
            yield Bar(f"a hit over a call, {by}", _HIT_COSTS, found.row(key, itemgetter("cost")), "s")
            if registered == max(count for name, count in found.rows if name == row):
                yield Bar(
                    f"registering {registered} models", _REGISTERING, found.row(key, itemgetter("registering")), "s"
                )
                yield Bar(
                    f"memory beside the budget and an interpreter with NumPy, {by}",
                    _BESIDE,
                    found.row(key, beside),
                    "bytes",
                )
        elif row == "lock":
            for callers in CALLERS:
                of = f"{by}, {callers} caller{'s' * (callers > 1)}"
                yield Bar(f"the lock is held, median, {of}", _LOCK_MEDIAN, found.row(key, _of(callers, "median")), "s")
                yield Bar(f"the lock is held, 99 %, {of}", _LOCK_P99, found.row(key, _of(callers, "p99")), "s")
        elif row == "callers":
            name = f"{max(CALLERS)} callers' hits ÷ calls of a model each"
            yield Bar(name, _THROUGHPUT, found.row(key, itemgetter("throughput")), least=True)
            yield Bar("a caller's misses raise others' 99 %", _RAISED, found.row(key, itemgetter("raised")), "s")


def _of(callers: int, name: str) -> Callable[[dict[str, Any]], float]:
    def figure(values: dict[str, Any]) -> float:
        return float(values[str(callers)][name])

    return figure
