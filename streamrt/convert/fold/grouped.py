"""GroupNormalization that exporters spell out becomes one node.

torch writes it as a Reshape to (samples, groups, rest), an InstanceNormalization, which normalises each group of each
sample, and a Reshape back to the shape of the input. Its optimiser drops the last Reshape if the shapes are the same. A
product and a sum of each channel follow; `affine` folds them.
"""

from __future__ import annotations

import numpy as np

from streamrt.convert import limits
from streamrt.convert.draft import Draft, DraftNode, keeps_shape
from streamrt.convert.weights import Weight


def recognise_group_normalization(draft: Draft) -> None:
    """Replace the last node of each GroupNormalization. Nodes that nothing reads any more stay."""
    finder = _Finder(draft)
    for node in reversed(draft.nodes):  # the last Reshape, if there is one, before the node that it reads
        limits.current().check_time()
        found = finder.group_normalization(node)
        if found is None:
            continue
        split, norm = found
        x, y = split.inputs[0], node.outputs[0]
        channels, groups = draft.dims[x][1], draft.dims[split.outputs[0]][1]
        assert isinstance(channels, int)
        assert isinstance(groups, int)
        with limits.current().at(f"node {norm.name!r} ({norm.op})"):
            scale, bias = (
                _by_channel(draft, name, f"{y}.{what}", channels // groups)
                for name, what in zip(norm.inputs[1:], ("scale", "bias"), strict=True)
            )
        if norm is not node:
            draft.replace_measured(norm.outputs[0], split.outputs[0])
        node.op, node.inputs, node.sizes = "GroupNormalization", [x, scale, bias], {}
        node.attrs = {"num_groups": groups, "epsilon": norm.attrs["epsilon"]}


def _by_channel(draft: Draft, name: str, new: str, times: int) -> str:
    """The weight ``name``, which has a value for each group, with each value ``times`` times: for each channel."""
    if times == 1:
        return name
    weight = draft.params[name]
    limits.current().hold(8 * weight.size * times)
    return draft.new_param(new, Weight.of(np.repeat(weight.float64(), times)))


class _Finder:
    def __init__(self, draft: Draft) -> None:
        self._dims = draft.dims
        self._params = draft.params.keys()
        self._producers, self._readers = draft.producers(), draft.readers()
        self._sizes = {name: node for node in draft.size_nodes for name in node.outputs}

    def group_normalization(self, last: DraftNode) -> tuple[DraftNode, DraftNode] | None:
        """The first Reshape and the InstanceNormalization, if ``last`` is the last node of a GroupNormalization."""
        norm: DraftNode | None = last
        if last.op == "Reshape" and not last.activation and self._readers[last.inputs[0]] == 1:
            norm = self._producers.get(last.inputs[0])
        if norm is None or norm.op != "InstanceNormalization" or norm.activation:
            return None
        split = self._producers.get(norm.inputs[0])
        if split is None or split.op != "Reshape" or split.activation or not self._params >= set(norm.inputs[1:]):
            return None
        return (split, norm) if self._splits(split) and self._restores(split, last) else None

    def _splits(self, split: DraftNode) -> bool:
        """Whether samples stay apart, and axis 1 of the result is groups of neighbouring channels, for all sizes."""
        x, flat = self._dims.get(split.inputs[0], ()), self._dims.get(split.outputs[0], ())
        if len(x) < 2 or len(flat) < 2 or not isinstance(x[1], int) or not isinstance(flat[1], int):
            return False
        wanted = split.attrs.get("shape")
        same_batch = isinstance(wanted, tuple) and wanted[0] == 0
        return (same_batch or (x[0] is not None and x[0] == flat[0])) and x[1] % flat[1] == 0

    def _restores(self, split: DraftNode, last: DraftNode) -> bool:
        """Whether the result of ``last`` has the shape of the input of ``split`` for all sizes."""
        name = split.inputs[0]
        size = self._sizes.get(last.sizes.get("shape", ""))
        if size is not None and size.op == "Shape" and size.inputs == [name]:
            return not size.attrs.get("start") and "end" not in size.attrs
        return keeps_shape(self._dims[name], self._dims.get(last.outputs[0], ()))
