"""The default policy: of several, the one that would have loaded the least of late."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streamrt.pool.policy import Gdsf, Lrfu, Lru, Policy, PolicyFactory
from streamrt.pool.shadow import Shadow

#: Bytes loaded are forgotten by this factor a request, so that the last few hundred count.
_FADE = 0.998
#: Another policy takes over when it has loaded this much less: taking over costs loading.
_BETTER = 0.97
#: Of equal requests chance makes some more equal: an exchange should promise this much.
_MARGIN = 1.3
#: Requests after which one counts half: few enough for bursts to be forgotten before the next ones need the memory.
_HALF_LIFE = 100


class Adaptive:
    """Follows the best of several policies, each of which plays along on a shadow of the pool.

    No one of them is good at everything: frequency with a high margin comes close to the best fixed set while the
    popularity of models is stable, and is slow when it changes; recency is right for bursts, and wrong for scans and
    cycles; what lies between them is right where popularity drifts, and is followed first: a first request takes memory
    only from what was not asked for in a long time. A shadow costs some microseconds a request, and what it would have
    loaded is known exactly. (Following the best expert: Herbster and Warmuth, "Tracking the Best Expert", 1998.)

    What counts is bytes, so that the cost of a model is its size, whatever it is told.

    Args:
        budget: of the pool, in bytes.
        experts: makes the policies; the first is followed until another one does better.
    """

    def __init__(self, budget: int, experts: tuple[Callable[[], Policy], ...] | None = None) -> None:
        makers = experts or (lambda: Lrfu(_HALF_LIFE), Lru, lambda: Gdsf(_MARGIN))
        self._shadows = [Shadow(budget, make()) for make in makers]
        self._losses = [0.0] * len(self._shadows)
        self._leader = 0

    def requested(self, name: str, size: int, cost: float) -> None:
        """See `streamrt.pool.policy.Policy`."""
        for index, shadow in enumerate(self._shadows):
            self._losses[index] = self._losses[index] * _FADE + shadow.request(name, size, float(size))
        best = min(range(len(self._losses)), key=self._losses.__getitem__)
        if self._losses[best] < _BETTER * self._losses[self._leader]:
            self._leader = best

    @property
    def leader(self) -> Policy:
        """The one that is followed now."""
        return self._shadows[self._leader].policy

    def worth(self, name: str) -> float:
        """What the leader says."""
        return self.leader.worth(name)

    def admits(self, newcomer: str, resident: str) -> bool:
        """What the leader says."""
        return self.leader.admits(newcomer, resident)

    def evicted(self, name: str) -> None:
        """Changes nothing: every policy is told of what happens in its own shadow."""

    def forget(self, name: str) -> None:
        """See `streamrt.pool.policy.Policy`."""
        for shadow in self._shadows:
            shadow.forget(name)


#: The policies that go by a name.
POLICIES: Mapping[str, PolicyFactory] = {
    "adaptive": Adaptive,
    "gdsf": lambda budget: Gdsf(),
    "lru": lambda budget: Lru(),
}
