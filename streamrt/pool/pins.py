"""The memory that is kept for pinned models. The pool's lock guards all of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from streamrt.errors import PinError
from streamrt.pool.admission import Needs, needed_to_pin
from streamrt.pool.entries import Entries
from streamrt.pool.entry import Entry
from streamrt.pool.refusals import does_not_fit


class Pins:
    """Which models are pinned, and what is left for others.

    Args:
        budget: bytes of the pool.
        entries: the models of the pool.
        pinned_again: called with a model for which there is memory again. It is to load its weights.
    """

    def __init__(self, budget: int, entries: Entries, pinned_again: Callable[[Entry], None]) -> None:
        self._budget = budget
        self._entries = entries
        self._pinned_again = pinned_again

    def capacity(self, entry: Entry) -> int:
        """The most bytes that ``entry`` can ever have: all but the weights of other models that are pinned."""
        return self._budget - sum(needs.weights for needs in self._others(entry))

    def pin(self, entry: Entry, needs: Needs) -> None:
        """Keep memory for all weights of a model from now on.

        Args:
            entry: the model.
            needs: of its file.

        Raises:
            PinError: it does not fit beside the models that are pinned already.
        """
        entry.reserved = None
        needed, there = needed_to_pin(needs, self._others(entry)), self.capacity(entry)
        if needed > there:
            raise does_not_fit(entry, needed, self._budget, there)
        entry.reserved = needs
        self._entries.pin(entry, True)

    def unpin(self, entry: Entry) -> None:
        """Make a pinned model ordinary again."""
        entry.reserved = None
        self._entries.pin(entry, False)
        self.pin_again()

    def pin_again(self) -> None:
        """Keep memory for pinned models that did not fit before, if they do now."""
        for entry in list(self._entries.pinned.values()):
            if entry.needs and not entry.reserved and not entry.removed:
                with suppress(PinError):
                    self.pin(entry, entry.needs)
                    self._pinned_again(entry)

    def _others(self, entry: Entry) -> list[Needs]:
        """The needs of all pinned models but ``entry``."""
        others = (other for other in self._entries.pinned.values() if other is not entry and not other.removed)
        return [other.reserved for other in others if other.reserved]
