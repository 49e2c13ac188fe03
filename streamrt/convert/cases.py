"""Cases of a model: a draft for each way in which those conditions may go that the extents of the inputs decide.

Only cases are kept for which packing finds extents with which they run (`conditions`). Exporters write conditions for
all extents, and ranks differ behind them, so most models have one such case. Other calls are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from streamrt.convert.draft import Draft, unique
from streamrt.convert.weights import Weight
from streamrt.errors import FormatError, LimitError, UnsupportedModelError
from streamrt.format import INT64
from streamrt.graph import MAX_CASES, Graph
from streamrt.ops import sizes

_T = TypeVar("_T")


def possible(cases: Iterable[Callable[[], _T]]) -> list[_T]:
    """The results of the cases that can be made.

    Raises:
        LimitError: a case takes too much memory or time.
        FormatError, UnsupportedModelError: none can be made. It is the error of the first, or of the first that does
            not just need other extents.
    """
    found: list[_T] = []
    refused: Exception | None = None
    for make in cases:
        try:
            found.append(make())
        except LimitError:
            raise
        except (FormatError, UnsupportedModelError) as error:
            if refused is None or isinstance(refused, sizes.OtherCaseError):
                refused = error.with_traceback(None)
    try:
        if not found and refused is not None:
            raise refused
    finally:
        del refused  # this frame would keep the error, and the error this frame
    return found


def joined(drafts: Sequence[Draft]) -> Graph:
    """The graph with these cases, in this order.

    Raises:
        UnsupportedModelError: there are too many.
        FormatError: they have outputs of different types.
    """
    if len(drafts) > MAX_CASES:
        raise UnsupportedModelError(
            [
                f"{len(drafts)} cases of conditions that free extents decide (If), expected at most {MAX_CASES}: fix "
                "some extents with inputs="
            ]
        )
    first, *others = (draft.graph() for draft in drafts)
    return replace(first, others=tuple(others))


def share_params(drafts: Sequence[Draft]) -> None:
    """Give different weights of cases different names. Of equal weights with one name the first serves all.

    Weights are equal if all their elements are.
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
