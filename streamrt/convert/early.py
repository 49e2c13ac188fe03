"""The order of nodes: small ones that need nothing of a picture leave the runs of nodes that compute it in bands.

A node that computes no rows ends a section (`streamrt.program.runs`), whatever it reads. Exporters write the dense
layer of a time embedding beside the layer of the picture that reads it. So such a node runs before the nodes of the
picture. That is decided when a model is packed, because the order of execution is the order of the weights file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from streamrt.convert.draft import Draft, DraftNode
from streamrt.ops import Shape


def move_vectors(draft: Draft, shapes: Mapping[str, Shape]) -> None:
    """Let nodes that compute vectors run before the picture's nodes in front of them, if they need none of these.

    They move only if nodes of the picture follow. Every result stays the same, and other nodes keep their order.

    Args:
        draft: its nodes are sorted anew.
        shapes: of every tensor for an example of the inputs' extents.
    """
    vectors = _Vectors(draft, shapes)
    sizes = {id(node) for node in draft.size_nodes}
    done: list[DraftNode] = []
    first = 0  # where the run of the picture's nodes begins in ``done``
    waiting = 0  # the last nodes of ``done``, which may move there
    of_run: set[str] = set()  # tensors that depend on a node of the run
    for node in draft.ordered():
        needs_run = not of_run.isdisjoint(node.reads)
        if id(node) in sizes:
            of_run.update(node.outputs if needs_run else ())
            ends = node.op == "If"  # nodes behind a condition may fail in other cases
        elif vectors.reads_picture(node):
            moved = done[len(done) - waiting :]
            done[first:] = [*moved, *done[first : len(done) - waiting], node]
            first, waiting = first + waiting, 0
            of_run.update(node.outputs)
            ends = False
        else:
            done.append(node)
            waiting += 1
            ends = needs_run or not vectors.are(node.outputs)
        if ends:
            first, waiting = len(done), 0
            of_run.clear()
    draft.nodes = done


class _Vectors:
    """Tells vectors, which are small, from pictures and other tensors.

    A vector has at most one extent other than 1, beside that of the batch.
    """

    def __init__(self, draft: Draft, shapes: Mapping[str, Shape]) -> None:
        self._shapes, self._params = shapes, draft.params
        self._batches = {1, *(shapes[spec.name][0] for spec in draft.inputs if len(spec.dims) == 4)}

    def are(self, names: list[str]) -> bool:
        """Whether all of these tensors are vectors."""
        return all(self._is_vector(self._shapes[name]) for name in names if name)

    def reads_picture(self, node: DraftNode) -> bool:
        """Whether a node reads or makes a tensor of rows and columns, parameters not counted."""
        names = (name for name in (*node.inputs, *node.outputs) if name and name not in self._params)
        return any(len(self._shapes[name]) == 4 and not self.are([name]) for name in names)

    def _is_vector(self, shape: Shape) -> bool:
        sample = shape[1:]
        return not sample or (shape[0] in self._batches and math.prod(sample) == max(sample))
