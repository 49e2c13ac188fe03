"""Counts of a pool's requests, loads and memory."""

from __future__ import annotations

from dataclasses import dataclass


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
