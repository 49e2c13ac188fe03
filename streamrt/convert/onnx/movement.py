"""Conversion of the ONNX operators that move values. Values that a model computes from shapes become constants here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from streamrt.convert import limits
from streamrt.convert.onnx.extents import extents, lender, matching
from streamrt.convert.onnx.node import LEAST, MOST, MOST_VALUES, OnnxNode, converts
from streamrt.convert.onnx.strided import before, permutation_of
from streamrt.convert.probes import Shape
from streamrt.convert.weights import is_integer
from streamrt.graph import Attr


@converts("Flatten")
def flatten(node: OnnxNode) -> None:
    """``axis`` may be the rank: the result then has one column."""
    rank = node.rank(0)
    axis = node.int_("axis", 1)
    if not -rank <= axis <= rank:
        raise node.attribute_problem("axis", f"is {axis} for a tensor with {rank} axes, expected {-rank} to {rank}")
    node.emit("Flatten", [node.any_operand(0)], {"axis": axis + rank if axis < 0 else axis})


@converts("Reshape")
def reshape(node: OnnxNode) -> None:
    """The target shape may be computed from shapes.

    An extent that varies becomes 0 (the input's extent), -1 (the extent that remains), or the extent of another tensor.
    """
    allowzero = node.flag("allowzero")
    targets = [tuple(int(v) for v in value.reshape(-1)) for value in node.values(1, "shape")]
    _emit_reshape(node, targets, node.out_shapes(), allowzero)


def _emit_reshape(
    node: OnnxNode,
    targets: Sequence[Shape],
    outputs: Sequence[Shape],
    allowzero: bool = False,
    names: list[str] | None = None,
) -> str:
    """Add a Reshape. ``targets`` has its target under each probe, ``outputs`` the shape of the result."""
    x = node.any_operand(0)
    if len({len(target) for target in targets}) != 1:
        raise node.problem("the rank of the result depends on the extents of the model's inputs")
    if all(target == targets[0] for target in targets):
        shape = list(targets[0])
        attrs: dict[str, Attr] = {"allowzero": 1} if allowzero and 0 in shape else {}
        return node.emit("Reshape", [x], {"shape": tuple(shape), **attrs}, names)
    shapes = node.shapes(0)
    dims: list[int] = []
    loose: dict[int, list[int]] = {}  # extents that vary and are not the input's
    for axis in range(len(targets[0])):
        found = [out[axis] for out in outputs]
        if len(set(found)) == 1 and found[0] > 0:
            dims.append(found[0])
        else:
            dims.append(0)
            if any(axis >= len(shape) or shape[axis] != extent for shape, extent in zip(shapes, found, strict=True)):
                loose[axis] = found
    inputs, taken = [x], {}
    if len(loose) > 1:  # one can be -1
        taken = matching(shapes, loose)
        if len(taken) < len(loose) - 1:
            lent = lender(node, loose, all_but=1)
            if lent is None:
                raise node.problem(f"extents {sorted(loose)} of the result depend on the model's inputs")
            inputs, taken = [x, lent[0]], lent[1]
    for axis in loose.keys() - taken.keys():
        dims[axis] = -1
    attrs = {"shape": tuple(dims)}
    if taken:
        attrs["extents"] = extents(len(dims), taken)
    return node.emit("Reshape", inputs, attrs, names)


@converts("Expand")
def expand(node: OnnxNode) -> None:
    """An Expand that changes no shape does nothing."""
    shapes = node.shapes(0)
    if shapes == node.out_shapes():
        node.emit("Identity", [node.any_operand(0)])
        return
    targets = [tuple(int(v) for v in value.reshape(-1)) for value in node.values(1, "shape")]
    inputs, wanted, loose = [node.any_operand(0)], [], {}
    count = len(targets[0])
    for axis in range(-count, 0):
        found = [target[axis] for target in targets]
        wanted.append(found[0] if len(set(found)) == 1 else 1)
        if len(set(found)) > 1 and any(
            -axis > len(shape) or shape[axis] != extent for shape, extent in zip(shapes, found, strict=True)
        ):
            loose[count + axis] = found
    attrs: dict[str, Attr] = {"shape": tuple(wanted)}
    if loose:
        lent = lender(node, loose)
        if lent is None:
            raise node.problem(f"extents {sorted(loose)} of the result depend on the model's inputs")
        inputs.append(lent[0])
        attrs["extents"] = extents(count, lent[1])
    node.emit("Expand", inputs, attrs)


@converts("Gather")
def gather(node: OnnxNode) -> None:
    """A single constant index becomes a Slice and a removal of its axis. Many constant indices become a weight."""
    rank = node.rank(0)
    axis = node.axis(node.int_("axis", 0), rank)
    if not node.facts.is_known(node.input(1)):
        if not is_integer(node.dtype(1)):
            raise node.problem(f"input 1 ({node.input(1)!r}) is {node.dtype(1)}, expected integers")
        node.emit("Gather", [node.any_operand(0), node.operand(1, integers=True)], {"axis": axis})
        return
    if rank == 1 and _transposes(node):
        return
    if node.is_constant(1) and math.prod(node.shapes(1)[0]) > MOST_VALUES:
        node.emit("Gather", [node.any_operand(0), node.operand(1, integers=True)], {"axis": axis})
        return
    indices = node.constant(1, "indices")
    if indices.ndim == 0:
        index = int(indices)
        attrs: dict[str, Attr] = {"starts": (index,), "ends": (index + 1 if index != -1 else MOST,), "axes": (axis,)}
        part = node.emit("Slice", [node.any_operand(0)], attrs, [node.temporary("part")])
        node.emit("Squeeze", [part], {"axes": (axis,)})
        return
    attrs = {"axis": axis, "indices": tuple(int(index) for index in indices.reshape(-1))}
    if indices.ndim != 1:
        attrs["indices_shape"] = indices.shape
    node.emit("Gather", [node.any_operand(0)], attrs)


def _transposes(node: OnnxNode) -> bool:
    """Write a Gather from a flat tensor as a Transpose if the two are equal; returns whether it did."""
    indices = node.values(1, "indices", most=None)
    # The comparison holds three arrays as large as the indices.
    limits.current().check_memory(max(3 * 8 * index.size for index in indices))
    perm = permutation_of(indices, [shape[0] for shape in node.shapes(0)])
    if perm is None:
        return False
    shapes = [before(index.shape, perm) for index in indices]
    if perm == tuple(range(len(perm))):
        _emit_reshape(node, shapes, shapes)
    else:
        apart = _emit_reshape(node, shapes, shapes, names=[node.temporary("apart")])
        node.emit("Transpose", [apart], {"perm": perm})
    return True


@converts("Transpose")
def transpose(node: OnnxNode) -> None:
    """Without ``perm`` the axes are reversed."""
    rank = node.rank(0)
    perm = node.ints("perm") or tuple(range(rank))[::-1]
    if sorted(perm) != list(range(rank)):
        raise node.attribute_problem("perm", f"is {perm} for a tensor with {rank} axes, expected each axis once")
    node.emit("Transpose", [node.any_operand(0)], {"perm": perm})


@converts("Squeeze")
def squeeze(node: OnnxNode) -> None:
    """Axes are an attribute up to opset 12, and an input after that. By default all axes of extent 1 are removed."""
    axes = node.ints("axes") if node.opset < 13 else node.integers(1, "axes")
    shapes = node.shapes(0)
    if axes is None:
        axes = tuple(axis for axis, extents in enumerate(zip(*shapes, strict=True)) if set(extents) == {1})
    node.emit("Squeeze", [node.any_operand(0)], {"axes": node.axes(axes, len(shapes[0]))})


@converts("Unsqueeze")
def unsqueeze(node: OnnxNode) -> None:
    """Axes, counted in the result, are an attribute up to opset 12, and an input after that."""
    axes = node.ints("axes") if node.opset < 13 else node.integers(1, "axes")
    if axes is None:
        raise node.problem("no axes are given, expected at least one")
    node.emit("Unsqueeze", [node.any_operand(0)], {"axes": node.axes(axes, node.rank(0) + len(axes))})


@converts("Concat")
def concat(node: OnnxNode) -> None:
    """With one input it does nothing."""
    inputs = [node.any_operand(index) for index in range(node.count())]
    if len(inputs) == 1:
        node.emit("Identity", inputs)
        node.ignore("axis")
    else:
        node.emit("Concat", inputs, {"axis": node.axis(node.int_("axis"), node.rank(0))})


@converts("Split")
def split(node: OnnxNode) -> None:
    """Sizes are an attribute (up to opset 12), an input, or equal. They are taken from the inferred shapes."""
    node.ignore("split", "num_outputs")
    axis = node.axis(node.int_("axis", 0), node.rank(0))
    if node.opset >= 13 and node.given(1):
        node.constant(1, "split")
    sizes = []
    for index, name in enumerate(node.proto.output):
        extents = {shape[axis] for shape in node.out_shapes(index)}
        if len(extents) != 1:
            raise node.problem(f"the size of output {name!r} depends on the extents of the model's inputs")
        sizes.append(extents.pop())
    if 0 in sizes:
        raise node.problem(f"a part of size 0 in {sizes}, expected all sizes above 0")
    node.emit("Split", [node.any_operand(0)], {"axis": axis, "split": tuple(sizes)}, list(node.proto.output))


@converts("Slice")
def slice_(node: OnnxNode) -> None:
    """Bounds are attributes up to opset 9, and inputs after that.

    An end that is the end of the axis becomes `MOST`.
    """
    shapes = node.shapes(0)
    rank = len(shapes[0])
    if node.opset < 10:
        starts, ends, axes, steps = node.ints("starts"), node.ints("ends"), node.ints("axes"), None
        if starts is None or ends is None:
            raise node.problem("attributes 'starts' and 'ends' are missing")
        bounds = [[starts, ends]] * len(shapes)
    else:
        both = zip(node.values(1, "starts"), node.values(2, "ends"), strict=True)
        bounds = [[tuple(int(v) for v in value.reshape(-1)) for value in pair] for pair in both]
        axes, steps = node.integers(3, "axes"), node.integers(4, "steps")
    count = len(bounds[0][0])
    axes = tuple(range(count)) if axes is None else tuple(node.axis(axis, rank) for axis in axes)
    steps = (1,) * count if steps is None else steps
    lengths = {len(axes), len(steps), *(len(values) for pair in bounds for values in pair)}
    if lengths != {count} or 0 in steps:
        raise node.problem(
            f"starts and ends {bounds[0]}, axes {axes} and steps {steps} do not fit together: expected as many of "
            "each, and no step of 0"
        )
    result: list[list[int]] = [[], []]
    for which, values in enumerate(result):
        for i, axis in enumerate(axes):
            found = [pair[which][i] for pair in bounds]
            values.append(_bound(node, found, [shape[axis] for shape in shapes]))
    kept = [i for i in range(count) if (result[0][i], result[1][i], steps[i]) != (0, MOST, 1)]
    if not kept:
        node.emit("Identity", [node.any_operand(0)])
        return
    attrs: dict[str, Attr] = {
        "starts": tuple(result[0][i] for i in kept),
        "ends": tuple(result[1][i] for i in kept),
        "axes": tuple(axes[i] for i in kept),
    }
    if any(steps[i] != 1 for i in kept):
        attrs["steps"] = tuple(max(LEAST, min(MOST, steps[i])) for i in kept)
    node.emit("Slice", [node.any_operand(0)], attrs)


def _bound(node: OnnxNode, found: list[int], extents: list[int]) -> int:
    """A start or an end as a constant, from its value and the extent of its axis under each probe."""
    if len(set(found)) == 1:
        return max(LEAST, min(MOST, found[0]))
    if all(value >= extent for value, extent in zip(found, extents, strict=True)):
        return MOST
    if len({value - extent for value, extent in zip(found, extents, strict=True)}) == 1:
        return found[0] - extents[0]  # counted from the end
    raise node.problem("a start or end depends on the extents of the model's inputs, expected a constant")


@converts("Pad")
def pad(node: OnnxNode) -> None:
    """Pads are an attribute up to opset 10, and an input after that. From opset 18 on they may omit some axes."""
    mode = node.text("mode", "constant", ("constant", "reflect", "edge", "wrap"))
    rank = node.rank(0)
    value: int | float
    if node.opset < 11:
        pads, value, axes = node.ints("pads"), node.float_("value", 0.0, finite=False), None
    else:
        pads, value = node.integers(1, "pads"), node.scalar(2, "constant_value") or 0.0
        axes = node.integers(3, "axes")
    axes = tuple(range(rank)) if axes is None else tuple(node.axis(axis, rank) for axis in axes)
    if pads is None or len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise node.problem(f"pads are {pads}, expected two for each of the axes {axes}")
    full = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        full[axis], full[rank + axis] = pads[i], pads[len(axes) + i]
    if not any(full):
        node.emit("Identity", [node.any_operand(0)])
        return
    attrs: dict[str, Attr] = {"pads": tuple(full), "mode": mode}
    if mode == "constant":
        if math.isnan(value):
            raise node.problem("the padding value is NaN, expected a number")
        if is_integer(node.dtype(0)):
            given = node.integers(2, "constant_value")
            value = given[0] if given else 0
        attrs["value"] = value
    node.emit("Pad", [node.any_operand(0)], attrs)
