"""Extents that are products of a number and of free extents, such as the number of all windows of a batch.

Such an extent is a text, as a name is. ONNX's inference carries it along as it does with names.
"""

from __future__ import annotations

from collections import Counter

#: Stands between the number and the names. The name of a free extent may not have it.
SEPARATOR = "\0"
#: The most names in a product.
_MOST_NAMES = 8
#: The largest number in a product.
_MOST = 2**62


def factors(extent: int | str) -> tuple[int, Counter[str]]:
    """The number in an extent, and how often each name is a factor of it."""
    if isinstance(extent, int):
        return extent, Counter()
    first, *names = extent.split(SEPARATOR)
    return (int(first), Counter(names)) if names else (1, Counter([first]))


def product(number: int, names: Counter[str]) -> int | str | None:
    """The extent with these factors; None if it has too many."""
    parts = sorted(names.elements())
    if number > _MOST or len(parts) > _MOST_NAMES:
        return None
    if not parts or number < 1:
        return number
    return parts[0] if number == 1 and len(parts) == 1 else SEPARATOR.join([str(number), *parts])


def times(one: int | str, other: int | str) -> int | str | None:
    """The product of two extents; None if it has too many factors."""
    (a, names), (b, others) = factors(one), factors(other)
    return product(a * b, names + others)


def divided(one: int | str, other: int | str) -> int | str | None:
    """The quotient of two extents; None if it is not a whole product for all values of the names."""
    (a, names), (b, others) = factors(one), factors(other)
    if b < 1 or a % b or others - names:
        return None
    return product(a // b, names - others)
