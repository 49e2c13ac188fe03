"""Probes: trial values for the dynamic extents of a model.

Probes show which values depend on a dynamic extent. Shapes are computed for several sets of extents. A value that is
the same for all sets is a constant; a value that always equals an extent is that extent. This works for any arithmetic
that a model does with shapes, and needs no symbolic algebra. Usual sizes are multiples of 32. With such sizes, a model
that halves and doubles an extent seems to keep it. So a third set has odd sizes, if the model accepts them.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamrt.errors import FormatError
from streamrt.graph import Dims, TensorSpec

Shape = tuple[int, ...]
Probe = dict[str, int]

#: Trial values for the batch: multiples of 8, so that a model may divide them, and different after division.
_BATCHES = (24, 40, 56)
#: Trial values for other axes (images, sequences). The sets are tried in this order until the model accepts one. The
#: values of a set lie far apart, because a network of stride 64 gives the same size for 224 and 256.
_EXTENTS = ((224, 448, 611), (64, 192, 139), (32, 16, 55), (512, 832, 643))
#: Each further such axis has values that are larger by these steps, so that axes differ.
_STEPS = (32, 64, 18)
#: Sizes to try last, for models that accept one size only: usual sizes of images, and 1.
_FIXED = (224, 227, 299, 32, 28, 1)


def trials(inputs: Sequence[TensorSpec]) -> list[tuple[Probe, ...]]:
    """Sets of probes to try in this order; for a model without dynamic extents, one pair of empty probes."""
    batches: list[str] = []
    others: list[str] = []
    for spec in inputs:
        for axis, dim in enumerate(spec.dims):
            if isinstance(dim, str):
                (others if axis else batches).append(dim)
    batches = list(dict.fromkeys(batches))
    others = [name for name in dict.fromkeys(others) if name not in batches]
    common = [dict.fromkeys(batches, batch) for batch in _BATCHES]
    if not others:
        return [tuple(common[:2])]
    found: list[tuple[Probe, ...]] = []
    for extents in _EXTENTS:
        probes = tuple(
            batch | {name: extent + step * index for index, name in enumerate(others)}
            for batch, extent, step in zip(common, extents, _STEPS, strict=True)
        )
        found += [probes, probes[:2]]
    found += [tuple(batch | dict.fromkeys(others, extent) for batch in common[:2]) for extent in _FIXED]
    return found


def one_sample(inputs: Sequence[TensorSpec], probe: Probe) -> Probe:
    """``probe`` with 1 for every batch, which is a dynamic extent of axis 0."""
    return probe | {spec.dims[0]: 1 for spec in inputs if spec.dims and isinstance(spec.dims[0], str)}


def substitute(dims: Dims, probe: Probe) -> Shape:
    """``dims`` with the probe's values for its names."""
    return tuple(probe[dim] if isinstance(dim, str) else dim for dim in dims)


def generalise(name: str, shapes: Sequence[Shape], probes: Sequence[Probe]) -> Dims:
    """The dims of tensor ``name`` from its shape under each probe.

    An extent that varies and equals no extent of the inputs is dynamic, and is named after the tensor and the axis.
    """
    if len({len(shape) for shape in shapes}) != 1:
        raise FormatError(f"the rank of {name!r} depends on the extents of the inputs")
    dims: list[int | str] = []
    for axis, extents in enumerate(zip(*shapes, strict=True)):
        if len(set(extents)) == 1:
            dims.append(extents[0])
            continue
        same = [
            dim for dim in probes[0] if all(probe[dim] == extent for probe, extent in zip(probes, extents, strict=True))
        ]
        dims.append(same[0] if same else f"{name}_{axis}")
    return tuple(dims)
