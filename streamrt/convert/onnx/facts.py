"""Types, shapes and values of the tensors of an ONNX graph, as far as they are known before it runs.

Nodes are visited in order. A node that depends only on constants is folded. A small result is computed at once, a large
result when the weight is written, so that packing holds one large tensor at a time. The shapes of all other tensors
come from ONNX's inference, once for each probe (see `streamrt.convert.probes`). Values that a model computes from
shapes (``Shape``, ``Gather``, ``Concat`` ... ``Reshape``) are computed for each probe, too.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto

from streamrt.convert import limits
from streamrt.convert.onnx.data import to_array
from streamrt.convert.onnx.evaluate import can_evaluate, check_cost, evaluate, most_elements
from streamrt.convert.onnx.infer import SHOWN, Fact, InferenceError, has_subgraph, infer_shapes
from streamrt.convert.onnx.quantization import dequantized
from streamrt.convert.probes import Shape
from streamrt.convert.weights import AnyArray, Weight
from streamrt.errors import FormatError

#: A folded tensor of at least this many bytes is computed when it is written, so that one is in memory at a time.
_LAZY = 1 << 20
#: The most bytes of a value that is computed from extents of the inputs. They are many because exporters write
#: transposes as indices, one for each value of a tensor.
_KNOWN = 16 << 20
#: The most elements of a folded tensor: more than any weight has, and few enough for a hostile model.
_MAX_ELEMENTS = 2**34
#: The most constants in a chain of which each is computed from the one before when it is written: calls are nested.
_MAX_DEPTH = 64

#: Operators whose result is random, so that it is not a constant.
_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout")
)
#: Operators whose result is some values of the inputs, so that it does not vary if these values do not.
_SELECTS = frozenset(
    ("Shape", "Gather", "Slice", "Concat", "Split", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Identity")
)
#: Operators of ONNX whose result has the values of the input in the same order.
_VIEWS = frozenset(("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"))


@dataclass(slots=True)
class Facts:
    """All facts about the tensors of a graph.

    Attributes:
        opset: version of the default operator set.
        constants: the tensors that are the same in every run.
        by_probe: for each probe the facts about all other tensors, by name. A tensor is missing if inference finds
            nothing.
        guessed: the constants that are the same under all probes, although they are computed from extents that vary: a
            comparison, for example, could be another one for other extents.
        errors: why the shapes of a node's outputs could not be inferred, by the name of its first output.
    """

    opset: int
    constants: dict[str, Weight]
    by_probe: tuple[dict[str, Fact], ...]
    guessed: set[str] = field(default_factory=set)
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
            if not self.guessed.isdisjoint(names):
                self.guessed.update(name for name in node.output if name)
            return
        for facts in self.by_probe:
            self._infer(node, facts, pure)
        for name in node.output:
            values = [facts[name].value if name in facts else None for facts in self.by_probe]
            first = values[0]
            if first is not None and all(v is not None and np.array_equal(v, first) for v in values):
                self.constants[name] = Weight.of(first)
                selects = node.op_type in _SELECTS
                if not (self.guessed.isdisjoint(names) and (selects or not any(map(self._varies, names)))):
                    self.guessed.add(name)

    def _varies(self, name: str) -> bool:
        """Whether the value or the shape of a tensor differs between the probes."""
        if name in self.constants:
            return False
        shapes, values = self.shapes(name), self.values(name)
        if shapes is None or any(shape != shapes[0] for shape in shapes):
            return True
        return values is not None and not all(np.array_equal(value, values[0]) for value in values)

    def shapes(self, name: str) -> list[Shape] | None:
        """The shape of a tensor under each probe, or None when it is not known under one of them."""
        if name in self.constants:
            return [self.constants[name].shape] * len(self.by_probe)
        found = [facts[name].shape if name in facts else None for facts in self.by_probe]
        shapes = [shape for shape in found if shape is not None]
        return shapes if len(shapes) == len(found) else None

    def is_known(self, name: str) -> bool:
        """Whether a tensor is a constant, or depends only on the extents of the inputs."""
        return name in self.constants or all(name in facts and facts[name].value is not None for facts in self.by_probe)

    def values(self, name: str) -> list[AnyArray] | None:
        """The value of a known tensor under each probe; None if the tensor is not known."""
        if name in self.constants:
            weight = self.constants[name]
            if weight.computed:
                limits.current().check_memory(weight.nbytes)
            return [weight.load()] * len(self.by_probe)
        found = [facts[name].value if name in facts else None for facts in self.by_probe]
        values = [value for value in found if value is not None]
        return values if len(values) == len(found) else None

    def dtype(self, name: str) -> np.dtype[Any] | None:
        """The type of a tensor's elements, or None when it is not known."""
        if name in self.constants:
            return self.constants[name].dtype
        fact = self.by_probe[0].get(name)
        return None if fact is None else fact.dtype

    def _fold(self, node: NodeProto) -> bool:
        """Fold a node into constants that are computed now or later; returns False if its result is text."""
        known = {name: _shown(self.constants[name]) for name in node.input if name}
        reason = "its shape cannot be inferred"
        try:
            inferred = infer_shapes(node, self.opset, known)
        except InferenceError as error:
            inferred, reason = {}, str(error)
        if any(is_text(fact.dtype) for fact in inferred.values()):
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

    def _infer(self, node: NodeProto, facts: dict[str, Fact], pure: bool) -> None:
        known = {}
        for name in node.input:
            if name in self.constants:
                known[name] = _shown(self.constants[name])
            elif name in facts:
                known[name] = facts[name]
        if len(known) != len({name for name in node.input if name}):
            return
        try:
            inferred = infer_shapes(node, self.opset, known)
        except InferenceError as error:
            self.errors.setdefault(node.output[0], str(error))
            return
        facts.update(inferred)
        values: dict[str, AnyArray] = {}
        pure = pure and not any(is_text(fact.dtype) for fact in inferred.values())
        if node.op_type in ("Shape", "Size") and (shape := known[node.input[0]].shape) is not None:
            values[node.output[0]] = _measure(node, shape)
        elif pure and known and all(fact.value is not None for fact in known.values()):
            values = self._values(node, known, inferred)
        for name, value in values.items():
            limits.current().hold(value.nbytes)
            facts[name] = Fact(value.dtype, value.shape, value)

    def _values(self, node: NodeProto, known: dict[str, Fact], inferred: dict[str, Fact]) -> dict[str, AnyArray]:
        """The values of the outputs, computed from the inputs' values; empty if they are large or of unknown size."""
        sizes = {}
        for name in node.output:
            fact = inferred.get(name)
            if fact is not None and fact.shape is not None:
                sizes[name] = math.prod(fact.shape), fact.dtype.itemsize
            elif name and (most := _most_elements(node, known)) is not None:
                sizes[name] = most, 8
            elif name:
                return {}
        if any(elements * itemsize > _KNOWN for elements, itemsize in sizes.values()):
            return {}
        weights = {name: Weight.of(fact.value) for name, fact in known.items() if fact.value is not None}
        return {name: _evaluate(node, self.opset, weights, name, *size) for name, size in sizes.items()}


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
    given = [weights[name] for name in node.input if name]
    check_cost(node, [(weight.shape, weight.dtype) for weight in given], elements, itemsize)


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


def _measure(node: NodeProto, shape: Shape) -> AnyArray:
    """The value of a ``Shape`` or ``Size`` node."""
    if node.op_type == "Size":
        return np.asarray(math.prod(shape), np.int64)
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.asarray(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], np.int64)
