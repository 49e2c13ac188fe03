"""What runs with channels last between two Transposes runs with channels first, and without them.

torch normalises the channels of each position, and has its dense layers, with channels last (ConvNeXt). A dense layer
of each position is a 1 x 1 convolution. A LayerNormalization becomes means along channels and arithmetic, of which each
computes a row of a picture from the same row. So the network runs in bands, and what follows a convolution joins it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streamrt.convert import limits
from streamrt.convert.draft import Draft, DraftNode, unique
from streamrt.convert.weights import Weight
from streamrt.graph import Attr
from streamrt.ops import Shape, traits_of

#: The permutations of a picture to channels last, and back.
_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
#: A run that moves has one of these.
_WORTH = frozenset(("LayerNormalization", "MatMul"))

_Dims = tuple[int | str | None, ...]


def move_channels_first(draft: Draft, shapes: dict[str, Shape]) -> None:
    """Rewrite each run of nodes between two such Transposes that can be computed with channels first.

    Args:
        draft: the graph.
        shapes: of every tensor, for an example.
    """
    readers, measured = draft.readers(), draft.measured()
    reading: dict[str, DraftNode] = {name: node for node in draft.nodes for name in node.inputs}
    instead: dict[int, list[DraftNode]] = {}
    copies: dict[tuple[str, int], str] = {}
    for first in draft.nodes:
        limits.current().check_time()
        if first.op != "Transpose" or first.attrs.get("perm") != _LAST or first.activation:
            continue
        run = [first]
        while (name := run[-1].outputs[0]) not in measured and readers[name] == 1 and name in reading:
            run.append(reading[name])
            if not _can_move(draft, run[-1], name):
                break
        x, last = first.inputs[0], run[-1]
        if last.op != "Transpose" or last.attrs.get("perm") != _FIRST or last.activation or x in draft.params:
            continue
        # A map of one position lies in memory as it would with channels last.
        if _WORTH.isdisjoint(node.op for node in run) or set(draft.dims.get(x, ())[2:]) == {1}:
            continue
        moved = _Moved(draft, shapes, readers, copies, x)
        for node in run[1:-1]:
            with limits.current().at(f"node {node.name!r} ({node.op})"):
                moved.add(node)
        moved.nodes[-1].outputs = list(last.outputs)
        instead |= {id(node): [] for node in run}
        instead[id(last)] = moved.nodes
    draft.nodes = [other for node in draft.nodes for other in instead.get(id(node), [node])]


def _can_move(draft: Draft, node: DraftNode, x: str) -> bool:
    """Whether ``node`` can run with channels first, which reads ``x``, a picture with channels last."""
    before, after = (draft.dims.get(name, ()) for name in (x, node.outputs[0]))
    if node.activation or node.sizes or len(node.outputs) != 1 or len(before) != 4 or len(after) != 4:
        return False
    weights = [draft.params[name].shape if name in draft.params else None for name in node.inputs if name != x]
    channels = before[3]
    match node.op:
        case "LayerNormalization":
            return node.attrs.get("axis") == 3 and node.inputs[0] == x and set(weights) == {(channels,)}
        case "MatMul":  # its weights are (results, channels)
            plain = node.inputs[0] == x and node.attrs == {"transB": 1} and len(weights) == 1
            return plain and weights[0] is not None and len(weights[0]) == 2
        case "Add" | "Sub" | "Mul" | "Div":
            ones = [(1,) * axes for axes in range(4)]
            return set(weights) <= {(), (1,), *((*each, channels) for each in ones)}
    return traits_of(node.op).activation and not weights


class _Moved:
    """Nodes of a run with channels first, made one after the other.

    ``copies`` has weights of all runs which other nodes may read, too: copies, by the names of those and their axes.
    """

    def __init__(
        self,
        draft: Draft,
        shapes: dict[str, Shape],
        readers: Mapping[str, int],
        copies: dict[tuple[str, int], str],
        x: str,
    ) -> None:
        self.nodes: list[DraftNode] = []
        self._draft, self._shapes, self._readers, self._copies, self._x = draft, shapes, readers, copies, x
        self._taken = draft.taken()

    def add(self, node: DraftNode) -> None:
        """Add a node of the run, or those that compute the same."""
        x, y = self._x, node.outputs[0]
        n, h, w, channels = self._draft.dims[y]
        dims = (n, channels, h, w)
        n, h, w, channels = self._shapes[y]
        shape = (n, channels, h, w)
        if node.op == "LayerNormalization":
            self._normalise(node, dims, shape)
        elif node.op == "MatMul":
            inputs = [x, self._with_positions(node.inputs[1], 2)]
            self._emit(node.name, "Conv", inputs, {"kernel_shape": (1, 1), "group": 1}, y, dims, shape)
        else:
            inputs = [self._with_positions(name, 1) if name in self._draft.params else x for name in node.inputs]
            self._emit(node.name, node.op, inputs, node.attrs, y, dims, shape)
        self._x = y

    def _with_positions(self, name: str, axes: int) -> str:
        """A weight with axes of one row and one column behind its last ``axes``. Numbers stay as they are."""
        weight = self._draft.params[name]
        if weight.size == 1 and len(weight.shape) < 2:
            return name
        weight = weight.reshaped((*weight.shape[-axes:], 1, 1))
        if self._readers[name] > 1:
            if (name, axes) not in self._copies:
                self._copies[name, axes] = self._param(name, weight)
            return self._copies[name, axes]
        self._draft.params[name], self._shapes[name] = weight, weight.shape
        return name

    def _param(self, name: str, weight: Weight) -> str:
        name = self._draft.new_param(name, weight)
        self._shapes[name] = weight.shape
        return name

    def _normalise(self, node: DraftNode, dims: _Dims, shape: Shape) -> None:
        """``(x - mean) / sqrt(var + epsilon) * scale + bias``. The last two steps are one, which a Conv can take."""
        x, y = self._x, node.outputs[0]

        def part(what: str, op: str, *inputs: str) -> str:
            """Add a node. A mean, and what is made of it, has one channel."""
            name = unique(f"{y}.{what}", self._taken)
            one = op in ("ReduceMean", "Add", "Sqrt")
            attrs: dict[str, Attr] = {"axes": (1,), "keepdims": 1} if op == "ReduceMean" else {}
            here = ((dims[0], 1, *dims[2:]), (shape[0], 1, *shape[2:])) if one else (dims, shape)
            self._emit(f"{node.name}.{what}", op, inputs, attrs, name, *here)
            return name

        def param(what: str, values: NDArray[np.float64]) -> str:
            return self._param(f"{y}.{what}", Weight.of(values.astype(np.float32)))

        epsilon = node.attrs.get("epsilon", 1e-5)
        assert isinstance(epsilon, int | float)
        less = part("less", "Sub", x, part("mean", "ReduceMean", x))
        var = part("var", "ReduceMean", part("squares", "Mul", less, less))
        root = part("root", "Sqrt", part("sum", "Add", var, param("epsilon", np.array(epsilon))))
        normal = part("normal", "Div", less, root)
        zeros = np.zeros(shape[1])
        bias = node.inputs[2] if len(node.inputs) > 2 else param("bias", zeros)
        inputs = [normal, node.inputs[1], bias, param("zero", zeros), param("one", zeros + 1)]
        self._emit(node.name, "BatchNormalization", inputs, {"epsilon": 0.0}, y, dims, shape)

    def _emit(
        self, name: str, op: str, inputs: Sequence[str], attrs: Mapping[str, Attr], y: str, dims: _Dims, shape: Shape
    ) -> None:
        self.nodes.append(DraftNode(name, op, [*inputs], [y], dict(attrs)))
        self._taken.add(y)
        self._draft.dims[y], self._shapes[y] = dims, shape
