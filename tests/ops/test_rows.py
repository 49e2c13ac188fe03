"""Nodes compute any rows of their output from the rows of their inputs that they name, with the bits of the whole."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from kernels.isas import NUMPY, using
from ops.harness import node, random
from streamrt.graph import Node
from streamrt.ops import Array, Buffers, Lowered, Operand, lower, supported
from streamrt.ops.rows import Part, Rows, columns_of, in_strip, mover, rows_of

PADS = {"pads": (1, 1, 1, 1)}
RELU = ("Relu", {})
HARD = ("HardSigmoid", {"alpha": 1 / 64, "beta": 0.5})
X = (1, 6, 13, 11)
SCALES = {"scales": (1.0, 1.0, 2.0, 1.5)}
#: name: operator, shapes of the inputs, attributes, parameters, activation
CASES: dict[str, tuple[str, tuple[tuple[int, ...] | None, ...], dict[str, Any], tuple[int, ...], Any]] = {
    "3x3": ("Conv", (X, (8, 6, 3, 3), (8,)), PADS, (1, 2), RELU),
    "1x1": ("Conv", (X, (9, 6, 1, 1)), {}, (1,), None),
    "stride, dilation, groups": (
        "Conv",
        (X, (4, 3, 3, 2)),
        {"group": 2, "strides": (2, 1), "dilations": (2, 1), "pads": (0, 1, 3, 0)},
        (1,),
        None,
    ),
    "residual": ("Conv", (X, (7, 6, 3, 3), (7,), (1, 7, 13, 11)), PADS, (1, 2), RELU),
    "gate": ("Conv", (X, (7, 6, 1, 1), None, None, (1, 6, 1, 1)), {}, (1,), None),
    "large enough for Winograd": ("Conv", ((1, 64, 26, 29), (40, 64, 3, 3), (40,)), PADS, (1, 2), None),
    "depthwise": ("Conv", (X, (6, 1, 3, 3), (6,)), {"group": 6, **PADS}, (1, 2), None),
    "MaxPool": ("MaxPool", (X,), {"kernel_shape": (3, 3), "strides": (2, 2), **PADS}, (), None),
    "AveragePool": ("AveragePool", (X,), {"kernel_shape": (2, 5), "ceil_mode": 1}, (), None),
    "Sigmoid": ("Sigmoid", (X,), {}, (), None),
    "PRelu": ("PRelu", (X, (6, 1, 1)), {}, (1,), None),
    "general PRelu": ("PRelu", (X, (1, 6, 1, 11)), {}, (1,), None),
    "Exp": ("Exp", (X,), {}, (), None),
    "Add": ("Add", (X, X), {}, (), RELU),
    "a number": ("Mul", (X, ()), {}, (1,), None),
    "a gate": ("Mul", (X, (1, 6, 1, 1)), {}, (), None),
    "one channel": ("Sub", ((1, 1, 13, 11), X), {}, (), None),
    "a row": ("Div", (X, (11,)), {}, (1,), None),
    "Max of three": ("Max", (X, X, X), {}, (), RELU),
    "Concat": ("Concat", (X, (1, 2, 13, 11), X), {"axis": 1}, (), RELU),
    "Concat of columns": ("Concat", (X, (1, 6, 13, 2)), {"axis": -1}, (), None),
    "BatchNormalization": ("BatchNormalization", (X, (6,), (6,), (6,), (6,)), {}, (1, 2, 3, 4), RELU),
    "LRN": ("LRN", (X,), {"size": 3}, (), None),
    "nearest": ("Resize", (X,), SCALES, (), RELU),
    "nearest, floor": (
        "Resize",
        (X,),
        {**SCALES, "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
        (),
        None,
    ),
    "smaller": ("Resize", (X,), {"scales": (1.0, 1.0, 0.4, 0.3)}, (), None),
    "linear": ("Resize", (X,), {**SCALES, "mode": "linear"}, (), RELU),
    "corners": (
        "Resize",
        (X,),
        {"sizes": (1, 6, 37, 23), "mode": "linear", "coordinate_transformation_mode": "align_corners"},
        (),
        None,
    ),
    "linear, smaller": ("Resize", (X,), {"sizes": (1, 6, 5, 30), "mode": "linear"}, (), None),
    "linear, columns": ("Resize", (X,), {"sizes": (1, 6, 13, 30), "mode": "linear"}, (), None),
    "sizes of another input": ("Resize", (X, (1, 1, 26, 22)), {"sizes": (0,) * 4, "extents": (-1, -1, 2, 3)}, (), None),
    "Slice": ("Slice", (X,), {"starts": (1, -3), "ends": (5, 99), "axes": (1, 2)}, (), None),
    "every third": ("Slice", (X,), {"starts": (2, -1), "ends": (99, -99), "axes": (2, 3), "steps": (3, -2)}, (), None),
    "every other column": ("Slice", (X,), {"starts": (3,), "ends": (-2,), "axes": (3,), "steps": (2,)}, (), RELU),
    "linear, twice": ("Resize", (X,), {"scales": (1.0, 1.0, 1.0, 2.0), "mode": "linear"}, (), None),
    "corners, twice": (
        "Resize",
        (X,),
        {"scales": (1.0, 1.0, 1.0, 2.0), "mode": "linear", "coordinate_transformation_mode": "align_corners"},
        (),
        None,
    ),
    "symmetric, a quarter": (
        "Resize",
        (X,),
        {"scales": (1.0, 1.0, 1.0, 0.25), "coordinate_transformation_mode": "half_pixel_symmetric"},
        (),
        None,
    ),
    "two thirds": ("Resize", (X,), {"scales": (1.0, 1.0, 0.75, 2 / 3)}, (), None),
    "a third in float32": (
        "Resize",
        (X,),
        {"scales": (1.0, 1.0, 1.0, float(np.float32(1 / 3))), "nearest_mode": "ceil"},
        (),
        None,
    ),
    "five sixths": (
        "Resize",
        (X,),
        {
            "scales": (1.0, 1.0, 1.0, 5 / 6),
            "nearest_mode": "floor",
            "coordinate_transformation_mode": "asymmetric",
        },
        (),
        None,
    ),
    "linear, four thirds": ("Resize", (X,), {"scales": (1.0, 1.0, 1.0, 4 / 3), "mode": "linear"}, (), None),
    "linear, two thirds in float32": (
        "Resize",
        (X,),
        {"scales": (1.0, 1.0, 1.0, float(np.float32(2 / 3))), "mode": "linear"},
        (),
        None,
    ),
    "cubic, two thirds": (
        "Resize",
        (X,),
        {"scales": (1.0, 1.0, 1.5, 2 / 3), "mode": "cubic", "antialias": 1},
        (),
        None,
    ),
    "cubic": ("Resize", (X,), {**SCALES, "mode": "cubic"}, (), RELU),
    "cubic, nothing outside": (
        "Resize",
        (X,),
        {"scales": (1.0, 1.0, 1.7, 4.0), "mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5},
        (),
        None,
    ),
    "cubic, corners": (
        "Resize",
        (X,),
        {"sizes": (1, 6, 37, 23), "mode": "cubic", "coordinate_transformation_mode": "align_corners"},
        (),
        None,
    ),
    "cubic, rows": (
        "Resize",
        (X,),
        {"scales": (1.0, 1.0, 3.1, 1.0), "mode": "cubic", "coordinate_transformation_mode": "asymmetric"},
        (),
        None,
    ),
    "cubic, columns": ("Resize", (X,), {"scales": (1.0, 1.0, 1.0, 2.0), "mode": "cubic"}, (), None),
    "cubic of a mean": ("Resize", (X,), {"scales": (1.0, 1.0, 0.3, 0.5), "mode": "cubic", "antialias": 1}, (), None),
    "linear of a mean": (
        "Resize",
        (X,),
        {"scales": (1.0, 1.0, 0.25, 0.5), "mode": "linear", "antialias": 1, "exclude_outside": 1},
        (),
        None,
    ),
    "linear, half": ("Resize", (X,), {"scales": (1.0, 1.0, 2.0, 0.5), "mode": "linear"}, (), None),
    "Pad": ("Pad", (X,), {"pads": (0, 1, 6, 2, 0, 0, 4, 3), "value": 0.25}, (), None),
    "cut": ("Pad", (X,), {"pads": (0, 0, -2, 1, 0, -1, -3, -1)}, (), None),
    "cut and padded": ("Pad", (X,), {"pads": (0, 0, 20, 0, 0, 0, -12, 0)}, (), None),
    "border": ("Pad", (X,), {"pads": (0, 1, 3, 2, 0, 2, 20, 3), "mode": "edge"}, (), None),
    "border above, cut below": ("Pad", (X,), {"pads": (0, 0, 2, -1, 0, -1, -5, 1), "mode": "edge"}, (), None),
    "mirrored": ("Pad", (X,), {"pads": (0, 2, 3, 2, 0, 1, 5, 3), "mode": "reflect"}, (), RELU),
    "mirrored and cut": ("Pad", (X,), {"pads": (0, 0, -2, 4, 0, 0, 2, -3), "mode": "reflect"}, (), None),
    "mirrored twice over": ("Pad", (X,), {"pads": (0, 0, 12, 10, 0, 5, 12, 10), "mode": "reflect"}, (), None),
    "columns from the other end": ("Pad", (X,), {"pads": (0, 1, -1, 2, 0, 2, 0, 1), "mode": "wrap"}, (), None),
    "channels from the other end": ("Pad", (X,), {"pads": (0, 1, 0, -2, 0, 2, 0, 0), "mode": "wrap"}, (), None),
    "expanded": ("Expand", ((1, 1, 13, 11),), {"shape": (1, 6, 13, 1)}, (), None),
    "an expanded column": ("Expand", ((1, 6, 13, 1),), {"shape": (11,)}, (), None),
    "as another input": ("Expand", ((1, 1, 13, 11), X), {"shape": (1, 6, 1, 1), "extents": (-1, -1, 2, 3)}, (), None),
    "tiled": ("Tile", (X,), {"repeats": (1, 3, 1, 1)}, (), None),
    "tiled columns": ("Tile", (X,), {"repeats": (1, 2, 1, 3)}, (), None),
    "shuffled": ("Gather", (X,), {"axis": 1, "indices": (0, 3, 1, 4, 2, 5)}, (), RELU),
    "some channels": ("Gather", (X,), {"axis": -3, "indices": (5, 1, 1, -6, 2, 0, 4)}, (), None),
    "a channel": ("Gather", (X,), {"axis": 1, "indices": (-2,)}, (), None),
    "some columns": ("Gather", (X,), {"axis": 3, "indices": (9, 7, 5, 0, 1)}, (), RELU),
    "columns backward": ("Gather", (X,), {"axis": 3, "indices": tuple(range(9, -1, -1))}, (), None),
    "DepthToSpace": ("DepthToSpace", (X,), {"blocksize": (3, 2), "mode": "CRD"}, (), RELU),
    "DepthToSpace, DCR": ("DepthToSpace", (X,), {"blocksize": (1, 3)}, (), None),
    "SpaceToDepth": ("SpaceToDepth", ((1, 5, 12, 10),), {"blocksize": (3, 2), "mode": "CRD"}, (), None),
    "SpaceToDepth, DCR": ("SpaceToDepth", ((1, 5, 12, 10),), {"blocksize": (4, 2)}, (), None),
    "Softmax of channels": ("Softmax", (X,), {"axis": 1}, (), None),
    "LogSoftmax of channels": ("LogSoftmax", (X,), {"axis": -3}, (), None),
    "mean of channels": ("ReduceMean", (X,), {"axes": (1,)}, (), None),
    "sum of many channels": ("ReduceSum", ((1, 300, 13, 11),), {"axes": (-3,)}, (), HARD),
    "product of channels": ("ReduceProd", ((1, 40, 13, 11),), {"axes": (1,)}, (), None),
    "largest of channels": ("ReduceMax", (X,), {"axes": (1,)}, (), RELU),
    "smallest of channels": ("ReduceMin", (X,), {"axes": (1,)}, (), None),
    "Greater": ("Greater", (X, (1, 6, 1, 1)), {}, (1,), None),
    "Xor": ("Xor", (X, X), {}, (), None),
    "one row": ("Conv", ((1, 6, 1, 11), (8, 6, 3, 3), (8,)), PADS, (1, 2), RELU),
    "a gate of one row": ("Mul", ((1, 6, 1, 11), (1, 6, 1, 1)), {}, (), None),
    "one row, enlarged": ("Resize", ((1, 6, 1, 11),), {"scales": (1.0, 1.0, 3.0, 2.0), "mode": "linear"}, (), None),
    "Not": ("Not", (X,), {}, (), None),
    "Where": ("Where", ((1, 1, 13, 11), X, ()), {}, (2,), None),
}
#: As above, of nodes that compute no rows.
WHOLE: dict[str, tuple[str, tuple[tuple[int, ...] | None, ...], dict[str, Any], tuple[int, ...], Any]] = {
    "two samples": ("Conv", ((2, 6, 13, 11), (9, 6, 1, 1)), {}, (1,), None),
    "a signal": ("Relu", ((1, 6, 13),), {}, (), None),
    "a volume": ("Relu", ((1, 6, 13, 4, 4),), {}, (), None),
    "one value": ("Relu", ((1, 6, 1, 1),), {}, (), None),
    "a parameter with rows": ("Add", (X, (13, 1)), {}, (1,), None),
    "a slope with rows": ("PRelu", (X, (6, 13, 1)), {}, (1,), None),
    "samples of a parameter": ("Add", ((1, 6, 1, 11), (1, 6, 13, 11)), {}, (1,), None),
    "expanded rows": ("Expand", ((1, 6, 1, 11),), {"shape": (1, 6, 13, 11)}, (), None),
    "tiled rows": ("Tile", (X,), {"repeats": (1, 1, 2, 1)}, (), None),
    "some rows": ("Gather", (X,), {"axis": 2, "indices": (0, 2)}, (), None),
    "all channels": ("Gather", (X,), {"axis": 1, "indices": tuple(range(6))}, (), None),
    "channels along two axes": ("Gather", (X,), {"axis": 1, "indices": (0, 1), "indices_shape": (1, 2)}, (), None),
    "a channel without its axis": ("Gather", (X,), {"axis": 1, "indices": (0,), "indices_shape": ()}, (), None),
    "along rows": ("Concat", (X, X), {"axis": 2}, (), None),
    "along samples": ("Concat", (X, X), {"axis": 0}, (), None),
    "a view": ("Sum", (X,), {}, (), None),
    "over positions": ("InstanceNormalization", (X, (6,), (6,)), {}, (1, 2), None),
    "from below": ("Slice", (X,), {"starts": (-1,), "ends": (-99,), "axes": (2,), "steps": (-1,)}, (), None),
    "rows from the other end": ("Pad", (X,), {"pads": (0, 0, 1, 0, 0, 0, 0, 0), "mode": "wrap"}, (), None),
    "channels": ("Resize", (X,), {"scales": (1.0, 2.0, 2.0, 1.0)}, (), None),
    "all positions": ("GlobalLpPool", (X,), {}, (), None),
    "a product": ("ReduceProd", (X,), {"axes": (2, 3)}, (), None),
    "mean of the channels of one column": ("ReduceMean", ((1, 300, 13, 1),), {"axes": (1,)}, (), None),
    "mean of channels without their axis": ("ReduceMean", (X,), {"axes": (1,), "keepdims": 0}, (), None),
    "mean of channels and columns": ("ReduceMean", (X,), {"axes": (1, 3)}, (), None),
    "rows alone": ("ReduceMean", (X,), {"axes": (2,)}, (), None),
    "Softmax of samples": ("Softmax", (X,), {"axis": 0}, (), None),
    "Softmax of columns": ("Softmax", (X,), {"axis": 3}, (), None),
    "Softmax of rows": ("Softmax", (X,), {"axis": 2}, (), None),
    "Softmax of positions": ("Softmax", (X,), {"axis": 1, "coerce": 1}, (), None),
    "a condition with rows": ("Where", ((6, 13, 1), X, X), {}, (0,), None),
    "the largest of each column": ("ArgMax", (X,), {"axis": 2}, (), None),
    "the largest of two samples": ("ArgMax", ((2, 6, 13, 11),), {"axis": 1}, (), None),
}
#: Nodes that read rows and compute a small result, with the same of float64, and their activation.
COLLECTING: dict[str, tuple[str, dict[str, Any], Callable[[NDArray[np.float64]], NDArray[np.float64]], Any]] = {
    "GlobalAveragePool": ("GlobalAveragePool", {}, lambda x: x.mean((2, 3), keepdims=True), None),
    "GlobalMaxPool": ("GlobalMaxPool", {}, lambda x: x.max((2, 3), keepdims=True), None),
    "ReduceMean": ("ReduceMean", {"axes": (2, 3), "keepdims": 0}, lambda x: x.mean((2, 3)), None),
    "ReduceSum": ("ReduceSum", {"axes": (-1, 2)}, lambda x: x.sum((2, 3), keepdims=True), None),
    "ReduceMax": ("ReduceMax", {"axes": (2, 3)}, lambda x: x.max((2, 3), keepdims=True), None),
    "ReduceMin": ("ReduceMin", {"axes": (3, 2)}, lambda x: x.min((2, 3), keepdims=True), None),
    "activated mean": ("ReduceMean", {"axes": (2, 3), "keepdims": 0}, lambda x: x.mean((2, 3)) / 64 + 0.5, HARD),
    "activated maximum": ("GlobalMaxPool", {}, lambda x: x.max((2, 3), keepdims=True) / 64 + 0.5, HARD),
}


def _lowered(
    op: str, shapes: tuple[tuple[int, ...] | None, ...], attrs: dict[str, Any], params: tuple[int, ...], activation: Any
) -> tuple[Node, list[Operand | None], Lowered, Rows | None]:
    operands = [
        None if shape is None else Operand(shape, is_param=index in params) for index, shape in enumerate(shapes)
    ]
    under_test = node(op, len(shapes), attrs, activation=activation)
    low = lower(under_test, operands, exact=True)
    return under_test, operands, low, rows_of(under_test, low, operands, partial(lower, under_test, exact=True))


def _positive(*shape: int, seed: int) -> Array:
    return np.asarray(np.abs(random(*shape, seed=seed)), np.float32)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("heights", [(1,), (3, 1, 5), (1, 3), (40,)])
def test_rows_have_the_bits_of_the_whole(name: str, heights: tuple[int, ...], isa: str) -> None:
    op, shapes, attrs, params, activation = CASES[name]
    _, _, low, rows = _lowered(op, shapes, attrs, params, activation)
    if isa == NUMPY and op == "Conv":
        assert rows is None
        return
    assert rows is not None
    inputs = [None if shape is None else _positive(*shape, seed=index) for index, shape in enumerate(shapes)]
    whole = np.empty(low.outputs[0], np.float32)
    with np.errstate(all="ignore"):
        low.bind(Buffers(tuple(inputs), (whole,), np.empty(low.scratch, np.uint8)))(0, low.rows)
    assert rows.height == whole.shape[2]
    _, channels, height, width = whole.shape
    found = np.empty_like(whole)
    first = 0
    for count in itertools.cycle(heights):
        last = min(first + count, height)
        # What is read lies in its line buffer from row 2 on, and what is made from row 1 on. All other rows are NaN.
        given, origins = list(inputs), {}
        for index, reads in rows.inputs.items():
            begin, end = reads(first, last)
            value = inputs[index]
            assert value is not None
            line = np.full((end - begin + 3, value.shape[1], value.shape[3]), np.nan, np.float32)
            line[2 : 2 + end - begin] = value[0, :, begin:end].transpose(1, 0, 2)
            given[index], origins[index] = line, begin - 2
        for index in range(len(inputs)):
            if index not in rows.inputs and index not in rows.whole:
                given[index] = None
        made = np.full((last - first + 2, channels, width), np.nan, np.float32)
        scratch = np.full(rows.scratch(max(heights)), 0xFF, np.uint8)
        run = rows.bind(Buffers(tuple(given), (made,), scratch))(first, last, origins, first - 1)
        with np.errstate(all="ignore"):
            for tile in ((0, low.rows // 2), (low.rows // 2, low.rows)) if low.rows > 1 else ((0, 1),):
                run(*tile)
        assert np.isnan(made[[0, -1]]).all()
        found[0, :, first:last] = made[1:-1].transpose(1, 0, 2)
        first = last
        if first == height:
            break
    assert found.tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_later_rows_need_no_earlier_rows(name: str, isa: str) -> None:
    _, _, _, rows = _lowered(*CASES[name])
    if isa == NUMPY and CASES[name][0] == "Conv":
        assert rows is None
        return
    assert rows is not None
    for reads in rows.inputs.values():
        spans = [reads(row, row + 1) for row in range(rows.height)]
        spans = [(begin, end) for begin, end in spans if begin < end]
        for one, other in itertools.pairwise(spans):
            assert one[0] <= other[0]
            assert one[1] <= other[1]
        assert reads(0, rows.height) == (spans[0][0], spans[-1][1])


#: Of CASES, those without strips: other inputs have columns, or no rule says exactly which ones are needed.
NO_STRIPS = {
    *("general PRelu", "a row", "Concat of columns", "every third", "columns from the other end"),
    *("an expanded column", "tiled columns", "some columns", "columns backward"),
    *("cubic", "cubic, corners"),
    "linear, two thirds in float32",
    *("linear", "corners", "linear, smaller", "linear, columns", "corners, twice", "symmetric, a quarter"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("begin", "end"), [(0, 42), (16, 58), (16, 42)])
def test_columns_have_the_bits_of_the_whole(name: str, begin: int, end: int, isa: str) -> None:
    """A narrower picture has them, but for the columns that the rule says are wrong."""
    op, shapes, attrs, params, activation = CASES[name]
    wider = {10: 58, 11: 58, 22: 116, 29: 58}
    shapes = tuple(shape and (*shape[:-1], wider.get(shape[-1], shape[-1])) for shape in shapes)
    under_test, operands, low, rows = _lowered(op, shapes, attrs, params, activation)
    if isa == NUMPY and op == "Conv":
        return
    assert rows is not None
    columns = columns_of(under_test, low, 0)
    if columns is None:
        assert name in NO_STRIPS
        return
    begin -= begin % columns.step.numerator
    end = 58 - (58 - end) // columns.step.numerator * columns.step.numerator
    given = [
        operand and operand._replace(shape=(*operand.shape[:3], end - begin)) if index in rows.inputs else operand
        for index, operand in enumerate(operands)
    ]
    after, first = low.outputs[0][3], int(begin / columns.step)
    width = after - int((58 - end + begin) / columns.step)
    narrow = Operand((*low.outputs[0][:3], width))
    again = partial(lower, under_test, exact=True)
    assert operands[0] is not None
    try:
        low_in_strip = in_strip(low, given, operands[0], narrow, again)
    except streamrt.FormatError:
        assert name in NO_STRIPS
        return
    rows_in_strip = rows_of(under_test, low_in_strip, given, again)
    assert rows_in_strip is not None
    assert (low_in_strip.outputs[0] == narrow.shape) == (name not in NO_STRIPS)
    if name in NO_STRIPS:
        return
    inputs = [None if shape is None else _positive(*shape, seed=index) for index, shape in enumerate(shapes)]
    whole = np.empty(low.outputs[0], np.float32)
    made = np.empty((rows.height, narrow.shape[1], width), np.float32)
    scratch = np.empty(rows_in_strip.scratch(rows.height), np.uint8)
    lines = [
        value[0, :, :, begin:end].transpose(1, 0, 2).copy() if value is not None and index in rows.inputs else value
        for index, value in enumerate(inputs)
    ]
    run = rows_in_strip.bind(Buffers(tuple(lines), (made,), scratch))(0, rows.height, dict.fromkeys(rows.inputs, 0), 0)
    with np.errstate(all="ignore"):
        low.bind(Buffers(tuple(inputs), (whole,), np.empty(low.scratch, np.uint8)))(0, low.rows)
        run(0, low.rows)
    left, right = columns.wrong(0, 0, 58, after)
    assert left + right < width
    right_ones = slice(left if begin else 0, width - right if end < 58 else width)
    wanted = whole[0, :, :, first : first + width].transpose(1, 0, 2)
    assert made[:, :, right_ones].tobytes() == wanted[:, :, right_ones].tobytes()


@pytest.mark.parametrize("name", WHOLE)
def test_other_nodes_need_the_whole(name: str) -> None:
    assert _lowered(*WHOLE[name])[-1] is None


@pytest.mark.parametrize("name", COLLECTING)
@pytest.mark.parametrize("heights", [(1,), (3, 1, 5), (40,)])
def test_a_result_of_all_rows_comes_from_bands(name: str, heights: tuple[int, ...]) -> None:
    op, attrs, wanted, activation = COLLECTING[name]
    _, _, low, rows = _lowered(op, (X,), attrs, (), activation)
    assert rows is not None
    assert rows.collects
    x = random(*X, seed=0) + np.float32(5)
    y = np.full(low.outputs[0], np.nan, np.float32)
    _read_in_bands(rows, x, y, heights)
    np.testing.assert_allclose(y, wanted(x.astype(np.float64)), rtol=2e-7)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("from_end", [0, 1])
@pytest.mark.parametrize("to", ["float32", "int64"])
@pytest.mark.parametrize("heights", [(1,), (3, 1, 5), (40,)])
def test_classes_of_positions_come_from_bands(op: str, from_end: int, to: str, heights: tuple[int, ...]) -> None:
    """Without ``keepdims`` they have three axes. Some values are equal."""
    attrs = {"axis": 1, "keepdims": 0, "select_last_index": from_end, "to": to}
    _, _, low, rows = _lowered(op, (X,), attrs, (), None)
    assert rows is not None
    assert rows.collects
    x = np.random.default_rng(0).integers(0, 3, X).astype(np.float32)
    y = np.full(low.outputs[0], -1, to)
    _read_in_bands(rows, x, y, heights)
    function = np.argmax if op == "ArgMax" else np.argmin
    wanted = X[1] - 1 - function(x[:, ::-1], axis=1) if from_end else function(x, axis=1)
    assert (y == wanted).all()


@pytest.mark.parametrize("name", COLLECTING)
@pytest.mark.parametrize("width", [100, 700])
@pytest.mark.parametrize("steps", [(1,), (3, 1)])
def test_a_result_of_all_rows_has_the_bits_of_the_whole(name: str, width: int, steps: tuple[int, ...]) -> None:
    op, attrs, _, activation = COLLECTING[name]
    shape = (1, 6, 37, width)
    _, _, low, rows = _lowered(op, (shape,), attrs, (), activation)
    assert rows is not None
    assert rows.step == (1 if "Max" in op or "Min" in op or width > 512 else 8)
    assert rows.apart == ((0,) if rows.step == 1 else ())
    x = random(*shape, seed=0) + np.float32(5)
    y, whole = np.full(low.outputs[0], np.nan, np.float32), np.full(low.outputs[0], np.nan, np.float32)
    _read_in_bands(rows, x, y, tuple(step * rows.step for step in steps))
    low.bind(Buffers((x,), (whole,), np.empty(low.scratch, np.uint8)))(0, 1)
    assert y.tobytes() == whole.tobytes()


def test_classes_of_positions_do_not_come_from_strips() -> None:
    under_test, _, low, rows = _lowered("ArgMax", (X,), {"axis": 1}, (), None)
    assert rows is not None
    assert rows_of(under_test, low, [Operand((*X[:3], 6))], partial(lower, under_test)) is None


@pytest.mark.parametrize("name", COLLECTING)
def test_a_result_of_all_columns_comes_from_strips(name: str) -> None:
    """Each strip has other columns, and wrong ones around them."""
    op, attrs, wanted, activation = COLLECTING[name]
    under_test, operands, low, _ = _lowered(op, (X,), attrs, (), activation)
    x = random(*X, seed=0) + np.float32(5)
    y = np.full(low.outputs[0], np.nan, np.float32)
    narrow = Operand((*X[:3], 6))
    rows = rows_of(under_test, low, [narrow], partial(lower, under_test))
    assert rows is not None
    assert operands[0] is not None
    assert in_strip(low, [narrow], operands[0], narrow, partial(lower, under_test)) is low
    scratch = np.full(rows.scratch(5), 0xFF, np.uint8)
    line = np.empty((5, X[1], 6), np.float32)
    bands = rows.bind(Buffers((line,), (y,), scratch))
    for strip, (begin, own) in enumerate([(0, slice(0, 5)), (4, slice(1, 3)), (5, slice(2, 6))]):
        for first in range(0, X[2], 5):
            last = min(first + 5, X[2])
            line[...] = 99
            line[: last - first, :, own] = x[0, :, first:last, begin + own.start : begin + own.stop].transpose(1, 0, 2)
            part = Part(own.start, own.stop, begins=strip == 0, ends=strip == 2)
            bands(first, last, {0: first}, 0, part)(0, 1)
    np.testing.assert_allclose(y, wanted(x.astype(np.float64)), rtol=3e-7)


def _read_in_bands(rows: Rows, x: Array, y: NDArray[Any], heights: tuple[int, ...]) -> None:
    """The scratch memory keeps its content from band to band. A line buffer holds the rows of the band alone."""
    scratch = np.full(rows.scratch(max(heights)), 0xFF, np.uint8)
    line = np.full((max(heights) + 2, x.shape[1], x.shape[3]), np.nan, np.float32)
    bands = rows.bind(Buffers((line,), (y,), scratch))
    first = 0
    for count in itertools.cycle(heights):
        last = min(first + count, x.shape[2])
        line[1 : 1 + last - first] = x[0, :, first:last].transpose(1, 0, 2)
        bands(first, last, {0: first - 1}, 0)(0, 1)
        first = last
        if first == x.shape[2]:
            break


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("mean", [0, 1000])
@pytest.mark.parametrize("heights", [(1,), (3, 1, 5), (40,)])
def test_a_normalisation_has_two_halves(groups: int, mean: float, heights: tuple[int, ...]) -> None:
    """The first finds mean and deviation from bands; the second computes each row by itself."""
    attrs = {"num_groups": groups, "epsilon": 1e-3}
    _, operands, low, rows = _lowered("GroupNormalization", (X, (6,), (6,)), attrs, (1, 2), RELU)
    assert rows is None
    collecting, normalising = low.parts
    assert collecting.activation is None
    assert normalising.activation is not None
    one = lower(collecting, operands[:1], hidden=True)
    rows = rows_of(collecting, one, operands[:1], partial(lower, collecting, hidden=True))
    assert rows is not None
    x, scale, bias = random(*X, seed=0) + np.float32(mean), random(6, seed=1), random(6, seed=2)
    numbers = np.full(one.outputs[0], np.nan, np.float32)
    _read_in_bands(rows, x, numbers, heights)
    whole = np.full_like(numbers, np.nan)
    one.bind(Buffers((x,), (whole,), np.empty(one.scratch, np.uint8)))(0, 1)
    np.testing.assert_allclose(numbers, whole, rtol=1e-5)
    given = [*operands, Operand(one.outputs[0])]
    other = lower(normalising, given, hidden=True)
    rows = rows_of(normalising, other, given, partial(lower, normalising, hidden=True))
    assert rows is not None
    assert (list(rows.inputs), rows.whole) == ([0], (1, 2, 3))
    y = np.empty(X, np.float32)
    other.bind(Buffers((x, scale, bias, numbers), (y,), np.empty(other.scratch, np.uint8)))(0, 1)
    double = x.astype(np.float64).reshape(groups, -1)
    normal = (double - double.mean(1, keepdims=True)) / np.sqrt(double.var(1, keepdims=True) + 1e-3)
    expected = np.maximum(normal.reshape(X) * scale[:, None, None] + bias[:, None, None], 0)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 + 2e-7 * mean)


@pytest.mark.parametrize("op", ["GroupMoments", "GroupNormalise"])
def test_a_weights_file_has_no_halves(op: str) -> None:
    with pytest.raises(streamrt.FormatError, match="no such operator"):
        lower(node(op, 1, {"num_groups": 1, "epsilon": 1e-5}), [Operand(X)])
    assert op not in supported()


@pytest.mark.parametrize("exact", [True, False])
def test_winograds_algorithm_makes_rows_in_fours(exact: bool) -> None:
    op, shapes, attrs, params, _ = CASES["large enough for Winograd"]
    operands = [None if shape is None else Operand(shape, is_param=i in params) for i, shape in enumerate(shapes)]
    under_test = node(op, len(shapes), attrs)
    with using("scalar"):
        low = lower(under_test, operands, exact)
        rows = rows_of(under_test, low, operands, partial(lower, under_test, exact=exact))
    assert rows is not None
    assert rows.step == (1 if exact else 4)


def test_integers_have_no_rows() -> None:
    operand = Operand(X, "I64")
    under_test = node("Abs", 1)
    low = lower(under_test, [operand])
    assert rows_of(under_test, low, [operand], partial(lower, under_test)) is None
    floats = operand._replace(dtype="F32")
    assert rows_of(under_test, lower(under_test, [floats]), [floats], partial(lower, under_test)) is not None


@pytest.mark.parametrize("row", [(2, 3), (5, 4096), (16, 2048), (3, 20_000)])
def test_rows_move_to_the_front(row: tuple[int, int]) -> None:
    """Some overlap, and threads share pieces of the long ones."""
    line: Array = np.arange(7 * math.prod(row), dtype=np.float32).reshape(7, *row)
    wanted = np.concatenate([line[2:7], line[5:]])
    mover(line)(2, 0, 5)
    np.testing.assert_array_equal(line, wanted)
