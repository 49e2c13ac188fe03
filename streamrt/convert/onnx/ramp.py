"""Size values that grow evenly along an axis: ``step * i + inside`` at index i of axis 0.

Exporters compute indices so for a view of a tensor with other strides, where axis 0 is the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from streamrt.convert import limits
from streamrt.convert.weights import AnyArray
from streamrt.ops import Shape


@dataclass(frozen=True, slots=True)
class Ramp:
    """Integers that grow by ``step`` along axis 0.

    Attributes:
        count: the name of the free extent that axis 0 has.
        step: the difference of neighbours along axis 0.
        inside: the values at index 0, with an axis 0 of extent 1.
    """

    count: str
    step: int
    inside: AnyArray


def ramp_of(node: NodeProto, inputs: Sequence[Ramp | AnyArray | None], limit: str | None) -> Ramp | None:
    """The output of a node as a ramp, if it is one.

    Args:
        node: the node.
        inputs: its inputs, which are ramps or constants; None is any other input.
        limit: of a ``Range``, the name of the extent that ends it.
    """
    constants = [value for value in inputs if isinstance(value, np.ndarray)]
    if node.op_type == "Range":
        counts = limit is not None and len(inputs) == 3 and len(constants) == 2
        if counts and limit is not None and constants[0] == 0 and constants[1] == 1:
            return Ramp(limit, 1, np.zeros(1, np.int64))
        return None
    ramps = [value for value in inputs if isinstance(value, Ramp)]
    if len(ramps) != 1 or len(ramps) + len(constants) != len(inputs) or ramps[0].inside.dtype.kind != "i":
        return None
    rule = _RULES.get(node.op_type)
    return None if rule is None else rule(node, ramps[0], constants)


def _same(node: NodeProto, ramp: Ramp, constants: list[AnyArray]) -> Ramp:
    return ramp


def _add(node: NodeProto, ramp: Ramp, constants: list[AnyArray]) -> Ramp | None:
    """The constant must not vary along axis 0."""
    other = constants[0]
    if other.dtype.kind != "i" or other.ndim > ramp.inside.ndim or (other.ndim == ramp.inside.ndim and len(other) != 1):
        return None
    _hold(np.broadcast_shapes(ramp.inside.shape, other.shape))
    return Ramp(ramp.count, ramp.step, ramp.inside + other)


def _mul(node: NodeProto, ramp: Ramp, constants: list[AnyArray]) -> Ramp | None:
    other = constants[0]
    if other.dtype.kind != "i" or other.size != 1 or other.ndim > ramp.inside.ndim:
        return None
    factor = int(other.reshape(()))
    _hold(ramp.inside.shape)
    return Ramp(ramp.count, ramp.step * factor, ramp.inside * factor)


def _hold(shape: Shape) -> None:
    """Count int64 values of ``shape`` against the limits: sums with constants of other axes multiply their number."""
    limits.current().hold(8 * math.prod(shape))


def _unsqueeze(node: NodeProto, ramp: Ramp, constants: list[AnyArray]) -> Ramp | None:
    axes = [int(axis) for values in (*constants, *(a.ints for a in node.attribute)) for axis in values]
    rank = ramp.inside.ndim + len(axes)
    if any(axis % rank == 0 for axis in axes):
        return None
    return Ramp(ramp.count, ramp.step, np.expand_dims(ramp.inside, tuple(axes)))


def _reshape(node: NodeProto, ramp: Ramp, constants: list[AnyArray]) -> Ramp | None:
    shape = [int(extent) for extent in constants[0].reshape(-1)]
    if not shape or shape[0] != -1 or min(shape[1:], default=1) < 1 or np.prod(shape[1:]) != ramp.inside.size:
        return None
    return Ramp(ramp.count, ramp.step, ramp.inside.reshape(1, *shape[1:]))


_RULES: dict[str, Callable[[NodeProto, Ramp, list[AnyArray]], Ramp | None]] = {
    "Add": _add,
    "Identity": _same,
    "Mul": _mul,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
}
