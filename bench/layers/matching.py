"""Which layer of ours a peer's node counts for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: By the name of an ONNX node or of a tensor that it computes: the index of the layer, and whether the node is a
#: product.
Owners = Mapping[str, tuple[int, bool]]


def owners(layers: Iterable[Mapping[str, Any]]) -> Owners:
    """The layer of every name in the lines that `bench.layers.graph.layers` made."""
    found: dict[str, tuple[int, bool]] = {}
    for index, layer in enumerate(layers):
        for name, product in layer["names"].items():
            found.setdefault(name, (index, product))
    return found


def layer_of(names: Iterable[str], owners: Owners) -> int | None:
    """The layer of the first product among ``names``, else of the first name that is known, else None."""
    known = [owners[name] for name in names if name in owners]
    return min(known, key=lambda owner: not owner[1])[0] if known else None


def matched(nodes: Sequence[Mapping[str, Any]], owners: Owners) -> tuple[dict[int, float], float]:
    """Seconds by layer, and the seconds of all nodes that belong to no layer."""
    seconds: dict[int, float] = defaultdict(float)
    other = 0.0
    for node in nodes:
        layer = layer_of(node["names"], owners)
        if layer is None:
            other += node["seconds"]
        else:
            seconds[layer] += node["seconds"]
    return dict(seconds), other
