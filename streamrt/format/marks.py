"""The marks of a JSON text: the characters that begin or separate values. Their number bounds the time of parsing.

Marks within strings count, too. They make a text seem larger, never smaller.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Marks:
    """The number of each mark in a text."""

    braces: int
    brackets: int
    colons: int
    commas: int

    @property
    def total(self) -> int:
        """The number of all marks."""
        return self.braces + self.brackets + self.colons + self.commas


def count_marks(text: str | bytes) -> Marks:
    """The marks of a JSON text or of its bytes. In UTF-8 the byte of a mark is part of no other character."""
    if isinstance(text, str):
        return Marks(*map(text.count, "{[:,"))
    return Marks(*map(text.count, (b"{", b"[", b":", b",")))
