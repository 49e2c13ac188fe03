"""Weights that a model has as integers with scales: constants of ``DequantizeLinear`` and of ``MatMulNBits``.

Both become a `Quantized` weight, so that a weights file gets their codes, scales and zero points as they are.
``MatMulNBits`` belongs to ONNX Runtime (domain com.microsoft). It becomes a MatMul and an Add before anything else sees
it, because the ``onnx`` package knows nothing of its shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from streamrt.convert import limits
from streamrt.convert.onnx.data import unpacked
from streamrt.convert.quantized import OFFSETS, Integers, Quantized
from streamrt.convert.weights import AnyArray, Weight, is_float

_DOMAIN = "com.microsoft"
_KINDS = {4: "uint4", 8: "uint8"}


def dequantized(node: NodeProto, inputs: list[Weight], dtype: np.dtype[Any]) -> Weight | None:
    """The result of a ``DequantizeLinear`` of constants, of type ``dtype``; None if it is no integers of 4 or 8 bits.

    It is also None if shapes do not fit together, so that the reference implementation finds the reason.
    """
    codes, scales, *rest = inputs
    zeros = rest[0] if rest else None
    given = {attribute.name: attribute.i for attribute in node.attribute}
    kind = codes.dtype.name
    if kind not in OFFSETS or not scales.is_float() or not is_float(dtype):
        return None
    if zeros is not None and (zeros.dtype != codes.dtype or zeros.shape != scales.shape):
        return None
    rank, axis, block = len(codes.shape), given.get("axis", 1), given.get("block_size", 0)
    if scales.size == 1 and not block:
        return Quantized(Integers(kind, codes, scales, zeros), dtype)
    if not -rank <= axis < rank:
        return None
    axis %= rank
    extent = codes.shape[axis]
    if block > 0:
        if scales.shape != (*codes.shape[:axis], -(-extent // block), *codes.shape[axis + 1 :]):
            return None
    elif block < 0 or scales.shape != (extent,):
        return None
    return Quantized(Integers(kind, codes, scales, zeros, axis, block or None), dtype)


def without_nbits(nodes: Sequence[NodeProto], constants: dict[str, Weight]) -> list[NodeProto]:
    """The nodes, with each ``MatMulNBits`` as a MatMul and, if it has a bias, an Add.

    The weights are added to ``constants``. A node that cannot be converted stays: see `nbits_problem`.
    """
    taken = {name for node in nodes for name in (*node.input, *node.output)} | constants.keys()
    found = []
    for node in nodes:
        weight = _weight(node, constants) if _is_nbits(node) else ""
        if isinstance(weight, str):
            found.append(node)
            continue
        name = _unused(f"{node.input[1]}.matrix", taken)
        constants[name] = weight.transposed()
        bias = node.input[5] if len(node.input) > 5 else ""
        product = _unused(f"{node.output[0]}.product", taken) if bias else node.output[0]
        found.append(helper.make_node("MatMul", [node.input[0], name], [product], name=node.name))
        if bias:
            found.append(helper.make_node("Add", [product, bias], [node.output[0]], name=f"{node.name}.bias"))
    return found


def nbits_problem(node: NodeProto, constants: Mapping[str, Weight]) -> str | None:
    """Why a ``MatMulNBits`` cannot be converted; None if the node is another one."""
    weight = _weight(node, constants) if _is_nbits(node) else None
    return weight if isinstance(weight, str) else None


def _is_nbits(node: NodeProto) -> bool:
    return (node.domain, node.op_type) == (_DOMAIN, "MatMulNBits")


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _weight(node: NodeProto, constants: Mapping[str, Weight]) -> Quantized | str:
    """The weights (N, K) of a ``MatMulNBits``, or why it cannot be converted."""
    given = {attribute.name: attribute.i for attribute in node.attribute}
    missing = [name for name in ("K", "N", "block_size") if given.get(name, 0) < 1]
    if missing:
        return f"attribute {missing[0]!r} is missing or below 1"
    inner, rows, block, bits = given["K"], given["N"], given["block_size"], given.get("bits", 4)
    if bits not in _KINDS:
        return f"attribute 'bits' is {bits}, expected 4 or 8"
    if block < 16 or block & (block - 1):
        return f"attribute 'block_size' is {block}, expected a power of 2 from 16 on"
    if not 3 <= len(node.input) <= 6 or len(node.output) != 1 or not all(node.input[:3]):
        return f"it has {len(node.input)} inputs and {len(node.output)} outputs, expected 3 to 6 and 1"
    names = [*node.input[:5], "", ""][:5]
    if names[4]:
        return "input 4 (g_idx) is given: weights in another order are not supported"
    blocks = -(-inner // block)
    sizes = {1: rows * blocks * (block * bits // 8), 2: rows * blocks, 3: rows * -(-blocks * bits // 8)}
    parts: list[Weight | None] = []
    for index, what in ((1, "B"), (2, "scales"), (3, "zero_points")):
        name = names[index]
        if not name:
            parts.append(None)
            continue
        weight = constants.get(name)
        if weight is None:
            return f"input {index} ({what}, {name!r}) is computed, expected a constant"
        expected = "a floating-point type" if what == "scales" else "uint8"
        if not (weight.is_float() if what == "scales" else weight.dtype == np.uint8):
            return f"input {index} ({what}, {name!r}) is {weight.dtype}, expected {expected}"
        if weight.size != sizes[index]:
            return f"input {index} ({what}, {name!r}) has shape {weight.shape}, expected {sizes[index]} elements"
        parts.append(weight)
    codes, scales, zeros = parts
    assert codes is not None
    assert scales is not None
    kind = _KINDS[bits]
    integers = Integers(
        kind,
        _unpacked(codes, (rows, blocks * block), inner, bits),
        scales.reshaped((rows, blocks)),
        Weight.of(np.broadcast_to(np.uint8(OFFSETS[kind]), (rows, blocks)))
        if zeros is None
        else _unpacked(zeros, (rows, sizes[3] // rows * 8 // bits), blocks, bits),
        axis=1,
        block=block,
    )
    return Quantized(integers, np.dtype(np.float32))


def _unpacked(packed: Weight, shape: tuple[int, int], inner: int, bits: int) -> Weight:
    """The first ``inner`` integers of each row of a uint8 tensor. Of two in a byte the first is the lower half."""

    def load() -> AnyArray:
        with limits.current().computing():
            limits.current().check_memory((3 if bits == 4 else 0) * math.prod(shape))
            limits.current().check_time()
            stored = packed.load().reshape(shape[0], -1)
            return (unpacked(stored) if bits == 4 else stored)[:, :inner]

    return Weight(load, (shape[0], inner), np.dtype(np.uint8), computed=True, depth=packed.depth + 1)
