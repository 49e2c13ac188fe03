"""Example extents: numbers for the free extents of a model, with which its graph is lowered once when it is packed.

So a graph that cannot run is refused when it is packed. A model may accept few sizes, so several examples are tried.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamrt.graph import Dims, TensorSpec
from streamrt.ops import Shape

#: A number for each free extent, by its name.
Example = dict[str, int]

#: The batch of most examples: a multiple of 8, so that a model may divide it.
_BATCH = 24
#: The batch of the last example: values that are computed from sizes may be too large for `_BATCH` samples.
_FEW = 8
#: Other extents (images, sequences), to try in this order.
_EXTENTS = (224, 64, 32, 512)
#: Each further such extent is larger by this step, so that axes differ.
_STEP = 32
#: Equal values of these extents, to try last: usual sizes of images, and 1.
_EQUAL = (224, 227, 299, 32, 28, 1)


def examples(inputs: Sequence[TensorSpec]) -> list[Example]:
    """Examples to try in this order; one empty example for a model without free extents."""
    batches: list[str] = []
    others: list[str] = []
    for spec in inputs:
        for axis, dim in enumerate(spec.dims):
            if isinstance(dim, str):
                (others if axis else batches).append(dim)
    common = dict.fromkeys(batches, _BATCH)
    others = [name for name in dict.fromkeys(others) if name not in common]
    if not others:
        return [common, dict.fromkeys(batches, _FEW)] if batches else [common]
    found = [common | {name: extent + _STEP * index for index, name in enumerate(others)} for extent in _EXTENTS]
    found += [common | dict.fromkeys(others, extent) for extent in _EQUAL]
    return [*found, found[0] | dict.fromkeys(batches, _FEW)] if batches else found


def one_sample(inputs: Sequence[TensorSpec], example: Example) -> Example:
    """``example`` with 1 for every batch, which is a free extent of axis 0."""
    return example | {spec.dims[0]: 1 for spec in inputs if spec.dims and isinstance(spec.dims[0], str)}


def substitute(dims: Dims, example: Example) -> Shape:
    """``dims`` with the example's values for its names."""
    return tuple(example[dim] if isinstance(dim, str) else dim for dim in dims)
