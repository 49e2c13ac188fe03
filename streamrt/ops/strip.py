"""Which columns of its input a node needs for a column of its output: what `streamrt.program.strips` has to know."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple


class Columns(NamedTuple):
    """Column j of the output needs the input's from ``floor(j * step + low)`` to ``floor(j * step + high)``.

    The rule is the same for all columns. Those beyond the input are padding, or the border is taken instead.

    Attributes:
        step: columns of the input for each of the output.
        low, high: as above.
        ends: the last columns of a picture that may have other bits than they would have within a wider picture.
        mirrored: so many columns next to the border of the picture, on both sides, are those that the ones beyond it
            are made of.
    """

    step: Fraction = Fraction(1)
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)
    ends: int = 0
    mirrored: int = 0

    def wrong(self, left: int, right: int, before: int, after: int) -> tuple[int, int]:
        """The first and last columns of the output that are not those of a wider picture, of which it is a part.

        Args:
            left: such first columns of the input.
            right: such last columns of the input.
            before: all columns of the input.
            after: all columns of the output.
        """
        first = max(0, math.ceil((left - self.low) / self.step))
        behind = math.ceil((before - right - self.high) / self.step)  # the first column that needs a wrong one
        return first, max(self.ends, after - behind)
