"""Conversion of recurrent operators: LSTM, GRU and RNN.

The product of X with W has no part of the recurrence, so it becomes a MatMul for all steps at once. A node in two
directions becomes two nodes, one after the other, so that only one of them needs its memory and its weights.
`streamrt.ops.recurrent` has what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.convert.weights import Weight
from streamrt.graph import Attr
from streamrt.ops.recurrent_activations import KINDS

Values = NDArray[np.float64]

#: By operator: its gates, states and default activations.
_OPERATORS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "GRU": (3, 1, ("Sigmoid", "Tanh")),
    "LSTM": (4, 2, ("Sigmoid", "Tanh", "Tanh")),
    "RNN": (1, 1, ("Tanh",)),
}
#: Indices of inputs.
_W, _R, _B, _LENGTHS, _STATE, _PEEPHOLE = 1, 2, 3, 4, 5, 7


class _Sizes(NamedTuple):
    """Sizes that the weights tell."""

    directions: int
    rows: int
    features: int
    hidden: int


@converts("LSTM", "GRU", "RNN")
def recurrent(node: OnnxNode) -> None:
    """All variants, except sequences that end before the last step."""
    gates, states, default = _OPERATORS[node.op]
    direction = node.text("direction", "forward", ("forward", "reverse", "bidirectional"))
    directions = ("forward", "reverse") if direction == "bidirectional" else (direction,)
    sizes = _sizes(node, gates, len(directions))
    attrs = _attributes(node)
    functions = _activations(node, default, len(directions))
    _check_lengths(node, "layout" in attrs)
    # In a state the directions are axis 0, or axis 1 if samples come first.
    axis = 1 if "layout" in attrs else 0
    initial = [_initial(node, _STATE + state, len(directions), axis) for state in range(states)]
    outputs = [_outputs(node, 1 + states, each if len(directions) > 1 else "") for each in directions]
    for index, each in enumerate(directions):
        product, bias = _product(node, index, sizes, "linear_before_reset" in attrs)
        inputs = [product, _matrix(node, _R, "R", index), bias, *(names[index] for names in initial)]
        if node.op == "LSTM" and node.given(_PEEPHOLE):
            inputs.append(_vector(node, _PEEPHOLE, "P", index, (sizes.directions, 3 * sizes.hidden)))
        own = attrs | functions[index] | ({"direction": each} if each != "forward" else {})
        node.emit(node.op, _trimmed(inputs), own, _trimmed(outputs[index]))
    for index in range(1 + states):
        if len(directions) > 1 and node.reads_output(index):
            along = 1 + axis if index == 0 else axis
            node.emit("Concat", [names[index] for names in outputs], {"axis": along}, [node.proto.output[index]])


def _attributes(node: OnnxNode) -> dict[str, Attr]:
    """The attributes that both directions have and that do not name activations."""
    attrs: dict[str, Attr] = {}
    if node.flag("layout"):
        attrs["layout"] = 1
    if node.has("clip"):
        attrs["clip"] = clip = node.float_("clip")
        if clip <= 0:
            raise node.attribute_problem("clip", f"is {clip}, expected a number above 0")
    if node.op == "GRU" and node.flag("linear_before_reset"):
        attrs["linear_before_reset"] = 1
    if node.op == "LSTM" and node.flag("input_forget"):
        attrs["input_forget"] = 1
    return attrs


def _outputs(node: OnnxNode, count: int, part: str) -> list[str]:
    """The names of the outputs; of temporaries if they are a ``part`` of the outputs. Output 0 needs a name."""
    names = [str(node.proto.output[index]) if node.reads_output(index) else "" for index in range(count)]
    if part:
        names = [name and node.temporary(f"{part}{index}") for index, name in enumerate(names)]
    return [names[0] or node.temporary("steps"), *names[1:]]


def _trimmed(names: list[str]) -> list[str]:
    """``names`` up to the last one that is not left out."""
    while not names[-1]:
        names = names[:-1]
    return names


def _sizes(node: OnnxNode, gates: int, directions: int) -> _Sizes:
    w, r = node.weight(_W, "W").shape, node.weight(_R, "R").shape
    rows = gates * r[-1] if r else 0
    if len(w) != 3 or r[:-1] != (directions, rows) or w[:-1] != r[:-1]:
        raise node.problem(
            f"W has shape {w} and R {r}, expected ({directions}, {gates} * hidden, features) and "
            f"({directions}, {gates} * hidden, hidden)"
        )
    if (given := node.int_("hidden_size", r[2])) != r[2]:
        raise node.attribute_problem("hidden_size", f"is {given}, but R has shape {r}")
    return _Sizes(directions, rows, w[2], r[2])


def _activations(node: OnnxNode, default: tuple[str, ...], directions: int) -> list[dict[str, Attr]]:
    """The attributes that name the activations, for each direction.

    ONNX has numbers only for functions that take some, in the order of the functions. A graph has one for each.
    """
    names = node.texts("activations")
    numbers = [list(node.floats(name) or ()) for name in ("activation_alpha", "activation_beta")]
    if names is None:
        names = default * directions
    if len(names) != len(default) * directions or not all(name in KINDS for name in names):
        raise node.attribute_problem(
            "activations", f"is {names!r:.200}, expected {len(default) * directions} of {', '.join(KINDS)}"
        )
    found: list[tuple[float, float]] = []
    for name in names:
        pair = [0.0, 0.0]
        for position, value in enumerate(KINDS[name]):
            pair[position] = numbers[position].pop(0) if numbers[position] else value
        if any(map(math.isnan, pair)):
            raise node.problem(f"the activation {name} has no default of alpha and beta: both must be given")
        found.append((pair[0], pair[1]))
    for name, left in zip(("activation_alpha", "activation_beta"), numbers, strict=True):
        if left:
            raise node.attribute_problem(name, f"has {len(left)} numbers more than the activations take")
    if names == default * directions:
        return [{}] * directions
    count = len(default)
    slices = [slice(begin, begin + count) for begin in range(0, len(names), count)]
    return [
        {
            "activations": ",".join(names[part]),
            "activation_alpha": tuple(alpha for alpha, _ in found[part]),
            "activation_beta": tuple(beta for _, beta in found[part]),
        }
        for part in slices
    ]


def _check_lengths(node: OnnxNode, by_sample: bool) -> None:
    """Refuse sequences that end before the last step."""
    if not node.given(_LENGTHS):
        return
    steps = node.dims(0)[1 if by_sample else 0] if node.rank(0) == 3 else None
    if not (node.is_constant(_LENGTHS) or node.is_size(_LENGTHS)):
        node.constant(_LENGTHS, "sequence_lens")  # raises
    if not node.is_filled(_LENGTHS, steps):
        raise node.problem(
            f"input {_LENGTHS} (sequence_lens) has sequences that end before the last step, expected none: leave it out"
        )


def _initial(node: OnnxNode, index: int, directions: int, axis: int) -> Sequence[str]:
    """The first state of each direction. It has no name if it is zero, as it is if it is left out."""
    if not node.given(index) or node.is_filled(index, 0):  # exporters write as many zeros as the batch needs
        return [""] * directions
    if directions == 1:
        return [node.operand(index)]
    if not node.is_constant(index):
        names = [node.temporary(f"initial{index}.{direction}") for direction in range(directions)]
        if node.is_size(index):
            node.emit_size("Split", [node.size(index)], {"axis": axis}, names)
        else:
            node.emit("Split", [node.operand(index)], {"axis": axis, "split": (1,) * directions}, names)
        return names
    shape = node.weight(index, "an initial state").shape
    if len(shape) != 3 or shape[axis] != directions:
        raise node.problem(f"input {index} has shape {shape}, expected three axes, and {directions} along axis {axis}")
    return [_part(node, index, direction, axis) for direction in range(directions)]


def _part(node: OnnxNode, index: int, direction: int, axis: int) -> str:
    """The part of a constant state for one direction."""
    at = (slice(None),) * axis + (slice(direction, direction + 1),)

    def make(weight: Weight) -> Weight:
        return weight.view((*weight.shape[:axis], 1, *weight.shape[axis + 1 :]), lambda array: array[at])

    return node.derived(index, "an initial state", f"direction {direction} along axis {axis}", make)


def _product(node: OnnxNode, direction: int, sizes: _Sizes, after: bool) -> tuple[str, str]:
    """The product of X with W in one direction, and the bias that is added to the product with R, if any."""
    inputs = [node.operand(0), _matrix(node, _W, "W", direction)]
    rest = ""
    if node.given(_B):
        rows, shape = sizes.rows, (sizes.directions, 2 * sizes.rows)
        # A reset gate after the product with R multiplies the bias of that product, too.
        added = rows - sizes.hidden if after else rows
        inputs.append(_vector(node, _B, "B", direction, shape, f"with {added} biases of R", _first(rows, added)))
        if after:
            rest = _vector(node, _B, "B", direction, shape, f"biases of R from {added} on", _last(rows, added))
    return node.emit("MatMul", inputs, {"transB": 1}, [node.temporary(f"product{direction}")]), rest


def _matrix(node: OnnxNode, index: int, what: str, direction: int) -> str:
    """The weights of one direction, of which axis 0 is the rows."""

    def make(weight: Weight) -> Weight:
        shape = weight.shape[1:]
        if weight.shape[0] == 1:
            return weight.reshaped(shape)
        return weight.view(shape, lambda array: array[direction])

    return node.derived(index, what, f"direction {direction}", make)


def _vector(
    node: OnnxNode,
    index: int,
    what: str,
    direction: int,
    shape: tuple[int, int],
    change: str = "",
    rearrange: Callable[[Values], Values] = np.array,
) -> str:
    """Numbers of one direction, made from a row of an input of this shape."""
    found = node.weight(index, what).shape
    if found != shape:
        raise node.problem(f"input {index} ({what}) has shape {found}, expected {shape}")
    return node.derived(
        index, what, f"direction {direction} {change}", lambda w: Weight.of(rearrange(w.float64()[direction]))
    )


def _first(rows: int, added: int) -> Callable[[Values], Values]:
    """Biases of W for all rows, with those of R for the first rows."""

    def biases(values: Values) -> Values:
        sums = values[:rows].copy()
        sums[:added] += values[rows : rows + added]
        return sums

    return biases


def _last(rows: int, added: int) -> Callable[[Values], Values]:
    """Biases of R for the rows behind those, and 0 for the others."""

    def biases(values: Values) -> Values:
        others = values[rows:].copy()
        others[:added] = 0.0
        return others

    return biases
