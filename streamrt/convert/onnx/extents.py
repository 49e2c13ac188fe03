"""Extents that a model takes from one tensor and gives to another. They are found by their values under every probe.

A graph has no arithmetic of shapes. An extent of a result is a number, the input's extent, the extent that remains, or
the extent of another tensor. In the last case that tensor is a further input of the node, read only for its shape
(attribute ``extents``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamrt.convert.onnx.node import OnnxNode
from streamrt.convert.probes import Shape

#: Extents under each probe, by axis of the result.
Wanted = Mapping[int, Sequence[int]]


def matching(shapes: Sequence[Shape], wanted: Wanted) -> dict[int, int]:
    """For each of the ``wanted`` extents, an axis with that extent in a tensor with these shapes.

    If several axes have the extent, it is the axis of the same number if that is one of them, or else the last. Extents
    that no axis has are missing in the result.
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
    """A tensor with all ``wanted`` extents except up to ``all_but``, and their axes; None if there is no such tensor.

    The tensor takes memory until the node has run. If only one node read it, that node can no longer be fused with the
    node that computes the tensor. So these decide in this order: the most wanted extents, more than one reader, readers
    after this node, the fewest elements.
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
    """The attribute ``extents``: for each of ``count`` axes the axis with its extent, or -1."""
    return tuple(found.get(axis, -1) for axis in range(count))
