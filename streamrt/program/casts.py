"""Nodes that a pass does without: Casts between the integers of a caller and the numbers of a graph.

An input of integers of at most 16 bits is copied in as float32 if nothing but Casts reads it: float32 has all these
numbers. An output that a Cast makes of float32 is converted while it is copied out. So neither is held as int64, and
both may be read and written by rows.

Pure: names, types and shapes alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, MutableMapping, MutableSequence
from dataclasses import replace

import numpy as np

from streamrt.graph import TYPES, Graph, Node
from streamrt.ops import FLOAT32, INT64, Lowered, Operand, computed_type
from streamrt.ops.rows import has_rows

#: Integers of so many bytes are exact in float32, which has 24 bits.
_EXACT = 2
#: Operators that read the shape of a tensor, and no values.
_MEASURING = frozenset(("Shape", "Size"))


def read_as_floats(graph: Graph) -> list[str]:
    """The inputs of integers that may be float32 in a pass, because all that reads them are Casts to such a type."""
    results = {spec.name for spec in graph.outputs}
    others = {name for node in graph.nodes if not _widens(node, results) for name in _values_of(node)}
    others |= results
    return [
        spec.name
        for spec in graph.inputs
        if np.dtype(spec.dtype).kind in "iu" and np.dtype(spec.dtype).itemsize <= _EXACT and spec.name not in others
    ]


class Casts:
    """Replaces nodes of one graph while they are lowered in their order.

    Args:
        graph: the graph.
        floats: its inputs that are `read_as_floats`.
    """

    def __init__(self, graph: Graph, floats: Collection[str]) -> None:
        self._floats = floats
        self._results = {spec.name: spec.dtype for spec in graph.outputs}
        self._reads = Counter(name for node in graph.nodes for name in (*node.inputs, *node.sizes.values()))
        self._same: dict[str, str] = {}  # results of nodes that a pass does without, and what is read instead

    def reader(self, node: Node) -> Node:
        """``node``, which reads the inputs of nodes that a pass does without, instead of their results."""
        if self._same.keys().isdisjoint(node.inputs):
            return node
        return replace(node, inputs=tuple(self._same.get(name, name) for name in node.inputs))

    def replaced(self, node: Node, nodes: MutableSequence[Node], operands: MutableMapping[str, Operand]) -> bool:
        """Whether a pass does without ``node``.

        Args:
            node: the next node.
            nodes: those before it that a pass runs. The one that makes the input of a Cast may make its output instead.
            operands: all tensors so far. The output of a Cast is added if the result is true.
        """
        target = _cast_type(node)
        if not target:
            return False
        (source,), (result,) = node.inputs, node.outputs
        if source in self._floats:
            self._same[result] = source
        elif not self._may_be_copied_out(source, result, target, operands) or not _rename(source, result, nodes):
            return False
        operands[result] = operands[source]
        return True

    def unchanged(self, node: Node, low: Lowered, operands: MutableMapping[str, Operand]) -> bool:
        """Whether a pass in bands does without ``node``: it leaves a picture as it is, as a Reshape may.

        Args:
            node: the next node, which reads what `reader` says.
            low: the node, lowered.
            operands: as in `replaced`.
        """
        if low.view_of is None or node.outputs[0] in self._results:
            return False
        source = operands[node.inputs[low.view_of]]
        if not has_rows(source) or low.outputs != (source.shape,):
            return False
        self._same[node.outputs[0]] = node.inputs[low.view_of]
        operands[node.outputs[0]] = source._replace(batch=None if low.fixed else low.batch)
        return True

    def _may_be_copied_out(self, source: str, result: str, target: str, operands: Mapping[str, Operand]) -> bool:
        is_integer = computed_type(target) == INT64 and target == self._results.get(result)
        alone = self._reads[source] == 1 and self._reads[result] == 0 and source not in self._results
        return is_integer and alone and source in operands and operands[source].dtype == FLOAT32


def _rename(source: str, result: str, nodes: MutableSequence[Node]) -> bool:
    """Let the node that makes ``source`` make ``result`` instead. The result is False if no node makes it."""
    for index, node in enumerate(nodes):
        if source in node.outputs:
            outputs = (result if name == source else name for name in node.outputs)
            nodes[index] = replace(node, outputs=tuple(outputs))
            return True
    return False


def _cast_type(node: Node) -> str:
    """The type to which a plain Cast casts; empty for other nodes, and those that cannot be lowered."""
    to = node.attrs.get("to")
    is_plain = node.op == "Cast" and node.activation is None and not node.sizes and set(node.attrs) == {"to"}
    return str(to) if is_plain and to in TYPES and len(node.inputs) == len(node.outputs) == 1 else ""


def _widens(node: Node, results: set[str]) -> bool:
    """Whether a node is a Cast to a floating-point type, and makes no result of the graph."""
    return _cast_type(node).startswith("float") and results.isdisjoint(node.outputs)


def _values_of(node: Node) -> tuple[str, ...]:
    """The tensors whose values a node reads."""
    return () if node.op in _MEASURING else (*node.inputs, *node.sizes.values())
