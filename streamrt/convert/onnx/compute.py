"""Conversion of the ONNX operators that combine values: products, windows, normalisation, reduction."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from streamrt.convert import limits
from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.convert.weights import Weight
from streamrt.graph import Attr
from streamrt.ops import Shape


@converts("Gemm")
def gemm(node: OnnxNode) -> None:
    """``alpha * A' B' + beta * C``. If B is constant, it is a Gemm, whose weights include factors and transposition."""
    alpha, beta = node.float_("alpha", 1.0), node.float_("beta", 1.0)
    trans_a, trans_b = node.flag("transA"), node.flag("transB")
    a = _matrix(node, 0, trans_a)
    addend = node.given(2) and beta != 0.0
    out = node.proto.output[0]
    if node.is_constant(1) and not node.is_constant(0):
        shape = node.weight(1, "B").shape
        if len(shape) != 2:
            raise node.problem(f"B has shape {shape}, expected two axes")
        rows = shape[0] if trans_b else shape[1]
        inputs = [a, node.derived(1, "B", f"rows * {alpha} {trans_b}", lambda w: _rows(w, trans_b, alpha))]
        if addend and _is_row(node, 2, rows):
            inputs.append(node.derived(2, "C", f"bias of {rows} * {beta}", lambda w: _bias(w, rows, beta)))
            addend = False
        product = node.emit("Gemm", inputs, outputs=[node.temporary("product") if addend else out])
    else:
        scaled = alpha != 1.0
        product = node.temporary("product") if scaled or addend else out
        node.emit("MatMul", [a, _matrix(node, 1, trans_b)], outputs=[product])
        if scaled:
            factor = node.new_weight(f"{out}.alpha", Weight.of(np.asarray(alpha, np.float32)))
            product = node.emit("Mul", [product, factor], outputs=[node.temporary("scaled") if addend else out])
    if addend:
        node.emit("Add", [product, _scaled_addend(node, beta)])


def _matrix(node: OnnxNode, index: int, transpose: bool) -> str:
    """An operand, transposed if asked for. A weight is transposed now, a computed tensor by a node."""
    if not transpose:
        return node.operand(index)
    if node.is_constant(index):
        return node.derived(index, "a matrix", "transposed", Weight.transposed)
    return node.emit("Transpose", [node.operand(index)], {"perm": (1, 0)}, [node.temporary(f"transposed{index}")])


def _rows(weight: Weight, rows_first: bool, factor: float) -> Weight:
    """A matrix of weights as (outputs, inputs), times ``factor``."""
    weight = weight if rows_first else weight.transposed()
    if factor == 1.0:
        return weight
    limits.current().check_memory(8 * weight.shape[0])
    return weight.scaled(np.full(weight.shape[0], factor))


def _is_row(node: OnnxNode, index: int, rows: int) -> bool:
    """Whether an input is a constant number or vector of length ``rows``, so that all samples have the same value."""
    if not node.is_constant(index):
        return False
    shape = node.weight(index, "C").shape
    return len(shape) <= 2 and math.prod(shape[:-1]) == 1 and math.prod(shape) in (1, rows)


def _bias(weight: Weight, rows: int, factor: float) -> Weight:
    if weight.shape == (rows,) and factor == 1.0:
        return weight
    limits.current().hold(8 * rows)
    return Weight.of(np.ascontiguousarray(np.broadcast_to(weight.float64().reshape(-1) * factor, rows)))


def _scaled_addend(node: OnnxNode, beta: float) -> str:
    """C times beta. A constant is multiplied now, a computed tensor by a node."""
    if beta == 1.0:
        return node.operand(2)
    if node.is_constant(2):
        return node.derived(2, "C", f"* {beta}", lambda w: Weight.of(w.float64() * beta))
    factor = node.new_weight(f"{node.proto.output[0]}.beta", Weight.of(np.asarray(beta, np.float32)))
    return node.emit("Mul", [node.operand(2), factor], outputs=[node.temporary("addend")])


@converts("MatMul")
def matmul(node: OnnxNode) -> None:
    """A product with a constant matrix on the right is a Gemm; any other product stays a MatMul."""
    if node.is_constant(1) and not node.is_constant(0):
        weight = node.weight(1, "B")
        rank = node.rank(0)
        if len(weight.shape) == 2 and rank >= 2:
            emit_product(node, node.operand(0), node.derived(1, "B", "transposed", Weight.transposed))
            return
    node.emit("MatMul", [node.operand(0), node.operand(1)])


def emit_product(node: OnnxNode, x: str, weights: str) -> None:
    """The product of input 0, which is called ``x``, and the transpose of a matrix of weights (rows, inner)."""
    if node.rank(0) == 2:
        node.emit("Gemm", [x, weights])
    else:
        node.emit("MatMul", [x, weights], {"transB": 1})


@converts("Conv")
def conv(node: OnnxNode) -> None:
    """1-D, 2-D and 3-D convolution with constant weights."""
    attrs = conv_attributes(node, node.weight(1, "W").shape)
    inputs = [node.operand(0), node.operand(1)]
    if node.given(2):
        node.weight(2, "B")
        inputs.append(node.operand(2))
    node.emit("Conv", inputs, attrs)


def conv_attributes(node: OnnxNode, weights: Shape) -> dict[str, Attr]:
    """The attributes of a convolution with weights of this shape."""
    spatial = len(weights) - 2
    if spatial not in (1, 2, 3):
        raise node.problem(f"weights of shape {weights}, expected 3 to 5 axes: only 1-D, 2-D and 3-D convolutions")
    attrs = _windows(node, spatial)
    attrs.update(group=node.int_("group", 1), kernel_shape=weights[2:])
    if (given := node.ints("kernel_shape")) is not None and given != weights[2:]:
        raise node.attribute_problem("kernel_shape", f"is {given}, but the weights have shape {weights}")
    return attrs


def _windows(node: OnnxNode, spatial: int) -> dict[str, Attr]:
    """The attributes of windows, which convolution and pooling share; those with default values are left out."""
    attrs: dict[str, Attr] = {}
    auto = node.text("auto_pad", "NOTSET", ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
    for name, count, plain in (("strides", spatial, 1), ("dilations", spatial, 1), ("pads", 2 * spatial, 0)):
        values = node.ints(name)
        if values is None or (name == "pads" and auto != "NOTSET"):
            continue
        if len(values) != count:
            raise node.attribute_problem(name, f"has {len(values)} values, expected {count}")
        if min(values) < plain:
            raise node.attribute_problem(name, f"is {values}, expected no value below {plain}")
        if set(values) != {plain}:
            attrs[name] = values
    if auto != "NOTSET":
        attrs["auto_pad"] = auto
    return attrs


@converts("MaxPool", "AveragePool")
def pooling(node: OnnxNode) -> None:
    """Pooling; with a window of one value it does nothing. MaxPool's optional output of indices is not supported."""
    kernel = node.ints("kernel_shape")
    if kernel is None or len(kernel) not in (1, 2, 3):
        raise node.attribute_problem("kernel_shape", f"is {kernel}: only 1-D, 2-D and 3-D pooling")
    attrs = _windows(node, len(kernel))
    attrs["kernel_shape"] = kernel
    if node.flag("ceil_mode"):
        attrs["ceil_mode"] = 1
    if node.op == "AveragePool":
        if node.flag("count_include_pad"):
            attrs["count_include_pad"] = 1
    else:
        node.ignore("storage_order")  # it changes only the indices
        node.only_first_output("Indices")
    x = node.exact_operand(0) if node.op == "MaxPool" else node.operand(0)
    if set(kernel) == {1} and not attrs.keys() & {"strides", "pads"}:
        node.emit("Identity", [x])
    else:
        node.emit(node.op, [x], attrs)


@converts("LpPool")
def lp_pool(node: OnnxNode) -> None:
    """The norm of each window."""
    kernel = node.ints("kernel_shape")
    if kernel is None or len(kernel) not in (1, 2, 3):
        raise node.attribute_problem("kernel_shape", f"is {kernel}: only 1-D, 2-D and 3-D pooling")
    attrs = _windows(node, len(kernel)) | {"kernel_shape": kernel, "p": node.int_("p", 2)}
    if node.flag("ceil_mode"):
        attrs["ceil_mode"] = 1
    node.emit("LpPool", [node.operand(0)], attrs)


@converts("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: OnnxNode) -> None:
    """The operators are the same in all opsets."""
    node.emit(node.op, [node.operand(0)])


@converts("GlobalLpPool")
def global_lp_pool(node: OnnxNode) -> None:
    """The norm of each channel."""
    node.emit("GlobalLpPool", [node.operand(0)], {"p": node.int_("p", 2)})


@converts("BatchNormalization")
def batch_normalization(node: OnnxNode) -> None:
    """Statistics must be constant, one for each channel. Statistics of each position (opset 7) are not supported."""
    if node.flag("training_mode"):
        raise node.attribute_problem("training_mode", "is 1: statistics of the batch are for training")
    if not node.flag("spatial", True):
        raise node.attribute_problem("spatial", "is 0: one mean for each position, expected one for each channel")
    node.ignore("momentum")
    node.only_first_output("statistics of the batch")
    for index, what in enumerate(("scale", "B", "mean", "var"), 1):
        node.weight(index, what)
    node.emit("BatchNormalization", [node.operand(i) for i in range(5)], {"epsilon": node.float_("epsilon", 1e-5)})


@converts("InstanceNormalization")
def instance_normalization(node: OnnxNode) -> None:
    """The operator is the same in all opsets."""
    for index, what in enumerate(("scale", "B"), 1):
        node.weight(index, what)
    node.emit("InstanceNormalization", [node.operand(i) for i in range(3)], {"epsilon": node.float_("epsilon", 1e-5)})


@converts("GroupNormalization")
def group_normalization(node: OnnxNode) -> None:
    """Before opset 21 scale and bias have a value for each group, after that for each channel."""
    node.ignore("stash_type")
    groups, dims = node.int_("num_groups"), node.dims(0)
    count = dims[1] if len(dims) > 1 else None
    if not isinstance(count, int) or groups < 1 or count % groups:
        raise node.problem(f"{groups} groups of an input of shape {dims}, expected a divisor of axis 1")
    inputs = [node.operand(0)]
    for index, what in enumerate(("scale", "bias"), 1):
        weight = node.weight(index, what)
        times = count // groups if node.opset < 21 else 1
        if weight.shape != (count // times,):
            raise node.problem(f"{what} has shape {weight.shape}, expected ({count // times},)")
        if times > 1:
            inputs.append(node.derived(index, what, f"{times} times each", partial(_each_repeated, times)))
        else:
            inputs.append(node.operand(index))
    node.emit("GroupNormalization", inputs, {"num_groups": groups, "epsilon": node.float_("epsilon", 1e-5)})


def _each_repeated(times: int, weight: Weight) -> Weight:
    limits.current().hold(8 * weight.size * times)
    return Weight.of(np.repeat(weight.float64(), times))


@converts("LayerNormalization")
def layer_normalization(node: OnnxNode) -> None:
    """Statistics are float32; ``stash_type``, which can ask for another type, is ignored."""
    node.ignore("stash_type")
    inputs = [node.operand(0)]
    for index, what in enumerate(("Scale", "B"), 1):
        if node.given(index):
            node.weight(index, what)
            inputs.append(node.operand(index))
    attrs: dict[str, Attr] = {
        "axis": node.axis(node.int_("axis", -1), node.rank(0)),
        "epsilon": node.float_("epsilon", 1e-5),
    }
    node.emit("LayerNormalization", inputs, attrs, list(node.proto.output))


@converts("LRN")
def lrn(node: OnnxNode) -> None:
    """The operator is the same in all opsets."""
    node.emit(
        "LRN",
        [node.operand(0)],
        {
            "size": node.int_("size"),
            "alpha": node.float_("alpha", 1e-4),
            "beta": node.float_("beta", 0.75),
            "bias": node.float_("bias", 1.0),
        },
    )


@converts("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: OnnxNode) -> None:
    """Before opset 13 all axes from ``axis`` on are one: ``coerce`` is set, unless ``axis`` is the last."""
    old = node.opset < 13
    rank = node.rank(0)
    axis = node.axis(node.int_("axis", 1 if old else -1), rank)
    attrs: dict[str, Attr] = {"axis": axis}
    if old and axis != rank - 1:
        attrs["coerce"] = 1
    node.emit(node.op, [node.operand(0)], attrs)
