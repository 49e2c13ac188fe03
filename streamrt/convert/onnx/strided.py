"""A step of layout that an exporter wrote as a Gather from a flat tensor.

Where a tensor's memory is looked at with other strides (``as_strided`` of torch), ONNX has no word for it: exporters
flatten the tensor and gather from it, at indices that they compute from its extents. What that is in truth is read off
the indices themselves, under every probe: if they are those of a transposition, it is one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamrt.convert.probes import Shape
from streamrt.convert.weights import AnyArray


def permutation_of(indices: Sequence[AnyArray], sizes: Sequence[int]) -> tuple[int, ...] | None:
    """The ``perm`` of a Transpose that moves all values of a flat tensor as gathering at ``indices`` does.

    There is one array of indices, and one size of the tensor, for each probe. The Transpose is of the tensor in the
    shape that `before` tells; None when there is no such permutation, the same under all probes.
    """
    rank = indices[0].ndim
    if any(index.ndim != rank or index.size != size or not size for index, size in zip(indices, sizes, strict=True)):
        return None
    # Axes with the longest strides come first. An axis of extent 1 has none, and any place will do.
    strides = [max(_stride(index, axis) for index in indices) for axis in range(rank)]
    order = sorted(range(rank), key=lambda axis: -strides[axis])
    perm = tuple(order.index(axis) for axis in range(rank))
    for index, size in zip(indices, sizes, strict=True):
        moved = np.arange(size).reshape(before(index.shape, perm)).transpose(perm)
        if not np.array_equal(moved, np.where(index < 0, index + size, index)):
            return None
    return perm


def before(shape: Shape, perm: Sequence[int]) -> Shape:
    """The shape that a Transpose by ``perm`` takes to ``shape``."""
    found = [0] * len(perm)
    for axis, source in enumerate(perm):
        found[source] = shape[axis]
    return tuple(found)


def _stride(index: AnyArray, axis: int) -> int:
    """The difference between the first two indices along an axis."""
    along = np.moveaxis(index, axis, 0).reshape(index.shape[axis], -1)[:2, 0]
    return int(along[-1]) - int(along[0])
