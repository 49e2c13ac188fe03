"""The contenders of the real runs, and the order in which they take turns."""

from __future__ import annotations

from collections.abc import Sequence

#: `bench.pool.whole.WholeModels`, with the installed package.
WHOLE = "whole-model LRU"
#: The same code with the package of an earlier commit (`bench.pool.earlier`).
EARLIER = "earlier whole-model LRU"
#: A `ModelPool` with each policy.
POLICIES = ("streamrt adaptive", "streamrt gdsf", "streamrt lru")
#: The policy of a pool that names none. The bars are about it.
DEFAULT = POLICIES[0]
CONTENDERS = (EARLIER, WHOLE, *POLICIES)


def floor_of(contender: str) -> str:
    """The name of the floor that replays the misses of ``contender`` (`bench.pool.floor`)."""
    return f"floor of {contender}"


def policy_of(contender: str) -> str:
    """The policy of a contender that is a pool."""
    return contender.removeprefix("streamrt ")


def rotated(contenders: Sequence[str], index: int) -> list[str]:
    """The order of round ``index``: each round begins with the next contender. No contender is always first or last."""
    start = index % max(1, len(contenders))
    return [*contenders[start:], *contenders[:start]]
