"""BatchNormalization and per-channel arithmetic, folded into the weights of the node before them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from streamrt.convert import limits
from streamrt.convert.draft import Draft, DraftNode
from streamrt.convert.weights import Weight
from streamrt.ops import Shape, traits_of

#: A float64 factor and shift for each output row or channel.
Affine = tuple[NDArray[np.float64], NDArray[np.float64]]


def fold_affine(draft: Draft, shapes: Mapping[str, Shape]) -> None:
    """Fold ``factor * y + shift`` of each channel into the weights of the product or normalisation that computes y."""
    producers = draft.producers()
    kept: list[DraftNode] = []
    for node in draft.nodes:
        kept.append(node)
        with limits.current().at(f"node {node.name!r} ({node.op})"):
            limits.current().check_time()
            found = _affine_of(draft, node, shapes, producers)
            if found is None:
                continue
            product, (factor, shift) = found
            _apply(draft, product, factor, shift)
        draft.replace_measured(product.outputs[0], node.outputs[0])
        product.outputs = list(node.outputs)
        producers[node.outputs[0]] = product
        kept.pop()
        draft.nodes = [other for other in draft.nodes if other is not node]
    draft.nodes = kept


def _affine_of(
    draft: Draft, node: DraftNode, shapes: Mapping[str, Shape], producers: Mapping[str, DraftNode]
) -> tuple[DraftNode, Affine] | None:
    """The product whose output only ``node`` reads, and the factor and shift that ``node`` applies to each channel."""
    if node.op not in ("BatchNormalization", "Add", "Sub", "Mul", "Div") or node.activation:
        return None
    for position, name in enumerate(node.inputs[:2]):
        product = producers.get(name)
        row_axis = _row_axis(product, draft) if product is not None else None
        if product is None or row_axis is None or product.activation:
            continue
        if draft.readers()[name] != 1 or shapes[name] != shapes[node.outputs[0]]:
            continue
        channels = draft.params[product.inputs[1]].shape[0]
        rank = len(shapes[name])
        axis = row_axis % rank
        if node.op == "BatchNormalization":
            return (product, normalisation(draft, node)) if position == 0 and axis == 1 else None
        other = node.inputs[1 - position]
        values = _per_channel(draft, other, rank, axis, channels)
        affine = None if values is None else _arithmetic(node.op, position, values)
        if affine is not None:
            return product, affine
    return None


def _row_axis(node: DraftNode, draft: Draft) -> int | None:
    """`Traits.row_axis` of a node if all its inputs except the first are weights; else None."""
    if node.op == "MatMul" and not node.attrs.get("transB"):
        return None  # its weights are columns
    return traits_of(node.op).row_axis if all(name in draft.params for name in node.inputs[1:] if name) else None


def _per_channel(draft: Draft, name: str, rank: int, axis: int, channels: int) -> NDArray[np.float64] | None:
    """A weight as a vector with one number for each index of ``axis``; None if it varies along another axis."""
    weight = draft.params.get(name)
    if weight is None or len(weight.shape) > rank or weight.size not in (1, channels):
        return None
    shape = (1,) * (rank - len(weight.shape)) + weight.shape
    if weight.size != 1 and shape[axis] != channels:
        return None
    limits.current().check_memory(4 * 8 * channels)  # bytes of factors and shifts, before and after combining them
    return np.broadcast_to(weight.float64().reshape(-1), (channels,))


def _arithmetic(op: str, position: int, values: NDArray[np.float64]) -> Affine | None:
    """The effect of ``op`` on y, its operand ``position``, with ``values``: a factor and a shift, or None."""
    one, zero = np.ones_like(values), np.zeros_like(values)
    match op, position:
        case "Add", _:
            return one, values
        case "Sub", 0:
            return one, -values
        case "Sub", _:
            return -one, values
        case "Mul", _:
            return values, zero
        case "Div", 0 if np.all(values != 0):
            return one / values, zero
    return None


def normalisation(draft: Draft, node: DraftNode) -> Affine:
    """A BatchNormalization as a factor and a shift of each channel."""
    scale, bias, mean, var = (draft.params[name].float64() for name in node.inputs[1:])
    epsilon = node.attrs.get("epsilon", 1e-5)
    assert isinstance(epsilon, int | float)
    factor = scale / np.sqrt(var + epsilon)
    return factor, bias - mean * factor


def _apply(draft: Draft, product: DraftNode, factor: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
    name = product.inputs[1]
    if np.any(factor != 1):
        product.inputs[1] = _replace(draft, name, draft.params[name].scaled(factor))
    has_bias = len(product.inputs) > 2
    limits.current().hold(shift.nbytes)
    bias = draft.params[product.inputs[2]].float64() * factor + shift if has_bias else shift
    if has_bias:
        product.inputs[2] = _replace(draft, product.inputs[2], Weight.of(bias))
    elif np.any(bias != 0):
        product.inputs.append(draft.new_param(f"{name.removesuffix('.weight')}.bias", Weight.of(bias)))


def _replace(draft: Draft, name: str, weight: Weight) -> str:
    """Replace the weight ``name``, under a new name if other nodes read it; returns the name."""
    if draft.readers()[name] > 1:
        return draft.new_param(name, weight)
    draft.params[name] = weight
    return name
