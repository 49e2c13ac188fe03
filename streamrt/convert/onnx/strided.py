"""Transposes that an exporter wrote as a Gather from a flat tensor.

ONNX cannot express a view of a tensor with other strides (``as_strided`` of torch). So exporters flatten the tensor and
gather from it, with indices that they compute from its extents. If these are numbers, the indices are constant and show
whether the Gather is a transposition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamrt.convert.weights import AnyArray
from streamrt.ops import Shape


def permutation_of(indices: AnyArray, size: int) -> tuple[int, ...] | None:
    """The ``perm`` of a Transpose that equals gathering a flat tensor at ``indices``; None if no Transpose does.

    The Transpose is of the tensor in the shape that `before` gives.

    Args:
        indices: the indices.
        size: the extent of the flat tensor.
    """
    rank = indices.ndim
    if indices.size != size or not size:
        return None
    # Axes with the longest strides come first. An axis of extent 1 has stride 0 and may be anywhere.
    strides = [_stride(indices, axis) for axis in range(rank)]
    order = sorted(range(rank), key=lambda axis: -strides[axis])
    perm = tuple(order.index(axis) for axis in range(rank))
    moved = np.arange(size).reshape(before(indices.shape, perm)).transpose(perm)
    return perm if np.array_equal(moved, np.where(indices < 0, indices + size, indices)) else None


def before(shape: Shape, perm: Sequence[int]) -> Shape:
    """The shape of a tensor whose Transpose by ``perm`` has ``shape``."""
    found = [0] * len(perm)
    for axis, source in enumerate(perm):
        found[source] = shape[axis]
    return tuple(found)


def _stride(index: AnyArray, axis: int) -> int:
    """The difference between the first two indices along an axis."""
    along = np.moveaxis(index, axis, 0).reshape(index.shape[axis], -1)[:2, 0]
    return int(along[-1]) - int(along[0])
