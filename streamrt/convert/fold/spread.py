"""A part of a Concat that has the same values at all positions leaves the 1 x 1 convolution that reads the Concat.

Networks that look at a picture in several scales enlarge the mean of all positions to a plane, put it beside others,
and multiply: ``conv(concat(a, b, resize(p)))``. Its part of the result is a number for each channel, so it becomes a
sum: ``conv(concat(a, b)) + conv(p)``. The plane is not made, and the large convolution need not wait for the mean.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from streamrt.convert import limits
from streamrt.convert.draft import Draft, DraftNode, unique
from streamrt.convert.weights import AnyArray
from streamrt.graph import Attr
from streamrt.ops import Shape


def fold_spread(draft: Draft, shapes: dict[str, Shape]) -> None:
    """Replace such convolutions, in place. ``shapes`` gets those of new tensors."""
    tables = draft.readers(), draft.producers(), draft.measured()
    for node in list(draft.nodes):
        limits.current().check_time()
        found = _parts(draft, node, shapes, *tables) if node.op == "Conv" else None
        if found is not None:
            _divide(draft, node, *found, shapes)
            tables = draft.readers(), draft.producers(), draft.measured()


def _parts(
    draft: Draft,
    node: DraftNode,
    shapes: Mapping[str, Shape],
    readers: Mapping[str, int],
    producers: Mapping[str, DraftNode],
    measured: Container[str],
) -> tuple[DraftNode, list[str | None]] | None:
    """The Concat that a convolution reads; and for each of its parts the tensor with one position, or None."""
    joined = producers.get(node.inputs[0]) if _is_plain(draft, node) else None
    if joined is None or joined.op != "Concat" or joined.activation:
        return None
    rank = len(shapes[joined.outputs[0]])
    if joined.attrs["axis"] not in (1, 1 - rank) or readers[joined.outputs[0]] > 1 or joined.outputs[0] in measured:
        return None

    def spread(name: str) -> str | None:
        maker = producers.get(name)
        if maker is None or maker.op not in ("Resize", "Expand") or maker.activation or readers[name] > 1:
            return None
        if maker.attrs.get("mode", "nearest") not in ("nearest", "linear"):
            return None  # the weights of other modes need not add up to 1
        source = maker.inputs[0]
        dims = draft.dims.get(source, ())
        one = len(dims) == rank and all(dim == 1 for dim in dims[2:]) and shapes[source][:2] == shapes[name][:2]
        return source if one and name not in measured else None

    sources = [spread(name) for name in joined.inputs]
    return (joined, sources) if any(sources) and not all(sources) else None


def _is_plain(draft: Draft, node: DraftNode) -> bool:
    """Whether a convolution computes each position from the same position, with weights that can be cut in two."""
    if len(node.inputs) > 3 or node.activation or any(name not in draft.params for name in node.inputs[1:]):
        return False
    weight = draft.params[node.inputs[1]]
    strides, pads = node.attrs.get("strides", (1,)), node.attrs.get("pads", (0,))
    assert isinstance(strides, tuple)
    assert isinstance(pads, tuple)
    plain = set(weight.shape[2:]) == {1} and set(strides) == {1} and not any(pads)
    return plain and node.attrs.get("group", 1) == 1 and not weight.is_from_fewer_bytes


def _divide(
    draft: Draft, node: DraftNode, joined: DraftNode, sources: list[str | None], shapes: dict[str, Shape]
) -> None:
    """Make ``node`` the sum of two convolutions: of the parts that are planes, and of those with one position."""
    planes = [name for name, source in zip(joined.inputs, sources, strict=True) if source is None]
    points = [source for source in sources if source is not None]
    is_plane = np.repeat([source is None for source in sources], [shapes[name][1] for name in joined.inputs])
    large = _convolution(draft, node, "planes", planes, is_plane, shapes)
    small = _convolution(draft, node, "points", points, ~is_plane, shapes)
    node.op, node.attrs, node.inputs = "Add", {}, [large[-1].outputs[0], small[-1].outputs[0]]
    draft.nodes = [other for other in draft.nodes if other is not joined]
    made = {name: index for index, other in enumerate(draft.nodes) for name in other.outputs}
    place = max((made[name] + 1 for name in planes if name in made), default=0)
    draft.nodes[place:place] = large  # before the mean of all positions, for which it need not wait
    place = next(index for index, other in enumerate(draft.nodes) if other is node)
    draft.nodes[place:place] = small


def _convolution(
    draft: Draft,
    node: DraftNode,
    kind: str,
    parts: list[str],
    channels: NDArray[np.bool_],
    shapes: dict[str, Shape],
) -> list[DraftNode]:
    """The nodes that join ``parts`` and multiply them with these ``channels`` of the weights of ``node``.

    Those of the points add the bias.
    """
    nodes: list[DraftNode] = []

    def add(op: str, inputs: list[str], attrs: dict[str, Attr], count: int, suffix: str) -> str:
        name = unique(f"{node.outputs[0]}{suffix}", shapes)
        shapes[name] = (shapes[inputs[0]][0], count, *shapes[inputs[0]][2:])
        nodes.append(DraftNode(f"{node.name}{suffix}", op, inputs, [name], attrs))
        return name

    weight = draft.params[node.inputs[1]]
    inner, (outer, _, *kernel) = int(channels.sum()), weight.shape
    own = weight.view((outer, inner, *kernel), partial(_columns, channels))
    name = draft.new_param(node.inputs[1], own)
    x = add("Concat", parts, {"axis": 1}, inner, f".{kind}.joined") if len(parts) > 1 else parts[0]
    bias = node.inputs[2:] if kind == "points" else []
    add("Conv", [x, name, *bias], dict(node.attrs), outer, f".{kind}")
    return nodes


def _columns(channels: NDArray[np.bool_], array: AnyArray) -> AnyArray:
    return array[:, channels]
