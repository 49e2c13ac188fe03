"""Conversion of the ONNX operators that work value by value, and of those that do nothing."""

from __future__ import annotations

import math

import numpy as np

from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.convert.weights import Weight, is_integer
from streamrt.graph import Attr

_FLOAT_MAX = float(np.finfo(np.float32).max)


@converts("Relu", "Sigmoid", "Tanh", "Erf", "HardSwish", "Mish")
def plain_activation(node: OnnxNode) -> None:
    """Activations without attributes. A Relu of integers is a maximum."""
    if node.op == "Relu" and is_integer(node.dtype(0)):
        node.emit("Max", [node.operand(0, integers=True), _integer(node, "zero", 0)])
    else:
        node.emit(node.op, [node.operand(0)])


@converts("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Sin", "Sinh", "Tan")
@converts("Ceil", "Exp", "Floor", "Log", "Reciprocal", "Round", "Softplus", "Sqrt")
def function(node: OnnxNode) -> None:
    """Functions of one value, without attributes."""
    node.emit(node.op, [node.operand(0)])


@converts("Abs", "Sign")
def number(node: OnnxNode) -> None:
    """Functions of a number or an integer. The least integer has no absolute value of its type, and stays."""
    node.emit_sum(node.op, [node.operand(0, integers=True)])


def _integer(node: OnnxNode, what: str, value: int) -> str:
    """The name of a new weight: one int64."""
    return node.new_weight(f"{node.proto.output[0]}.{what}", Weight.of(np.asarray(value, np.int64)).as_integers())


@converts("Selu")
def selu(node: OnnxNode) -> None:
    """``gamma`` times an Elu."""
    alpha, gamma = node.float_("alpha", 1.67326319217681884765625), node.float_("gamma", 1.05070102214813232421875)
    inner = node.emit("Elu", [node.operand(0)], {"alpha": alpha}, [node.temporary("elu")])
    factor = node.new_weight(f"{node.proto.output[0]}.gamma", Weight.of(np.asarray(gamma, np.float32)))
    node.emit("Mul", [inner, factor])


@converts("Pow")
def pow_(node: OnnxNode) -> None:
    """A square becomes a product; models often write normalisation with it. An exponent may be an integer."""
    if not node.is_constant(1):
        exponent_name = node.operand(1, integers=True)
        if is_integer(node.dtype(1)):
            exponent_name = node.emit("Cast", [exponent_name], {"to": "float32"}, [node.temporary("exponent")])
        node.emit("Pow", [node.operand(0), exponent_name])
        return
    exponent = node.constant(1, "exponent", most=None)
    if exponent.size == 1 and float(exponent.reshape(())) == 2.0 and exponent.ndim <= node.rank(0):
        x = node.operand(0, integers=True)
        node.emit_sum("Mul", [x, x])
    elif exponent.dtype.kind in "iu":
        name = node.new_weight(f"{node.proto.output[0]}.exponent", Weight.of(exponent))
        node.emit("Pow", [node.operand(0), name])
    else:
        node.emit("Pow", [node.operand(0), node.operand(1)])


@converts("LeakyRelu", "Elu", "Swish")
def activation_of_alpha(node: OnnxNode) -> None:
    """Activations with the attribute ``alpha``."""
    alpha = node.float_("alpha", 0.01 if node.op == "LeakyRelu" else 1.0)
    node.emit(node.op, [node.operand(0)], {"alpha": alpha})


@converts("HardSigmoid")
def hard_sigmoid(node: OnnxNode) -> None:
    """``max(0, min(1, alpha * x + beta))``."""
    node.emit(node.op, [node.operand(0)], {"alpha": node.float_("alpha", 0.2), "beta": node.float_("beta", 0.5)})


@converts("Gelu")
def gelu(node: OnnxNode) -> None:
    """Exact, or approximated by tanh."""
    node.emit("Gelu", [node.operand(0)], {"approximate": node.text("approximate", "none", ("none", "tanh"))})


@converts("Clip")
def clip(node: OnnxNode) -> None:
    """Bounds are attributes up to opset 10, and inputs after that. An infinite bound is left out.

    A bound that is computed is applied by Max or Min.
    """
    if is_integer(node.dtype(0)):
        _clip_integers(node)
        return
    attrs: dict[str, Attr] = {}
    computed: list[tuple[str, int]] = []
    for index, name in enumerate(("min", "max"), 1):
        if node.opset < 11:
            bound = node.float_(name, finite=False) if node.has(name) else None
        elif node.given(index) and not node.is_constant(index):
            if any(dim != 1 for dim in node.dims(index)):
                raise node.problem(
                    f"input {index} ({name}, {node.input(index)!r}) is computed and has shape {node.dims(index)}, "
                    "expected one number"
                )
            computed.append(("Max" if name == "min" else "Min", index))
            continue
        else:
            bound = node.scalar(index, name)
        if bound is None or (bound <= -_FLOAT_MAX if name == "min" else bound >= _FLOAT_MAX):
            continue
        if not math.isfinite(bound):
            raise node.problem(f"{name} is {bound}, expected a finite number")
        attrs[name] = bound
    x = node.operand(0)
    if attrs and computed and computed[0][0] == "Max":  # the lower bound comes first
        x = node.emit("Max", [x, node.operand(1)], outputs=[node.temporary("bounded")])
        computed = computed[1:]
    if attrs or not computed:
        x = node.emit("Clip", [x], attrs, [node.temporary("clipped")] if computed else None)
    for position, (op, index) in enumerate(computed):
        last = position == len(computed) - 1
        x = node.emit(op, [x, node.operand(index)], outputs=None if last else [node.temporary("bounded")])


def _clip_integers(node: OnnxNode) -> None:
    """A Clip of integers is a maximum and a minimum. Constant bounds become weights."""
    x = node.operand(0, integers=True)
    bounds = [(op, index) for op, index in (("Max", 1), ("Min", 2)) if node.given(index)]
    for op, index in bounds:
        if any(dim != 1 for dim in node.dims(index)):
            raise node.problem(f"input {index} has shape {node.dims(index)}, expected one number")
        if node.is_constant(index):
            limit = _integer(node, op.lower(), int(node.constant(index, op.lower()).reshape(())))
        else:
            limit = node.operand(index, integers=True)
        x = node.emit(op, [x, limit], outputs=None if index == bounds[-1][1] else [node.temporary("raised")])
    if not bounds:
        node.emit("Identity", [x])


@converts("PRelu")
def prelu(node: OnnxNode) -> None:
    """The slope must be constant; it becomes a weight."""
    node.weight(1, "slope")
    node.emit("PRelu", [node.operand(0), node.operand(1)])


@converts("Add", "Sub", "Mul", "Div")
def arithmetic(node: OnnxNode) -> None:
    """Arithmetic of two tensors, one of which may be a weight."""
    node.emit_sum(node.op, [node.operand(0, integers=True), node.operand(1, integers=True)])


@converts("Mod")
def mod(node: OnnxNode) -> None:
    """The remainder of integers, or with ``fmod`` of any numbers."""
    fmod = node.flag("fmod")
    inputs = [node.operand(index, integers=True) for index in range(2)]
    node.emit("Mod", inputs, {"fmod": 1} if fmod else {})


@converts("Neg")
def neg(node: OnnxNode) -> None:
    """It becomes a product with -1, which can be folded. Keras writes PRelu as ``relu(x) - slope * relu(-x)``."""
    if is_integer(node.dtype(0)):
        node.emit_sum("Mul", [node.operand(0, integers=True), _integer(node, "minus", -1)])
        return
    minus = node.new_weight(f"{node.proto.output[0]}.minus", Weight.of(np.asarray(-1.0, np.float32)))
    node.emit("Mul", [node.operand(0), minus])


@converts("Sum", "Max", "Min")
def variadic(node: OnnxNode) -> None:
    """With one input it does nothing."""
    inputs = [node.operand(index, integers=True) for index in range(node.count())]
    if len(inputs) == 1:
        node.emit("Identity", inputs)
    else:
        node.emit_sum(node.op, inputs)


@converts("Identity")
def identity(node: OnnxNode) -> None:
    """Folding removes it, unless it is between an input and an output of the graph."""
    node.emit("Identity", node.moved_operands(0))


@converts("Constant")
def constant(node: OnnxNode) -> None:
    """Sparse and textual values are refused. Arrays of numbers have become weights before."""
    raise node.problem("its value is sparse or text, expected an array of numbers")


@converts("Dropout")
def dropout(node: OnnxNode) -> None:
    """It does nothing in inference."""
    node.ignore("ratio", "seed")
    node.only_first_output("mask")
    if node.given(2) and node.scalar(2, "training_mode"):
        raise node.problem("input 2 (training_mode) is true, expected false: only inference is supported")
    node.emit("Identity", [node.operand(0)])
