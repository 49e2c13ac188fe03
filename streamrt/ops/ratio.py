"""Which columns of its input a Resize needs, as a rule for narrower pictures, too: see `Lowered.columns`.

A rule is there if the scale stands for a fraction of small numbers, and all columns lie where this fraction says.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streamrt.ops.resample import NEAREST, positions_of
from streamrt.ops.strip import Columns

#: The largest numerator and denominator of a scale with which columns of narrower pictures are found.
_MOST_PARTS = 64
#: The most columns of the result that are compared, and so many at once. Comparing them takes about 5 ms.
_MOST_COMPARED, _PART = 2**17, 2**10


@lru_cache(64)
def columns_of_scale(
    before: int, after: int, scale: float, coordinates: str, nearest: str | None, beside: tuple[int, int]
) -> Columns | None:
    """See `Lowered.columns`. None: the same column of a narrower picture may lie elsewhere, or get other bits.

    Args:
        before: columns of the input.
        after: columns of the result.
        scale: of the columns.
        coordinates: as of `positions_of`.
        nearest: how positions are rounded, as in `NEAREST`; None if values are interpolated.
        beside: the first and the last column that count, from the one before a position on.
    """
    if scale == 1:
        return Columns()
    factor = _fraction_of(scale)
    if factor is None or after == 1:
        return None
    depends = coordinates == "align_corners" or (coordinates == "half_pixel_symmetric" and after != before * factor)
    if depends or not _are_exact(before, after, scale, factor, coordinates, nearest):
        return None
    low = Fraction(0) if coordinates == "asymmetric" else 1 / (2 * factor) - Fraction(1, 2)
    return Columns(1 / factor, low + beside[0], low + beside[1])


def _fraction_of(scale: float) -> Fraction | None:
    """The fraction of small numbers that is the scale as float32. A scale in a file may be rounded so."""
    found = Fraction(scale).limit_denominator(_MOST_PARTS)
    alike = np.float32(float(found)) == np.float32(scale)
    return found if alike and 0 < found.numerator <= _MOST_PARTS else None


def _are_exact(before: int, after: int, scale: float, factor: Fraction, coordinates: str, nearest: str | None) -> bool:
    """Whether all columns lie at the multiples of the fraction, or are rounded as these are.

    Then so do those of a narrower picture, which are the first ones of this one.
    """
    up, down = factor.numerator, factor.denominator
    if nearest is None and up & (up - 1):
        return False  # multiples of its inverse are no floating-point numbers
    if factor == scale:
        return True  # a border between two values is found exactly, and all other positions are 1 / 128 or more away
    if after > _MOST_COMPARED:
        return False
    for first in range(0, after, _PART):
        new = np.arange(first, min(first + _PART, after))
        found = positions_of(coordinates, before, after, scale, new.astype(np.float64))
        doubled = 2 * new * down if coordinates == "asymmetric" else (2 * new + 1) * down - up
        if nearest is None:
            alike = np.array_equal(found, doubled / (2 * up))
        else:
            alike = np.array_equal(NEAREST[nearest](found), _rounded(doubled, up, nearest))
        if not alike:
            return False
    return True


def _rounded(doubled: NDArray[np.int64], up: int, nearest: str) -> NDArray[np.int64]:
    """The numbers ``doubled / (2 * up)``, rounded as in `NEAREST`, in integers alone."""
    match nearest:
        case "round_prefer_floor":
            return -((up - doubled) // (2 * up))
        case "round_prefer_ceil":
            return (doubled + up) // (2 * up)
        case "ceil":
            return -(-doubled // (2 * up))
        case _:
            return doubled // (2 * up)
