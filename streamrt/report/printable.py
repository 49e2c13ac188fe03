"""Text that may be shown on a terminal, whatever the file or the request says that it came from."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with a backslash escape for each character that is not printable, as ``repr`` has them.

    Escapes of terminals, line ends and marks that turn the direction of writing become visible.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
