"""How many bytes of the budget each holder has."""

from __future__ import annotations

from collections.abc import Mapping


class Ledger:
    """Bytes of one budget, by holder. The sum never exceeds the budget: taking more than is free is an error.

    Callers take bytes before they allocate memory, and give them back after they freed it. Not thread-safe.

    Attributes:
        budget: bytes.
        peak: the most bytes that were ever held.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.peak = 0
        self._held: dict[str, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """Bytes of all holders."""
        return self._total

    @property
    def free(self) -> int:
        """Bytes that no holder has."""
        return self.budget - self._total

    @property
    def holders(self) -> Mapping[str, int]:
        """Those that hold any bytes, with these."""
        return self._held

    def held(self, holder: str) -> int:
        """Bytes of one holder."""
        return self._held.get(holder, 0)

    def take(self, holder: str, size: int) -> None:
        """Give ``holder`` ``size`` of the free bytes.

        Raises:
            ValueError: fewer are free.
        """
        if not 0 <= size <= self.free:
            raise ValueError(f"{size} bytes to take, and only {self.free} are free")
        self._set(holder, self.held(holder) + size)

    def give_back(self, holder: str, size: int) -> None:
        """Free ``size`` bytes of ``holder``.

        Raises:
            ValueError: it holds fewer.
        """
        if not 0 <= size <= self.held(holder):
            raise ValueError(f"{size} bytes to give back, and only {self.held(holder)} are held")
        self._set(holder, self.held(holder) - size)

    def move(self, giver: str, taker: str, size: int) -> None:
        """Hand bytes of ``giver`` to ``taker``. No other holder can take them in between.

        Raises:
            ValueError: ``giver`` holds fewer.
        """
        self.give_back(giver, size)
        self.take(taker, size)

    def _set(self, holder: str, size: int) -> None:
        self._total += size - self.held(holder)
        self.peak = max(self.peak, self._total)
        if size:
            self._held[holder] = size
        else:
            self._held.pop(holder, None)
