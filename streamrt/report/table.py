"""Tables of text, which fit into a terminal: aligned columns, shortened names, and wrapped facts; times for people."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from streamrt.errors import printable

#: Stands for the middle of a text that is left out. It is ASCII, so that every terminal shows it.
_LEFT_OUT = ".."
#: Columns between two columns of a table.
_GAP = 2
#: The fewest columns of the text of a fact, however narrow the terminal is.
_LEAST = 16


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters. The middle is left out: names of layers differ at both ends."""
    if len(text) <= width:
        return text
    kept = max(0, width - len(_LEFT_OUT))
    end = kept // 2
    return (text[: kept - end] + _LEFT_OUT + (text[-end:] if end else ""))[:width]


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines with aligned columns; the columns in ``right`` are aligned to the right. All rows have as many cells."""
    clean = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    return [
        (" " * _GAP)
        .join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        .rstrip()
        for row in clean
    ]


def facts(rows: Sequence[tuple[str, str]], width: int | None = None) -> list[str]:
    """Names, and texts beside them. Texts that do not fit into ``width`` columns go on in further lines."""
    if width is None:
        return table(rows)
    indent = max(len(printable(name)) for name, _ in rows) + _GAP
    room = max(_LEAST, width - indent)
    found = []
    for name, text in rows:
        lines = textwrap.wrap(printable(text), room, break_on_hyphens=False) or [""]
        found += [f"{'' if index else printable(name):{indent}}{line}".rstrip() for index, line in enumerate(lines)]
    return found


def items(texts: Sequence[str], width: int | None = None) -> list[str]:
    """Lines that begin with a star, wrapped at ``width`` columns."""
    if width is None:
        return [f"* {printable(text)}" for text in texts]
    wrapped = [textwrap.wrap(printable(text), max(_LEAST, width - 2), break_on_hyphens=False) for text in texts]
    return [f"{'  ' if index else '* '}{line}" for lines in wrapped for index, line in enumerate(lines)]


def format_seconds(seconds: float) -> str:
    """A time for people, with three significant digits: ``"412 ms"``, ``"1.23 s"``."""
    if seconds == 0:
        return "0 s"
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{seconds * scale:.{_decimals(seconds * scale)}f} {unit}"
    return f"{seconds:.{_decimals(seconds)}f} s"


def _decimals(value: float) -> int:
    return 2 if value < 9.995 else 1 if value < 99.95 else 0
