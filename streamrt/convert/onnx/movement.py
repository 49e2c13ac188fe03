"""Conversion of the ONNX operators that move values.

Values that decide where elements go are attributes. If a model computes them from extents, they are size values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamrt.convert import limits
from streamrt.convert.onnx.infer import Extent, Extents, numbers_of
from streamrt.convert.onnx.node import LEAST, MOST, MOST_VALUES, OnnxNode, converts
from streamrt.convert.onnx.strided import before, permutation_of
from streamrt.convert.weights import AnyArray, is_integer
from streamrt.graph import Attr
from streamrt.ops import Shape


@converts("Flatten")
def flatten(node: OnnxNode) -> None:
    """``axis`` may be the rank: the result then has one column."""
    rank = node.rank(0)
    axis = node.int_("axis", 1)
    if not -rank <= axis <= rank:
        raise node.attribute_problem("axis", f"is {axis} for a tensor with {rank} axes, expected {-rank} to {rank}")
    node.emit("Flatten", node.moved_operands(0), {"axis": axis + rank if axis < 0 else axis})


@converts("Reshape")
def reshape(node: OnnxNode) -> None:
    """The target shape may be computed from extents.

    An extent that is no number becomes 0 (the input's extent) or -1 (the extent that remains) if that is all, because
    such a target is known without the values.
    """
    allowzero = node.flag("allowzero")
    (x,), wanted = node.moved_operands(0), node.elements(1, "shape")
    if not node.is_size(1):
        attrs: dict[str, Attr] = {"allowzero": 1} if allowzero and 0 in wanted else {}
        node.emit("Reshape", [x], {"shape": tuple(int(v) for v in wanted), **attrs})
        return
    target = _target(wanted, node.dims(0), node.out_dims(), allowzero)
    if target is not None:
        node.emit("Reshape", [x], {"shape": target})
    else:
        attrs = {"allowzero": 1} if allowzero else {}
        node.emit("Reshape", [x], attrs, sizes={"shape": node.size_list(1)})


def _target(wanted: Sequence[Any], x: Extents, out: Extents, allowzero: bool) -> Shape | None:
    """The target shape of a Reshape as numbers; None if more than one of its extents depends on extents of inputs."""
    target = []
    for axis, (element, extent) in enumerate(zip(wanted, out, strict=True)):
        if isinstance(extent, int) and extent > 0:
            target.append(extent)
        elif (extent is not None and axis < len(x) and x[axis] == extent) or (element == 0 and not allowzero):
            target.append(0)
        else:
            target.append(-1)
    return tuple(target) if target.count(-1) < 2 else None


@converts("Expand")
def expand(node: OnnxNode) -> None:
    """An Expand that changes no shape does nothing."""
    x, out = node.dims(0), node.out_dims()
    if x == out and None not in x:
        node.emit("Identity", node.moved_operands(0))
        return
    wanted = node.elements(1, "shape")
    before = (1,) * (len(wanted) - len(x)) + x[max(0, len(x) - len(wanted)) :]
    kept = [isinstance(e, int) or (e is not None and e == dim) for e, dim in zip(wanted, before, strict=True)]
    if all(kept):
        shape = tuple(element if isinstance(element, int) else 1 for element in wanted)
        node.emit("Expand", node.moved_operands(0), {"shape": shape})
    else:
        same = [element is not None and element == dim for element, dim in zip(wanted, before, strict=True)]
        at = [len(wanted) if is_same else axis for axis, is_same in enumerate(same)]
        node.emit("Expand", node.moved_operands(0), sizes={"shape": rearranged(node, 1, at, np.array([1]))})


@converts("Gather")
def gather(node: OnnxNode) -> None:
    """A single constant index becomes a Slice and a removal of its axis. Many constant indices become a weight."""
    rank = node.rank(0)
    axis = node.axis(node.int_("axis", 0), rank)
    if not node.is_constant(1):
        if not is_integer(node.dtype(1)):
            raise node.problem(f"input 1 ({node.input(1)!r}) is {node.dtype(1)}, expected integers")
        if not (rank == 1 and _transposes_samples(node)):
            node.emit("Gather", [*node.moved_operands(0), node.operand(1, integers=True)], {"axis": axis})
        return
    if rank == 1 and _transposes(node):
        return
    if node.facts.constants[node.input(1)].size > MOST_VALUES:
        node.emit("Gather", [*node.moved_operands(0), node.operand(1, integers=True)], {"axis": axis})
        return
    indices = node.constant(1, "indices")
    if indices.ndim == 0:
        index = int(indices)
        attrs: dict[str, Attr] = {"starts": (index,), "ends": (index + 1 if index != -1 else MOST,), "axes": (axis,)}
        part = node.emit("Slice", node.moved_operands(0), attrs, [node.temporary("part")])
        node.emit("Squeeze", [part], {"axes": (axis,)})
        return
    attrs = {"axis": axis, "indices": tuple(int(index) for index in indices.reshape(-1))}
    if indices.ndim != 1:
        attrs["indices_shape"] = indices.shape
    node.emit("Gather", node.moved_operands(0), attrs)


def _transposes(node: OnnxNode) -> bool:
    """Write a Gather from a flat tensor as a Transpose if the two are equal; returns whether it did."""
    extent, indices = node.dims(0)[0], node.constant(1, "indices", most=None)
    if not isinstance(extent, int):
        return False
    # The comparison holds three arrays as large as the indices.
    limits.current().check_memory(3 * 8 * indices.size)
    perm = permutation_of(indices, extent)
    if perm is not None:
        _emit_transposed(node, before(indices.shape, perm), perm)
    return perm is not None


def _transposes_samples(node: OnnxNode) -> bool:
    """As `_transposes`, for each sample of a flat tensor."""
    ramp = node.facts.ramps.get(node.input(1))
    flat = node.maker(0)
    if ramp is None or flat is None or flat.op != "Reshape":
        return False
    dims = node.facts.dims(flat.inputs[0])
    numbers = [dim for dim in dims or () if isinstance(dim, int)]
    if dims is None or [dim for dim in dims if not isinstance(dim, int)] != [ramp.count]:
        return False
    inside = ramp.inside[0]
    perm = permutation_of(inside, ramp.step) if math.prod(numbers) == ramp.step else None
    if perm is not None:
        _emit_transposed(node, (-1, *before(inside.shape, perm)), (0, *(axis + 1 for axis in perm)))
    return perm is not None


def _emit_transposed(node: OnnxNode, shape: Shape, perm: Shape) -> None:
    """A Reshape to ``shape`` and a Transpose."""
    plain = perm == tuple(range(len(perm)))
    apart = node.emit("Reshape", node.moved_operands(0), {"shape": shape}, None if plain else [node.temporary("apart")])
    if not plain:
        node.emit("Transpose", [apart], {"perm": perm})


@converts("Transpose")
def transpose(node: OnnxNode) -> None:
    """Without ``perm`` the axes are reversed."""
    rank = node.rank(0)
    perm = node.ints("perm") or tuple(range(rank))[::-1]
    if sorted(perm) != list(range(rank)):
        raise node.attribute_problem("perm", f"is {perm} for a tensor with {rank} axes, expected each axis once")
    node.emit("Transpose", node.moved_operands(0), {"perm": perm})


@converts("Squeeze")
def squeeze(node: OnnxNode) -> None:
    """Axes are an attribute up to opset 12, and an input after that. By default all axes of extent 1 are removed."""
    axes = node.ints("axes") if node.opset < 13 else node.integers(1, "axes")
    dims = node.dims(0)
    if axes is None:
        axes = tuple(axis for axis, dim in enumerate(dims) if dim == 1)
    node.emit("Squeeze", node.moved_operands(0), {"axes": node.axes(axes, len(dims))})


@converts("Unsqueeze")
def unsqueeze(node: OnnxNode) -> None:
    """Axes, counted in the result, are an attribute up to opset 12, and an input after that."""
    axes = node.ints("axes") if node.opset < 13 else node.integers(1, "axes")
    if axes is None:
        raise node.problem("no axes are given, expected at least one")
    node.emit("Unsqueeze", node.moved_operands(0), {"axes": node.axes(axes, node.rank(0) + len(axes))})


@converts("Concat")
def concat(node: OnnxNode) -> None:
    """With one input it does nothing."""
    inputs = node.moved_operands(*range(node.count()))
    if len(inputs) == 1:
        node.emit("Identity", inputs)
        node.ignore("axis")
    else:
        node.emit("Concat", inputs, {"axis": node.axis(node.int_("axis"), node.rank(0))})


@converts("Split")
def split(node: OnnxNode) -> None:
    """Sizes are an attribute (up to opset 12), an input, or equal. If they are numbers, inference knows them."""
    node.ignore("split", "num_outputs")
    axis = node.axis(node.int_("axis", 0), node.rank(0))
    (x,), names = node.moved_operands(0), list(node.proto.output)
    sizes = [dims[axis] for name in names if (dims := node.facts.dims(name)) is not None]
    found = numbers_of(tuple(sizes))
    if found is not None and len(found) == len(names):
        if 0 in found:
            raise node.problem(f"a part of size 0 in {list(found)}, expected all sizes above 0")
        node.emit("Split", [x], {"axis": axis, "split": found}, names)
    elif node.opset >= 13 and node.is_size(1):
        node.emit("Split", [x], {"axis": axis}, names, {"split": node.size_list(1)})
    elif node.has("split") or (node.opset >= 13 and node.given(1)):
        given = node.ints("split") if node.opset < 13 else node.integers(1, "split")
        node.emit("Split", [x], {"axis": axis, "split": given or ()}, names)
    else:
        node.emit("Split", [x], {"axis": axis}, names, {"split": _equal_parts(node, axis, len(names))})


def _equal_parts(node: OnnxNode, axis: int, count: int) -> str:
    """A size value: the extents of ``count`` parts of an axis. The last part has the rest."""

    def number(value: int) -> str:
        return node.size_constant(np.array([value]))

    extent = node.size_node("Shape", node.moved_operands(0), {"start": axis, "end": axis + 1})
    part = node.size_node("Div", [node.size_node("Add", [extent, number(count - 1)]), number(count)])
    rest = node.size_node("Sub", [extent, node.size_node("Mul", [part, number(count - 1)])])
    parts = node.size_node("Expand", [part, number(count - 1)])
    return node.size_node("Concat", [parts, rest], {"axis": 0})


@converts("Slice")
def slice_(node: OnnxNode) -> None:
    """Bounds are attributes up to opset 9, and inputs after that. An end that is the end of the axis becomes `MOST`.

    Bounds and steps may depend on extents.
    """
    dims = node.dims(0)
    if node.opset < 10:
        starts, ends, axes, steps = node.ints("starts"), node.ints("ends"), node.ints("axes"), None
        if starts is None or ends is None:
            raise node.problem("attributes 'starts' and 'ends' are missing")
        bounds: list[Sequence[Any]] = [starts, ends]
    else:
        bounds = [node.elements(1, "starts"), node.elements(2, "ends")]
        axes, steps = node.integers(3, "axes"), node.elements(4, "steps") if node.given(4) else None
    count = len(bounds[0])
    axes = tuple(range(count)) if axes is None else tuple(node.axis(axis, len(dims)) for axis in axes)
    bounds.append((1,) * count if steps is None else steps)
    if {len(axes), *map(len, bounds)} != {count} or 0 in bounds[2]:
        raise node.problem(
            f"starts and ends {bounds[:2]}, axes {axes} and steps {bounds[2]} do not fit together: expected as many of "
            "each, and no step of 0"
        )
    numbers = [
        [_bound(element, dims[axis]) for element, axis in zip(elements, axes, strict=True)] for elements in bounds
    ]
    kept = [i for i in range(count) if tuple(found[i] for found in numbers) != (0, MOST, 1)]
    if not kept:
        node.emit("Identity", node.moved_operands(0))
        return
    attrs: dict[str, Attr] = {}
    sizes: dict[str, str] = {}
    if any(None in found for found in numbers):
        kept = list(range(count))  # a size value has the bounds of all axes
    for index, (name, found) in enumerate(zip(("starts", "ends", "steps"), numbers, strict=True), 1):
        if None in found:
            sizes[name] = node.size_list(index if index < 3 else 4)
        elif name != "steps" or any(found[i] != 1 for i in kept):
            attrs[name] = tuple(value for i in kept if (value := found[i]) is not None)
    attrs["axes"] = tuple(axes[i] for i in kept)
    node.emit("Slice", node.moved_operands(0), attrs, sizes=sizes)


def _bound(element: Any, extent: Extent) -> int | None:
    """A start, an end or a step as a number; None if it depends on extents and is not the extent of its axis."""
    if isinstance(element, str) and element == extent:
        return MOST
    return max(LEAST, min(MOST, element)) if isinstance(element, int) else None


@converts("Pad")
def pad(node: OnnxNode) -> None:
    """Pads are an attribute up to opset 10, and an input after that. From opset 18 on they may omit some axes."""
    mode = node.text("mode", "constant", ("constant", "reflect", "edge", "wrap"))
    rank = node.rank(0)
    attrs: dict[str, Attr] = {"mode": mode}
    sizes: dict[str, str] = {}
    axes = None
    value: int | float
    if node.opset < 11:
        pads: Sequence[Any] | None = node.ints("pads")
        value = node.float_("value", 0.0, finite=False)
    else:
        pads, axes = node.elements(1, "pads"), node.integers(3, "axes")
        if mode == "constant" and node.is_size(2):
            value, sizes["value"] = 0.0, node.size_number(2)
        else:
            value = node.scalar(2, "constant_value") or 0.0
    axes = tuple(range(rank)) if axes is None else tuple(node.axis(axis, rank) for axis in axes)
    if pads is None or len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise node.problem(f"pads are {pads}, expected two for each of the axes {axes}")
    if mode == "constant" and not sizes:
        if math.isnan(value):
            raise node.problem("the padding value is NaN, expected a number")
        if is_integer(node.dtype(0)):
            given = node.integers(2, "constant_value")
            value = given[0] if given else 0
            if node.is_exact(0):
                value = float(value)
        attrs["value"] = value
    # For each axis, before and after it, the position of its number in ``pads``, or the position after the last one.
    at = [2 * len(axes)] * (2 * rank)
    for i, axis in enumerate(axes):
        at[axis], at[rank + axis] = i, len(axes) + i
    if node.opset >= 11 and node.is_size(1):
        sizes["pads"] = rearranged(node, 1, at, np.array([0]))
    else:
        full = tuple(int([*pads, 0][position]) for position in at)
        if not any(full):
            node.emit("Identity", node.moved_operands(0))
            return
        attrs["pads"] = full
    node.emit("Pad", node.moved_operands(0), attrs, sizes=sizes)


def rearranged(node: OnnxNode, index: int, at: Sequence[int], last: AnyArray) -> str:
    """A size value: the elements of an input, and after them ``last``, at the positions ``at``.

    ``last`` is a number that keeps an extent. It is better than the extent itself, which may be the number of samples.
    """
    given = node.size_list(index)
    if list(at) == list(range(len(at))):
        return given
    whole = node.size_node("Concat", [given, node.size_constant(last)], {"axis": 0})
    return node.size_node("Gather", [whole, node.size_constant(np.array(at, np.int64))])
