"""Metrics for Prometheus. Labels have few values: names of models that are served, and outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streamrt.pool import PoolStats

#: How a request ended: served; refused as wrong; refused for lack of memory or time; failed; client disconnected.
OUTCOMES = ("ok", "refused", "busy", "failed", "gone")
#: The status code that nginx logs when the client has disconnected.
GONE = 499

#: Upper bounds of the buckets of histograms: seconds of a request, and requests or samples of a pass.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def outcome_of(status: int) -> str:
    """One of `OUTCOMES`, for a status code."""
    if special := {503: "busy", GONE: "gone"}.get(status):
        return special
    return "ok" if status < 400 else "refused" if status < 500 else "failed"


class Metrics:
    """The counters of the server. Any thread may call any method."""

    def __init__(self, pool: Callable[[], PoolStats], waiting: Callable[[], int], held: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "streamrt_requests", "Inference requests.", ["model", "outcome"], registry=self._registry
        )
        self._seconds = Histogram(
            "streamrt_request_seconds",
            "Seconds from the arrival of an inference request's head to its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batch_requests = Histogram(
            "streamrt_batch_requests", "Requests that shared a pass.", buckets=_COUNTS, registry=self._registry
        )
        self._batch_samples = Histogram(
            "streamrt_batch_samples", "Samples of a pass.", buckets=_COUNTS, registry=self._registry
        )
        queue = Gauge("streamrt_queue_length", "Requests that wait for a pass.", registry=self._registry)
        queue.set_function(waiting)
        bodies = Gauge(
            "streamrt_request_bytes",
            "Bytes of bodies of requests in progress, and of answers that clients have not taken yet.",
            registry=self._registry,
        )
        bodies.set_function(held)
        self._registry.register(_PoolCollector(pool))

    def answered(self, model: str, status: int, seconds: float) -> None:
        """Count an inference request that ended; ``model`` is empty if no model of that name is served."""
        self._requests.labels(model, outcome_of(status)).inc()
        self._seconds.observe(seconds)

    def batched(self, requests: int, samples: int) -> None:
        """Count a pass that begins."""
        self._batch_requests.observe(requests)
        self._batch_samples.observe(samples)

    def forget(self, model: str) -> None:
        """Drop the counters of a model that is no longer served."""
        for outcome in OUTCOMES:
            with suppress(KeyError):
                self._requests.remove(model, outcome)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


class _PoolCollector(Collector):
    """The statistics of the pool, taken at each scrape."""

    def __init__(self, pool: Callable[[], PoolStats]) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        stats = self._pool()
        for name, text, value in (
            ("budget_bytes", "Bytes that the pool may hold.", stats.budget),
            ("held_bytes", "Bytes of weights, windows and workspaces that the pool holds.", stats.held),
            ("held_bytes_max", "The most bytes that the pool has held.", stats.peak),
            ("models", "Models that are served.", stats.models),
            ("models_open", "Models that are open.", stats.open),
            ("leases", "Leases that have not ended.", stats.leases),
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
