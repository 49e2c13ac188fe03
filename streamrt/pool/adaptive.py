"""The default policy: it follows the policy, of several, that would have loaded the fewest bytes recently."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streamrt.pool.policy import Gdsf, Lrfu, Lru, Policy, PolicyFactory
from streamrt.pool.shadow import Shadow

#: Multiply the count of loaded bytes by this after each request, so that mainly the last 500 requests count.
_FADE = 0.998
#: Follow another policy when it has loaded under 97 % of the leader's bytes. A smaller gain does not pay for the bytes
#: that the change itself loads.
_BETTER = 0.97
#: Margin of the frequency policy: a model replaces another only if it is worth over 1.3 times as much, because equally
#: popular models differ by chance.
_MARGIN = 1.3
#: Requests after which a request counts 50 %: few enough that a burst is forgotten before the next needs its memory.
_HALF_LIFE = 100


class Adaptive:
    """Follows the best of several policies. Each decides on a shadow of the pool, which counts the bytes to load.

    No policy is good at everything. Frequency with a high margin comes close to the best fixed set while the popularity
    of models is stable, and is slow when it changes. Recency is right for bursts, and wrong for scans and cycles. A
    policy between the two is right where popularity drifts. It is followed first, because with it a first request takes
    memory only from models that were not requested for a long time. A shadow costs a few microseconds a request, and
    its bytes are exact. (Following the best expert: Herbster and Warmuth, "Tracking the Best Expert", 1998.)

    Policies are compared by bytes, so each gets a model's size as its cost.

    Args:
        budget: of the pool, in bytes.
        experts: functions that make the policies. The first is followed until another does better.
    """

    def __init__(self, budget: int, experts: tuple[Callable[[], Policy], ...] | None = None) -> None:
        makers = experts or (lambda: Lrfu(_HALF_LIFE), Lru, lambda: Gdsf(_MARGIN))
        self._shadows = [Shadow(budget, make()) for make in makers]
        self._losses = [0.0] * len(self._shadows)
        self._leader = 0
        self._worth = self._shadows[0].policy.worth  # the leader's, looked up once: a grant asks for many

    def requested(self, name: str, size: int, cost: float) -> None:
        """See `streamrt.pool.policy.Policy`."""
        for index, shadow in enumerate(self._shadows):
            self._losses[index] = self._losses[index] * _FADE + shadow.request(name, size, float(size))
        best = min(range(len(self._losses)), key=self._losses.__getitem__)
        if self._losses[best] < _BETTER * self._losses[self._leader]:
            self._leader = best
            self._worth = self.leader.worth

    @property
    def leader(self) -> Policy:
        """The policy that is followed now."""
        return self._shadows[self._leader].policy

    def worth(self, name: str) -> float:
        """The leader's answer."""
        return self._worth(name)

    def admits(self, newcomer: str, resident: str) -> bool:
        """The leader's answer."""
        return self.leader.admits(newcomer, resident)

    def evicted(self, name: str) -> None:
        """Changes nothing: a policy sees the evictions of its own shadow."""

    def forget(self, name: str) -> None:
        """See `streamrt.pool.policy.Policy`."""
        for shadow in self._shadows:
            shadow.forget(name)


#: The policies that `ModelPool` knows by name.
POLICIES: Mapping[str, PolicyFactory] = {
    "adaptive": Adaptive,
    "gdsf": lambda budget: Gdsf(),
    "lru": lambda budget: Lru(),
}
