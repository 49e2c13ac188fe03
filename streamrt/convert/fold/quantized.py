"""Steps of quantisation become one operator.

1. A DequantizeLinear moves before operators that only move or select values, such as a MaxPool. The integers between
   them and the QuantizeLinear before are then real numbers.
2. A DequantizeLinear of a QuantizeLinear with the same scale and zero point becomes a QuantizeDequantizeLinear.
3. A QuantizeDequantizeLinear of values that already are such steps does nothing. A Relu or a Clip before it goes if the
   type limits values to the same range.

Scales and zero points along an axis stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from streamrt.convert import limits
from streamrt.convert.draft import Draft, DraftNode, unique
from streamrt.graph import Activation, Attr
from streamrt.ops import Shape
from streamrt.ops.epilogue import QUANTIZED, limits_of

#: Operators whose result has values of input 0, and no others.
_MOVES = frozenset(
    (
        *("DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth"),
        *("Squeeze", "Transpose", "Unsqueeze"),
    )
)


class _Steps(NamedTuple):
    """One scale and one zero point."""

    scale: float
    zero_point: int


def fuse_quantization(draft: Draft, shapes: dict[str, Shape]) -> None:
    """Rewrite ``draft`` in place. Nodes that do nothing become Identity nodes. New tensors are added to ``shapes``."""
    if not any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in draft.nodes):
        return
    _Mover(draft, shapes).run()
    joined = _join(draft)
    _drop_repeated(draft, joined)
    _drop_limits(draft, joined)


def _steps(draft: Draft, node: DraftNode) -> _Steps | None:
    """The scale and the zero point of a QuantizeLinear or a DequantizeLinear; None if there are several."""
    params = [draft.params.get(name) for name in node.inputs[1:]]
    if any(param is None or param.size != 1 for param in params):
        return None
    scale, zero, *_ = (*(float(param.float64().reshape(())) for param in params if param is not None), 0.0)
    return _Steps(scale, int(zero))


def _moved(node: DraftNode) -> Sequence[str]:
    """The inputs that have all values of a node's result; none if it has other values, too."""
    if node.op == "Concat":
        return node.inputs
    moves = node.op in _MOVES or (node.op == "Resize" and node.attrs.get("mode", "nearest") == "nearest")
    return node.inputs[:1] if moves else ()


class _Mover:
    """Moves each DequantizeLinear before the nodes that move its input, if only such nodes read that."""

    def __init__(self, draft: Draft, shapes: dict[str, Shape]) -> None:
        self._draft = draft
        self._shapes = shapes
        self._outputs = {spec.name for spec in draft.outputs}
        self._tensors = {*shapes, *draft.params}
        self._names = {node.name for node in draft.nodes}
        self._readers: dict[str, dict[int, DraftNode]] = defaultdict(dict)  # by the id of the node
        for node in draft.nodes:
            for name in node.inputs:
                self._readers[name][id(node)] = node

    def run(self) -> None:
        """Go through the nodes from the last to the first."""
        kept: list[DraftNode] = []
        for node in reversed(self._draft.nodes):
            limits.current().check_time()
            kept.append(node)
            pads = node.op == "Pad"
            sources = node.inputs[:1] if pads else _moved(node)
            # A padding value that is computed from extents is for integers.
            computed = bool(sources) and "value" not in node.sizes and not any(n in self._draft.params for n in sources)
            steps = self._steps_behind(node) if computed else None
            if steps is None:
                continue
            if pads and node.attrs.get("mode", "constant") == "constant":
                value = node.attrs.get("value", 0.0)
                assert isinstance(value, int | float)
                node.attrs["value"] = (value - steps.zero_point) * steps.scale
            readers = list(self._readers[node.outputs[0]].values())
            like = readers[0].inputs[1:]
            for reader in readers:
                reader.op, reader.inputs, reader.attrs = "Identity", reader.inputs[:1], {}
            earlier = {name: self._dequantized(name, like) for name in dict.fromkeys(sources)}
            for name, made in earlier.items():
                del self._readers[name][id(node)]
                self._readers[name][id(made)] = made
            node.inputs = [earlier[name].outputs[0] if i < len(sources) else name for i, name in enumerate(node.inputs)]
            kept += earlier.values()
        self._draft.nodes = kept[::-1]

    def _steps_behind(self, node: DraftNode) -> _Steps | None:
        """The steps by which all readers of a node's result dequantise it; None if they differ or do something else."""
        if len(node.outputs) != 1 or node.outputs[0] in self._outputs:
            return None
        readers = self._readers[node.outputs[0]].values()
        if not readers or any(reader.op != "DequantizeLinear" for reader in readers):
            return None
        found = {_steps(self._draft, reader) for reader in readers}
        return found.pop() if len(found) == 1 else None

    def _dequantized(self, name: str, params: list[str]) -> DraftNode:
        """A new DequantizeLinear of a tensor."""
        real, node_name = unique(f"{name}.real", self._tensors), unique(f"{name}.real", self._names)
        self._tensors.add(real)
        self._names.add(node_name)
        self._shapes[real] = self._shapes[name]
        if name in self._draft.dims:
            self._draft.dims[real] = self._draft.dims[name]
        return DraftNode(node_name, "DequantizeLinear", [name, *params], [real])


def _join(draft: Draft) -> dict[str, tuple[_Steps, str]]:
    """Replace each DequantizeLinear of a QuantizeLinear with the same steps.

    Returns:
        The steps and the type of the integers, by the name of the result.
    """
    producers, measured = draft.producers(), draft.measured()
    made: dict[tuple[str, _Steps, str], str] = {}
    for node in draft.nodes:
        limits.current().check_time()
        before = producers.get(node.inputs[0]) if node.op == "DequantizeLinear" else None
        if before is None or before.op != "QuantizeLinear":
            continue
        steps = _steps(draft, node)
        if steps is None or _steps(draft, before) != steps:
            continue
        x, dtype = before.inputs[0], str(before.attrs.get("dtype", "uint8"))
        if before.outputs[0] in measured:
            draft.replace_measured(before.outputs[0], x)  # else they would keep the QuantizeLinear
            measured.remove(before.outputs[0])
        same = made.get((x, steps, dtype))
        if same is not None:
            node.op, node.inputs, node.attrs = "Identity", [same], {}
            continue
        made[x, steps, dtype] = node.outputs[0]
        attrs: dict[str, Attr] = {"scale": steps.scale, "zero_point": steps.zero_point, "dtype": dtype}
        node.op, node.inputs, node.attrs = "QuantizeDequantizeLinear", [x], attrs
    return {name: (steps, dtype) for (_, steps, dtype), name in made.items()}


def _drop_repeated(draft: Draft, joined: Mapping[str, tuple[_Steps, str]]) -> None:
    """Make a QuantizeDequantizeLinear of values that are such steps already an Identity: it would not change them."""
    stepped: dict[str, tuple[_Steps, str]] = {}
    for node in draft.nodes:
        steps = joined.get(node.outputs[0])
        if steps is not None and steps == stepped.get(node.inputs[0]):
            node.op, node.attrs = "Identity", {}
        elif steps is not None:
            stepped[node.outputs[0]] = steps
        sources = [stepped.get(name) for name in _moved(node)]
        if sources and sources[0] is not None and all(source == sources[0] for source in sources):
            stepped[node.outputs[0]] = sources[0]


def _drop_limits(draft: Draft, joined: Mapping[str, tuple[_Steps, str]]) -> None:
    """Let a QuantizeDequantizeLinear read the input of a Relu or a Clip whose range includes that of its type."""
    producers = draft.producers()
    for node in draft.nodes:
        before = producers.get(node.inputs[0]) if node.op == "QuantizeDequantizeLinear" else None
        if before is None or before.op not in ("Relu", "Clip"):
            continue
        within = limits_of(replace(node.frozen(), activation=Activation(before.op, before.attrs)))
        (scale, zero_point), dtype = joined[node.outputs[0]]
        least, most = ((code - zero_point) * scale for code in QUANTIZED[dtype])
        if within is not None and within[0] <= least and most <= within[1]:
            node.inputs = list(before.inputs)
