"""Strips: a section that computes some columns of all its tensors, one strip after the other.

A strip is a picture of its own, with fewer columns: its nodes are lowered for these, and its schedule of bands is that
of any section. All strips are equally wide, and begin at columns at which strides begin, too. So they are one program,
and differ in the columns that are read and written alone. The last strip ends with the picture, and overlaps the one
before it. The right border of all strips lies as that of the picture does, so that no window is left out.

At the inner borders of a strip a window reads padding where the picture has columns. So some columns are wrong there,
more with each window. They are computed and not used: the neighbour has them.

Pure: numbers of columns alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from streamrt.ops.strip import Columns

#: The narrowest tensor of a strip. Depthwise convolutions compute narrower pictures in another way.
NARROWEST = 9


class Link(NamedTuple):
    """A node computes columns of ``target`` from those of ``source``."""

    source: str
    target: str
    columns: Columns


@dataclass(frozen=True, slots=True)
class Strips:
    """The strips of a section.

    Attributes:
        whole: the columns of each tensor.
        widths: the columns of each tensor in a strip.
        scales: the columns of each tensor for a column of the first one.
        wrong: the first columns of each tensor that are wrong in all strips but the first.
        begins: the column of the first tensor at which each strip begins.
    """

    whole: Mapping[str, int]
    widths: Mapping[str, int]
    scales: Mapping[str, Fraction]
    wrong: Mapping[str, int]
    begins: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of strips."""
        return len(self.begins)

    def begin(self, strip: int, tensor: str) -> int:
        """The column of a tensor at which a strip begins."""
        return int(self.begins[strip] * self.scales[tensor])

    def held(self, strip: int, tensor: str) -> slice:
        """The columns of a tensor that a strip has."""
        first = self.begin(strip, tensor)
        return slice(first, first + self.widths[tensor])

    def own(self, strip: int, tensor: str) -> slice:
        """The columns of a tensor, of those that are right, that no other strip is taken for."""
        first = self.begin(strip, tensor) + self.wrong[tensor] if strip else 0
        is_last = strip == self.count - 1
        return slice(first, self.whole[tensor] if is_last else self.begin(strip + 1, tensor) + self.wrong[tensor])


def divided(
    links: Sequence[Link],
    whole: Mapping[str, int],
    results: Collection[str],
    multiples: Mapping[str, int],
    count: int,
) -> Strips | None:
    """The narrowest strips of a section, at most ``count``. None if there are none.

    Strips are so wide that less than half of a strip is computed again by its neighbours.

    Args:
        links: of all nodes, in the order of execution.
        whole: the columns of each tensor.
        results: the tensors of which all columns are needed.
        multiples: strips of these tensors begin at multiples of so many columns.
        count: as above; at least 2.
    """
    scales = _scales(links)
    if scales is None:
        return None
    wrong = dict.fromkeys(scales, (0, 0))
    for source, target, columns in links:
        left, right = columns.wrong(*wrong[source], whole[source], whole[target])
        wrong[target] = max(wrong[target][0], left), max(wrong[target][1], right)
    steps = [(multiples.get(name, 1) / scale).numerator for name, scale in scales.items()]
    step = math.lcm(*steps)  # all strips begin at multiples of this column
    # The steps over which all results of a strip would be right, were it as wide as the picture and within another one.
    right = min((whole[name] - sum(wrong[name])) / scales[name] for name in results) // step
    less = (count - 1) * right // count  # the steps by which a strip is narrower, so that all of them cover the picture
    ahead = step * (right - less)  # from one strip to the next
    widths = {name: int(whole[name] - step * less * scale) for name, scale in scales.items()}
    first = next(iter(scales))
    if less < 1 or 2 * ahead < widths[first] or min(widths.values()) < NARROWEST:
        return None
    begins = (*range(0, step * less, ahead), step * less)
    return Strips(whole, widths, scales, {name: left for name, (left, _) in wrong.items()}, begins)


def _scales(links: Sequence[Link]) -> dict[str, Fraction] | None:
    """The columns of each tensor for a column of the first; None if ways from one to another differ.

    Of tensors that no node joins, each first one has scale 1.
    """
    near: dict[str, list[tuple[str, Fraction]]] = {}
    for source, target, columns in links:
        near.setdefault(source, []).append((target, 1 / columns.step))
        near.setdefault(target, []).append((source, columns.step))
    found: dict[str, Fraction] = {}
    for first in near:
        found.setdefault(first, Fraction(1))
        waiting = [first]
        while waiting:
            name = waiting.pop()
            for other, scale in near[name]:
                if other not in found:
                    found[other] = found[name] * scale
                    waiting.append(other)
    agree = all(found[target] * columns.step == found[source] for source, target, columns in links)
    return found if agree else None
