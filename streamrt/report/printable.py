"""Text that may be shown on a terminal, whatever the file or the request says that it came from."""

from __future__ import annotations

#: Characters of a line: its begin names the place, and its end often the reason.
_LONGEST, _END = 500, 150


def printable(text: str) -> str:
    """``text`` with a backslash escape for each character that is not printable, as ``repr`` has them.

    Escapes of terminals, line ends and marks that turn the direction of writing become visible.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str) -> str:
    """``text`` as `printable` has it, in 500 characters at most; of a longer one the middle is left out."""
    if len(text) <= _LONGEST and len(shown := printable(text)) <= _LONGEST:
        return shown
    middle = f" ... ({len(text)} characters) ... "
    begin = printable(text[:_LONGEST])[: _LONGEST - _END - len(middle)]
    return begin + middle + printable(text[-_END:])[-_END:]
