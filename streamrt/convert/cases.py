"""Cases of a model: a draft for each way in which those conditions may go that the extents of the inputs decide.

Only cases that can run are kept. Exporters write conditions for all extents, and ranks differ behind them, so most
models have one case that runs. A call whose extents lead to another case is refused.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from streamrt.convert.check import lowered
from streamrt.convert.draft import Draft, DraftNode, unique
from streamrt.convert.examples import Example, examples
from streamrt.convert.weights import Weight
from streamrt.errors import FormatError, LimitError, UnsupportedModelError
from streamrt.format import INT64
from streamrt.graph import Graph
from streamrt.ops import sizes

_T = TypeVar("_T")

#: The most numbers of a graph that are tried as extents, and the largest of them.
_MOST_NUMBERS, _LARGEST = 16, 4096


def possible(cases: Iterable[Callable[[], _T]]) -> list[_T]:
    """The results of the cases that can be made.

    Raises:
        LimitError: a case takes too much memory or time.
        FormatError, UnsupportedModelError: none can be made. It is the error of the first, or of the first that does
            not just need other extents.
    """
    found, refused = [], list[Exception]()
    for make in cases:
        try:
            found.append(make())
        except LimitError:
            raise
        except (FormatError, UnsupportedModelError) as error:
            refused.append(error.with_traceback(None))
    if not found:
        raise next((error for error in refused if not isinstance(error, sizes.OtherCaseError)), refused[0])
    return found


def examples_of(draft: Draft) -> Iterator[Example]:
    """`examples` for a draft, and one that leads to its case, if its conditions ask for other extents."""
    usual = examples(draft.inputs)
    yield from usual
    nodes = draft.ordered()
    conditions = [node.name for node in nodes if node.op == "If"]
    example, met = usual[0], _met(draft, usual[0], conditions)
    while met < len(conditions):
        for name, number in itertools.product(example, _numbers(nodes)):
            changed = example | {name: number}
            if (more := _met(draft, changed, conditions)) > met:
                example, met = changed, more
                break
        else:
            return
    if conditions:
        yield example


def _met(draft: Draft, example: Example, conditions: Sequence[str]) -> int:
    """The number of conditions that hold for an example before the first that does not; -1 if it fails otherwise."""
    try:
        lowered(draft, example)
    except sizes.OtherCaseError as error:
        return conditions.index(error.node.name)
    except LimitError:
        raise
    except FormatError:
        return -1
    return len(conditions)


def _numbers(nodes: Iterable[DraftNode]) -> list[int]:
    """Extents that conditions may ask for: the numbers of the size nodes, and the numbers after them."""
    values = [node.attrs.get("value") for node in nodes if node.op == "Constant"]
    found = {number for value in values if isinstance(value, tuple) for number in value if isinstance(number, int)}
    near = {number + more for number in found for more in (0, 1)}
    return sorted(number for number in near if 0 < number <= _LARGEST)[:_MOST_NUMBERS]


def joined(drafts: Sequence[Draft]) -> Graph:
    """The graph with these cases, in this order."""
    first, *others = (draft.graph() for draft in drafts)
    return replace(first, others=tuple(others))


def share_params(drafts: Sequence[Draft]) -> dict[str, Weight]:
    """Give equal weights of cases one name, and different weights different names; returns the weights of all cases.

    Weights that have one name are equal if all their elements are.
    """
    computed = {name for draft in drafts for node in (*draft.nodes, *draft.size_nodes) for name in node.outputs}
    taken = computed | {spec.name for draft in drafts for spec in draft.inputs}
    weights: dict[str, Weight] = {}
    for draft in drafts:
        new = dict[str, str]()
        for name, weight in draft.params.items():
            if name in taken or (name in weights and not _are_equal(weight, weights[name])):
                new[name] = unique(name, taken | weights.keys() | draft.params.keys() | set(new.values()))
        draft.params = {new.get(name, name): weight for name, weight in draft.params.items()}
        for node in (*draft.nodes, *draft.size_nodes):
            node.inputs = [new.get(name, name) for name in node.inputs]
        weights = draft.params | weights
    return weights


def _are_equal(one: Weight, other: Weight) -> bool:
    if one is other:
        return True
    return (one.shape, one.coding) == (other.shape, other.coding) and _digest(one) == _digest(other)


def _digest(weight: Weight) -> bytes:
    """A checksum of the elements against collisions by intent."""
    digest = hashlib.sha256()
    for block in weight.integer_blocks() if weight.coding == INT64 else weight.blocks():
        digest.update(block.data)
    return digest.digest()
