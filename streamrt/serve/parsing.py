"""The memory that a JSON text will take once it is parsed, told before it is.

Bounds from the sizes of CPython's objects, 3.11 to 3.14; `tests/serve/test_parsing.py` compares them with what is
allocated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamrt.format.marks import count_marks

#: Bytes of a list with up to four items, and of an object with up to five keys. Bytes of a key: its entries in the
#: parser's memo, in the parser's list of pairs and in the object, right after each was resized. Bytes of an item's
#: place in a list that has grown by 1/8.
_LIST, _OBJECT, _KEY, _ITEM = 88, 208, 192, 12
#: Of half a string beside its characters; of a number, which has three characters at least, for others are shared; only
#: some have a sign and one.
_QUOTE, _NUMBER, _DIGITS = 32, 32, 3
#: Of a character: the bytes, the text, and a string of it; where there are wide ones, in four bytes, and grown.
_NARROW, _WIDE = 3, 14
_WIDE_ONES = re.compile(rb"[\xc4-\xff]|\\u")
#: Of a number, as part of a flat list and of an array, both made of the nested lists.
_FLAT = 16


@dataclass(frozen=True, slots=True)
class Weight:
    """What a text takes.

    Attributes:
        values: bytes of its lists, objects, strings and numbers, but for the characters of strings, and for numbers of
            a sign and a digit.
        total: all that is in memory at once, until there are arrays, beside the body.
    """

    values: int
    total: int


def weigh(text: bytes) -> Weight:
    """What parsing ``text`` takes at most: of a flat list of numbers up to 12 bytes of values for each of the text."""
    marks, quotes = count_marks(text), text.count(b'"')
    digits = len(text) - marks.total - quotes - text.count(b"]") - text.count(b"}")
    values = (
        _LIST * marks.brackets
        + _OBJECT * marks.braces
        + _KEY * marks.colons
        + _ITEM * marks.commas
        + _QUOTE * quotes
        + _NUMBER * min(marks.commas + 1, digits // _DIGITS)
    )
    characters = _WIDE if _WIDE_ONES.search(text) else _NARROW
    signed = _NUMBER * min(text.count(b"-"), marks.commas + 1)
    return Weight(values, values + signed + characters * len(text) + _FLAT * marks.commas)
