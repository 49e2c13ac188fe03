"""Policies say which weights are worth their memory: their protocol, and the classic policies.

A policy sees requests and nothing else. It says how much a byte of each model is worth now. It also says whether a
model that was requested may take memory from another model. A pool calls its policy in one thread at a time, and other
requests wait meanwhile. They wait for one answer: other calls may come between the answers that one decision asks for.
So policies do no I/O. They never call the pool, whose lock may wait for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Policy(Protocol):
    """The calls that a pool makes. Models are known by their names; sizes are bytes, and costs are seconds."""

    def requested(self, name: str, size: int, cost: float) -> None:
        """A model was requested. It has ``size`` bytes, and reading all of them takes ``cost`` seconds."""

    def worth(self, name: str) -> float:
        """The worth of one of its bytes now. The model with the least worth gives memory first."""

    def admits(self, newcomer: str, resident: str) -> bool:
        """Whether ``newcomer``, a model that was requested, may take memory from ``resident``.

        If so, it may take memory from all models that are worth less, too.
        """

    def evicted(self, name: str) -> None:
        """Note that none of the model's weights is in memory any more."""

    def forget(self, name: str) -> None:
        """Drop all state of a model that will not be requested again."""


class Lru:
    """Least recently used: every requested model is kept. The model whose last request is the oldest makes room."""

    def __init__(self) -> None:
        self._now = 0
        self._last: dict[str, int] = {}

    def requested(self, name: str, size: int, cost: float) -> None:
        """See `Policy`."""
        self._now += 1
        self._last[name] = self._now

    def worth(self, name: str) -> float:
        """Higher for a later last request."""
        return self._last.get(name, 0)

    def admits(self, newcomer: str, resident: str) -> bool:
        """Always."""
        return True

    def evicted(self, name: str) -> None:
        """Changes nothing."""

    def forget(self, name: str) -> None:
        """See `Policy`."""
        self._last.pop(name, None)


#: Scores grow up to 2**500. Then they are divided by that, because the largest float is below 2**1024.
_FAINT = 2.0**-500


class Lrfu:
    """Least recently and frequently used: a request counts less the longer ago it was.

    It lies between recency and frequency. A model that is no longer popular is worth little. A single request does not
    make a model worth more than the popular models (Lee et al., "LRFU: A Spectrum of Policies that Subsumes the Least
    Recently Used and Least Frequently Used Policies", 2001).

    Args:
        half_life: requests after which a request counts 50 %, 1 or more.
    """

    def __init__(self, half_life: float) -> None:
        self._half_life = half_life
        self._now = 0
        self._fade = 1.0  # 0.5 ** (now / half_life)
        self._scores: dict[str, float] = {}  # worths divided by ``_fade``: they change with requests alone

    def requested(self, name: str, size: int, cost: float) -> None:
        """See `Policy`."""
        if self._fade < _FAINT:
            self._scores = {other: score * self._fade for other, score in self._scores.items()}
            self._now = 0
        self._now += 1
        self._fade = 0.5 ** (self._now / self._half_life)
        self._scores[name] = self._scores.get(name, 0.0) + 1 / self._fade

    def worth(self, name: str) -> float:
        """See the class."""
        return self._scores.get(name, 0.0) * self._fade

    def admits(self, newcomer: str, resident: str) -> bool:
        """Whether ``newcomer`` is worth more."""
        return self.worth(newcomer) > self.worth(resident)

    def evicted(self, name: str) -> None:
        """Changes nothing."""

    def forget(self, name: str) -> None:
        """See `Policy`."""
        self._scores.pop(name, None)


class Gdsf:
    """Greedy-dual size-frequency: worth is requests times the cost of reading a byte, plus a clock that rises.

    The clock stands at the worth of the last evicted model, so that a model that was popular once does not stay for
    ever (Cao and Irani, "Cost-Aware WWW Proxy Caching Algorithms", 1997; with frequencies: Cherkasova, "Improving WWW
    Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Labs 1998). Here requests are counted for
    every model, in memory or not, and a model takes memory only from models that are worth less.

    Args:
        margin: a model replaces another if it is worth over this many times as much. Replacing an equal model gains
            nothing. With a higher margin fewer exchanges happen by chance.
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
        """Whether ``newcomer`` is worth more, by the margin."""
        return self.worth(newcomer) > self._margin * self.worth(resident)

    def evicted(self, name: str) -> None:
        """The clock rises to the model's worth."""
        self._clock = max(self._clock, self.worth(name))

    def forget(self, name: str) -> None:
        """See `Policy`."""
        self._counts.pop(name, None)
        self._worths.pop(name, None)


#: Makes a policy for a budget in bytes.
PolicyFactory = Callable[[int], Policy]
