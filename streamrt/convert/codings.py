"""Which weights are stored in fewer bytes: `pack`'s ``weights`` and ``keep``.

Weights of products (Gemm, Conv, MatMul with ``transB``) are, whose kernels decode rows in cache, and embeddings, of
which Gather decodes the rows that it reads. Biases, scales and weights of depthwise convolutions are not: they are few,
and would be decoded as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from streamrt.errors import FormatError, InputError
from streamrt.format import MOST_INNER, UNCODED, Coding
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
    decoded = _decoded_by_rows(nodes, shapes)
    chosen = {}
    for name, shape in shapes.items():
        wanted = present[name] if weights is None else _kept(WEIGHTS[weights], present[name])
        fits = not wanted.is_integer or _LEAST_INNER <= math.prod(shape[1:]) <= MOST_INNER
        if name in decoded:
            chosen[name] = wanted if fits else present[name]
        else:
            chosen[name] = others.get(name, UNCODED)
    for name, type_ in (keep or {}).items():
        if name not in shapes:
            raise InputError(f"keep: the model has no weight {name!r:.80}; it has {_some(shapes)}")
        coding = _kept(WEIGHTS[type_], present[name])
        try:
            coding.stored(shapes[name])
        except FormatError as error:
            raise InputError(f"keep: {name!r:.80}: {error}") from None
        chosen[name] = coding
    return chosen


def _kept(wanted: Coding, present: Coding) -> Coding:
    """``wanted``, or integers of this type as they are: rounding them anew would lose accuracy."""
    return present if present.is_integer and present.dtype == wanted.dtype else wanted


def _decoded_by_rows(nodes: Iterable[_Node], shapes: Mapping[str, Shape]) -> set[str]:
    """The weights that nothing reads as a whole."""
    by_rows: set[str] = set()
    others: set[str] = set()
    for node in nodes:
        dtypes = traits_of(node.op).dtypes
        for index, name in enumerate(node.inputs):
            if name in shapes:
                decodes = index in dtypes and _reads_rows(node, shapes[name])
                (by_rows if decodes else others).add(name)
    return by_rows - others


def _reads_rows(node: _Node, shape: Shape) -> bool:
    """Whether the node reads rows of its weights: no MatMul or Gather along another axis, no depthwise convolution."""
    if len(shape) < 2:
        return False  # no such node can run
    if node.op == "MatMul":
        return bool(node.attrs.get("transB", 0))
    if node.op == "Gather":
        return node.attrs.get("axis", 0) in (0, -len(shape))
    return not (node.op == "Conv" and node.attrs.get("group", 1) != 1 and shape[1] == 1)


def _some(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "") if shown else "none"


_NAMES = ", ".join(map(repr, WEIGHTS))
