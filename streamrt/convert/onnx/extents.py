"""Extents of results that the values of inputs decide: what ONNX's inference does not find if a value is known in part.

ONNX's inference takes a value as a whole or not at all. The functions here take it element by element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto

from streamrt.convert.onnx.infer import Extent, Extents
from streamrt.convert.onnx.partial import Partial
from streamrt.convert.terms import divided, times
from streamrt.format.layout import MAX_DIMS


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is known of a node's inputs, in their order; None is an input left out, or a fact that is not known."""

    node: NodeProto
    dims: Sequence[Extents | None]
    values: Sequence[Partial | None]

    def value(self, index: int) -> list[Any] | None:
        """The elements of a value, each as far as it is known; None if their number is not."""
        if index >= len(self.dims):
            return None
        found = self.values[index]
        if found is not None:
            return found.reshape(-1).tolist()
        dims = self.dims[index]
        if dims is None or not all(isinstance(dim, int) for dim in dims):
            return None
        count = math.prod(dim for dim in dims if isinstance(dim, int))
        return [None] * count if count <= MAX_DIMS else None

    def given(self, index: int) -> bool:
        """Whether an input is there."""
        return index < len(self.node.input) and self.node.input[index] != ""

    def ints(self, name: str) -> tuple[int, ...] | None:
        """An attribute that is a list of integers."""
        return next((tuple(a.ints) for a in self.node.attribute if a.name == name), None)

    def int_(self, name: str, default: int) -> int:
        """An integer attribute."""
        return next((int(a.i) for a in self.node.attribute if a.name == name), default)

    def axes(self, rank: int, index: int | None = None) -> list[int] | None:
        """The axes in an input or the attribute ``axes``, counted from the front; None if they are not known."""
        found: Sequence[Any] | None = self.ints("axes")
        if index is not None and self.given(index):
            found = self.value(index)
        elif found is None:
            return list(range(rank))
        if found is None or not all(isinstance(axis, int) and -rank <= axis < rank for axis in found):
            return None
        return [axis % rank for axis in found]


Rule = Callable[[Inputs], "Extents | None"]


def refined(inputs: Inputs, inferred: Extents | None, opset: int) -> Extents | None:
    """The extents of output 0, from the values of inputs and from those that ONNX's inference found."""
    rule = _RULES.get(inputs.node.op_type)
    if rule is None or not inputs.dims:
        return inferred
    if inputs.node.op_type == "Resize" and opset < 11:
        return inferred
    found = rule(inputs)
    if found is None or len(found) > MAX_DIMS or (inferred is not None and len(found) != len(inferred)):
        return inferred
    return found if inferred is None else tuple(map(_better, found, inferred))


def _better(one: Extent, other: Extent) -> Extent:
    """The better known of two statements about one extent."""
    return min((one, other), key=lambda dim: (dim is None, isinstance(dim, str)))


def _extent(element: Any) -> Extent:
    """An element as an extent: a number, a name, or None."""
    if isinstance(element, str):
        return element
    return int(element) if isinstance(element, int) and not isinstance(element, bool) and element >= 0 else None


def _reshape(inputs: Inputs) -> Extents | None:
    """The product of all extents stays, so that one extent that is not known follows from the others."""
    wanted, x = inputs.value(1), inputs.dims[0]
    if wanted is None:
        return None
    out: list[Extent] = []
    for axis, element in enumerate(wanted):
        if element == 0 and not inputs.int_("allowzero", 0):
            out.append(x[axis] if x is not None and axis < len(x) else None)
        else:
            out.append(_extent(element))
    if out.count(None) == 1 and x is not None and None not in x:
        total, known = _product(x), _product([dim for dim in out if dim is not None])
        if total is not None and known is not None:
            out[out.index(None)] = divided(total, known)
    return tuple(out)


def _product(dims: Sequence[Extent]) -> Extent:
    found: Extent = 1
    for dim in dims:
        found = None if found is None or dim is None else times(found, dim)
    return found


def _expand(inputs: Inputs) -> Extents | None:
    wanted, x = inputs.value(1), inputs.dims[0]
    if wanted is None or x is None:
        return None
    rank = max(len(wanted), len(x))
    pairs = zip((1,) * (rank - len(x)) + x, [1] * (rank - len(wanted)) + wanted, strict=True)
    return tuple(_broadcast(dim, _extent(element)) for dim, element in pairs)


def _broadcast(one: Extent, other: Extent) -> Extent:
    """The extent to which two broadcast. A name or an extent that is not known may be 1."""
    if one == 1:
        return other
    if other == 1 or one == other:
        return one
    numbers = [dim for dim in (one, other) if isinstance(dim, int)]
    return numbers[0] if len(numbers) == 1 else None


def _constant_of_shape(inputs: Inputs) -> Extents | None:
    wanted = inputs.value(0)
    return None if wanted is None else tuple(map(_extent, wanted))


def _range(inputs: Inputs) -> Extents | None:
    ends = [inputs.value(index) for index in range(3)]
    if any(end is None or len(end) != 1 for end in ends):
        return None
    start, limit, delta = (end[0] for end in ends if end is not None)
    return (limit,) if start == 0 and delta == 1 and isinstance(limit, str) else (None,)


def _slice(inputs: Inputs) -> Extents | None:
    x = inputs.dims[0]
    if x is None:
        return None
    axes = inputs.axes(len(x), 3)
    starts, ends = inputs.ints("starts") or inputs.value(1), inputs.ints("ends") or inputs.value(2)
    steps = inputs.value(4) if inputs.given(4) else None
    if axes is None or starts is None or ends is None:
        return (None,) * len(x)
    out = list(x)
    for i, axis in enumerate(axes[: len(starts)]):
        step = 1 if not inputs.given(4) else None if steps is None or i >= len(steps) else steps[i]
        whole = starts[i] == 0 and step == 1 and i < len(ends)
        whole = whole and (ends[i] == x[axis] or (isinstance(ends[i], int) and ends[i] >= 2**31 - 1))
        if not whole or x[axis] is None:
            out[axis] = None
    return tuple(out)


def _tile(inputs: Inputs) -> Extents | None:
    x, repeats = inputs.dims[0], inputs.value(1)
    if x is None or repeats is None or len(repeats) != len(x):
        return None
    out: list[Extent] = []
    for dim, element in zip(x, repeats, strict=True):
        count = _extent(element)
        if count == 1 or dim == 1:
            out.append(dim if count == 1 else count)
        else:
            out.append(None if dim is None or count is None else times(dim, count))
    return tuple(out)


def _pad(inputs: Inputs) -> Extents | None:
    x = inputs.dims[0]
    pads: Sequence[Any] | None = inputs.ints("pads") or inputs.value(1)
    if x is None:
        return None
    axes = inputs.axes(len(x), 3)
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        return (None,) * len(x)
    out = list(x)
    for begin, end, axis in zip(pads, pads[len(axes) :], axes, strict=False):
        dim = x[axis]
        if begin == 0 == end:
            continue
        known = isinstance(begin, int) and isinstance(end, int) and isinstance(dim, int)
        out[axis] = _extent(dim + begin + end) if known else None
    return tuple(out)


def _resize(inputs: Inputs) -> Extents | None:
    x = inputs.dims[0]
    plain = all(a.name != "keep_aspect_ratio_policy" or a.s == b"stretch" for a in inputs.node.attribute)
    if x is None or not plain:
        return None
    axes = inputs.axes(len(x))
    by_size = inputs.given(3)
    wanted = inputs.value(3 if by_size else 2)
    if axes is None or wanted is None or len(wanted) != len(axes):
        return (None,) * len(x)
    out = list(x)
    for axis, element in zip(axes, wanted, strict=True):
        if by_size:
            out[axis] = _extent(element)
        elif element != 1:
            out[axis] = None
    return tuple(out)


def _squeeze(inputs: Inputs) -> Extents | None:
    """Without axes, the axes that are known to have extent 1 are removed."""
    x = inputs.dims[0]
    if x is None or inputs.given(1) or inputs.ints("axes") is not None:
        return None
    return tuple(dim for dim in x if dim != 1)


_RULES: dict[str, Rule] = {
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Tile": _tile,
}

#: The operators for which `refined` may know more than ONNX's inference.
DECIDED_BY_VALUES = frozenset(_RULES)
