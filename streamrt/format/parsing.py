"""The memory that a JSON text takes once it is parsed, computed before it is parsed.

These are upper bounds, from the sizes of the objects of CPython 3.11 to 3.14. `tests/serve/test_parsing.py` compares
them with the memory that parsing allocates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamrt.format.marks import count_bytes, count_marks

#: Bytes of a list with up to four items.
_LIST = 88
#: Bytes of an object with up to five keys.
_OBJECT = 208
#: Bytes of a key: its entries in the parser's memo, in the parser's list of pairs, and in the object. Each table is
#: assumed to have just grown.
_KEY = 192
#: Bytes of an item's place in a list, which grows by 1/8 at a time.
_ITEM = 12
#: Bytes for each quotation mark, of which a string has two: 50 % of a string's object, without its characters.
_QUOTE = 32
#: Bytes of a number's object.
_NUMBER = 32
#: Numbers of fewer characters have no object of their own: CPython shares the objects of small integers. Numbers of a
#: sign and two digits count, although some are shared.
_DIGITS = 3
#: Bytes for each character in a copy of the bytes and in a string. If any character is wide, Python's parser has four
#: bytes for each in the text, and twice in a string, which has grown.
_NARROW, _WIDE = 2, 14
_WIDE_ONES = re.compile(rb"[\xc4-\xff]")
#: Bytes for each character while values are made: orjson's table of the text, which Python's parser has not.
_TABLE = 12
#: Bytes of a number in the flat list that is made from nested lists, in an array of 8 bytes a number, and in the array
#: of the input's type.
_FLAT = 24


@dataclass(frozen=True, slots=True)
class Weight:
    """The memory that a text takes.

    Attributes:
        values: bytes of lists, objects, strings and numbers. Characters of strings do not count. Numbers of one digit,
            with or without a sign, do not count either.
        total: bytes of everything that is in memory at once until there are arrays, beside the body.
    """

    values: int
    total: int


def weigh(text: bytes) -> Weight:
    """The most memory that parsing ``text`` takes. Values of a flat list of numbers take up to 12 times its bytes."""
    marks = count_marks(text)
    quotes, brackets, braces, signs = count_bytes(text, b'"]}-')
    digits = len(text) - marks.total - quotes - brackets - braces
    values = (
        _LIST * marks.brackets
        + _OBJECT * marks.braces
        + _KEY * marks.colons
        + _ITEM * marks.commas
        + _QUOTE * quotes
        + _NUMBER * min(marks.commas + 1, digits // _DIGITS)
    )
    wide = b"\\u" in text or (not text.isascii() and _WIDE_ONES.search(text) is not None)
    signed = _NUMBER * min(signs, marks.commas + 1)
    characters = (_WIDE if wide else _NARROW) * len(text)
    # The table is gone before there are arrays.
    return Weight(values, values + signed + characters + max(_TABLE * len(text), _FLAT * marks.commas))
