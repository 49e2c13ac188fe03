"""Metrics for Prometheus. Labels have few values: outcomes, and the names of at most `MOST_MODELS` models.

A model gets a label of its own when it is first asked for, and loses it when it is no longer served. While
`MOST_MODELS` models have labels, all others share the label `OTHERS`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streamrt.pool import ModelPool
from streamrt.serve.batching import Pass

#: How a request ended: served; refused as wrong; refused for lack of memory or time; failed; client disconnected.
OUTCOMES = ("ok", "refused", "busy", "failed", "gone")
#: The status code that nginx logs when the client has disconnected.
GONE = 499
#: The most models with labels of their own. Each takes about 90 lines of text, so that all take 0.5 MB.
MOST_MODELS = 50
#: The label of all other models. No model can have this name (`streamrt.serve.folder.check_name`).
OTHERS = "(other)"

#: Upper bounds of the buckets of histograms: seconds of a request; seconds of a stage of a request, each 3 times as
#: long as the one before; and requests or samples of a pass.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STAGE_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

#: The stages of a request: name of the histogram, and its explanation.
_STAGES = {
    "queue": "Seconds that a request waited in the queue of its model, until a pass took it.",
    "load": "Seconds until a model could run a pass: opening its file, getting memory, and planning.",
    "read": "Seconds that a pass waited for weights.",
    "compute": "Seconds that a pass computed.",
    "encode": "Seconds from the results of a request to the bytes of its answer.",
}


def outcome_of(status: int) -> str:
    """One of `OUTCOMES`, for a status code."""
    if special := {503: "busy", GONE: "gone"}.get(status):
        return special
    return "ok" if status < 400 else "refused" if status < 500 else "failed"


@dataclass(frozen=True, slots=True)
class _Series:
    """The time series of one model. They are looked up once, because a look-up takes as long as an observation."""

    outcomes: Mapping[str, Counter]
    queue: Histogram
    load: Histogram
    read: Histogram
    compute: Histogram
    encode: Histogram


class Metrics:
    """The counters of the server. Any thread may call any method.

    Args:
        pool: its memory and its counts become metrics.
        served: tells whether a model of a name is served.
        waiting: tells how many requests wait.
        held: tells how many bytes bodies and answers hold.
    """

    def __init__(
        self, pool: ModelPool, served: Callable[[str], bool], waiting: Callable[[], int], held: Callable[[], int]
    ) -> None:
        self._served = served
        self._lock = threading.Lock()  # over changes of the next line
        self._series: dict[str, _Series] = {}  # by label: of each model that has one, and of `OTHERS`
        self._registry = CollectorRegistry(auto_describe=True)
        self._requests = Counter(
            "streamrt_requests", "Inference requests.", ["model", "outcome"], registry=self._registry
        )
        self._seconds = Histogram(
            "streamrt_request_seconds",
            "Seconds from the arrival of an inference request's head to its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        of_stages: dict[str, Any] = {"labelnames": ["model"], "buckets": _STAGE_SECONDS, "registry": self._registry}
        self._stages = {
            name: Histogram(f"streamrt_{name}_seconds", text, **of_stages) for name, text in _STAGES.items()
        }
        self._batch_requests = Histogram(
            "streamrt_batch_requests", "Requests that shared a pass.", buckets=_COUNTS, registry=self._registry
        )
        self._batch_samples = Histogram(
            "streamrt_batch_samples", "Samples of a pass.", buckets=_COUNTS, registry=self._registry
        )
        self._withdrawn = Counter(
            "streamrt_withdrawn_requests",
            "Inference requests that were not computed, because their clients had gone before a pass began with them.",
            registry=self._registry,
        )
        queue = Gauge("streamrt_queue_length", "Requests that wait for a pass.", registry=self._registry)
        queue.set_function(waiting)
        bodies = Gauge(
            "streamrt_request_bytes",
            "Bytes of bodies of requests in progress, and of answers that clients have not taken yet.",
            registry=self._registry,
        )
        bodies.set_function(held)
        self._registry.register(_PoolCollector(pool, self.labelled))

    def labelled(self) -> set[str]:
        """Names of the models that have labels of their own."""
        with self._lock:
            return self._series.keys() - {OTHERS}

    def answered(self, model: str, status: int, seconds: float) -> None:
        """Count an inference request that ended; ``model`` is empty if no model of that name is served."""
        outcome = outcome_of(status)
        (self._of(model).outcomes[outcome] if model else self._requests.labels("", outcome)).inc()
        self._seconds.observe(seconds)

    def passed(self, done: Pass) -> None:
        """Count a pass that ended."""
        series = self._of(done.model)
        for seconds in done.queued:
            series.queue.observe(seconds)
        series.load.observe(done.load)
        if done.compute:
            series.read.observe(done.read)
            series.compute.observe(done.compute)
        self._batch_requests.observe(len(done.queued))
        self._batch_samples.observe(done.samples)

    def encoded(self, model: str, seconds: float) -> None:
        """Count the seconds from the results of a request to the bytes of its answer."""
        self._of(model).encode.observe(seconds)

    def tell(self, name: str, text: str, value: Callable[[], float], *, counter: bool = False) -> None:
        """Add a metric whose value is asked for at each scrape: a gauge, or a counter that something else counts."""
        self._registry.register(_Told(f"streamrt_{name}", text, value, counter))

    def withdrawn(self) -> None:
        """Count an inference request whose client has gone before a pass began with it."""
        self._withdrawn.inc()

    def forget(self, model: str) -> None:
        """Drop the series of a model that is no longer served."""
        with self._lock:
            if self._series.pop(model, None) is None:
                return
            for outcome in OUTCOMES:
                self._requests.remove(model, outcome)
            for histogram in self._stages.values():
                histogram.remove(model)

    def text(self, names: Collection[str] = ()) -> bytes:
        """Metrics in the text format of Prometheus: those of the given names, or all.

        All metrics of 50 models take up to 0.1 s, in which other threads run more slowly.
        """
        for model in self.labelled():
            if not self._served(model):  # it was forgotten while a request of it was answered, which brought it back
                self.forget(model)
        return generate_latest(self._registry.restricted_registry(names) if names else self._registry)

    def _of(self, model: str) -> _Series:
        """The series of a model. It gets a label of its own if there is room."""
        return self._series.get(model) or self._add(model)

    def _add(self, model: str) -> _Series:
        with self._lock:
            label = model if len(self._series) - (OTHERS in self._series) < MOST_MODELS else OTHERS
            if label not in self._series:
                # All outcomes begin at 0, because Prometheus takes no increase from the first value that it sees.
                outcomes = {outcome: self._requests.labels(label, outcome) for outcome in OUTCOMES}
                stages = {name: histogram.labels(label) for name, histogram in self._stages.items()}
                self._series[label] = _Series(outcomes, **stages)
            return self._series[label]


class _Told(Collector):
    """One metric that something else counts."""

    def __init__(self, name: str, text: str, value: Callable[[], float], counter: bool) -> None:
        self._name, self._text, self._value, self._counter = name, text, value, counter

    def collect(self) -> Iterator[Metric]:
        kind = CounterMetricFamily if self._counter else GaugeMetricFamily
        yield kind(self._name, self._text, self._value())


class _PoolCollector(Collector):
    """Reads the metrics of the pool when they are asked for.

    Args:
        pool: the pool.
        labelled: tells the names of the models that have labels of their own.
    """

    def __init__(self, pool: ModelPool, labelled: Callable[[], set[str]]) -> None:
        self._pool = pool
        self._labelled = labelled

    def collect(self) -> Iterator[Metric]:
        stats = self._pool.stats()
        for name, text, value in (
            ("budget_bytes", "Bytes that the pool may hold.", stats.budget),
            ("held_bytes", "Bytes of weights, windows and workspaces that the pool holds.", stats.held),
            ("held_bytes_max", "The most bytes that the pool has held.", stats.peak),
            ("models", "Models that are served.", stats.models),
            ("models_open", "Models that are open.", stats.open),
            ("leases", "Leases that have not ended.", stats.leases),
            ("pinned_models", "Pinned models for which the pool keeps memory.", stats.pins),
            ("pinned_bytes", "Bytes of the weights of pinned models in memory.", stats.pinned),
        ):
            yield GaugeMetricFamily(f"streamrt_pool_{name}", text, value)
        for name, text, value in (
            ("requests", "Leases and prefetches that were requested.", stats.requests),
            ("hits", "Leases and prefetches that found all weights in memory.", stats.hits),
            ("loads", "Times that a model was opened.", stats.loads),
            ("load_failures", "Loads that failed.", stats.failures),
            ("evictions", "Times that a model lost all its memory to others.", stats.evictions),
            ("loaded_bytes", "Bytes of weights that were read into memory.", stats.bytes_loaded),
            ("given_up_bytes", "Bytes of weights that models gave up for others.", stats.bytes_given_up),
            ("busy", "Leases and prefetches that were not granted before their deadline.", stats.busy),
        ):
            yield CounterMetricFamily(f"streamrt_pool_{name}", text, value)
        yield from self._models(stats.held)

    def _models(self, held_by_all: int) -> Iterator[Metric]:
        """The part of each model that has a label. Counts of the others are those of the pool less these."""
        by = ["model"]
        held = GaugeMetricFamily("streamrt_model_held_bytes", "Bytes of the budget that a model holds.", labels=by)
        weights = GaugeMetricFamily("streamrt_model_weights_bytes", "Bytes of a model's weights.", labels=by)
        text = "Leases and prefetches of a model that were requested."
        leases = CounterMetricFamily("streamrt_model_leases", text, labels=by)
        text = "Leases and prefetches of a model that found all its weights in memory."
        hits = CounterMetricFamily("streamrt_model_hits", text, labels=by)
        labelled = self._labelled()
        for status in self._pool.index():
            if status.name in labelled:
                held.add_metric([status.name], status.held)
                held_by_all -= status.held
                if status.weights is not None:
                    weights.add_metric([status.name], status.weights)
                leases.add_metric([status.name], status.requests)
                hits.add_metric([status.name], status.hits)
        held.add_metric([OTHERS], max(0, held_by_all))  # below 0 if a model got memory since `stats`
        yield from (held, weights, leases, hits)
