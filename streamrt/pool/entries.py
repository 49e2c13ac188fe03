"""The registered models by name, with sums over all of them, so that no request has to look at every model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, ValuesView

from streamrt.pool.admission import Needs
from streamrt.pool.entry import Entry


class Entries(Mapping[str, Entry]):
    """Models by name. The pool's lock guards it. ``needs`` and ``pin`` of its models are set here alone.

    Attributes:
        full: bytes with which nothing would stream: the sum over all models whose needs are known.
        pinned: the models that are pinned, by name.
    """

    def __init__(self) -> None:
        self.full = 0
        self._by_name: dict[str, Entry] = {}
        self.pinned: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Add a model, whose needs may be known already, and which may be pinned."""
        self._by_name[entry.name] = entry
        self.full += entry.needs.full if entry.needs else 0
        self.pin(entry, entry.pin)

    def remove(self, entry: Entry) -> None:
        """Forget a model."""
        self.know(entry, None)
        self.pinned.pop(entry.name, None)
        del self._by_name[entry.name]

    def know(self, entry: Entry, needs: Needs | None) -> None:
        """Note what a model needs by its header; None if that is not known any more."""
        if self._by_name.get(entry.name) is entry:  # one that is not added yet does not count
            self.full += (needs.full if needs else 0) - (entry.needs.full if entry.needs else 0)
        entry.needs = needs

    def pin(self, entry: Entry, pin: bool) -> None:
        """Note whether a model is pinned."""
        entry.pin = pin
        self.pinned.pop(entry.name, None)
        if pin and self._by_name.get(entry.name) is entry:
            self.pinned[entry.name] = entry

    def __getitem__(self, name: str) -> Entry:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def values(self) -> ValuesView[Entry]:
        """All models, in the order in which they were added."""
        return self._by_name.values()
