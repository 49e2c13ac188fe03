"""What parsing a JSON text will take, told from its marks: the characters that begin or separate its values.

Those within strings count too: they make a text seem larger, never smaller.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Marks:
    """How often each mark is in a text."""

    braces: int
    brackets: int
    colons: int
    commas: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.braces + self.brackets + self.colons + self.commas


def count_marks(text: str | bytes) -> Marks:
    """The marks of a JSON text; in UTF-8 a byte is no part of another character."""
    if isinstance(text, str):
        return Marks(*map(text.count, "{[:,"))
    return Marks(*map(text.count, (b"{", b"[", b":", b",")))
