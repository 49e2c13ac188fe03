"""Conversion of the ONNX operators that quantise activations or multiply integers.

Integers that these operators read or make are float32 numbers in a graph. A product of integers keeps its weights in 8
bits, with the scale 1. Its sums are float32 and not int32: up to 2**24 they are exact, and beyond that each addition
rounds to 24 bits.
"""

from __future__ import annotations

import math

import numpy as np

from streamrt.convert import limits
from streamrt.convert.onnx.compute import conv_attributes, emit_product
from streamrt.convert.onnx.data import type_name
from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.convert.quantized import Integers, Quantized
from streamrt.convert.weights import AnyArray, Weight
from streamrt.graph import Attr
from streamrt.ops.epilogue import QUANTIZED

#: The types of integers that are dequantised. int32 is the type of biases.
_DEQUANTIZED = (*QUANTIZED, "int32")
#: The types whose products are int32.
_MULTIPLIED = ("int8", "uint8")
#: The most terms of a sum of products of integers. With more, sums of uint8 and int8 may not fit int32.
_MOST_TERMS = 2**16


@converts("QuantizeLinear")
def quantize_linear(node: OnnxNode) -> None:
    """Scale and zero point are constants, of the tensor or along an axis. Blocks are not supported."""
    node.ignore("saturate", "precision")  # they change only floating-point types, and the rounding of float16
    kind = _quantized_type(node)
    if kind not in QUANTIZED:
        raise node.problem(f"the result is {kind}, expected one of {', '.join(QUANTIZED)}")
    x = node.float_operand(0) if node.dtype(0) == np.int32 else node.operand(0)
    inputs, attrs = _scales(node, kind)
    if kind != "uint8":
        attrs["dtype"] = kind
    node.mark_exact()
    node.emit("QuantizeLinear", [x, *inputs], attrs)


@converts("DequantizeLinear")
def dequantize_linear(node: OnnxNode) -> None:
    """As QuantizeLinear, for computed integers. A DequantizeLinear of constants is a weight."""
    node.ignore("output_dtype")  # all floating-point types are float32
    kind = node.dtype(0).name
    if kind not in _DEQUANTIZED:
        raise node.problem(f"input 0 is {kind}, expected one of {', '.join(_DEQUANTIZED)}")
    inputs, attrs = _scales(node, kind)
    node.emit("DequantizeLinear", [node.float_operand(0), *inputs], attrs)


@converts("DynamicQuantizeLinear")
def dynamic_quantize_linear(node: OnnxNode) -> None:
    """Its scale and zero point are computed from all samples of a batch, as in ONNX."""
    outputs = list(node.proto.output)
    if len(outputs) != 3:
        raise node.problem(f"it has {len(outputs)} outputs, expected 3")
    node.mark_exact()
    node.emit("DynamicQuantizeLinear", [node.operand(0)], outputs=outputs)


@converts("MatMulInteger")
def matmul_integer(node: OnnxNode) -> None:
    """A product of 8-bit integers. The left zero point is one number, the right one may be a number for each column."""
    terms = [*node.dims(0)[-1:], *node.dims(1)[-2:][:1]]
    _check_terms(node, max((extent for extent in terms if isinstance(extent, int)), default=1))
    node.mark_exact()
    x = _less_zero_point(node, 0, 2)
    if not node.is_constant(1):
        node.emit("MatMul", [x, _less_zero_point(node, 1, 3)])
    elif len(node.facts.constants[node.input(1)].shape) == 2 and node.rank(0) >= 2:
        emit_product(node, x, _weights(node, 1, 3, axis=1, transposed=True))
    else:
        node.emit("MatMul", [x, _weights(node, 1, 3, axis=-1)])


@converts("ConvInteger")
def conv_integer(node: OnnxNode) -> None:
    """A convolution of 8-bit integers. The zero point of the weights may be a number for each output channel."""
    if not node.is_constant(1):
        raise node.problem(f"input 1 (w, {node.input(1)!r}) is computed, expected a constant")
    shape = node.facts.constants[node.input(1)].shape
    attrs = conv_attributes(node, shape)
    _check_terms(node, math.prod(shape[1:]))
    node.mark_exact()
    node.emit("Conv", [_less_zero_point(node, 0, 2), _weights(node, 1, 3, axis=0)], attrs)


def _quantized_type(node: OnnxNode) -> str:
    """The type of the integers that a QuantizeLinear makes."""
    given = node.int_("output_dtype", 0)
    if node.given(2):
        return node.dtype(2).name
    return "uint8" if given == 0 else type_name(given).lower()


def _scales(node: OnnxNode, kind: str) -> tuple[list[str], dict[str, Attr]]:
    """The inputs and attributes for scale and zero point, inputs 1 and 2, of integers of a type.

    Raises:
        UnsupportedNodeError: they are not constants, are for blocks, or do not fit the type or the input.
    """
    scale = node.weight(1, "scale")
    axis, block = node.int_("axis", 1), node.int_("block_size", 0)
    attrs: dict[str, Attr] = {}
    if scale.size != 1 or len(scale.shape) > 1:
        if block:
            raise node.attribute_problem("block_size", f"is {block}: a scale for a block is for constants alone")
        axis = node.axis(axis, node.rank(0))
        extent = node.dims(0)[axis]
        if len(scale.shape) != 1 or (isinstance(extent, int) and extent != scale.size):
            raise node.problem(
                f"input 1 (scale) has shape {scale.shape}, expected one number, or one for each of the {extent} "
                f"indices of axis {axis}"
            )
        attrs["axis"] = axis
    numbers = scale.float64()
    if not (np.isfinite(numbers) & (numbers > 0)).all():
        wrong = numbers[~(np.isfinite(numbers) & (numbers > 0))].reshape(-1)[0]
        raise node.problem(f"input 1 (scale) has the value {wrong}, expected finite numbers above 0")
    inputs = [node.operand(1)]
    if node.given(2):
        zero = _constant_zero(node, 2, kind)
        if zero.shape != scale.shape and (zero.size, scale.size) != (1, 1):
            raise node.problem(
                f"input 2 (zero point) has shape {zero.shape}, expected that of the scale, {scale.shape}"
            )
        if np.any(zero != 0):
            values = Weight.of(zero.reshape(scale.shape).astype(np.float32))
            inputs.append(node.shared(2, f"zero point {scale.shape}", lambda: values))
    return inputs, attrs


def _constant_zero(node: OnnxNode, index: int, kind: str) -> AnyArray:
    """A constant zero point of integers of type ``kind``."""
    weight = node.facts.constants.get(node.input(index))
    if weight is None:
        raise node.problem(f"input {index} (zero point, {node.input(index)!r}) is computed, expected a constant")
    if weight.dtype.name != kind:
        raise node.problem(f"input {index} (zero point) is {weight.dtype}, expected {kind}")
    limits.current().check_memory(8 * weight.size)
    return np.asarray(weight.load())


def _check_terms(node: OnnxNode, terms: int) -> None:
    if terms > _MOST_TERMS:
        raise node.problem(f"sums of {terms} products of integers, expected at most {_MOST_TERMS}")


def _multiplied(node: OnnxNode, index: int) -> str:
    """The type of an input, 8-bit integers."""
    kind = node.dtype(index).name
    if kind not in _MULTIPLIED:
        raise node.problem(f"input {index} is {kind}, expected int8 or uint8")
    return kind


def _less_zero_point(node: OnnxNode, index: int, zero_index: int) -> str:
    """Computed integers less their zero point, which is one number, a constant or computed."""
    kind, x = _multiplied(node, index), node.float_operand(index)
    if not node.given(zero_index):
        return x
    found = node.dims(zero_index)
    if found not in ((), (1,)):
        raise node.problem(f"input {zero_index} (zero point) has shape {found}, expected one number")
    if node.is_constant(zero_index):
        zero = _constant_zero(node, zero_index, kind).reshape(())
        if not zero:
            return x
        point = node.shared(zero_index, "zero point ()", lambda: Weight.of(zero.astype(np.float32)))
    else:
        if node.dtype(zero_index).name != kind:
            raise node.problem(f"input {zero_index} (zero point) is {node.dtype(zero_index)}, expected {kind}")
        point = node.float_operand(zero_index)
    return node.emit("Sub", [x, point], outputs=[node.temporary(f"signed{index}")])


def _weights(node: OnnxNode, index: int, zero_index: int, axis: int, transposed: bool = False) -> str:
    """The name of a constant of integers less their zero point, which is one number or a number along ``axis``."""
    kind, codes = _multiplied(node, index), node.facts.constants[node.input(index)]
    if not codes.size or not codes.shape:
        raise node.problem(f"input {index} has shape {codes.shape}, expected one element or more and one axis or more")
    integers = Integers(kind, codes, Weight.of(np.ones((), np.float32)))
    change = f"integers {transposed}"
    if node.given(zero_index):
        zero = _constant_zero(node, zero_index, kind)
        extent = codes.shape[axis]
        if zero.size == 1 and zero.ndim < 2:
            integers = integers._replace(zero=int(zero.reshape(())))
        elif zero.shape == (extent,):
            ones = Weight.of(np.ones(extent, np.float32))
            integers = integers._replace(scales=ones, zeros=Weight.of(zero), axis=axis % len(codes.shape))
        else:
            raise node.problem(
                f"input {zero_index} (zero point) has shape {zero.shape}, expected one number or {extent} numbers"
            )
        change += f" less {node.input(zero_index)}"

    def make() -> Weight:
        weight: Weight = Quantized(integers, np.dtype(np.float32))
        return weight.transposed() if transposed else weight

    return node.shared(index, change, make)
