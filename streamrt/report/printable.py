"""Text that is safe to show on a terminal, even if it comes from a hostile file or request."""

from __future__ import annotations

#: The most characters of a line, which fill 6 lines of a terminal.
_LONGEST = 500
#: Characters at the end of a longer line that are kept, because they often have the reason. The beginning that is kept
#: names the place.
_END = 150


def printable(text: str) -> str:
    """``text`` with a backslash escape, as in ``repr``, for each character that is not printable.

    Terminal escapes, line ends and marks that change the direction of writing become visible.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str) -> str:
    """`printable` text of at most 500 characters. The middle of a longer text is left out."""
    if len(text) <= _LONGEST and len(shown := printable(text)) <= _LONGEST:
        return shown
    middle = f" ... ({len(text)} characters) ... "
    begin = printable(text[:_LONGEST])[: _LONGEST - _END - len(middle)]
    return begin + middle + printable(text[-_END:])[-_END:]
