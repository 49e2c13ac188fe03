"""Scaling the channels of the input of a 1 x 1 convolution becomes a part of it: inputs 4 and 5 of the Conv.

This saves a pass over the activations for each BatchNormalization before a convolution, as in DenseNet, and for the
gates of each squeeze-and-excitation block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from streamrt.convert import limits
from streamrt.convert.draft import Draft, DraftNode, may_differ
from streamrt.convert.fold.affine import normalisation
from streamrt.convert.weights import Weight
from streamrt.graph import Attr
from streamrt.ops import Shape
from streamrt.ops.epilogue import limits_of


def fuse_scalings(draft: Draft, shapes: Mapping[str, Shape]) -> None:
    """Fold the scaling of its input into each 1 x 1 convolution, in place."""
    batches = {spec.dims[0] for spec in draft.inputs if spec.dims and isinstance(spec.dims[0], str)}
    readers, producers = draft.readers(), draft.producers()
    gone: list[DraftNode] = []
    for node in draft.nodes:
        limits.current().check_time()
        before = producers.get(node.inputs[0]) if node.op == "Conv" else None
        if before is None or readers[node.inputs[0]] != 1 or not _is_pointwise(draft, node, shapes):
            continue
        ends = _input_limits(before)
        if ends is None:
            continue
        if before.op == "BatchNormalization" and all(name in draft.params for name in before.inputs[1:]):
            with limits.current().at(f"node {before.name!r} ({before.op})"):
                factor, shift = normalisation(draft, before)
            name = node.inputs[1].removesuffix(".weight")
            scaling = [
                draft.new_param(f"{name}.{what}", Weight.of(values))
                for what, values in (("scale", factor), ("shift", shift))
            ]
            source = before.inputs[0]
        elif before.op == "Mul" and not before.activation and len(batches) < 2:  # batches may differ in a run
            gate = _gate(draft, before, shapes)
            if gate is None:
                continue
            source, scaling = gate[0], [gate[1]]
        else:
            continue
        draft.replace_measured(before.outputs[0], source)
        node.inputs = [source, *node.inputs[1:], *[""] * (4 - len(node.inputs)), *scaling]
        node.attrs |= ends
        gone.append(before)
    draft.nodes = [node for node in draft.nodes if not any(node is other for other in gone)]


def _is_pointwise(draft: Draft, node: DraftNode, shapes: Mapping[str, Shape]) -> bool:
    """Whether ``node`` computes each output position from the same position of the input, as a product."""
    weights, x = draft.params[node.inputs[1]].shape, shapes[node.inputs[0]]
    plain = set(weights[2:]) == {1} and x[2:] == shapes[node.outputs[0]][2:]
    strides, pads = node.attrs.get("strides", (1,)), node.attrs.get("pads", (0,))
    assert isinstance(strides, tuple)
    assert isinstance(pads, tuple)
    # A convolution of a map with one position is a Gemm. The kernel of a depthwise convolution cannot scale.
    return plain and set(strides) == {1} and not any(pads) and set(x[2:]) != {1} and weights[1] > 1


def _input_limits(node: DraftNode) -> dict[str, Attr] | None:
    """The range to which the activation of ``node`` limits values, as attributes of a Conv; None if it does more."""
    limits = limits_of(node.frozen())
    if limits is None:
        return None
    return {name: end for name, end in zip(("input_min", "input_max"), limits, strict=True) if math.isfinite(end)}


def _gate(draft: Draft, node: DraftNode, shapes: Mapping[str, Shape]) -> tuple[str, str] | None:
    """The two factors of a product: a map, and a computed number for each channel of each sample."""
    for x, gate in (tuple(node.inputs), tuple(reversed(node.inputs))):
        shape = shapes[x]
        computed = x not in draft.params and gate not in draft.params
        dims = draft.dims.get(gate, shapes[gate])
        if any(dim != 1 for dim in dims[2:]) or may_differ(draft.dims.get(x, shape)[:2], dims[:2]):
            continue  # with other sizes the gate may not be a number for each channel
        if computed and shape == shapes[node.outputs[0]] and shapes[gate] == shape[:2] + (1,) * (len(shape) - 2):
            return x, gate
    return None
