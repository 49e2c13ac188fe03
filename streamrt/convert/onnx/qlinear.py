"""Operators on integers with scales become the operator on real numbers between DequantizeLinear and QuantizeLinear.

Of ONNX these are QLinearConv and QLinearMatMul; of ONNX Runtime (domain com.microsoft) those that its quantizer writes.
Constants that are dequantised stay integers in the file (`streamrt.convert.quantized`), and a DequantizeLinear of a
QuantizeLinear becomes one operator (`streamrt.convert.fold.quantized`). A Gather from constant integers, as of an
embedding, that is followed by a DequantizeLinear becomes a Gather from real numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from onnx import AttributeProto, NodeProto, helper

from streamrt.convert import limits
from streamrt.convert.draft import unique
from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.convert.quantized import OFFSETS
from streamrt.convert.weights import Weight

#: The domains of ONNX and of ONNX Runtime.
_PLAIN, _CONTRIBUTED = ("", "ai.onnx"), "com.microsoft"
#: The opset from which on Softmax is along one axis.
_SOFTMAX_ALONG_AXIS = 13


class _KeptError(Exception):
    """Why a node is not replaced."""


class Expansion:
    """Replaces nodes of a graph, in order.

    Args:
        constants: those that are known. The biases of nodes are added.
        opset: of the model.
        names: of all tensors. New names are added.
        nodes: of the graph.
        outputs: of the graph.
    """

    def __init__(
        self,
        constants: dict[str, Weight],
        opset: int,
        names: set[str],
        nodes: Iterable[NodeProto] = (),
        outputs: Iterable[str] = (),
    ) -> None:
        self.constants = constants
        self.opset = opset
        self._names = names
        self._real: dict[tuple[str, str, str, int], str] = {}
        self._readers = _readers(nodes)
        self._outputs = frozenset(outputs)
        self._rows: dict[str, str] = {}

    def of(self, node: NodeProto) -> list[NodeProto]:
        """The nodes that replace a node; none if it is another operator, or cannot be replaced: see `why_kept`."""
        if node.op_type == "DequantizeLinear" and node.input and node.input[0] in self._rows:
            return [helper.make_node("Identity", [self._rows[node.input[0]]], node.output, name=node.name)]
        expand = self._gather if node.op_type == "Gather" and node.domain in _PLAIN else _find(node)
        if expand is None:
            return []
        try:
            parts = Parts(self, node)
            expand(parts)
        except _KeptError:
            return []
        self._real |= parts.real_names
        self.constants |= parts.constants
        return parts.nodes

    def _gather(self, parts: Parts) -> None:
        """A Gather from constant integers whose result is dequantised: the constant is, before."""
        (name,) = parts.node.output
        table = parts.constant(0, "data")
        readers = self._readers.get(name, [])
        params = {tuple(reader.input[1:]) for reader in readers}
        dequantised = all(r.op_type == "DequantizeLinear" and list(r.input).index(name) == 0 for r in readers)
        alone = dequantised and len(params) == 1 and name not in self._outputs
        if table.dtype.name not in OFFSETS or not alone or parts.name(1) in self.constants:
            raise _KeptError("the data are no integers, the result is read as integers, or it is a constant")
        scale, zero, *_ = (*params.pop(), "", "")
        scales = self.constants.get(scale)
        if scales is None or scales.size != 1:
            raise _KeptError("the scale is not one constant number")
        real = parts.dequantized((parts.name(0), scale, zero))
        self._rows[name] = parts.emit("Gather", [real, parts.name(1)], f"{name}.real", list(parts.node.attribute))

    def real_name(self, key: tuple[str, str, str, int]) -> str | None:
        """The name of a tensor that another node has dequantised."""
        return self._real.get(key)

    def new_name(self, name: str) -> str:
        """A name that no tensor has: ``name``, or a similar one."""
        name = unique(name, self._names)
        self._names.add(name)
        return name


def why_kept(node: NodeProto, constants: dict[str, Weight], opset: int) -> str | None:
    """Why a node on integers with scales cannot be replaced; None if it is another operator."""
    expand = _find(node)
    if expand is None:
        return None
    try:
        expand(Parts(Expansion(constants, opset, set()), node))
    except _KeptError as error:
        return str(error)
    return None


class Parts:
    """The nodes that replace one node, while they are made."""

    def __init__(self, expansion: Expansion, node: NodeProto) -> None:
        self.node = node
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Weight] = {}
        self.real_names: dict[tuple[str, str, str, int], str] = {}
        self.opset = expansion.opset
        self._expansion = expansion
        if len(node.output) != 1 or not node.output[0]:
            raise _KeptError(f"it has {len(node.output)} outputs, expected one")

    def name(self, index: int) -> str:
        """The name of an input; "" if it is left out."""
        return str(self.node.input[index]) if index < len(self.node.input) else ""

    def expect(self, least: int, most: int) -> None:
        """Refuse other numbers of inputs."""
        if not least <= len(self.node.input) <= most:
            raise _KeptError(f"it has {len(self.node.input)} inputs, expected {least} to {most}")

    def attributes(self, *names: str) -> dict[str, AttributeProto]:
        """The attributes, which must be among ``names``. ``channels_last`` may only be 0."""
        given = {str(attribute.name): attribute for attribute in self.node.attribute}
        if others := given.keys() - {*names, "channels_last"}:
            raise _KeptError(f"attribute {min(others)!r:.80} is not supported")
        last = given.pop("channels_last", None)
        if last is not None and last.i:
            raise _KeptError("attribute 'channels_last' is not 0: channels must be axis 1")
        return given

    def constant(self, index: int, what: str) -> Weight:
        """An input that must be a constant."""
        weight = self._expansion.constants.get(self.name(index))
        if weight is None:
            raise _KeptError(f"input {index} ({what}, {self.name(index)!r:.80}) is computed, expected a constant")
        return weight

    def scale(self, index: int, axis: int | None = None) -> Weight:
        """An input that is a scale: one number, or with ``axis`` one axis of numbers."""
        scale = self.constant(index, "scale")
        if not scale.is_float():
            raise _KeptError(f"input {index} (scale) is {scale.dtype}, expected floating-point numbers")
        if len(scale.shape) > 1 or (axis is None and scale.size != 1):
            many = "one number" if axis is None else "one number or one axis"
            raise _KeptError(f"input {index} (scale) has shape {scale.shape}, expected {many}")
        return scale

    def real(self, index: int, axis: int | None = None) -> str:
        """The name of input ``index``, dequantised by the scale and the zero point after it."""
        if not self.name(index):
            raise _KeptError(f"input {index} is missing")
        self.scale(index + 1, axis)
        return self.dequantized((self.name(index), self.name(index + 1), self.name(index + 2)), axis)

    def dequantized(self, names: tuple[str, str, str], axis: int | None = None) -> str:
        """The name of a tensor, dequantised. ``names`` are those of the tensor, its scale and its zero point."""
        key = (*names, 1 if axis is None else axis)
        found = self._expansion.real_name(key) or self.real_names.get(key)
        if found is None:
            along = [] if axis is None else [helper.make_attribute("axis", axis)]
            found = self.emit("DequantizeLinear", list(names), f"{names[0]}.real", along)
            self.real_names[key] = found
        return found

    def emit(self, op: str, inputs: list[str], output: str, attributes: list[AttributeProto] | None = None) -> str:
        """Add a node; returns the name of its output, ``output`` or a similar one."""
        name = output if output == self.node.output[0] else self._expansion.new_name(output)
        node = helper.make_node(op, _without_last(inputs), [name], name=self.node.name)
        node.attribute.extend(attributes or [])
        self.nodes.append(node)
        return name

    def result(self, op: str, inputs: list[str], scale: int, attributes: list[AttributeProto]) -> None:
        """Add the operator on real numbers, and a QuantizeLinear by input ``scale`` and the one after it."""
        (out,) = self.node.output
        self.scale(scale)
        if not self.name(scale + 1):
            raise _KeptError(f"input {scale + 1} (zero point of the result) is missing")
        y = self.emit(op, inputs, f"{out}.real", attributes)
        self.emit("QuantizeLinear", [y, self.name(scale), self.name(scale + 1)], out)

    def bias(self, index: int, scales: tuple[int, int], factor: float = 1.0) -> str:
        """The name of a constant: the int32 numbers of input ``index`` times the product of two scales."""
        bias = self.constant(index, "bias")
        if bias.dtype != np.int32:
            raise _KeptError(f"input {index} (bias) is {bias.dtype}, expected int32")
        x, w = (self.scale(scale, axis=0) for scale in scales)
        extents = {weight.size for weight in (x, w)} - {1}
        if extents - {bias.shape[-1] if bias.shape else 1}:
            raise _KeptError(
                f"input {index} (bias) has shape {bias.shape}, expected one for each of {max(extents)} scales"
            )
        limits.current().check_memory(24 * bias.size)
        limits.current().hold(4 * bias.size)
        with np.errstate(over="ignore", invalid="ignore"):
            values = bias.load() * (factor * x.float64().reshape(-1) * w.float64().reshape(-1))
            made = Weight.of(values.astype(np.float32).reshape(bias.shape))
        name = self._expansion.new_name(f"{self.name(index)}.real")
        self.constants[name] = made
        return name


def _readers(nodes: Iterable[NodeProto]) -> dict[str, list[NodeProto]]:
    """The nodes that read each tensor, themselves or in graphs that they have as attributes."""
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        pending = [node]
        while pending:
            inner = pending.pop()
            for name in inner.input:
                readers.setdefault(name, []).append(node)
            pending += (part for a in inner.attribute for graph in (a.g, *a.graphs) for part in graph.node)
    return readers


def _without_last(inputs: list[str]) -> list[str]:
    """Inputs without those at the end that are left out."""
    count = len(inputs)
    while count and not inputs[count - 1]:
        count -= 1
    return inputs[:count]


def _conv(parts: Parts) -> None:
    parts.expect(8, 9)
    attributes = parts.attributes("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    inputs = [parts.real(0), parts.real(3, axis=0)]
    if parts.name(8):
        inputs.append(parts.bias(8, (1, 4)))
    parts.result("Conv", inputs, 6, list(attributes.values()))


def _matmul(parts: Parts) -> None:
    parts.expect(8, 8)
    parts.attributes()
    parts.result("MatMul", [parts.real(0), parts.real(3, axis=-1)], 6, [])


def _gemm(parts: Parts) -> None:
    """QGemm. Its bias has the scale ``alpha * a_scale * b_scale``."""
    parts.expect(6, 9)
    attributes = parts.attributes("alpha", "transA", "transB")
    transposed = "transB" in attributes and attributes["transB"].i != 0
    inputs = [parts.real(0), parts.real(3, axis=0 if transposed else 1)]
    if parts.name(6):
        alpha = attributes["alpha"].f if "alpha" in attributes else 1.0
        if not math.isfinite(alpha):
            raise _KeptError(f"attribute 'alpha' is {alpha}, expected a finite number")
        inputs.append(parts.bias(6, (1, 4), alpha))
    if parts.name(7):
        parts.result("Gemm", inputs, 7, list(attributes.values()))
    else:
        parts.emit("Gemm", inputs, parts.node.output[0], list(attributes.values()))


def _binary(op: str) -> Callable[[Parts], None]:
    def expand(parts: Parts) -> None:
        parts.expect(7, 8)
        parts.attributes()
        parts.result(op, [parts.real(0), parts.real(3)], 6, [])

    return expand


def _unary(op: str, *names: str) -> Callable[[Parts], None]:
    def expand(parts: Parts) -> None:
        parts.expect(4, 5)
        attributes = parts.attributes(*names)
        parts.result(op, [parts.real(0)], 3, list(attributes.values()))

    return expand


def _softmax(parts: Parts) -> None:
    """QLinearSoftmax. Its attribute ``opset`` is that of the Softmax which it stands for."""
    parts.expect(4, 5)
    attributes = parts.attributes("axis", "opset")
    opset = attributes.pop("opset").i if "opset" in attributes else 0
    if (opset < _SOFTMAX_ALONG_AXIS) != (parts.opset < _SOFTMAX_ALONG_AXIS):
        raise _KeptError(f"attribute 'opset' is {opset} in a model of opset {parts.opset}")
    parts.result("Softmax", [parts.real(0)], 3, list(attributes.values()))


def _concat(parts: Parts) -> None:
    attributes = parts.attributes("axis")
    count = len(parts.node.input)
    if count < 5 or count % 3 != 2:
        raise _KeptError(f"it has {count} inputs, expected 2 and 3 for each part")
    parts.result("Concat", [parts.real(index) for index in range(2, count, 3)], 0, list(attributes.values()))


def _where(parts: Parts) -> None:
    parts.expect(8, 9)
    parts.attributes()
    parts.result("Where", [parts.name(0), parts.real(1), parts.real(4)], 7, [])


def _copied(parts: Parts) -> None:
    """The same operator of ONNX, which has 16 bits only since opset 21."""
    parts.expect(2, 3)
    attributes = parts.attributes("axis", "block_size")
    parts.emit(parts.node.op_type, list(parts.node.input), parts.node.output[0], list(attributes.values()))


_WINDOWS = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
_OF_ONNX: Mapping[str, Callable[[Parts], None]] = {"QLinearConv": _conv, "QLinearMatMul": _matmul}
_OF_RUNTIME: Mapping[str, Callable[[Parts], None]] = {
    "QLinearAdd": _binary("Add"),
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearLeakyRelu": _unary("LeakyRelu", "alpha"),
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearAveragePool": _unary("AveragePool", *_WINDOWS),
    "QLinearSoftmax": _softmax,
    "QLinearConcat": _concat,
    "QLinearWhere": _where,
    "QGemm": _gemm,
    "QuantizeLinear": _copied,
    "DequantizeLinear": _copied,
}


def _find(node: NodeProto) -> Callable[[Parts], None] | None:
    if node.domain in _PLAIN:
        return _OF_ONNX.get(node.op_type)
    return _OF_RUNTIME.get(node.op_type) if node.domain == _CONTRIBUTED else None


@converts(*_OF_ONNX)
def not_replaced(node: OnnxNode) -> None:
    """Scales, zero points and the bias are constants. Only nodes that could not be replaced come here."""
    raise node.problem(why_kept(node.proto, node.facts.constants, node.facts.opset) or "its scales are not constants")
