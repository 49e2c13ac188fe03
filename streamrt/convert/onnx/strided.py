"""Transposes that an exporter wrote as a Gather from a flat tensor.

ONNX cannot express a view of a tensor with other strides (``as_strided`` of torch). So exporters flatten the tensor and
gather from it, with indices that they compute from its extents. The indices under every probe show whether the Gather
is a transposition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamrt.convert.probes import Shape
from streamrt.convert.weights import AnyArray


def permutation_of(indices: Sequence[AnyArray], sizes: Sequence[int]) -> tuple[int, ...] | None:
    """The ``perm`` of a Transpose that equals gathering a flat tensor at ``indices``; None if no Transpose does.

    The Transpose is of the tensor in the shape that `before` gives. It must be the same under all probes.

    Args:
        indices: the indices under each probe.
        sizes: the extent of the flat tensor under each probe.
    """
    rank = indices[0].ndim
    if any(index.ndim != rank or index.size != size or not size for index, size in zip(indices, sizes, strict=True)):
        return None
    # Axes with the longest strides come first. An axis of extent 1 has stride 0 and may be anywhere.
    strides = [max(_stride(index, axis) for index in indices) for axis in range(rank)]
    order = sorted(range(rank), key=lambda axis: -strides[axis])
    perm = tuple(order.index(axis) for axis in range(rank))
    for index, size in zip(indices, sizes, strict=True):
        moved = np.arange(size).reshape(before(index.shape, perm)).transpose(perm)
        if not np.array_equal(moved, np.where(index < 0, index + size, index)):
            return None
    return perm


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
