"""The functions that an ONNX model defines: each call is replaced by the nodes of the function.

A function may call others, so that a small file can mean any number of nodes. Their number and bytes are counted before
the ``onnx`` package makes them. The count also finds functions that call themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import onnx
from onnx import FunctionProto, GraphProto, NodeProto
from onnx.inliner import inline_local_functions

from streamrt.convert import limits
from streamrt.convert.onnx.infer import first_line
from streamrt.errors import FormatError

#: The most levels of functions that call each other: the compiled code that inlines them recurses.
_MAX_DEPTH = 64
#: Bytes of memory for each byte of a serialised node: two parsed messages and their serialised bytes exist at once.
_COPIES = 8
#: Bytes of memory that a node takes in addition.
_NODE_BYTES = 512
#: Seconds that inlining a node takes.
_NODE_SECONDS = 2e-5
#: The most bytes by which a call makes the names inside the function longer.
_SUFFIX = 32

_Key = tuple[str, str, str]


class _Size(NamedTuple):
    nodes: int
    names: int  # names that are replaced by names and attributes of the caller
    nbytes: int
    depth: int


def inlined(model: onnx.ModelProto, nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes, with calls of the model's functions replaced by the functions' nodes. Large tensors are not copied.

    Raises:
        FormatError: a function calls itself, or is malformed.
    """
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    if len(functions) != len(model.functions):
        raise FormatError("the ONNX model has two functions of the same domain and name, expected one of each name")
    if not any(_key(node) in functions for node in _all(nodes)):
        return nodes
    counter = _Counter(functions)
    size = counter.of_nodes(nodes)
    largest = max(nodes, key=lambda node: counter.of_nodes([node]).nbytes)
    with limits.current().at(f"node {largest.name!r} ({largest.op_type})"):
        limits.current().check_memory(_COPIES * size.nbytes + _NODE_BYTES * size.nodes)
        limits.current().check_time(_NODE_SECONDS * size.nodes)
    graph = GraphProto(name=model.graph.name, input=model.graph.input, output=model.graph.output, node=nodes)
    called = [functions[key] for key in counter.sizes]
    small = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=called, graph=graph)
    try:
        return list(inline_local_functions(small).graph.node)
    except Exception as error:  # the compiled code raises several unrelated types
        raise FormatError(f"the functions of the ONNX model cannot be inlined: {first_line(error)}") from error


class _Counter:
    """Counts the nodes by which calls are replaced. The nodes of each function are counted once and remembered."""

    def __init__(self, functions: dict[_Key, FunctionProto]) -> None:
        self._functions = functions
        self.sizes: dict[_Key, _Size] = {}
        self._open: list[_Key] = []

    def of_nodes(self, nodes: Iterable[NodeProto]) -> _Size:
        sizes = [self._of_call(node) for node in _all(nodes)]
        return _Size(
            sum(size.nodes for size in sizes),
            sum(size.names for size in sizes),
            sum(size.nbytes for size in sizes),
            max((size.depth for size in sizes), default=0),
        )

    def _of_call(self, node: NodeProto) -> _Size:
        own = node.ByteSize()
        key = _key(node)
        if key not in self._functions:
            return _Size(1, 1 + len(node.input) + len(node.output) + len(node.attribute), own, 0)
        if key not in self.sizes:
            function = self._functions[key]
            if key in self._open:
                raise FormatError(f"function {function.name!r} of the ONNX model calls itself")
            if len(self._open) == _MAX_DEPTH:
                raise FormatError(f"functions of the ONNX model call each other more than {_MAX_DEPTH} deep")
            self._open.append(key)
            self.sizes[key] = self.of_nodes(function.node)
            self._open.pop()
        inner = self.sizes[key]
        if inner.depth == _MAX_DEPTH:
            raise FormatError(f"functions of the ONNX model call each other more than {_MAX_DEPTH} deep")
        # Names of the caller replace formal names, and the names inside the function become longer.
        nbytes = own + inner.nbytes + inner.names * (_SUFFIX + own)
        return _Size(1 + inner.nodes, inner.names, nbytes, inner.depth + 1)


def _key(node: NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _all(nodes: Iterable[NodeProto]) -> Iterable[NodeProto]:
    """The nodes, and the nodes of the graphs that they have as attributes."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _all(graph.node)
