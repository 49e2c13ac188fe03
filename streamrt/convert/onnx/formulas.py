"""Conversion of the ONNX operators that become several operators of a graph, which compute their formulas."""

from __future__ import annotations

import numpy as np

from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.convert.weights import Weight
from streamrt.graph import Attr


@converts("Celu")
def celu(node: OnnxNode) -> None:
    """``alpha * elu(x / alpha)``."""
    alpha, x = node.float_("alpha", 1.0), node.operand(0)
    if alpha == 0.0:
        raise node.attribute_problem("alpha", "is 0, expected another number")
    if alpha == 1.0:
        node.emit("Elu", [x])
        return
    divided = node.emit("Div", [x, _number(node, "alpha", alpha)], outputs=[node.temporary("divided")])
    inner = node.emit("Elu", [divided], outputs=[node.temporary("elu")])
    node.emit("Mul", [inner, _number(node, "alpha", alpha)])


@converts("Softsign")
def softsign(node: OnnxNode) -> None:
    """``x / (1 + abs(x))``."""
    x = node.operand(0)
    size = node.emit("Abs", [x], outputs=[node.temporary("absolute")])
    divisor = node.emit("Add", [size, _number(node, "one", 1.0)], outputs=[node.temporary("divisor")])
    node.emit("Div", [x, divisor])


@converts("ThresholdedRelu")
def thresholded_relu(node: OnnxNode) -> None:
    """``x where x > alpha else 0``."""
    x, alpha = node.operand(0), _number(node, "alpha", node.float_("alpha", 1.0))
    above = node.emit("Greater", [x, alpha], outputs=[node.temporary("above")])
    node.emit("Where", [above, x, _number(node, "zero", 0.0)])


@converts("Shrink")
def shrink(node: OnnxNode) -> None:
    """``x + bias where x < -lambd, x - bias where x > lambd, else 0``."""
    x, bias, edge = node.operand(0), node.float_("bias", 0.0), node.float_("lambd", 0.5)
    low, high = x, x
    if bias:
        low = node.emit("Add", [x, _number(node, "bias", bias)], outputs=[node.temporary("low")])
        high = node.emit("Sub", [x, _number(node, "bias", bias)], outputs=[node.temporary("high")])
    above = node.emit("Greater", [x, _number(node, "lambd", edge)], outputs=[node.temporary("above")])
    below = node.emit("Less", [x, _number(node, "minus", -edge)], outputs=[node.temporary("below")])
    rest = node.emit("Where", [above, high, _number(node, "zero", 0.0)], outputs=[node.temporary("rest")])
    node.emit("Where", [below, low, rest])


@converts("Mean")
def mean(node: OnnxNode) -> None:
    """The sum of the inputs, divided by their number."""
    inputs = [node.operand(index) for index in range(node.count())]
    if len(inputs) == 1:
        node.emit("Identity", inputs)
        return
    total = node.emit("Sum", inputs, outputs=[node.temporary("sum")])
    node.emit("Div", [total, _number(node, "count", float(len(inputs)))])


@converts("MeanVarianceNormalization")
def mean_variance_normalization(node: OnnxNode) -> None:
    """``(x - mean) / (deviation + 1e-9)``, along ``axes``: by default all but axis 1."""
    axes = node.ints("axes")
    reduced: dict[str, Attr] = {"axes": node.axes((0, 2, 3) if axes is None else axes, node.rank(0)), "keepdims": 1}
    x = node.operand(0)
    middle = node.emit("ReduceMean", [x], reduced, [node.temporary("mean")])
    apart = node.emit("Sub", [x, middle], outputs=[node.temporary("apart")])
    squares = node.emit("Mul", [apart, apart], outputs=[node.temporary("squares")])
    variance = node.emit("ReduceMean", [squares], reduced, [node.temporary("variance")])
    deviation = node.emit("Sqrt", [variance], outputs=[node.temporary("deviation")])
    divisor = node.emit("Add", [deviation, _number(node, "least", 1e-9)], outputs=[node.temporary("divisor")])
    node.emit("Div", [apart, divisor])


@converts("LpNormalization")
def lp_normalization(node: OnnxNode) -> None:
    """``x / norm`` along ``axis``, with the norm of power ``p`` (1 or 2). Where the norm is 0, so is the result."""
    p, axis = node.int_("p", 2), node.axis(node.int_("axis", -1), node.rank(0))
    if p not in (1, 2):
        raise node.attribute_problem("p", f"is {p}, expected 1 or 2")
    x = node.operand(0)
    powers = node.emit(*(("Abs", [x]) if p == 1 else ("Mul", [x, x])), outputs=[node.temporary("powers")])
    norm = node.emit("ReduceSum", [powers], {"axes": (axis,), "keepdims": 1}, [node.temporary("sum")])
    if p == 2:
        norm = node.emit("Sqrt", [norm], outputs=[node.temporary("norm")])
    # The smallest normal number: where the norm is 0, all values are.
    least = _number(node, "least", float(np.finfo(np.float32).tiny))
    divisor = node.emit("Max", [norm, least], outputs=[node.temporary("divisor")])
    node.emit("Div", [x, divisor])


@converts("CenterCropPad")
def center_crop_pad(node: OnnxNode) -> None:
    """A Slice along the axes that shrink, and a Pad along those that grow; the middle stays in the middle."""
    rank, wanted = node.rank(0), node.integers(1, "shape")
    given = node.ints("axes")
    axes = tuple(range(rank)) if given is None else tuple(node.axis(axis, rank) for axis in given)
    if wanted is None or len(wanted) != len(axes) or len(set(axes)) != len(axes):
        raise node.problem(f"shape is {wanted}, expected an extent for each of the axes {axes}")
    starts, ends, cropped, pads = [], [], [], [0] * (2 * rank)
    for axis, extent in zip(axes, wanted, strict=True):
        before = node.dims(0)[axis]
        if before == extent:
            continue
        if not isinstance(before, int):
            raise node.problem(f"the extent of axis {axis} is not fixed, expected a number")
        missing = extent - before
        if missing < 0:
            cropped.append(axis)
            starts.append(-missing // 2)
            ends.append(-missing // 2 + extent)
        else:
            pads[axis], pads[rank + axis] = missing // 2, missing - missing // 2
    x = node.operand(0)
    if cropped:
        attrs: dict[str, Attr] = {"starts": tuple(starts), "ends": tuple(ends), "axes": tuple(cropped)}
        x = node.emit("Slice", [x], attrs, [node.temporary("cropped")] if any(pads) else None)
    if any(pads):
        node.emit("Pad", [x], {"pads": tuple(pads)})
    elif not cropped:
        node.emit("Identity", [x])


def _number(node: OnnxNode, name: str, value: float) -> str:
    """A weight without axes."""
    return node.new_weight(f"{node.proto.output[0]}.{name}", Weight.of(np.asarray(value, np.float32)))
