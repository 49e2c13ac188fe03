"""Who holds how many bytes of the budget."""

from __future__ import annotations

from collections.abc import Hashable


class Ledger:
    """Bytes of one budget, by holder. Never over it: taking more than is free is an error of the caller.

    Bytes are taken before memory is, and given back after it was. Not thread-safe.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.peak = 0  # the most that was ever held
        self._held: dict[Hashable, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """Bytes held by all."""
        return self._total

    @property
    def free(self) -> int:
        """Bytes that nobody holds."""
        return self.budget - self._total

    def held(self, holder: Hashable) -> int:
        """Bytes that this one holds."""
        return self._held.get(holder, 0)

    def take(self, holder: Hashable, size: int) -> None:
        """Give ``holder`` so many bytes of those that are free.

        Raises:
            ValueError: there are not so many.
        """
        if not 0 <= size <= self.free:
            raise ValueError(f"{size} bytes taken of {self.free} that are free")
        self._set(holder, self.held(holder) + size)

    def give_back(self, holder: Hashable, size: int) -> None:
        """So many bytes of ``holder`` are free from now on.

        Raises:
            ValueError: it does not hold so many.
        """
        if not 0 <= size <= self.held(holder):
            raise ValueError(f"{size} bytes given back of {self.held(holder)} that are held")
        self._set(holder, self.held(holder) - size)

    def move(self, giver: Hashable, taker: Hashable, size: int) -> None:
        """Hand bytes over without their being free in between, when somebody else could take them.

        Raises:
            ValueError: ``giver`` does not hold so many.
        """
        self.give_back(giver, size)
        self.take(taker, size)

    def _set(self, holder: Hashable, size: int) -> None:
        self._total += size - self.held(holder)
        self.peak = max(self.peak, self._total)
        if size:
            self._held[holder] = size
        else:
            self._held.pop(holder, None)
