"""Counts of a pool's requests, loads and memory."""

from __future__ import annotations

from dataclasses import dataclass

from streamrt.pool.entry import Entry


@dataclass(eq=False, slots=True)
class Counts:
    """What a pool counts beside its models, which count for themselves (`Entry`). The pool's lock guards it.

    Attributes:
        requests, hits, loads, loaded: sums over models that were unregistered.
        failures, evictions, busy: as in `PoolStats`.
        given_up: as ``bytes_given_up`` of `PoolStats`.
    """

    requests: int = 0
    hits: int = 0
    loads: int = 0
    loaded: int = 0
    failures: int = 0
    evictions: int = 0
    given_up: int = 0
    busy: int = 0

    def keep(self, entry: Entry) -> None:
        """Add the counts of a model that is forgotten."""
        self.requests += entry.requests
        self.hits += entry.hits
        self.loads += entry.loads
        self.loaded += entry.loaded


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Sums since the pool was made; sizes in bytes.

    Attributes:
        budget: the limit on ``held``.
        held: bytes of weights, windows and workspaces now, including memory that is being released.
        peak: the highest ``held`` so far.
        models: registered models.
        open: registered models that are open.
        leases: given and not yet ended.
        requests: leases and prefetches that were requested.
        hits: requests that found all weights in memory.
        loads: models opened.
        failures: loads that failed.
        evictions: how often a model gave up all memory for others.
        bytes_loaded: weights brought into memory.
        bytes_given_up: weights that models gave up for others.
        busy: requests that ended with a `PoolBusyError`.
        pins: pinned models for which the pool keeps memory.
        pinned: bytes of their weights in memory now.
    """

    budget: int
    held: int
    peak: int
    models: int
    open: int
    leases: int
    requests: int
    hits: int
    loads: int
    failures: int
    evictions: int
    bytes_loaded: int
    bytes_given_up: int
    busy: int
    pins: int
    pinned: int

    @property
    def hit_ratio(self) -> float:
        """Hits divided by requests, from 0 to 1; 0 before the first request."""
        return self.hits / self.requests if self.requests else 0.0
