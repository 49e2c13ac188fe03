"""Extents that a model reads off one tensor to give them to another, found by what they are under every probe.

A graph holds no arithmetic of shapes. An extent of a result is a number, is kept, is what is left, or is that of an
axis of some tensor, which the node then has as a further input, for its shape alone (attribute ``extents``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamrt.convert.onnx.node import OnnxNode
from streamrt.convert.probes import Shape

#: Extents under each probe, by axis of the result.
Wanted = Mapping[int, Sequence[int]]


def matching(shapes: Sequence[Shape], wanted: Wanted) -> dict[int, int]:
    """Of a tensor of these shapes, the axis that has each of the ``wanted`` extents; those that none has are missing.

    The axis in the same place if it will do, else the last.
    """
    found = {}
    for axis, extents in wanted.items():
        candidates = [
            other
            for other in range(len(shapes[0]))
            if all(shape[other] == extent for shape, extent in zip(shapes, extents, strict=True))
        ]
        if candidates:
            found[axis] = axis if axis in candidates else candidates[-1]
    return found


def lender(node: OnnxNode, wanted: Wanted, all_but: int = 0) -> tuple[str, dict[int, int]] | None:
    """A tensor that has the ``wanted`` extents, all but so many of them, and where it has them; None if there is none.

    It must be kept until the node has run, and what only one node reads would be computed with that in one. So of
    several that have as many, the best is one that more nodes read, and later ones, and then the smallest.
    """
    best = None
    for name in node.computed_before():
        shapes = node.facts.shapes(name)
        if shapes is None or name == node.input(0):
            continue
        found = matching(shapes, wanted)
        if len(found) < max(1, len(wanted) - all_but):
            continue
        cost = (-len(found), *node.cost_of_keeping(name))
        if best is None or cost < best[0]:
            best = cost, name, found
    return best and best[1:]


def extents(count: int, found: Mapping[int, int]) -> tuple[int, ...]:
    """The attribute: for each of ``count`` axes where its extent comes from, -1 for nowhere."""
    return tuple(found.get(axis, -1) for axis in range(count))
