"""A pool without models, which counts the bytes that a policy would have loaded if it had decided from the start."""

from __future__ import annotations

from streamrt.pool.policy import Policy


class Shadow:
    """Simulates requests under a budget of weights, byte by byte. Windows and workspaces are left out.

    Args:
        budget: bytes.
        policy: used by this shadow alone. It is told of the evictions that follow from its own decisions.
    """

    def __init__(self, budget: int, policy: Policy) -> None:
        self.policy = policy
        self._free = budget
        self._held: dict[str, int] = {}  # bytes in memory, of models that have any

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return sum(self._held.values())

    def request(self, name: str, size: int, cost: float) -> int:
        """Serve a request; returns the bytes that had to be loaded or streamed."""
        policy, held = self.policy, self._held
        policy.requested(name, size, cost)
        had = held.get(name, 0)
        have = min(size, had + self._free)
        for victim in sorted(held, key=policy.worth) if have < size else ():
            if victim == name:
                continue
            if have == size or not policy.admits(name, victim):
                break
            part = min(held[victim], size - have)
            have += part
            self._take(victim, part)
        if have > had:
            self._free -= have - had
            held[name] = have
        return size - had

    def forget(self, name: str) -> None:
        """Forget a model that will not be requested again."""
        self._free += self._held.pop(name, 0)
        self.policy.forget(name)

    def _take(self, victim: str, part: int) -> None:
        self._free += part
        self._held[victim] -= part
        if self._held[victim] == 0:
            del self._held[victim]
            self.policy.evicted(victim)
