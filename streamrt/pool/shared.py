"""A policy with a lock of its own, so that the pool's lock is free while the policy computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from threading import get_ident
from typing import TypeVar

from streamrt.pool.policy import Policy

T = TypeVar("T")


class SharedPolicy:
    """Gives a policy to one thread at a time, for one question at a time.

    A thread that has the pool's lock may wait for this one, and never the other way round. Python may run a finalizer
    in any thread, even in one that has the policy. So what a finalizer does looks at ``mine`` before it takes the
    pool's lock.

    Args:
        policy: used by this object alone.
        lock: not reentrant.
    """

    def __init__(self, policy: Policy, lock: AbstractContextManager[object]) -> None:
        self._policy = policy
        self._lock = lock
        self._owner = 0

    @property
    def mine(self) -> bool:
        """Whether this thread has the policy now."""
        return self._owner == get_ident()

    def requested(self, name: str, size: int, cost: float) -> None:
        """See `Policy`."""
        self._use(lambda policy: policy.requested(name, size, cost))

    def worths(self, names: Iterable[str]) -> dict[str, float]:
        """The worth of a byte of each of these models, all at the same moment. See `Policy`."""
        return self._use(lambda policy: {name: policy.worth(name) for name in names})

    def admits(self, newcomer: str, resident: str) -> bool:
        """See `Policy`."""
        return self._use(lambda policy: policy.admits(newcomer, resident))

    def evicted(self, name: str) -> None:
        """See `Policy`."""
        self._use(lambda policy: policy.evicted(name))

    def forget(self, name: str) -> None:
        """See `Policy`."""
        self._use(lambda policy: policy.forget(name))

    def _use(self, work: Callable[[Policy], T]) -> T:
        """What ``work`` makes of the policy. This thread has it alone meanwhile."""
        me = get_ident()  # before the lock is taken: a finalizer may run after a call
        with self._lock:  # no method of Python's own, which an interrupt could leave with the lock taken
            self._owner = me
            try:
                return work(self._policy)
            finally:
                self._owner = 0
