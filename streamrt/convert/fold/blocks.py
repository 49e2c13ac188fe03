"""SpaceToDepth and DepthToSpace that exporters spell out become one node, which computes rows from rows.

torch writes a pixel shuffle and its inverse as a Reshape to blocks, a Transpose, and a Reshape. All extents but the
number of samples must be known: then neither Reshape can mean anything else for other sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from streamrt.convert import limits
from streamrt.convert.draft import Draft, DraftNode


class _Kind(NamedTuple):
    """A node that is spelled out.

    Attributes:
        op: its operator.
        mode: its mode.
        channels: the axis of the blocks (6 axes) along which its channels lie.
        inside: the axes of the positions in a block.
        outside: the axes of the blocks.
    """

    op: str
    mode: str
    channels: int
    inside: tuple[int, int]
    outside: tuple[int, int]


#: By the permutation between the two Reshapes.
_KINDS: Mapping[tuple[int, ...], _Kind] = {
    (0, 1, 3, 5, 2, 4): _Kind("SpaceToDepth", "CRD", 1, (3, 5), (2, 4)),
    (0, 3, 5, 1, 2, 4): _Kind("SpaceToDepth", "DCR", 1, (3, 5), (2, 4)),
    (0, 1, 4, 2, 5, 3): _Kind("DepthToSpace", "CRD", 1, (2, 3), (4, 5)),
    (0, 3, 4, 1, 5, 2): _Kind("DepthToSpace", "DCR", 3, (1, 2), (4, 5)),
}


def recognise_blocks(draft: Draft) -> None:
    """Replace the last node of each. Nodes that nothing reads any more stay."""
    for split, moved, last in between_reshapes(draft):
        kind = next((kind for perm, kind in _KINDS.items() if perm == moved.attrs.get("perm")), None)
        extents = [draft.dims.get(name, ())[1:] for name in (split.inputs[0], split.outputs[0], last.outputs[0])]
        blocks = _blocks_of(kind, *extents) if kind is not None else None
        if kind is not None and blocks is not None:
            last.op, last.inputs, last.sizes = kind.op, [split.inputs[0]], {}
            last.attrs = {"blocksize": blocks, "mode": kind.mode}


def between_reshapes(draft: Draft) -> Iterator[tuple[DraftNode, DraftNode, DraftNode]]:
    """Each Reshape, Transpose and Reshape in a row. Nothing else reads what is between them."""
    producers, readers = draft.producers(), draft.readers()

    def alone(node: DraftNode | None, op: str) -> bool:
        return node is not None and node.op == op and not node.activation

    for last in draft.nodes:
        limits.current().check_time()
        if not alone(last, "Reshape"):
            continue
        moved = producers.get(last.inputs[0])
        if moved is None or not alone(moved, "Transpose") or readers[moved.outputs[0]] != 1:
            continue
        split = producers.get(moved.inputs[0])
        if split is not None and alone(split, "Reshape") and readers[split.outputs[0]] == 1:
            yield split, moved, last


_Extents = tuple[int | str | None, ...]


def _blocks_of(kind: _Kind, x: _Extents, apart: _Extents, y: _Extents) -> tuple[int, ...] | None:
    """The extents of a block, if these are the extents of a node's tensors, without the first axis of each."""
    known = [extent for extent in apart if isinstance(extent, int)]
    if len(known) != 5:
        return None
    channels = known[kind.channels - 1]
    inside, outside = ([known[axis - 1] for axis in axes] for axes in (kind.inside, kind.outside))
    few = (channels * math.prod(inside), *outside)
    many = (channels, *(extent * block for extent, block in zip(outside, inside, strict=True)))
    return tuple(inside) if (x, y) == ((many, few) if kind.op == "SpaceToDepth" else (few, many)) else None
