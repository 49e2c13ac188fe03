"""Budgets to try: from the least to that of all weights, and then closer to the knee. Pure arithmetic, in bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Budgets between the two ends that are tried first. With 5, each is 2 to 3 times the one before it for models whose
#: weights are 30 to 1000 times the least budget.
BETWEEN = 5
#: Leading binary digits of a budget between the ends, so that it is a size that people can read and type.
_DIGITS = 3
#: As above, for a budget near the knee: such sizes are 6 to 12 % apart.
_FINE_DIGITS = 4


def spread(least: int, most: int, between: int = BETWEEN) -> list[int]:
    """Budgets in the order in which to try them: both ends, the largest first, then those between, middle first.

    The budgets between grow by equal factors, rounded down to 3 binary digits. So small budgets lie close together,
    where a window more or less changes the time of a pass.
    """
    if most <= least:
        return [least]
    factor = (most / least) ** (1 / (between + 1))
    inner = sorted({_rounded(least * factor**step, _DIGITS) for step in range(1, between + 1)})
    inner = [budget for budget in inner if least < budget < most]
    middle = (len(inner) - 1) / 2
    order = sorted(range(len(inner)), key=lambda index: abs(index - middle))
    return [most, least, *(inner[index] for index in order)]


def closer(tried: Sequence[int], knee: int) -> int | None:
    """A budget between the knee and the largest that is smaller, to find the knee more closely.

    Args:
        tried: the budgets that were measured, in any order.
        knee: one of them.

    Returns:
        The budget, or None if the knee is the smallest, or the two are about 10 % apart.
    """
    below = max((budget for budget in tried if budget < knee), default=None)
    if below is None:
        return None
    budget = _rounded(math.sqrt(below * knee), _FINE_DIGITS)
    return budget if below < budget < knee else None


def _rounded(budget: float, digits: int) -> int:
    """``budget`` with only its first binary digits."""
    whole = int(budget)
    shift = max(0, whole.bit_length() - digits)
    return whole >> shift << shift
