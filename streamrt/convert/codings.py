"""Which weights are stored in fewer bytes: `pack`'s ``weights`` and ``keep``.

Weights of products (Gemm, Conv, MatMul with ``transB``) are, whose kernels decode rows in cache, and embeddings, of
which Gather decodes the rows that it reads. Two kinds of weights are stored in more bytes than the others, because they
are few:

* The smallest weights of products. They are mostly in the first layers, where rows are short and every later layer
  inherits the error. In mobile networks 2 % of the weights make half of the error or more.
* Weights of depthwise convolutions, whose rows are too short for a scale. They are decoded to scratch memory. They stay
  float32 unless other weights are integers.

Biases and scales stay float32, and integers int64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Protocol

from streamrt.errors import FormatError, InputError
from streamrt.format import INT64, MOST_INNER, UNCODED, Coding, WeightsFile
from streamrt.graph import Attr
from streamrt.ops import Shape, traits_of

#: The types of weights by the names that users give them. int8 has a scale for each row, and int4 for each 32 weights.
WEIGHTS: Mapping[str, Coding] = {
    "float32": UNCODED,
    "float16": Coding("F16"),
    "bfloat16": Coding("BF16"),
    "int8": Coding("int8"),
    "int4": Coding("int4", block=32),
}
#: The fewest weights of a row that are stored as integers. With fewer, the scales and the filling take too much.
_LEAST_INNER = 16
#: The share of the weights of products that is stored in `_LARGER`, the smallest tensors first.
_SMALL = 0.02
#: How small weights are stored, by the type of the others.
_LARGER: Mapping[str, Coding] = {
    "float16": UNCODED,
    "bfloat16": UNCODED,
    "int8": Coding("F16"),
    "int4": Coding("F16"),
}


class _Node(Protocol):
    """A node of a draft or of a graph."""

    @property
    def op(self) -> str: ...
    @property
    def inputs(self) -> Sequence[str]: ...
    @property
    def attrs(self) -> Mapping[str, Attr]: ...


def check_weights(weights: object, keep: object) -> None:
    """Raise `InputError` unless these are values that `pack` takes."""
    if weights is not None and (not isinstance(weights, str) or weights not in WEIGHTS):
        raise InputError(f"weights: expected {_NAMES} or None, found {weights!r:.40}")
    if keep is None:
        return
    if not isinstance(keep, Mapping):
        raise InputError(f"keep: expected a mapping of names of weights to types, found {type(keep).__name__}")
    for name, type_ in keep.items():
        if not isinstance(type_, str) or type_ not in WEIGHTS:
            raise InputError(f"keep: {name!r:.80}: expected {_NAMES}, found {type_!r:.40}")


def choose(
    nodes: Iterable[_Node],
    shapes: Mapping[str, Shape],
    present: Mapping[str, Coding],
    weights: str | None,
    keep: Mapping[str, str] | None,
    others: Mapping[str, Coding],
) -> dict[str, Coding]:
    """How each weight is stored.

    Args:
        nodes: of the graph.
        shapes: of all weights, by name.
        present: how the source stores them.
        weights: the type for weights of products and for embeddings; None keeps what the source has. Integers of this
            type stay as they are, with their scales.
        keep: the types of single weights.
        others: how weights are stored that other operators read; float32 if it does not name them.

    Raises:
        InputError: ``keep`` names no weight, or a type that does not fit its shape.
    """
    by_rows, depthwise = _read_by(nodes, shapes)
    larger = UNCODED if weights is None else _LARGER.get(weights, UNCODED)
    small = _smallest({name: math.prod(shapes[name]) for name in by_rows}) if weights in _LARGER else ()
    chosen = {}
    for name, shape in shapes.items():
        if present[name] == INT64:
            chosen[name] = INT64
            continue
        wanted = present[name] if weights is None else _kept(WEIGHTS[weights], present[name])
        if wanted != present[name] and name in small:
            wanted = larger
        fits = not wanted.is_integer or _LEAST_INNER <= math.prod(shape[1:]) <= MOST_INNER
        if name in by_rows:
            chosen[name] = wanted if fits else present[name]
        elif name in depthwise and weights is not None:
            chosen[name] = wanted if wanted == present[name] else larger
        else:
            chosen[name] = others.get(name, UNCODED)
    for name, type_ in (keep or {}).items():
        if name not in shapes:
            raise InputError(f"keep: the model has no weight {name!r:.80}; it has {_some(shapes)}")
        coding = _kept(WEIGHTS[type_], present[name])
        if present[name] == INT64:
            raise InputError(f"keep: {name!r:.80}: it is int64, and stays so")
        try:
            coding.stored(shapes[name])
        except FormatError as error:
            raise InputError(f"keep: {name!r:.80}: {error}") from None
        chosen[name] = coding
    return chosen


def recoded(file: WeightsFile, weights: str | None, keep: Mapping[str, str] | None = None) -> dict[str, Coding]:
    """How `pack` stores each weight of a weights file anew.

    Raises:
        InputError: see `choose`.
    """
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    present = {name: tensor.coding for name, tensor in file.tensors.items()}
    return choose(list(file.graph.all_nodes), shapes, present, weights, keep, others=present)


def _kept(wanted: Coding, present: Coding) -> Coding:
    """``wanted``, or integers of this type as they are: rounding them anew would lose accuracy."""
    return present if present.is_integer and present.dtype == wanted.dtype else wanted


def _smallest(sizes: Mapping[str, int]) -> set[str]:
    """The names of the smallest tensors, which together have at most `_SMALL` of all elements."""
    most, found, total = _SMALL * sum(sizes.values()), set[str](), 0
    for size, names in groupby(sorted(sizes, key=sizes.__getitem__), sizes.__getitem__):
        equal = list(names)  # all of them or none, so that their order makes no difference
        total += size * len(equal)
        if total > most:
            break
        found.update(equal)
    return found


def _read_by(nodes: Iterable[_Node], shapes: Mapping[str, Shape]) -> tuple[set[str], set[str]]:
    """The weights that nothing reads as a whole, and those that only depthwise convolutions read."""
    by_rows, depthwise, others = set[str](), set[str](), set[str]()
    for node in nodes:
        dtypes = traits_of(node.op).dtypes
        for index, name in enumerate(node.inputs):
            if name not in shapes:
                continue
            if index not in dtypes:
                others.add(name)
            elif _is_depthwise(node, shapes[name]):
                depthwise.add(name)
            else:
                (by_rows if _reads_rows(node, shapes[name]) else others).add(name)
    return by_rows - depthwise - others, depthwise - by_rows - others


def _reads_rows(node: _Node, shape: Shape) -> bool:
    """Whether the node reads rows of its weights, as a MatMul or a Gather along another axis does not."""
    if len(shape) < 2:
        return False  # no such node can run
    if node.op == "Gather":
        return node.attrs.get("axis", 0) in (0, -len(shape))
    return node.op != "MatMul" or bool(node.attrs.get("transB", 0))


def _is_depthwise(node: _Node, shape: Shape) -> bool:
    return node.op == "Conv" and len(shape) >= 2 and node.attrs.get("group", 1) != 1 and shape[1] == 1


def _some(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "") if shown else "none"


_NAMES = ", ".join(map(repr, WEIGHTS))
