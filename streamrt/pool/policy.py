"""Which weights are worth their memory: what a policy is, and the classic ones.

A policy sees requests and nothing else. It tells what a byte of each model is worth now, and whether a model that has
just been asked for may take memory from another one. Everything here is pure; the pool calls it under its lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Policy(Protocol):
    """What a pool asks of a policy; models go by their names. Sizes are bytes, costs seconds."""

    def requested(self, name: str, size: int, cost: float) -> None:
        """A model of ``size`` bytes was asked for, all of which takes ``cost`` seconds to read."""

    def worth(self, name: str) -> float:
        """What a byte of it is worth now: the least is given up first."""

    def admits(self, newcomer: str, resident: str) -> bool:
        """Whether ``newcomer``, which was requested last, may take memory from ``resident``."""

    def evicted(self, name: str) -> None:
        """None of its weights are in memory any more."""

    def forget(self, name: str) -> None:
        """It will not be asked for again."""


class Lru:
    """Least recently used: whatever is asked for is kept, and what was not for the longest time makes room."""

    def __init__(self) -> None:
        self._now = 0
        self._last: dict[str, int] = {}

    def requested(self, name: str, size: int, cost: float) -> None:
        """See `Policy`."""
        self._now += 1
        self._last[name] = self._now

    def worth(self, name: str) -> float:
        """The later it was asked for, the more."""
        return self._last.get(name, 0)

    def admits(self, newcomer: str, resident: str) -> bool:
        """Always."""
        return True

    def evicted(self, name: str) -> None:
        """Changes nothing."""

    def forget(self, name: str) -> None:
        """See `Policy`."""
        self._last.pop(name, None)


class Lrfu:
    """Least recently and frequently used: a request counts less the longer ago it was.

    Between recency and frequency: what was popular and is so no more is worth little, and one request does not make a
    model better than those that are popular now (Lee et al., "LRFU: A Spectrum of Policies that Subsumes the Least
    Recently Used and Least Frequently Used Policies", 2001). ``half_life`` requests later one counts half.
    """

    def __init__(self, half_life: float) -> None:
        self._half_life = half_life
        self._now = 0
        self._last: dict[str, tuple[int, float]] = {}  # when it was asked for, and what it was worth then

    def requested(self, name: str, size: int, cost: float) -> None:
        """See `Policy`."""
        self._now += 1
        self._last[name] = self._now, self.worth(name) + 1

    def worth(self, name: str) -> float:
        """See the class."""
        then, worth = self._last.get(name, (0, 0.0))
        return float(worth * 0.5 ** ((self._now - then) / self._half_life))

    def admits(self, newcomer: str, resident: str) -> bool:
        """If it is worth more."""
        return self.worth(newcomer) > self.worth(resident)

    def evicted(self, name: str) -> None:
        """Changes nothing."""

    def forget(self, name: str) -> None:
        """See `Policy`."""
        self._last.pop(name, None)


class Gdsf:
    """Greedy-dual size-frequency: requests times the cost of reading a byte, on top of a clock that rises.

    The clock stands at the worth of what was evicted last, so that what was popular once does not stay for ever (Cao
    and Irani, "Cost-Aware WWW Proxy Caching Algorithms", 1997; with frequencies: Cherkasova, "Improving WWW Proxies
    Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Labs 1998). Here requests are counted for every
    model, in memory or not, and a model may take memory only from one that is worth less: ``margin`` says how much.
    One that equals what it would replace gains nothing, and the higher the margin the less is exchanged because of
    chance.
    """

    def __init__(self, margin: float = 1.0) -> None:
        self._margin = margin
        self._clock = 0.0
        self._counts: dict[str, int] = {}
        self._worths: dict[str, float] = {}

    def requested(self, name: str, size: int, cost: float) -> None:
        """See `Policy`."""
        self._counts[name] = count = self._counts.get(name, 0) + 1
        self._worths[name] = self._clock + count * cost / max(1, size)

    def worth(self, name: str) -> float:
        """See the class."""
        return self._worths.get(name, 0.0)

    def admits(self, newcomer: str, resident: str) -> bool:
        """If it is worth more, by the margin."""
        return self.worth(newcomer) > self._margin * self.worth(resident)

    def evicted(self, name: str) -> None:
        """The clock rises to what it was worth."""
        self._clock = max(self._clock, self.worth(name))

    def forget(self, name: str) -> None:
        """See `Policy`."""
        self._counts.pop(name, None)
        self._worths.pop(name, None)


#: Makes a policy for a budget in bytes.
PolicyFactory = Callable[[int], Policy]
