"""A policy with a lock of its own, so that the pool's lock is free while the policy computes."""

from __future__ import annotations

from contextlib import AbstractContextManager

from streamrt.pool.policy import Policy


class SharedPolicy:
    """As a context it gives the policy to this thread alone. Its methods take the lock by themselves.

    A thread that has the pool's lock may take this one, and never the other way round.

    Args:
        policy: used by this object alone.
        lock: not reentrant.
    """

    def __init__(self, policy: Policy, lock: AbstractContextManager[object]) -> None:
        self._policy = policy
        self._lock = lock

    def __enter__(self) -> Policy:
        self._lock.__enter__()
        return self._policy

    def __exit__(self, *raised: object) -> None:
        self._lock.__exit__(None, None, None)

    def requested(self, name: str, size: int, cost: float) -> None:
        """See `Policy`."""
        with self._lock:
            self._policy.requested(name, size, cost)

    def evicted(self, name: str) -> None:
        """See `Policy`."""
        with self._lock:
            self._policy.evicted(name)

    def forget(self, name: str) -> None:
        """See `Policy`."""
        with self._lock:
            self._policy.forget(name)
