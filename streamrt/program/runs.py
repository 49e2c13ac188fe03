"""Runs of nodes that may be sections."""

from __future__ import annotations

from collections.abc import Sequence

from streamrt.graph import Node
from streamrt.ops.rows import Rows

#: The first node of each section and the one behind it.
Runs = list[tuple[int, int]]


def runs_of(nodes: Sequence[Node], rows: Sequence[Rows | None]) -> Runs:
    """The first node of each section and the one behind it; some have one node.

    No node reads a tensor as a whole that its own section makes.
    """
    found: Runs = []
    first = 0
    made: set[str] = set()
    for index, own in enumerate((*rows, None)):
        ends = own is None or any(nodes[index].inputs[position] in made for position in own.whole)
        if ends:
            if first < index:
                found.append((first, index))
            first = index + (own is None)
            made.clear()
        if own is not None:
            made.update(nodes[index].outputs)
    return found
