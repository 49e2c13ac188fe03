"""A model as a list of layers with NumPy arrays, for weights that come from no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamrt.convert.draft import Draft, DraftNode
from streamrt.convert.inputs import Inputs, with_extents
from streamrt.convert.weights import AnyArray, Weight
from streamrt.errors import UnsupportedModelError
from streamrt.graph import Activation, Attr, Dims, TensorSpec
from streamrt.ops import supported, traits_of

INPUT = "input"
OUTPUT = "output"


class Layer:
    """One operator of a chain.

    ``Layer("Gemm", w, b, activation="Relu")``, ``Layer("Conv", w, b, pads=(1, 1, 1, 1))``,
    ``Layer("BatchNormalization", scale, bias, mean, var)``, ``Layer("MaxPool", kernel_shape=(2, 2), strides=(2, 2))``,
    ``Layer("Flatten")``.

    Args:
        op: an ONNX operator name.
        weight: its second input, in the layout of the weights file: (outputs, inputs) for ``Gemm``,
            (output channels, input channels / group, window) for ``Conv``. An array of floating-point numbers in
            memory, or an ``np.memmap``, which is read block by block. An array that two layers share is stored once.
        bias: the third input.
        params: further inputs.
        activation: an element-wise operator applied to the result, by name or as an `Activation` with attributes.
        attrs: the operator's attributes by their ONNX names.

    Raises:
        TypeError: ``op`` is not text.
    """

    def __init__(
        self,
        op: str,
        weight: AnyArray | None = None,
        bias: AnyArray | None = None,
        *params: AnyArray | None,
        activation: str | Activation | None = None,
        **attrs: Any,
    ) -> None:
        if not isinstance(op, str):
            raise TypeError(f"a layer begins with the name of an operator, such as 'Gemm'; found {type(op).__name__}")
        self.op = op
        self.params = (weight, bias, *params)
        self.activation = Activation(activation) if isinstance(activation, str) else activation
        self.attrs = {name: _attr(name, value) for name, value in attrs.items()}

    def __repr__(self) -> str:
        shapes = ", ".join(str(None if p is None else np.shape(p)) for p in self.params if p is not None)
        return f"Layer({self.op}{', ' if shapes else ''}{shapes})"


def read_layers(layers: Sequence[Layer], inputs: Inputs | None) -> Draft:
    """The draft of a chain from ``"input"``, of extents ``inputs``, to ``"output"``.

    Raises:
        UnsupportedModelError: some weights are not arrays of floating-point numbers. The text names each of them.
        ValueError: there are no layers, or ``inputs`` is None and the first layer is not a Gemm, whose weights would
            tell the extents of the input.
    """
    if not layers:
        raise ValueError("the list of layers is empty, expected at least one")
    draft = Draft([_input_of(layers[0], inputs)], [TensorSpec(OUTPUT, ())])
    problems: list[str] = []
    stored: dict[int, str] = {}
    current = INPUT
    for index, layer in enumerate(layers):
        name = f"layer{index}"
        operands = [current]
        for suffix, array in zip(_suffixes(layer), layer.params, strict=True):
            if array is not None and id(array) not in stored:
                weight = _weight(array)
                if weight is None:
                    found = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
                    problems.append(
                        f"{name} ({layer.op}): {suffix} is {found}, expected an array of floating-point numbers"
                    )
                    continue
                stored[id(array)] = f"{name}.{suffix}"
                draft.params[stored[id(array)]] = weight
            operands.append("" if array is None else stored[id(array)])
        while operands[-1] == "":
            operands.pop()
        current = OUTPUT if index == len(layers) - 1 else name
        draft.nodes.append(DraftNode(name, layer.op, operands, [current], dict(layer.attrs), layer.activation))
    if problems:
        raise UnsupportedModelError(problems)
    return draft


def _suffixes(layer: Layer) -> list[str]:
    """The end of the name of each parameter of a layer, after the layer's name."""
    names = traits_of(layer.op).params
    return [*names, *(f"param{position}" for position in range(len(names), len(layer.params)))][: len(layer.params)]


def _input_of(first: Layer, inputs: Inputs | None) -> TensorSpec:
    if inputs is None:
        return TensorSpec(INPUT, _dims_for(first))
    extents = inputs.get(INPUT) if isinstance(inputs, Mapping) else inputs
    rank = len(extents) if isinstance(extents, Sequence) else 0  # layers take any number of axes
    return with_extents([TensorSpec(INPUT, (1,) * rank)], inputs)[0]


def _dims_for(first: Layer) -> Dims:
    weight = first.params[0]
    if first.op == "Gemm" and weight is not None and np.ndim(weight) == 2:
        return ("N", int(np.shape(weight)[1]))
    if first.op not in supported():
        return ("N",)  # an error lists all unknown operators before the extents matter
    raise ValueError(
        f"the first layer is {first.op}, which does not tell the extents of the input: give inputs=, such as "
        "('N', 3, 224, 224)"
    )


def _weight(array: AnyArray) -> Weight | None:
    if not isinstance(array, np.ndarray):
        return None
    weight = Weight.of(array)
    return weight if weight.is_float() else None


def _attr(name: str, value: Any) -> Attr:
    """``value`` as a graph holds it: Python's numbers, and tuples instead of other sequences."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(v, int | float | np.number) for v in value):
        return tuple(v.item() if isinstance(v, np.generic) else v for v in value)
    raise TypeError(
        f"attribute {name!r} is {type(value).__name__}, expected a number, a string or a sequence of numbers"
    )
