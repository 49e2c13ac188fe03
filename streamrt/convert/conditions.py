"""Extents with which the conditions of a case hold, so that the case can be lowered once when it is packed.

A condition compares numbers that are computed from extents with numbers of the graph. So these numbers, and numbers
near them, are tried as extents, one or two at a time. What this search does not find has no case in the file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

from streamrt.convert.check import compiled
from streamrt.convert.draft import Draft, DraftNode
from streamrt.convert.examples import Example, examples
from streamrt.errors import FormatError, LimitError
from streamrt.ops import sizes

#: Nodes that a search may lower, about 1 s.
_MOST_WORK = 50_000
#: The most numbers of a graph that are tried, those next to the conditions first; and the largest extent.
_MOST_NUMBERS, _LARGEST = 24, 2**24
#: Factors of numbers: a condition may ask for the extent of a map that strides have made smaller.
_FACTORS = (1, 2, 4, 8, 16, 32)
#: Extents that are tried whatever numbers there are.
_SMALL = range(1, 9)


def examples_of(draft: Draft) -> Iterator[Example]:
    """`examples` for a draft; then, if it has conditions, examples with which they hold."""
    usual = examples(draft.inputs)
    yield from usual
    part = Draft(draft.inputs, [], draft.nodes, draft.params, draft.size_nodes)
    part.prune()
    search = _Search(part)
    if search.checks:
        starts = [*usual, *(dict.fromkeys(usual[0], extent) for extent in _SMALL)]
        yield from filter(None, map(search.climb, starts))


class _Search:
    """A search by raising the number of conditions that hold.

    Args:
        draft: the part of a case that its conditions need.

    Attributes:
        checks: the names of the nodes that check a condition, in order.
    """

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        nodes = draft.ordered()
        self.checks = [node.name for node in nodes if node.op == "If"]
        self._numbers = _numbers(nodes)
        self._cost = 1 + len(nodes)
        self._work = 0

    def climb(self, example: Example) -> Example | None:
        """An example with which all conditions hold, found by changing ``example``; None if none is found."""
        held = self._held(example)
        while held < len(self.checks):
            for changed in self._changes(example):
                if self._work > _MOST_WORK:
                    return None
                if (more := self._held(changed)) > held:
                    example, held = changed, more
                    break
            else:
                return None
        return example

    def _held(self, example: Example) -> int:
        """The number of conditions that hold up to the first that does not; -1 if the graph cannot run."""
        self._work += self._cost
        try:
            compiled(self._draft, example)
        except sizes.OtherCaseError as error:
            return self.checks.index(error.node.name)
        except LimitError:
            raise
        except FormatError:
            return -1
        return len(self.checks)

    def _changes(self, example: Example) -> Iterator[Example]:
        """The example with one extent changed, then with two."""
        single = [(name, value) for name in example for value in self._values(example, name)]
        yield from (example | {name: value} for name, value in single)
        for (name, value), (other, another) in itertools.combinations(single, 2):
            if name != other:
                yield example | {name: value, other: another}

    def _values(self, example: Example, name: str) -> list[int]:
        """Values to try for one extent."""
        others = [extent for other, extent in example.items() if other != name]
        product = math.prod(others)
        values = [*self._numbers, *others, *_SMALL]
        values += [number // each for number in self._numbers for each in (*others, product)]
        values += [factor * number for factor in _FACTORS for number in self._numbers]
        return [value for value in dict.fromkeys(values) if 0 < value <= _LARGEST]


def _numbers(nodes: Sequence[DraftNode]) -> list[int]:
    """The numbers of size nodes, each with the number after it, those of the last nodes first."""
    values = [node.attrs.get("value") for node in reversed(nodes) if node.op == "Constant"]
    found: Iterable[int | float] = itertools.chain.from_iterable(v for v in values if isinstance(v, tuple))
    whole = [math.floor(number) for number in found if abs(number) <= _LARGEST]
    near = dict.fromkeys(number + more for number in whole for more in (0, 1))
    return [number for number in near if number > 0][:_MOST_NUMBERS]
