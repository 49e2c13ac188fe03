"""Folding: a draft becomes a smaller one that computes the same.

The steps, in this order:

1. Nodes that do nothing are removed. Steps of quantisation become one operator (`quantized`).
2. GroupNormalization, SpaceToDepth, DepthToSpace and shuffles of channels that are spelled out become one node
   (`grouped`, `blocks`, `shuffled`). What runs with channels last runs with channels first (`channels`). Then two
   successive Reshapes become one.
3. Activations that are spelled out in arithmetic become one node (`spelled`).
4. Attention that is spelled out becomes one node, and products read transposed operands as they lie (`attention`).
5. Padding becomes an attribute of the convolution or pooling after it.
6. BatchNormalization and per-channel arithmetic are folded into the weights before them (`affine`).
7. What is the same at all positions leaves the 1 x 1 convolution that reads it (`spread`).
8. A sum becomes a part of the convolution that computes the last of its terms.
9. An element-wise activation becomes the last step of the node that computes its input.
10. BatchNormalization and gates before a 1 x 1 convolution become a part of it (`scaled`).
11. Size nodes that compute the same become one (`shared`).

An intermediate result that is an output of the graph stays one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrt.convert import limits
from streamrt.convert.draft import Draft, DraftNode
from streamrt.convert.fold.affine import fold_affine
from streamrt.convert.fold.attention import fold_transposes, recognise_attention
from streamrt.convert.fold.blocks import recognise_blocks
from streamrt.convert.fold.channels import move_channels_first
from streamrt.convert.fold.grouped import recognise_group_normalization
from streamrt.convert.fold.quantized import fuse_quantization
from streamrt.convert.fold.scaled import fuse_scalings
from streamrt.convert.fold.shared import share_size_nodes
from streamrt.convert.fold.shuffled import recognise_shuffles
from streamrt.convert.fold.spelled import recognise_activations
from streamrt.convert.fold.spread import fold_spread
from streamrt.graph import Activation, Attr
from streamrt.ops import Shape, traits_of

_FLOAT_MAX = float(np.finfo(np.float32).max)


def rewrite(draft: Draft, shapes: Mapping[str, Shape]) -> None:
    """Fold ``draft`` in place. ``shapes`` has the shape of every tensor for an example of the inputs' extents.

    The result computes the same for all extents. From ``shapes`` come ranks and extents of weights, and an equality
    only where the extents that hold for all sizes (`Draft.dims`) do not contradict it.
    """
    shapes = dict(shapes)
    _drop_identities(draft)
    fuse_quantization(draft, shapes)
    _drop_identities(draft)
    recognise_group_normalization(draft)
    recognise_blocks(draft)
    recognise_shuffles(draft, shapes)
    move_channels_first(draft, shapes)
    _skip_reshapes(draft)
    recognise_activations(draft, shapes)
    recognise_attention(draft, shapes)
    fold_transposes(draft)
    draft.prune()
    _merge_pads(draft)
    fold_affine(draft, shapes)
    fold_spread(draft, shapes)
    _fuse_residuals(draft, shapes)
    _fuse_activations(draft)
    fuse_scalings(draft, shapes)
    share_size_nodes(draft)
    draft.prune()


def _drop_identities(draft: Draft) -> None:
    """Remove Identity nodes: their readers read their input.

    An Identity stays if its input is an input or an output of the graph, and its output is an output of the graph.
    """
    outputs = {spec.name for spec in draft.outputs}
    producers = draft.producers()
    instead: dict[str, str] = {}  # tensor -> the tensor that is read instead
    kept: list[DraftNode] = []
    for node in draft.nodes:
        limits.current().check_time()
        node.inputs = [instead.get(name, name) for name in node.inputs]
        if node.op != "Identity" or node.activation is not None:
            kept.append(node)
            continue
        source, target = node.inputs[0], node.outputs[0]
        if target not in outputs:
            instead[target] = source
        elif source in producers and source not in outputs:
            # The name of an output of the graph must stay.
            producer = producers[source]
            producer.outputs = [target if name == source else name for name in producer.outputs]
            producers[target] = producer
            instead[source] = target
            for other in kept:
                other.inputs = [target if name == source else name for name in other.inputs]
            draft.replace_measured(source, target)
            instead.update({name: target for name, by in instead.items() if by == source})
        else:
            kept.append(node)
    draft.nodes = kept
    for node in draft.size_nodes:
        node.inputs = [instead.get(name, name) for name in node.inputs]


def _skip_reshapes(draft: Draft) -> None:
    """Let a Reshape of a Reshape read the input of the first: a flat tensor in between would hide the batch."""
    producers = draft.producers()
    for node in draft.nodes:
        while node.op == "Reshape" and (earlier := producers.get(node.inputs[0])) is not None:
            if earlier.op != "Reshape" or earlier.activation or node.sizes or earlier.sizes:
                break
            shape = _combined_shape(node.attrs["shape"], earlier.attrs["shape"])
            if shape is None:
                break
            node.inputs[0], node.attrs["shape"] = earlier.inputs[0], shape


def _combined_shape(shape: Attr, earlier: Attr) -> tuple[int, ...] | None:
    """The target of one Reshape with the effect of two Reshapes; None if there is no such target."""
    assert isinstance(shape, tuple)
    assert isinstance(earlier, tuple)
    combined = []
    for axis, extent in enumerate(shape):
        # A 0 keeps an extent of the tensor in between. That extent is not known if it is a -1, or if the axis is new.
        if extent == 0 and (axis >= len(earlier) or earlier[axis] == -1):
            return None
        combined.append(int(earlier[axis] if extent == 0 else extent))
    return tuple(combined)


def _merge_pads(draft: Draft) -> None:
    """Make padding before a convolution or pooling its attribute ``pads``, if the result stays the same."""
    readers, producers, measured = draft.readers(), draft.producers(), draft.measured()
    for node in draft.nodes:
        limits.current().check_time()
        pad = producers.get(node.inputs[0]) if node.inputs else None
        if pad is None or pad.op != "Pad" or pad.activation or readers[pad.outputs[0]] != 1 or pad.sizes:
            continue
        if pad.outputs[0] in measured:
            continue
        merged = _merged_pads(node, pad)
        if merged is None:
            continue
        node.inputs[0] = pad.inputs[0]
        node.attrs["pads"] = merged
        node.attrs.pop("auto_pad", None)
        if node.op == "AveragePool":
            node.attrs["count_include_pad"] = 1
        draft.nodes = [other for other in draft.nodes if other is not pad]


def _merged_pads(node: DraftNode, pad: DraftNode) -> tuple[int, ...] | None:
    """The pads of ``node`` together with the Pad before it; None if that would change the result."""
    if node.op not in ("Conv", "MaxPool", "AveragePool") or pad.attrs.get("mode") != "constant":
        return None
    kernel = node.attrs["kernel_shape"]
    amounts = pad.attrs["pads"]
    assert isinstance(kernel, tuple)
    assert isinstance(amounts, tuple)
    rank = len(amounts) // 2
    spatial = rank - 2
    begins, ends = amounts[2:rank], amounts[rank + 2 :]
    if spatial != len(kernel) or any(amounts[:2]) or any(amounts[rank : rank + 2]) or min((*begins, *ends)) < 0:
        return None
    if str(node.attrs.get("auto_pad", "NOTSET")).startswith("SAME"):
        return None
    own = node.attrs.get("pads", (0,) * (2 * spatial))
    assert isinstance(own, tuple)
    merged = tuple(int(a + b) for a, b in zip(own, (*begins, *ends), strict=True))
    value = pad.attrs.get("value", 0.0)
    assert isinstance(value, int | float)
    if node.op == "Conv":
        return merged if value == 0 else None
    if node.attrs.get("ceil_mode") or any(p >= k for p, k in zip(merged, kernel * 2, strict=True)):
        return None
    if node.op == "MaxPool":
        return merged if value <= -_FLOAT_MAX else None
    counted = bool(node.attrs.get("count_include_pad")) or not any(own)
    return merged if value == 0 and counted else None


def _fuse_residuals(draft: Draft, shapes: Mapping[str, Shape]) -> None:
    """``Add(Conv(x), y)`` becomes a Conv with y as input 3, if y is computed before the convolution."""
    if len({spec.dims[0] for spec in draft.inputs if spec.dims and isinstance(spec.dims[0], str)}) > 1:
        return  # batches that are equal under a probe may differ in a run
    readers, producers = draft.readers(), draft.producers()
    position = {name: index for index, node in enumerate(draft.nodes) for name in node.outputs}
    computed = producers.keys() | {spec.name for spec in draft.inputs}
    kept: list[DraftNode] = []
    for node in draft.nodes:
        kept.append(node)
        if node.op != "Add" or node.activation or not _are_equal(draft, shapes, *node.inputs, *node.outputs):
            continue
        if all(extent == 1 for extent in shapes[node.outputs[0]][2:]):
            continue  # the convolution is a Gemm
        first, last = sorted(node.inputs, key=lambda name: position.get(name, -1))
        product = producers.get(last)
        if product is None or first not in computed or readers[last] != 1 or not _takes_residual(product, draft):
            continue
        product.inputs += [""] * (3 - len(product.inputs)) + [first]
        draft.replace_measured(last, node.outputs[0])
        product.outputs = list(node.outputs)
        producers[node.outputs[0]] = product
        position[node.outputs[0]] = position[last]
        kept.pop()
    draft.nodes = kept


def _are_equal(draft: Draft, shapes: Mapping[str, Shape], *names: str) -> bool:
    """Whether tensors have equal shapes for the example, and no extent that one of them could have alone.

    Such an extent is a number for all sizes in some tensors only, or has two names, or has a name in some tensors only
    while inputs have several names. For other sizes it could be 1 in one tensor and larger in another.
    """
    if len({shapes[name] for name in names}) != 1:
        return False
    known = [draft.dims[name] for name in names if name in draft.dims]
    for axis, dims in enumerate(zip(*known, strict=True)):
        free = {spec.dims[axis] for spec in draft.inputs if axis < len(spec.dims)}
        several = sum(isinstance(dim, str) for dim in free) > 1
        found = {dim if isinstance(dim, str) else type(dim) for dim in dims}
        if len(found if several else found - {type(None)}) > 1 or (int in found and None in dims):
            return False
    return True


def _takes_residual(node: DraftNode, draft: Draft) -> bool:
    """Whether ``node`` is a convolution that is not depthwise and has no residual or activation yet."""
    if node.op != "Conv" or node.activation or len(node.inputs) > 3:
        return False
    return node.attrs.get("group", 1) == 1 or draft.params[node.inputs[1]].shape[1] > 1


def _fuse_activations(draft: Draft) -> None:
    """Make an activation the last step of the node before it, if no other node reads that output."""
    readers, producers = draft.readers(), draft.producers()
    kept: list[DraftNode] = []
    for node in draft.nodes:
        producer = producers.get(node.inputs[0]) if node.inputs else None
        if (
            traits_of(node.op).activation
            and node.activation is None
            and producer is not None
            and traits_of(producer.op).fuses
            and producer.activation is None
            and readers[node.inputs[0]] == 1
        ):
            producer.activation = Activation(node.op, dict(node.attrs))
            draft.replace_measured(node.inputs[0], node.outputs[0])
            producer.outputs = list(node.outputs)
            producers[node.outputs[0]] = producer
        else:
            kept.append(node)
    draft.nodes = kept
