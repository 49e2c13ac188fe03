"""How the nodes of a section are lowered: for whole rows, or for the columns of a strip."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from streamrt.errors import FormatError
from streamrt.graph import Node
from streamrt.ops import Lowered, Operand
from streamrt.ops.rows import Rows, columns_of
from streamrt.program.strips import Link, Strips, divided

#: The most values in a vector. The last columns of a map that fill no vector are computed in another way.
_LANES = 16

#: Lowers the node of an index for other tensors, those of a strip. The second result is as of `rows_of`.
Narrowed = Callable[[int, Mapping[str, Operand]], tuple[Lowered, Rows | None]]


@dataclass(frozen=True, slots=True)
class Form:
    """The lowered nodes of a section.

    Attributes:
        lowered: of each node.
        rows: of each node.
        tensors: as of the program. Those that have rows are as wide as a strip, if there are strips.
        strips: None if there are whole rows.
    """

    lowered: Sequence[Lowered]
    rows: Sequence[Rows]
    tensors: Mapping[str, Operand]
    strips: Strips | None = None


def in_strips(
    first: int,
    nodes: Sequence[Node],
    whole: Form,
    results: Collection[str],
    count: int,
    narrowed: Narrowed,
) -> Form | None:
    """A section in at most ``count`` strips; None if there are none.

    Args:
        first: the index of the first of the nodes.
        nodes: of the section.
        whole: the form for whole rows.
        results: the tensors that are needed behind the section.
        count: as above; at least 2.
        narrowed: see `Narrowed`.
    """
    strips = _divided(nodes, whole, results, count)
    if strips is None:
        return None
    narrow = {
        name: operand._replace(shape=(*operand.shape[:3], strips.widths[name])) if name in strips.widths else operand
        for name, operand in whole.tensors.items()
    }
    found: list[tuple[Lowered, Rows]] = []
    for index, (node, low) in enumerate(zip(nodes, whole.lowered, strict=True), first):
        with suppress(FormatError):
            other, rows = narrowed(index, narrow)
            fits = other.outputs == (narrow[node.outputs[0]].shape,)
            if rows is not None and fits and _kind(other) == _kind(low):
                found.append((other, rows))
                continue
        return None
    return Form([low for low, _ in found], [rows for _, rows in found], narrow, strips)


def _divided(nodes: Sequence[Node], whole: Form, results: Collection[str], count: int) -> Strips | None:
    """The strips of a section, by the columns that its nodes need."""
    links: list[Link] = []
    needed: list[str] = []
    multiples: dict[str, int] = {}
    for node, low, rows in zip(nodes, whole.lowered, whole.rows, strict=True):
        output = node.outputs[0]
        if rows.collects:
            needed.append(node.inputs[0])
            continue
        _, _, height, width = whole.tensors[output].shape
        for position in rows.inputs:
            columns = columns_of(node, low, position)
            if columns is None:
                return None
            if low.rowwise and whole.tensors[node.inputs[position]].shape[3] != width:
                return None  # a Concat of columns, or one column that is used for all
            links.append(Link(node.inputs[position], output, columns))
            if columns.ends:  # the last values of a map must be as many behind the last whole vector
                multiples[output] = _LANES // math.gcd(_LANES, height)
        if output in results:
            needed.append(output)
    widths = {name: whole.tensors[name].shape[3] for link in links for name in link[:2]}
    if not needed or not set(needed) <= widths.keys():
        return None
    if any(node.inputs[at] in widths for node, rows in zip(nodes, whole.rows, strict=True) for at in rows.whole):
        return None  # a row that is read whole by one node, and by columns by another
    strips = divided(links, widths, needed, multiples, count)
    return strips if strips is None or _are_mirrors_right(links, strips) else None


def _are_mirrors_right(links: Sequence[Link], strips: Strips) -> bool:
    """Whether what is mirrored at a border of the picture is not wrong in the strip that has this border."""
    wrong = dict.fromkeys(strips.widths, (0, 0))
    for source, target, columns in links:
        if columns.mirrored and columns.mirrored + max(wrong[source]) >= strips.widths[source]:
            return False
        sides = columns.wrong(*wrong[source], strips.whole[source], strips.whole[target])
        wrong[target] = max(wrong[target][0], sides[0]), max(wrong[target][1], sides[1])
    return True


def _kind(low: Lowered) -> tuple[object, ...]:
    """How a node reads its weights, and rounds."""
    return low.rows, low.row_step, low.passes, low.tiled, low.small
