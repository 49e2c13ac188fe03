"""Activations that a model spells out in arithmetic become one node.

A product is split into its factors; their order does not matter. These products are activations:

* ``x * sigmoid(a * x)`` is Swish,
* ``x * tanh(softplus(x))`` is Mish,
* ``x * hard_sigmoid(x)`` and ``x * clip(x + 3, 0, 6) / 6`` are HardSwish,
* ``x * (1 + erf(x / sqrt(2))) / 2`` is Gelu,
* ``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) / 2`` is Gelu approximated by tanh,
* ``clip(x + 3, 0, 6) / 6`` alone is HardSigmoid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from streamrt.convert.draft import Draft, DraftNode
from streamrt.graph import Attr
from streamrt.ops import Shape

#: Treat two constants as the same up to this relative difference: models have them in float32, or with four decimals.
_TOLERANCE = 1e-4


def recognise_activations(draft: Draft, shapes: Mapping[str, Shape]) -> None:
    """Replace every product that is an activation, the largest first. Nodes that nothing reads any more stay."""
    finder = _Finder(draft, shapes)
    for node in reversed(draft.nodes):
        if node.op in ("Mul", "Div"):
            found = finder.activation(node)
            if found is not None:
                op, attrs, x = found
                node.op, node.attrs, node.inputs = op, attrs, [x]


class _Finder:
    def __init__(self, draft: Draft, shapes: Mapping[str, Shape]) -> None:
        self._draft = draft
        self._shapes = shapes
        self._producers = draft.producers()

    def activation(self, node: DraftNode) -> tuple[str, dict[str, Attr], str] | None:
        """Operator, attributes and input of the activation that ``node`` computes."""
        constant, factors = self._factors(node.outputs[0], depth=4)
        if not 1 <= len(factors) <= 2 or any(self._shapes[f] != self._shapes[node.outputs[0]] for f in factors):
            return None
        if len(factors) == 1:
            x = self._clipped(factors[0])
            if x is not None and _close(constant, 1 / 6):
                return "HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, x
            return None
        for x, gate in (factors, factors[::-1]):
            maker = self._producers.get(gate)
            if maker is None:
                continue
            if maker.op == "Sigmoid" and not maker.activation and _close(constant, 1):
                alpha, inner = self._factors(maker.inputs[0], depth=2)
                if inner == [x]:
                    return "Swish", {"alpha": alpha}, x
            if maker.op == "Tanh" and self._softplus(maker.inputs[0]) == x and _close(constant, 1):
                return "Mish", {}, x
            if self._hard_sigmoid(gate) == x and _close(constant, 1):
                return "HardSwish", {}, x
            if self._clipped(gate) == x and _close(constant, 1 / 6):
                return "HardSwish", {}, x
            if self._one_plus_erf(gate) == x and _close(constant, 0.5):
                return "Gelu", {"approximate": "none"}, x
            if self._one_plus_tanh(gate) == x and _close(constant, 0.5):
                return "Gelu", {"approximate": "tanh"}, x
        return None

    def _factors(self, name: str, depth: int) -> tuple[float, list[str]]:
        """A tensor as a product: a number, and a list of tensors."""
        node = self._producers.get(name)
        if node is None or depth == 0 or node.op not in ("Mul", "Div") or node.activation:
            return 1.0, [name]
        left, right = node.inputs
        divisor = self._number(right)
        if node.op == "Div":
            if not divisor:
                return 1.0, [name]
            constant, factors = self._factors(left, depth - 1)
            return constant / divisor, factors
        constant, factors = 1.0, []
        for operand in (left, right):
            number = self._number(operand)
            if number is not None:
                constant *= number
            else:
                inner, names = self._factors(operand, depth - 1)
                constant *= inner
                factors += names
        return constant, factors

    def _hard_sigmoid(self, name: str) -> str | None:
        """x, if the tensor is ``clip(x / 6 + 1 / 2, 0, 1)``."""
        node = self._producers.get(name)
        if node is None or node.op != "HardSigmoid":
            return None
        return node.inputs[0] if _close(node.attrs["alpha"], 1 / 6) and _close(node.attrs["beta"], 0.5) else None

    def _softplus(self, name: str) -> str | None:
        """x, if the tensor is ``log(1 + exp(x))``."""
        node = self._producers.get(name)
        return node.inputs[0] if node is not None and node.op == "Softplus" else None

    def _clipped(self, name: str) -> str | None:
        """x, if the tensor is ``clip(x + 3, 0, 6)``."""
        node = self._producers.get(name)
        if node is None or node.op != "Clip" or node.attrs != {"min": 0.0, "max": 6.0}:
            return None
        return self._plus(node.inputs[0], 3.0)

    def _one_plus_erf(self, name: str) -> str | None:
        """x, if the tensor is ``1 + erf(x / sqrt(2))``."""
        inner = self._plus(name, 1.0)
        node = self._producers.get(inner) if inner is not None else None
        if node is None or node.op != "Erf":
            return None
        constant, factors = self._factors(node.inputs[0], depth=2)
        return factors[0] if len(factors) == 1 and _close(constant, math.sqrt(0.5)) else None

    def _one_plus_tanh(self, name: str) -> str | None:
        """x, if the tensor is ``1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))``."""
        inner = self._plus(name, 1.0)
        node = self._producers.get(inner) if inner is not None else None
        if node is None or node.op != "Tanh":
            return None
        constant, factors = self._factors(node.inputs[0], depth=2)
        if len(factors) != 1 or not _close(constant, math.sqrt(2 / math.pi)):
            return None
        node = self._producers.get(factors[0])
        if node is None or node.op != "Add" or node.activation:
            return None
        for x, cubic in (tuple(node.inputs), tuple(reversed(node.inputs))):
            constant, powers = self._factors(cubic, depth=3)
            if _close(constant, 0.044715) and (powers == [x] * 3 or (len(powers) == 1 and self._cube(powers[0]) == x)):
                return x
        return None

    def _cube(self, name: str) -> str | None:
        """x, if the tensor is ``x ** 3``."""
        node = self._producers.get(name)
        if node is None or node.op != "Pow" or node.activation or self._number(node.inputs[1]) != 3:
            return None
        return node.inputs[0]

    def _plus(self, name: str, number: float) -> str | None:
        """x, if the tensor is ``x + number``."""
        node = self._producers.get(name)
        if node is None or node.op != "Add" or node.activation:
            return None
        left, right = node.inputs
        for x, addend in ((left, right), (right, left)):
            value = self._number(addend)
            if value is not None and _close(value, number):
                return x
        return None

    def _number(self, name: str) -> float | None:
        """The value of a weight that is one number."""
        weight = self._draft.params.get(name)
        return float(weight.float64().reshape(())) if weight is not None and weight.size == 1 else None


def _close(value: Attr, expected: float) -> bool:
    return isinstance(value, int | float) and abs(value - expected) <= _TOLERANCE * abs(expected)
