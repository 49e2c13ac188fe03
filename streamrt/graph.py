"""The graph of a model: nodes in execution order, and the rules for their names and attributes.

A graph has names and attributes. It has no shapes (`streamrt.ops` infers them), no files and no memory. Operators and
attributes have ONNX's names. A graph differs from ONNX in four ways, so that lowering never needs values of tensors:

* A constant input of ONNX that is not a weight (``shape``, ``axes``, ``pads``, ``min``, ``starts`` ...) is an attribute
  of the same name.
* If ONNX computes such a value from extents of tensors, the attribute is in `Node.sizes`. What computes it are *size
  nodes*, which stand among the others. They are evaluated when the graph is lowered, because shapes are then numbers:
  ``Shape``, ``Size`` and ``Constant``, and each node whose inputs are all results of size nodes (`streamrt.ops.sizes`).
  Other nodes may read such results, too. In older files a node has the tensor as a further input, and the attribute
  ``extents`` says which extents are taken (`streamrt.ops.shapes.borrowed`).
* An ``If`` whose condition is such a result is no node with two graphs. The graph has *cases* instead: whole graphs,
  each for one way in which the conditions may go. Its size node ``If`` has the condition as its input, no output, and
  the attribute ``value``: the case runs if the condition is true (1) or false (0). The first case that runs is taken.
* A node may have an ``activation``: an element-wise operator applied to its first output.
* A recurrent node has one direction, and its input is multiplied with W already (`streamrt.ops.recurrent`).

An input is the name of a tensor computed earlier, of an input of the graph, or of a parameter (a tensor of the weights
file). It is ``""`` for an optional input left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from streamrt.errors import FormatError, printable
from streamrt.host.yielding import give_way

#: A scalar or a flat list of one scalar type: the values an attribute can take.
Attr = int | float | str | tuple[int, ...] | tuple[float, ...]
#: A fixed extent is an integer. A dynamic extent has a name; equal names mean equal extents.
Dims = tuple[int | str, ...]

#: The types that an input or output of a graph can have, by their NumPy names. No integer is larger than an int64.
TYPES = (
    "float32",
    "float64",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint32",
    "uint16",
    "uint8",
    "bool",
)

# Limits that keep opening and planning a hostile file within 2 s and 160 MiB: docs/design.md has the reasons.
# The time grows with each count of nodes, outputs, inputs and values, and with the square of the outputs.
_MAX_NODES = 10_000
#: The most cases of a graph. Each may be tried for new shapes.
MAX_CASES = 16
#: The most outputs of all nodes together: two a node.
_MAX_OUTPUTS = 2 * _MAX_NODES
#: The most inputs of all nodes together: five a node.
_MAX_INPUTS = 50_000
#: The most numbers in attributes that are lists, of all nodes together.
MAX_VALUES = 2**18
#: The most axes of an input or output of the graph: the value of `streamrt.ops.base.MAX_RANK`.
_MAX_RANK = 8
#: Extents, and elements of a tensor, are fewer than this, so that sums of sizes stay within 64 bits.
_MAX_DIM = 2**40
#: The most characters of a name.
_MAX_NAME = 1024
#: The largest absolute value of an integer attribute: kernels compute with signed 64-bit integers.
_MAX_INT = 2**62


@dataclass(frozen=True, slots=True)
class Activation:
    """An element-wise operator fused into the node that produces its input."""

    op: str
    attrs: Mapping[str, Attr] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. ``name`` is unique in its graph.

    ``sizes`` has the attributes that are computed from sizes, each with the name of the tensor that is its value.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Attr] = field(default_factory=lambda: MappingProxyType({}))
    activation: Activation | None = None
    sizes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, extents and type of an input or output of a graph.

    ``dtype`` is one of `TYPES`. All tensors inside are float32 or int64: an input of integers becomes int64, or float32
    if only Casts read it (``streamrt/program/casts.py``), and one of floating-point numbers or truth values float32. An
    output is converted to its type at the end. A tensor inside the graph that is made an output (`Graph.subgraph`) has
    no extents and the type ``""``: the type that it is computed in.
    """

    name: str
    dims: Dims
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in execution order, and the tensors that go in and come out.

    ``others`` are its further cases. They have the same inputs, outputs of the same names, and no cases of their own.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: tuple[Node, ...]
    others: tuple[Graph, ...] = ()

    @property
    def cases(self) -> tuple[Graph, ...]:
        """The graphs of which the first that can run is taken: this graph, and ``others``, which have none."""
        return (self, *self.others)

    @property
    def all_nodes(self) -> Iterator[Node]:
        """The nodes of all cases, in the order of the cases."""
        return (node for case in self.cases for node in case.nodes)

    def check(self, params: Iterable[str]) -> None:
        """Raise `FormatError` unless every name is defined once in each case, before its use. So there are no cycles.

        Args:
            params: the names of the parameters.
        """
        stored = set(params)
        for case in self.cases:
            case._check(stored)
            ends = [[(spec.name, spec.dtype) for spec in each.outputs] for each in (self, case)]
            if case.inputs != self.inputs or ends[0] != ends[1]:
                raise FormatError(
                    "the cases of the graph have different inputs or outputs, expected outputs of the same names and "
                    "types in one order"
                )

    def _check(self, stored: Collection[str]) -> None:
        defined = set(stored)
        for spec in self.inputs:
            _define(spec.name, defined, "input")
        names: set[str] = set()
        for node in self.nodes:
            give_way()
            _define(node.name, names, "node")
            for name in (*node.inputs, *node.sizes.values()):
                if name and name not in defined:
                    raise FormatError(
                        f"node {node.name!r} reads {name!r}, which is neither a parameter, an input, "
                        "nor computed by an earlier node (a missing tensor or a cycle)"
                    )
            for name in node.outputs:
                if name:
                    _define(name, defined, f"output of node {node.name!r}")
        outputs: set[str] = set()
        for spec in self.outputs:
            _define(spec.name, outputs, "output of the graph")
            if spec.name not in defined or spec.name in stored:
                raise FormatError(f"the graph's output {spec.name!r} is not computed by any node")

    def subgraph(self, outputs: Sequence[str]) -> Graph:
        """The part that computes ``outputs`` (any tensor names), in the same order.

        Cases that do not compute all of them are left out.

        Raises:
            KeyError: a name that no node computes, or that no case computes beside the others.
        """
        parts: list[tuple[Graph, set[str]]] = []
        unknown = [set(outputs)]
        for case in self.cases:
            known = {name for node in case.nodes for name in node.outputs if name} | {s.name for s in case.outputs}
            unknown.append(set(outputs) - known)
            if not unknown[-1]:
                parts.append(case._part(outputs))
        if not parts:
            nowhere = set.intersection(*unknown) or unknown[1]
            raise KeyError(next(name for name in outputs if name in nowhere))
        wanted = set().union(*(names for _, names in parts))
        inputs = tuple(spec for spec in self.inputs if spec.name in wanted)
        first, *others = (replace(case, inputs=inputs) for case, _ in parts)
        return replace(first, others=tuple(others))

    def _part(self, outputs: Sequence[str]) -> tuple[Graph, set[str]]:
        """The part of this case that computes ``outputs``, with all inputs; and the names of all tensors in it."""
        known = {spec.name: spec for spec in self.outputs}
        wanted = set(outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs) or not node.outputs:
                kept.append(node)
                wanted.update(name for name in node.inputs if name)
                wanted.update(node.sizes.values())
        specs = tuple(known.get(name, TensorSpec(name, (), "")) for name in outputs)
        return Graph(self.inputs, specs, tuple(reversed(kept))), wanted

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        cases = [_case_to_json(case) for case in self.others]
        inputs = {"inputs": [_spec_to_json(spec) for spec in self.inputs]}
        return inputs | _case_to_json(self) | ({"cases": cases} if cases else {})

    @classmethod
    def from_json(cls, data: object) -> Graph:
        """The graph that `to_json` wrote.

        Raises:
            FormatError: ``data`` is not such an object, or exceeds a limit. The text names the part of the JSON object.
        """
        top = _object(data, "graph", {"inputs", "outputs", "nodes"}, frozenset({"cases"}))
        inputs = tuple(_spec(s, f"graph.inputs[{i}]") for i, s in enumerate(_list(top["inputs"], "graph.inputs")))
        others = _list(top.get("cases", []), "graph.cases", MAX_CASES - 1)
        cases = [_case(top, "graph", inputs)]
        for index, other in enumerate(others):
            where = f"graph.cases[{index}]"
            cases.append(_case(_object(other, where, {"outputs", "nodes"}), where, inputs))
        graph = replace(cases[0], others=tuple(cases[1:]))
        for what, most, count in (
            ("nodes", _MAX_NODES, lambda node: 1),
            ("inputs", _MAX_INPUTS, lambda node: len(node.inputs) + len(node.sizes)),
            ("outputs", _MAX_OUTPUTS, lambda node: len(node.outputs)),
            ("numbers in attributes", MAX_VALUES, _numbers),
        ):
            total = 0
            for node in graph.all_nodes:
                total += count(node)
                if total > most:
                    raise FormatError(
                        f"node {node.name!r}: {total} {what} of all nodes up to this one, more than the {most} allowed"
                    )
        return graph


def _case_to_json(case: Graph) -> dict[str, Any]:
    return {
        "outputs": [_spec_to_json(spec) for spec in case.outputs],
        "nodes": [_node_to_json(node) for node in case.nodes],
    }


def _case(data: Mapping[str, Any], where: str, inputs: tuple[TensorSpec, ...]) -> Graph:
    outputs, nodes = _list(data["outputs"], f"{where}.outputs"), _list(data["nodes"], f"{where}.nodes", _MAX_NODES)
    return Graph(
        inputs,
        tuple(_spec(spec, f"{where}.outputs[{i}]") for i, spec in enumerate(outputs)),
        tuple(_node(node, f"{where}.nodes[{i}]") for i, node in enumerate(nodes)),
    )


def _define(name: str, defined: set[str], what: str) -> None:
    if not name:
        raise FormatError(f"{what}: the name is empty, expected at least one character")
    if name in defined:
        raise FormatError(f"{what} {name!r} is defined twice")
    defined.add(name)


def _spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    data: dict[str, Any] = {"name": spec.name, "dims": list(spec.dims)}
    if spec.dtype != "float32":
        data["dtype"] = spec.dtype
    return data


def _node_to_json(node: Node) -> dict[str, Any]:
    data: dict[str, Any] = {"name": node.name, "op": node.op}
    data["inputs"] = list(node.inputs)
    data["outputs"] = list(node.outputs)
    if node.attrs:
        data["attrs"] = _attrs_to_json(node.attrs)
    if node.sizes:
        data["sizes"] = dict(sorted(node.sizes.items()))
    if node.activation:
        data["activation"] = {"op": node.activation.op, "attrs": _attrs_to_json(node.activation.attrs)}
    return data


def _numbers(node: Node) -> int:
    return sum(len(value) for value in node.attrs.values() if isinstance(value, tuple))


def _attrs_to_json(attrs: Mapping[str, Attr]) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in sorted(attrs.items())}


def _object(value: object, where: str, keys: set[str], optional: frozenset[str] = frozenset()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected an object, found {type(value).__name__}")
    if missing := keys - value.keys():
        raise FormatError(f"{where}: missing keys {sorted(missing)}")
    if unknown := value.keys() - keys - optional:
        raise FormatError(f"{where}: unknown keys {sorted(unknown)[:3]}")
    return value


def _list(value: object, where: str, most: int = 4096) -> list[Any]:
    if not isinstance(value, list):
        raise FormatError(f"{where}: expected a list, found {type(value).__name__}")
    if len(value) > most:
        raise FormatError(f"{where}: {len(value)} entries, more than the {most} allowed")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where}: expected a string, found {type(value).__name__}")
    if len(value) > _MAX_NAME:
        raise FormatError(f"{where}: a string of {len(value)} characters, more than the {_MAX_NAME} allowed")
    return value if value.isascii() else _unicode(value, where)


def _unicode(text: str, where: str) -> str:
    """``text``; `FormatError` for a lone surrogate, which an escape in JSON can make and which cannot be printed."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FormatError(f"{where} holds a lone surrogate and is not Unicode text") from None
    return text


def _spec(value: object, where: str) -> TensorSpec:
    data = _object(value, where, {"name", "dims"}, frozenset({"dtype"}))
    dtype = data.get("dtype", "float32")
    if dtype not in TYPES:
        raise FormatError(f"{where}.dtype: {dtype!r:.80}, expected one of {', '.join(TYPES)}")
    dims = _list(data["dims"], f"{where}.dims", _MAX_RANK)
    for dim in dims:
        if isinstance(dim, str) and 0 < len(_unicode(dim, f"{where}.dims")) <= _MAX_NAME:
            continue
        if type(dim) is int and 0 <= dim < _MAX_DIM:
            continue
        raise FormatError(
            f"{where}.dims: {dim!r:.80}, expected an extent below 2**40 or a name of 1 to {_MAX_NAME} characters"
        )
    name = _text(data["name"], f"{where}.name")
    if math.prod(dim for dim in dims if isinstance(dim, int)) >= _MAX_DIM:
        raise FormatError(f"{where} ({name!r:.80}): extents {tuple(dims)}, expected fewer than 2**40 elements")
    return TensorSpec(name, tuple(dims), dtype)


def _node(value: object, where: str) -> Node:
    give_way()
    data = _object(value, where, {"name", "op", "inputs", "outputs"}, frozenset({"attrs", "activation", "sizes"}))
    sizes = _sizes(data.get("sizes", {}), f"{where}.sizes")
    attrs = _attrs(data.get("attrs", {}), f"{where}.attrs")
    if twice := sizes.keys() & attrs.keys():
        raise FormatError(f"{where}: attribute {min(twice)!r:.80} is given and computed, expected one of both")
    activation = None
    if "activation" in data:
        inner = _object(data["activation"], f"{where}.activation", {"op"}, frozenset({"attrs"}))
        activation = Activation(
            _text(inner["op"], f"{where}.activation.op"), _attrs(inner.get("attrs", {}), f"{where}.activation.attrs")
        )
    return Node(
        name=_text(data["name"], f"{where}.name"),
        op=_text(data["op"], f"{where}.op"),
        inputs=tuple(_text(n, f"{where}.inputs") for n in _list(data["inputs"], f"{where}.inputs")),
        outputs=tuple(_text(n, f"{where}.outputs") for n in _list(data["outputs"], f"{where}.outputs")),
        attrs=attrs,
        activation=activation,
        sizes=sizes,
    )


def _attrs(value: object, where: str) -> Mapping[str, Attr]:
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected an object, found {type(value).__name__}")
    return MappingProxyType({_text(key, where): _attr(v, f"{where}.{printable(key):.80}") for key, v in value.items()})


def _sizes(value: object, where: str) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected an object, found {type(value).__name__}")
    return MappingProxyType(
        {_text(key, where): _text(name, f"{where}.{printable(key):.80}") for key, name in value.items()}
    )


def _attr(value: object, where: str) -> Attr:
    if isinstance(value, list):
        items = _list(value, where)
        if all(_is_int(item) for item in items) or all(type(item) is float for item in items):
            return tuple(items)
    elif isinstance(value, str):
        return _text(value, where)
    elif isinstance(value, float) or _is_int(value):
        return value  # type: ignore[return-value]
    raise FormatError(
        f"{where}: {value!r:.80}, expected a number, a string or a list of numbers of one type, "
        "with integers from -2**62 to 2**62"
    )


def _is_int(value: object) -> bool:
    return type(value) is int and abs(value) <= _MAX_INT
