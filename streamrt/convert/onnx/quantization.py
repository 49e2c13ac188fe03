"""Weights that a model has as integers with scales: constants of ``DequantizeLinear`` and of ``MatMulNBits``.

Both become a `Quantized` weight, so that a weights file gets their codes, scales and zero points as they are.
``MatMulNBits`` belongs to ONNX Runtime (domain com.microsoft). It becomes a MatMul and an Add before anything else sees
it, because the ``onnx`` package knows nothing of its shapes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from streamrt.convert import limits
from streamrt.convert.draft import unique
from streamrt.convert.onnx.data import unpacked
from streamrt.convert.quantized import OFFSETS, Integers, Quantized
from streamrt.convert.weights import AnyArray, Weight, forget_mapped, is_float
from streamrt.ops import Shape

_DOMAIN = "com.microsoft"
_KINDS = {4: "uint4", 8: "uint8"}
#: The types of which a ``DequantizeLinear`` of constants is a weight.
_DEQUANTIZED = (*OFFSETS, "int16", "uint16", "int32")


def dequantized(node: NodeProto, inputs: Sequence[Weight | None], dtype: np.dtype[Any]) -> Weight | None:
    """The result of a ``DequantizeLinear`` of constants, of type ``dtype``; None if it is no integers of 4 to 32 bits.

    It is also None if shapes do not fit together, so that the reference implementation finds the reason. Integers of
    more than 8 bits, such as biases, become float32 in a weights file.
    """
    codes, scales, zeros = [*inputs, None, None][:3]
    given = {attribute.name: attribute.i for attribute in node.attribute}
    if codes is None or scales is None or codes.dtype.name not in _DEQUANTIZED or not codes.size or not codes.shape:
        return None
    if not scales.is_float() or not is_float(dtype):
        return None
    if zeros is not None and (zeros.dtype != codes.dtype or not _alike(zeros.shape, scales.shape)):
        return None
    rank, axis, block = len(codes.shape), given.get("axis", 1), given.get("block_size", 0)
    integers = Integers(codes.dtype.name, codes, scales, zeros)
    if scales.size == 1 and not block:
        return Quantized(integers, dtype)
    if not -rank <= axis < rank:
        return None
    axis %= rank
    extent = codes.shape[axis]
    if block > 0:
        if scales.shape != (*codes.shape[:axis], -(-extent // block), *codes.shape[axis + 1 :]):
            return None
    elif block < 0 or scales.shape != (extent,):
        return None
    return Quantized(integers._replace(axis=axis, block=min(block, extent) or None), dtype)


def _alike(zeros: Shape, scales: Shape) -> bool:
    """Whether zero points fit scales. Of two tensors of one element, one may have an axis."""
    return zeros == scales or (math.prod(zeros) == math.prod(scales) == 1 and max(len(zeros), len(scales)) == 1)


def without_nbits(
    nodes: Sequence[NodeProto], constants: dict[str, Weight], names: Iterable[str] = ()
) -> list[NodeProto]:
    """The nodes, with each ``MatMulNBits`` as a MatMul and, if it has a bias, an Add.

    The weights are added to ``constants``. A node that cannot be converted stays: see `nbits_problem`. ``names`` are
    those of tensors that no node has.
    """
    taken = {name for node in nodes for name in (*node.input, *node.output)} | constants.keys() | set(names)
    made: dict[tuple[object, ...], str] = {}  # nodes of the same weights share them
    found = []
    for node in nodes:
        if not _is_nbits(node):
            found.append(node)
            continue
        limits.current().check_time()
        key = (*node.input[1:4], *sorted((attribute.name, attribute.i) for attribute in node.attribute))
        if key not in made:
            weight = _weight(node, constants)
            if isinstance(weight, str):
                found.append(node)
                continue
            made[key] = _unused((f"{node.input[1]}.matrix", f"{node.output[0]}.matrix"), taken)
            constants[made[key]] = weight.transposed()
        bias = node.input[5] if len(node.input) > 5 else ""
        product = _unused((f"{node.output[0]}.product",), taken) if bias else node.output[0]
        found.append(helper.make_node("MatMul", [node.input[0], made[key]], [product], name=node.name))
        if bias:
            found.append(helper.make_node("Add", [product, bias], [node.output[0]], name=f"{node.name}.bias"))
    return found


def nbits_problem(node: NodeProto, constants: Mapping[str, Weight]) -> str | None:
    """Why a ``MatMulNBits`` cannot be converted; None if the node is another one."""
    weight = _weight(node, constants) if _is_nbits(node) else None
    return weight if isinstance(weight, str) else None


def _is_nbits(node: NodeProto) -> bool:
    return (node.domain, node.op_type) == (_DOMAIN, "MatMulNBits")


def _unused(names: Sequence[str], taken: set[str]) -> str:
    """The first of ``names`` that is not taken, or a name like the last."""
    name = next((name for name in names if name not in taken), None) or unique(names[-1], taken)
    taken.add(name)
    return name


def _weight(node: NodeProto, constants: Mapping[str, Weight]) -> Quantized | str:
    """The weights (N, K) of a ``MatMulNBits``, or why it cannot be converted."""
    given = {attribute.name: attribute.i for attribute in node.attribute}
    if unknown := given.keys() - {"K", "N", "block_size", "bits", "accuracy_level", "weight_prepacked"}:
        return f"attribute {min(unknown)!r:.80} is not supported"
    if given.get("weight_prepacked", 0):
        return "attribute 'weight_prepacked' is not 0: weights in the order of another processor are not supported"
    if missing := [name for name in ("K", "N", "block_size") if given.get(name, 0) < 1]:
        return f"attribute {missing[0]!r} is missing or below 1"
    inner, rows, block, bits = given["K"], given["N"], given["block_size"], given.get("bits", 4)
    if bits not in _KINDS:
        return f"attribute 'bits' is {bits}, expected 4 or 8"
    if block < 16 or block & (block - 1):
        return f"attribute 'block_size' is {block}, expected a power of 2 from 16 on"
    if not 3 <= len(node.input) <= 6 or len(node.output) != 1 or not all(node.input[:3]):
        return f"it has {len(node.input)} inputs and {len(node.output)} outputs, expected 3 to 6 and 1"
    if len(node.input) > 4 and node.input[4]:
        return "input 4 (g_idx) is given: weights in another order are not supported"
    blocks = -(-inner // block)
    zero_bytes = -(-blocks * bits // 8)  # of a row
    sizes = {"B": rows * blocks * (block * bits // 8), "scales": rows * blocks, "zero_points": rows * zero_bytes}
    parts: dict[str, Weight] = {}
    for index, what in enumerate(sizes, 1):
        name = node.input[index] if index < len(node.input) else ""
        if not name:
            continue
        weight = constants.get(name)
        if weight is None:
            return f"input {index} ({what}, {name!r:.80}) is computed, expected a constant"
        expected = "a floating-point type" if what == "scales" else "uint8"
        if not (weight.is_float() if what == "scales" else weight.dtype == np.uint8):
            return f"input {index} ({what}, {name!r:.80}) is {weight.dtype}, expected {expected}"
        if weight.size != sizes[what]:
            return f"input {index} ({what}, {name!r:.80}) has shape {weight.shape}, expected {sizes[what]} elements"
        parts[what] = weight
    zeros = parts.get("zero_points")
    integers = Integers(
        kind=_KINDS[bits],
        codes=_integers(parts["B"], (rows, inner), bits),
        scales=parts["scales"].reshaped((rows, blocks)),
        zeros=None if zeros is None else _integers(zeros, (rows, blocks), bits),
        axis=1,
        block=min(block, inner),
        zero=OFFSETS[_KINDS[bits]],
    )
    return Quantized(integers, np.dtype(np.float32))


def _integers(packed: Weight, shape: tuple[int, int], bits: int) -> Weight:
    """The first integers of each row of a uint8 tensor. Of two in a byte the first is in the lower half."""
    if bits == 8:
        return packed.reshaped((shape[0], packed.size // shape[0])).view(shape, lambda array: array[:, : shape[1]])

    def load() -> AnyArray:
        with limits.current().computing():
            limits.current().check_memory(2 * packed.size + math.prod(shape))
            limits.current().check_time()
            stored = packed.load()
            array = unpacked(stored.reshape(shape[0], -1))[:, : shape[1]]
            forget_mapped(stored)
            return array

    return Weight(load, shape, np.dtype(np.uint8), computed=True, depth=packed.depth + 1)
