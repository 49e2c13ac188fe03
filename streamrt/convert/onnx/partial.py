"""Values of which some elements are known: a tensor that a model computes from extents, some of which are free.

An element is a number, an extent that it equals (a name, or a product of names and a number), or None if it is not
known. Operators that move elements keep all of them. Arithmetic of numbers gives a number. Any other arithmetic gives
None, unless the result is such an extent, too. A free extent is at least 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from streamrt.convert.terms import divided, times
from streamrt.convert.weights import AnyArray

#: Elements: int, float, bool, str or None.
Partial = NDArray[np.object_]
#: Computes output ``name`` of a node from the values of its inputs, by name.
Evaluate = Callable[[Mapping[str, AnyArray], str], AnyArray]

#: Operators that move elements of input 0, as their other inputs say. Concat moves elements of all inputs.
_MOVES = frozenset(
    (
        *("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile"),
        *("Transpose", "Unsqueeze"),
    )
)
#: Operators that work element by element.
_ELEMENTWISE = frozenset(
    (
        *("Abs", "Add", "And", "Ceil", "Div", "Equal", "Exp", "Floor", "Greater", "GreaterOrEqual", "Less"),
        *("LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Round", "Sign"),
        *("Sqrt", "Sub", "Sum", "Xor"),
    )
)
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)


def partial_of(value: AnyArray) -> Partial:
    """A constant as a partial value."""
    return value.astype(object)


def constant_of(value: Partial, dtype: np.dtype[Any]) -> AnyArray | None:
    """A partial value as a constant; None unless all its elements are numbers."""
    if any(element is None or isinstance(element, str) for element in value.flat):
        return None
    return np.array(value.reshape(-1).tolist(), dtype).reshape(value.shape)


def compute(
    node: NodeProto, inputs: Mapping[str, Partial], dtypes: Mapping[str, np.dtype[Any]], evaluate: Evaluate
) -> dict[str, Partial]:
    """The outputs of a node as far as they are known; empty if nothing is known.

    Args:
        node: the node.
        inputs: the values of all its inputs.
        dtypes: the types of its inputs.
        evaluate: computes the node.
    """
    names = [name for name in node.input if name]
    if node.op_type in _MOVES:
        return _moved(node, inputs, dtypes, evaluate)
    if node.op_type == "Where":
        return _chosen(node, inputs)
    if node.op_type == "Cast":
        made = _elementwise(node, names, inputs, dtypes, evaluate)
        if any(a.name == "to" and a.i in _INTEGERS for a in node.attribute):
            made = _with_names(made, inputs[names[0]])
        return {node.output[0]: made}
    if node.op_type in _ELEMENTWISE:
        return {node.output[0]: _arithmetic(node, names, inputs, dtypes, evaluate)}
    return {}


def _moved(
    node: NodeProto, inputs: Mapping[str, Partial], dtypes: Mapping[str, np.dtype[Any]], evaluate: Evaluate
) -> dict[str, Partial]:
    """The operator moves the positions of elements, which are then replaced by the elements."""
    moved = set(node.input) if node.op_type == "Concat" else {node.input[0]}
    table: list[Any] = []
    feeds = {}
    for name in {name for name in node.input if name}:
        if name in moved:
            count = inputs[name].size
            feeds[name] = np.arange(len(table), len(table) + count).reshape(inputs[name].shape)
            table += inputs[name].reshape(-1).tolist()
        else:
            known = constant_of(inputs[name], dtypes[name])
            if known is None:
                return {}
            feeds[name] = known
    elements = np.empty(len(table), object)
    elements[:] = table
    made = {}
    for name in node.output:
        if name:
            positions = evaluate(feeds, name)
            made[name] = elements[positions.reshape(-1)].reshape(positions.shape)
    return made


def _chosen(node: NodeProto, inputs: Mapping[str, Partial]) -> dict[str, Partial]:
    condition, then, other = np.broadcast_arrays(*(inputs[name] for name in node.input))
    made = np.empty(condition.shape, object)
    for at in np.ndindex(condition.shape):
        if condition[at] is not None:
            made[at] = then[at] if condition[at] else other[at]
        elif then[at] == other[at]:
            made[at] = then[at]
    return {node.output[0]: made}


def _elementwise(
    node: NodeProto,
    names: list[str],
    inputs: Mapping[str, Partial],
    dtypes: Mapping[str, np.dtype[Any]],
    evaluate: Evaluate,
) -> Partial:
    """The node's only output, where the elements of all inputs are numbers."""
    feeds, known = {}, np.True_
    for name in names:
        numbers = np.vectorize(_is_number, otypes=[bool])(inputs[name])
        filled = np.where(numbers, inputs[name], 1)
        feeds[name] = np.array(filled.reshape(-1).tolist(), dtypes[name]).reshape(filled.shape)
        known = known & numbers
    made = partial_of(evaluate(feeds, node.output[0]))
    made[~np.broadcast_to(known, made.shape)] = None
    return made


def _arithmetic(
    node: NodeProto,
    names: list[str],
    inputs: Mapping[str, Partial],
    dtypes: Mapping[str, np.dtype[Any]],
    evaluate: Evaluate,
) -> Partial:
    """As `_elementwise`, with elements that the operator leaves as they are."""
    made = _elementwise(node, names, inputs, dtypes, evaluate)
    if len(names) != 2 or dtypes[names[0]].kind not in "iu":
        return made
    first, second = (np.broadcast_to(inputs[name], made.shape) for name in names)
    for at in np.ndindex(made.shape):
        a, b = first[at], second[at]
        if made[at] is None:
            made[at] = _known(node.op_type, a, b)
    return made


def _known(op: str, a: Any, b: Any) -> Any:
    """The result of an operator of two elements, one of which is no number; None if it is not known."""
    if op == "Equal" and (isinstance(a, str) or isinstance(b, str)):
        number = b if isinstance(a, str) else a
        return True if a == b else False if _is_number(number) and number < 1 else None
    if a is None or b is None:
        return None
    match op:
        case "Mul" if 0 not in (a, b) and all(_is_extent(element) for element in (a, b)):
            return times(a, b)
        case "Div" if all(_is_extent(element) for element in (a, b)):
            return divided(a, b)
        case "Add" if 0 in (a, b):
            return b if a == 0 else a
        case "Sub" if b == 0:
            return a
        case "Max" if isinstance(a, str) and _is_number(b) and b <= 1:
            return a
        case "Max" if isinstance(b, str) and _is_number(a) and a <= 1:
            return b
    return None


def _is_extent(element: Any) -> bool:
    return isinstance(element, str) or (isinstance(element, int) and element >= 1)


def _with_names(made: Partial, source: Partial) -> Partial:
    """``made`` with the names that ``source`` has at the same place."""
    for at in np.ndindex(made.shape):
        if isinstance(source[at], str):
            made[at] = source[at]
    return made


def _is_number(element: Any) -> bool:
    return element is not None and not isinstance(element, str)
