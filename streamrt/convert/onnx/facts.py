"""Types, extents and values of the tensors of an ONNX graph, as far as they are known before it runs.

Nodes are visited in order. A node that depends only on constants is folded. A small result is computed at once, a large
result when the weight is written, so that packing holds one large tensor at a time. The extents of all other tensors
come from ONNX's inference: an extent is a number, the name of a free extent of an input that it equals, or not known.

Values that a model computes from extents (``Shape``, ``Gather``, ``Concat`` ... ``Reshape``) are known element by
element (`streamrt.convert.onnx.partial`). If all elements are numbers, the value is a constant. Otherwise it is a *size
value*, which is computed when a graph is lowered, because extents are numbers then (`streamrt.ops.sizes`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto

from streamrt.convert import limits
from streamrt.convert.onnx.data import to_array
from streamrt.convert.onnx.evaluate import can_evaluate, check_cost, evaluate, most_elements, stays
from streamrt.convert.onnx.extents import DECIDED_BY_VALUES, Inputs, refined
from streamrt.convert.onnx.infer import SHOWN, Extents, Fact, InferenceError, has_subgraph, infer_shapes, numbers_of
from streamrt.convert.onnx.partial import Partial, compute, constant_of, partial_of
from streamrt.convert.onnx.quantization import dequantized
from streamrt.convert.onnx.ramp import Ramp, ramp_of
from streamrt.convert.weights import AnyArray, Weight
from streamrt.errors import FormatError
from streamrt.ops import Shape, sizes

#: A folded tensor of at least this many bytes is computed when it is written, so that one is in memory at a time.
_LAZY = 1 << 20
#: The most elements of a constant from which a size value is computed: as many numbers as an attribute can have. A
#: larger constant is a weight.
MOST_ELEMENTS = 4096
#: Bytes that an element takes of a value known in part: a reference, and an object of Python.
_PARTIAL_BYTES = 40
#: The most elements of a folded tensor: more than any weight has, and few enough for a hostile model.
_MAX_ELEMENTS = 2**34
#: The most constants in a chain of which each is computed from the one before when it is written: calls are nested.
_MAX_DEPTH = 64

#: Operators whose result is random, so that it is not a constant.
_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout")
)
#: Operators of ONNX whose result has the values of the input in the same order.
_VIEWS = frozenset(("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"))


@dataclass(slots=True)
class Facts:
    """All facts about the tensors of a graph.

    Attributes:
        opset: version of the default operator set.
        constants: the tensors that are the same in every run.
        tensors: types and extents of all other tensors, by name. A tensor is missing if inference finds nothing.
        partial: the values of size values, as far as they are known. Of a value that is missing nothing is known.
        sizes: the names of the size values.
        ramps: the size values that are ramps.
        errors: why the shapes of a node's outputs could not be inferred, by the name of its first output.
    """

    opset: int
    constants: dict[str, Weight]
    tensors: dict[str, Fact]
    partial: dict[str, Partial] = field(default_factory=dict)
    sizes: set[str] = field(default_factory=set)
    ramps: dict[str, Ramp] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def learn(self, node: NodeProto) -> None:
        """Derive the facts about the outputs of a node from the facts about its inputs."""
        if node.domain not in ("", "ai.onnx") or has_subgraph(node):
            return
        with limits.current().at(describe(node)):
            limits.current().check_time()
            self._learn(node)

    def _learn(self, node: NodeProto) -> None:
        names = [name for name in node.input if name]
        pure = node.op_type not in _RANDOM and can_evaluate(node)
        pure = pure and not any(is_text(dtype) for name in names if (dtype := self.dtype(name)) is not None)
        if pure and names and all(name in self.constants for name in names) and self._fold(node):
            return
        self._infer(node)
        if pure and names and (node.op_type in ("Shape", "Size") or all(map(self.is_known, names))):
            self._measure(node)

    def _measure(self, node: NodeProto) -> None:
        """Learn the values of the outputs of a node that depend on extents and constants only."""
        values: dict[str, Partial] = {}
        if node.op_type in ("Shape", "Size"):
            dims = self.dims(node.input[0])
            if dims is not None:
                values[node.output[0]] = _measured(node, dims)
        elif all(self._is_small(name) for name in node.input if name):
            values = self._computed_in_part(node)
        is_size = node.op_type in sizes.supported() and all(
            self.constants[name].size <= MOST_ELEMENTS for name in node.input if name in self.constants
        )
        for name in node.output:
            dtype = self.dtype(name)
            known = constant_of(values[name], dtype) if name in values and dtype is not None else None
            if known is not None:
                limits.current().hold(known.nbytes)
                self.constants[name] = Weight.of(known)
            elif name and is_size and (dtype is None or not is_text(dtype)):
                self.sizes.add(name)
                if name in values:
                    limits.current().hold(_PARTIAL_BYTES * values[name].size)
                    self.partial[name] = values[name]
                elif (ramp := self._ramp(node)) is not None:
                    self.ramps[name] = ramp

    def _ramp(self, node: NodeProto) -> Ramp | None:
        """The first output of a node, if it is a ramp."""
        inputs = [self.ramps.get(name) or (self.value(name) if name in self.constants else None) for name in node.input]
        limit = self.partial.get(node.input[1]) if node.op_type == "Range" and len(node.input) == 3 else None
        element = None if limit is None or limit.size != 1 else limit.reshape(-1)[0]
        return ramp_of(node, inputs, element if isinstance(element, str) else None)

    def _is_small(self, name: str) -> bool:
        """Whether some elements of a known value are known, and there are few of them."""
        return name in self.partial or (name in self.constants and self.constants[name].size <= MOST_ELEMENTS)

    def _computed_in_part(self, node: NodeProto) -> dict[str, Partial]:
        counts = {}
        for name in node.output:
            shape = self.tensors[name].shape if name in self.tensors else None
            if name and (shape is None or math.prod(shape) > MOST_ELEMENTS):
                return {}
            if name and shape is not None:
                counts[name] = math.prod(shape), self.tensors[name].dtype.itemsize
        names = {name for name in node.input if name}
        dtypes = {name: dtype for name in names if (dtype := self.dtype(name)) is not None}
        if len(dtypes) < len(names):
            return {}
        values = {name: value for name in names if (value := self.value_in_part(name)) is not None}

        def evaluated(feeds: Mapping[str, AnyArray], name: str) -> AnyArray:
            weights = {given: Weight.of(array) for given, array in feeds.items()}
            return _evaluate(node, self.opset, weights, name, *counts[name])

        return compute(node, values, dtypes, evaluated)

    def dims(self, name: str) -> Extents | None:
        """The extents of a tensor, or None if their number is not known."""
        if name in self.constants:
            return self.constants[name].shape
        return self.tensors[name].dims if name in self.tensors else None

    def is_known(self, name: str) -> bool:
        """Whether a tensor is a constant or a size value."""
        return name in self.constants or name in self.sizes

    def value_in_part(self, name: str) -> Partial | None:
        """The elements of a small constant or of a size value, as far as they are known; None if none of them is."""
        if name in self.constants:
            return partial_of(self.constants[name].load()) if self._is_small(name) else None
        return self.partial.get(name)

    def value(self, name: str) -> AnyArray | None:
        """The value of a constant; None if the tensor is not constant."""
        if name not in self.constants:
            return None
        weight = self.constants[name]
        if weight.computed:
            limits.current().check_memory(weight.nbytes)
        return weight.load()

    def dtype(self, name: str) -> np.dtype[Any] | None:
        """The type of a tensor's elements, or None when it is not known."""
        if name in self.constants:
            return self.constants[name].dtype
        fact = self.tensors.get(name)
        return None if fact is None else fact.dtype

    def _fold(self, node: NodeProto) -> bool:
        """Fold a node into constants, computed now or later; returns False if its result is text, or if it stays."""
        known = {name: _shown(self.constants[name]) for name in node.input if name}
        reason = "its shape cannot be inferred"
        try:
            inferred = infer_shapes(node, self.opset, known)
        except InferenceError as error:
            inferred, reason = {}, str(error)
        if any(is_text(fact.dtype) or self._stays(node, fact) for fact in inferred.values()):
            return False
        for name in node.output:
            if not name:
                continue
            fact = inferred.get(name)
            if fact is not None and fact.shape is not None:
                self.constants[name] = self._folded(node, name, fact, fact.shape)
                continue
            most = _most_elements(node, known)
            if most is None:
                raise FormatError(f"{describe(node)} cannot be evaluated: {reason}")
            self.constants[name] = self._computed(node, name, most, 8)
        return True

    def _stays(self, node: NodeProto, fact: Fact) -> bool:
        return fact.shape is not None and stays(node, _sizes(node, self.constants), math.prod(fact.shape))

    def _folded(self, node: NodeProto, name: str, fact: Fact, shape: Shape) -> Weight:
        """Output ``name`` of known type and shape: a view of an input, a small array, or computed when written."""
        if math.prod(shape) > _MAX_ELEMENTS:
            raise FormatError(f"{describe(node)} makes a constant of shape {shape}, expected at most 2**34 elements")
        first = self.constants[node.input[0]]
        if node.op_type in _VIEWS:
            if math.prod(shape) != first.size:
                raise FormatError(f"{describe(node)} cannot be evaluated: shape {first.shape} to {shape}")
            return _view(node, first, first.reshaped(shape))
        if node.op_type == "Transpose":
            axes = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), tuple(range(len(shape)))[::-1])
            if sorted(axes) != list(range(len(first.shape))):
                raise FormatError(f"{describe(node)} cannot be evaluated: perm {axes} of shape {first.shape}")
            return _view(node, first, first.permuted(axes))
        if node.op_type == "Cast" and fact.dtype == np.float32 and _takes_fewer_bytes(first):
            _checked_depth(node, first)
            return first.as_float32()
        if node.op_type == "DequantizeLinear":
            made = dequantized(node, [self.constants[name] if name else None for name in node.input], fact.dtype)
            if made is not None:
                _checked_depth(node, made)
                return made
        if node.op_type == "ConstantOfShape":
            given = [to_array(a.t).reshape(-1) for a in node.attribute if a.name == "value"]
            fill = given[0] if given else np.zeros(1, np.float32)
            if fill.size != 1:
                raise FormatError(
                    f"{describe(node)} cannot be evaluated: attribute 'value' has {fill.size} values, expected 1"
                )
            return Weight.of(np.broadcast_to(fill[0], shape))
        elements = math.prod(shape)
        if elements * fact.dtype.itemsize < _LAZY:
            return self._computed(node, name, elements, fact.dtype.itemsize)
        weights = self._inputs(node)
        depth = 1 + max(_checked_depth(node, weight) for weight in weights.values())
        _check_cost(node, weights, elements, fact.dtype.itemsize)
        return Weight(
            lambda: _evaluate(node, self.opset, weights, name, elements, fact.dtype.itemsize),
            shape,
            fact.dtype,
            computed=True,
            depth=depth,
        )

    def _computed(self, node: NodeProto, name: str, elements: int, itemsize: int) -> Weight:
        """Output ``name``, computed now."""
        value = _evaluate(node, self.opset, self._inputs(node), name, elements, itemsize)
        limits.current().hold(value.nbytes)
        return Weight.of(value)

    def _inputs(self, node: NodeProto) -> dict[str, Weight]:
        return {name: self.constants[name] for name in node.input if name}

    def _infer(self, node: NodeProto) -> None:
        """Learn types and extents of the outputs of a node."""
        known = {}
        for name in node.input:
            if name in self.constants:
                known[name] = _shown(self.constants[name])
            elif name in self.tensors:
                known[name] = self.tensors[name]
        if len(known) != len({name for name in node.input if name}):
            return
        try:
            inferred = infer_shapes(node, self.opset, known)
        except InferenceError as error:
            self.errors.setdefault(node.output[0], str(error))
            return
        first = node.output[0]
        if first in inferred and node.op_type in DECIDED_BY_VALUES:
            dims = [known[name].dims if name else None for name in node.input]
            values = [self.value_in_part(name) if name else None for name in node.input]
            better = refined(Inputs(node, dims, values), inferred[first].dims, self.opset)
            inferred[first] = Fact(inferred[first].dtype, better)
        self.tensors.update(inferred)


def is_text(dtype: np.dtype[Any]) -> bool:
    """Whether elements are text. Texts can take any amount of memory, so no text is read or made by folding."""
    return dtype.kind in "OSU"


def describe(node: NodeProto) -> str:
    """A node's name and operator, for error texts."""
    return f"node {node.name or next(iter(node.output), '')!r} ({node.op_type})"


def _shown(weight: Weight) -> Fact:
    return Fact(weight.dtype, weight.shape, weight.load() if weight.nbytes <= SHOWN else None)


def _view(node: NodeProto, weight: Weight, view: Weight) -> Weight:
    """A view of a weight; a small one is computed at once."""
    if _checked_depth(node, weight) or weight.nbytes >= _LAZY or weight.is_from_fewer_bytes:
        return view
    return Weight.of(view.load())


def _takes_fewer_bytes(weight: Weight) -> bool:
    """Whether the source has a weight in fewer bytes than float32."""
    return weight.is_from_fewer_bytes or (weight.is_float() and weight.dtype.itemsize < 4)


def _checked_depth(node: NodeProto, weight: Weight) -> int:
    if weight.depth >= _MAX_DEPTH:
        raise FormatError(
            f"{describe(node)} is computed from constants in more than the {_MAX_DEPTH} steps allowed: fold it first"
        )
    return weight.depth


def _most_elements(node: NodeProto, known: dict[str, Fact]) -> int | None:
    facts = [known[name] for name in node.input if name]
    shapes = [fact.shape for fact in facts if fact.shape is not None]
    return most_elements(node, [fact.value for fact in facts], shapes) if len(shapes) == len(facts) else None


def _check_cost(node: NodeProto, weights: dict[str, Weight], elements: int, itemsize: int) -> None:
    check_cost(node, _sizes(node, weights), elements, itemsize)


def _sizes(node: NodeProto, weights: Mapping[str, Weight]) -> list[tuple[Shape, np.dtype[Any]]]:
    """Shape and type of each input that is not left out."""
    return [(weights[name].shape, weights[name].dtype) for name in node.input if name]


def _evaluate(
    node: NodeProto, opset: int, weights: dict[str, Weight], name: str, elements: int, itemsize: int
) -> AnyArray:
    """Output ``name`` of a node, which has at most ``elements`` elements."""
    allowed = limits.current()
    with contextlib.ExitStack() as stack:
        stack.enter_context(allowed.at(describe(node)))
        stack.enter_context(allowed.computing())
        feeds = {}
        for given, weight in weights.items():
            if weight.computed:
                stack.enter_context(allowed.holding(weight.nbytes))
            feeds[given] = weight.load()
        _check_cost(node, weights, elements, itemsize)
        value = evaluate(node, opset, feeds, name)
        allowed.check_time()
        # A view would keep the whole array alive.
        return value if value.base is None or value.nbytes >= _LAZY else value.copy()


def _measured(node: NodeProto, dims: Extents) -> Partial:
    """The value of a ``Shape`` or ``Size`` node."""
    if node.op_type == "Size":
        shape = numbers_of(dims)
        return np.array(None if shape is None else math.prod(shape), object)
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(dims[bounds.get("start", 0) : bounds.get("end", len(dims))], object)
