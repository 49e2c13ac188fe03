"""The program of a ``.pt2`` file, checked and reduced to what is needed to compute it.

Nothing of the file's text is evaluated, imported or looked up here. Names of operators are compared with a list. Names
of tensors become numbers. Symbolic expressions are not parsed: an input has a free extent or a number, and extents
inside the graph are computed by nodes. Types, shapes and stack traces of other tensors are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamrt.convert import limits
from streamrt.convert.exported.operators import FUNCTIONS, is_allowed, is_check
from streamrt.convert.exported.schema import (
    Fields,
    count,
    mapping,
    named,
    union,
    value_named,
    wrong,
)
from streamrt.convert.exported.values import Scope, argument, results
from streamrt.errors import FormatError, UnsupportedModelError
from streamrt.format.layout import MAX_DIMS

#: The version of the schema that is read: torch increases the first number when a reader must change.
SCHEMA = 8
#: What the user can do with a file that is refused.
ADVICE = "if you trust the file, load it yourself: streamrt.pack(torch.export.load(path), dest)"
#: Kinds of inputs of the graph whose values are in the file.
_WEIGHTS = ("parameter", "buffer", "tensor_constant")
#: How deep a program may nest graphs and lists.
_MAX_DEPTH = 8
#: A free extent by itself. Later versions of torch write the second form.
_SYMBOL = re.compile(r"([A-Za-z]\w{0,40})|Symbol\('([A-Za-z]\w{0,40})'[a-z=, True]*\)")
#: Operators that compute another graph, with the index of that graph in their arguments.
_NESTED = {
    "torch.ops.higher_order.wrap_with_set_grad_enabled": 1,
    "torch.ops.higher_order.wrap_with_autocast": 4,
}
_AUTOCAST_ENABLED = 2


@dataclass(frozen=True, slots=True)
class Extent:
    """A free extent: its name, None if the file has an expression, and the extent with which it was exported."""

    name: str | None
    example: int


@dataclass(frozen=True, slots=True)
class ProgramInput:
    """An input of the program: its name, its type (a number of torch's `ScalarType` in the schema) and extents."""

    name: str
    dtype: int
    dims: tuple[int | Extent, ...]


@dataclass(slots=True)
class Program:
    """A program whose tensors and extents have numbers: first the weights, then the inputs, then results of nodes.

    Attributes:
        weights: the names of the weights.
        inputs: the inputs.
        nodes: for each node its operator, its arguments by name (by position for functions of extents), and the
            numbers of its results. An argument is a number, a truth value, a text, None, a list of arguments, or an
            object: ``{"value": k}``, ``{"dtype": k}``, ``{"memory_format": k}``, ``{"layout": k}`` or
            ``{"device": 0}``. A result is a number, None, or a list of results.
        outputs: the numbers of the outputs.
    """

    weights: list[str] = field(default_factory=list)
    inputs: list[ProgramInput] = field(default_factory=list)
    nodes: list[tuple[str, list[tuple[str, Any]], Any]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)


def read_program(document: object, where: str) -> Program:
    """The program in a JSON document.

    Raises:
        FormatError: a malformed program, or one of another version.
        UnsupportedModelError: operators or arguments that are not allowed; the text lists all.
        LimitError: it takes too long.
    """
    program = Fields(document, "program", where)
    version = Fields(program.get("schema_version"), "version", where)
    if version.count("major") != SCHEMA:
        raise FormatError(
            f"{where}: the program has version {version.count('major')}.{version.count('minor')} of torch's schema, "
            f"expected {SCHEMA}.x: export the model again with torch 2.13, or {ADVICE}"
        )
    module = Fields(program.get("graph_module"), "graph module", where)
    reader = _Reader(where)
    reader.read(Fields(module.get("graph"), "graph", where), Fields(module.get("signature"), "signature", where))
    if reader.problems:
        raise UnsupportedModelError([*reader.problems, ADVICE])
    return reader.program


class _Reader:
    """Reads the graph and its signature into a `Program`."""

    def __init__(self, where: str) -> None:
        self._where = where
        self.program = Program()
        self.problems: list[str] = []

    def read(self, graph: Fields, signature: Fields) -> None:
        scope = Scope(self._where)
        specs = [union(spec, f"{self._where}: an input") for spec in signature.list("input_specs")]
        inputs = graph.list("inputs")
        if len(specs) != len(inputs):
            raise FormatError(f"{self._where}: the graph has {len(inputs)} inputs, but its signature {len(specs)}")
        tensors = graph.mapping("tensor_values")
        for kind, value in specs:
            if kind in _WEIGHTS:
                spec = Fields(value, kind.replace("_", " "), self._where)
                self.program.weights.append(spec.text(f"{kind}_name"))
                scope.define(named(spec.get("arg"), spec.where))
        if len(set(self.program.weights)) < len(self.program.weights):
            raise FormatError(f"{self._where}: a weight is an input of the graph twice")
        for kind, value in specs:
            if kind == "user_input":
                self._input(Fields(value, "user value", self._where), tensors, scope)
            elif kind not in (*_WEIGHTS, "constant_input"):
                raise UnsupportedModelError(f"an input of the program is a {kind:.40}, expected tensors; {ADVICE}")
        self._nodes(graph.list("nodes"), scope, 0)
        for value in signature.list("output_specs"):
            self._output(*union(value, f"{self._where}: an output"), scope)

    def _input(self, spec: Fields, tensors: Mapping[str, Any], scope: Scope) -> None:
        kind, value = union(spec.get("arg"), spec.where)
        if kind in ("as_none", "as_int", "as_float", "as_bool", "as_string"):
            return  # a constant since the program was exported: no node reads it
        if kind != "as_tensor":
            raise UnsupportedModelError(f"an input of the program is {kind[3:43]}, expected a tensor; {ADVICE}")
        name = named(value, spec.where)
        where = f"{self._where}: input {name!r:.80}"
        tensor = Fields(tensors.get(name), "tensor", where)
        sizes = tensor.list("sizes")
        if len(sizes) > MAX_DIMS:
            raise FormatError(f"{where} has {len(sizes)} axes, expected no more than {MAX_DIMS}")
        dims = tuple(_extent(size, where) for size in sizes)
        self.program.inputs.append(ProgramInput(name, tensor.count("dtype"), dims))
        scope.define(name)

    def _output(self, kind: str, value: object, scope: Scope) -> None:
        if kind == "user_input_mutation":
            return  # the caller's array stays as it is
        if kind != "user_output":
            raise UnsupportedModelError(
                f"an output of the program is a {kind:.40}: it changes its weights when it runs, as layers in training "
                "do: call module.eval() before torch.export.export"
            )
        found, tensor = union(Fields(value, "user value", self._where).get("arg"), f"{self._where}: an output")
        if found != "as_tensor":
            raise UnsupportedModelError(f"an output of the program is {found[3:43]}, expected a tensor")
        self.program.outputs.append(scope.number(named(tensor, self._where)))

    def _nodes(self, nodes: Sequence[object], scope: Scope, depth: int) -> None:
        for value in nodes:
            limits.current().check_time()
            node = Fields(value, "node", self._where)
            target = node.text("target")
            if is_check(target):
                continue
            if target in _NESTED:
                self._nested(node, target, scope, depth)
            elif not is_allowed(target):
                self.problems.append(f"{self._shown(node)}: this operator is not read from a file")
                results(node.list("outputs"), scope, node.where)
            else:
                inputs = [Fields(each, "argument", self._where) for each in node.list("inputs")]
                arguments = []
                for each in inputs:
                    name = "" if target in FUNCTIONS else each.text("name")
                    try:
                        arguments.append((name, argument(each.get("arg"), scope, self._shown(node))))
                    except UnsupportedModelError as problem:
                        self.problems += problem.problems
                self.program.nodes.append((target, arguments, results(node.list("outputs"), scope, node.where)))

    def _nested(self, node: Fields, target: str, scope: Scope, depth: int) -> None:
        """Put the nodes of the graph that a node computes in its place."""
        inputs = [union(Fields(each, "argument", node.where).get("arg"), node.where) for each in node.list("inputs")]
        at = _NESTED[target]
        if depth >= _MAX_DEPTH or len(inputs) <= at or inputs[at][0] != "as_graph":
            raise FormatError(f"{node.where}: {target} has no graph, or is nested more than {_MAX_DEPTH} deep")
        if at > 1 and inputs[_AUTOCAST_ENABLED] != ("as_bool", False):
            self.problems.append(f"{self._shown(node)}: autocast is not supported, export without it")
        inner = Fields(Fields(inputs[at][1], "nested graph", node.where).get("graph"), "graph", node.where)
        given = [scope.number(value_named(dict([each]), node.where)) for each in inputs[at + 1 :]]
        names = [value_named(each, inner.where) for each in inner.list("inputs")]
        outer = [value_named(each, node.where) for each in node.list("outputs")]
        outputs = inner.list("outputs")
        if len(names) != len(given) or len(outer) != len(outputs):
            raise FormatError(f"{node.where}: {target} has other numbers of inputs or outputs than its graph")
        nested = scope.nested(dict(zip(names, given, strict=True)))
        self._nodes(inner.list("nodes"), nested, depth + 1)
        for name, value in zip(outer, outputs, strict=True):
            scope.define(name, nested.number(value_named(value, inner.where)))

    def _shown(self, node: Fields) -> str:
        """A node in errors."""
        return f"node {node.get('name')!r:.80} ({node.text('target'):.100})"


def _extent(size: object, where: str) -> int | Extent:
    kind, value = union(size, where)
    if kind == "as_int":
        return count(value, where)
    if kind != "as_expr":
        raise wrong(size, where, "an extent")
    expression = Fields(value, "expression", where)
    found = _SYMBOL.fullmatch(expression.text("expr_str"))
    hint = expression.get("hint")
    example = count(mapping(hint, where).get("as_int"), where) if hint is not None else 2
    return Extent((found[1] or found[2]) if found else None, max(2, example))  # tracing treats 0 and 1 as constants
