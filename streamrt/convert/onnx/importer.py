"""Reading an ONNX model, from a file or in memory, into a draft.

The steps: find the constants and where they lie; remove nodes that no output needs; find shapes and fold
(`streamrt.convert.onnx.facts`); convert node by node (`streamrt.convert.onnx.ops`), and collect every problem.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto

from streamrt.convert import limits
from streamrt.convert.cases import possible
from streamrt.convert.draft import Draft
from streamrt.convert.inputs import Inputs, bound, with_extents
from streamrt.convert.onnx.alike import Alike
from streamrt.convert.onnx.branches import Way, check_of, is_check, is_if, taken_branch
from streamrt.convert.onnx.data import (
    SourceFiles,
    TensorReader,
    check_attributes,
    check_texts,
    load_skeleton,
    type_name,
)
from streamrt.convert.onnx.facts import Facts, describe
from streamrt.convert.onnx.functions import inlined
from streamrt.convert.onnx.infer import Fact, schema_of
from streamrt.convert.onnx.node import Context, OnnxNode, UnknownShapeError, UnsupportedNodeError
from streamrt.convert.onnx.ops import CONVERSIONS
from streamrt.convert.onnx.qlinear import Expansion, why_kept
from streamrt.convert.onnx.quantization import nbits_problem, without_nbits
from streamrt.convert.onnx.size import Range, count_model
from streamrt.convert.onnx.sizes import convert_size
from streamrt.convert.support import unsupported
from streamrt.convert.terms import SEPARATOR
from streamrt.convert.weights import Weight
from streamrt.errors import FormatError, UnsupportedModelError
from streamrt.graph import TYPES, TensorSpec
from streamrt.ops.base import MAX_RANK

#: The oldest opset that is read: before opset 7, operators broadcast by other rules.
OLDEST_OPSET = 7
#: The most ways through conditions that are tried. Each takes as long as converting the model does.
_MOST_WAYS = 64
#: The two names of the domain of ONNX's own operators.
_DEFAULT_DOMAINS = ("", "ai.onnx")
#: The types that an input can have, by the numbers of TensorProto.DataType.
_INPUT_TYPES = {onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)): name for name in TYPES}


class OnnxSource:
    """An ONNX model, ready to be converted.

    Args:
        source: path of the file, or the model itself.
        weights: constants that the model's graph reads and does not contain, by name.
        inputs: extents in place of those that the model declares.
        files: files that the weights read; closed and checked with the model's own.

    Raises:
        InputError: ``inputs`` does not fit the model.
        FormatError: not an ONNX model, or a malformed one.
        UnsupportedModelError: the opset is not supported, or inputs are no tensors of a type that is.
        WeightsIOError: a file cannot be read.
    """

    def __init__(
        self,
        source: Path | onnx.ModelProto,
        weights: Mapping[str, Weight] | None = None,
        inputs: Inputs | None = None,
        files: SourceFiles | None = None,
    ) -> None:
        self._files = files or SourceFiles()
        try:
            with limits.current().computing():
                self._read(source, weights or {})
                self.inputs: list[TensorSpec] = with_extents(self.inputs, inputs)
        except BaseException:
            self.close()
            raise

    def bind(self, inputs: Inputs | None) -> None:
        """Fix and rename free extents of the inputs, which are all that the graph leaves free.

        Raises:
            InputError: ``inputs`` does not fit the model; the text lists its inputs.
        """
        self.inputs = bound(self.inputs, inputs)

    def close(self) -> None:
        """Close the files; weights cannot be read any more."""
        self._files.close()

    def check(self) -> None:
        """Raise `WeightsIOError` if a file has changed since it was opened."""
        self._files.check()

    def _read(self, source: Path | onnx.ModelProto, weights: Mapping[str, Weight]) -> None:
        initializers: dict[int, Range] = {}
        attributes: dict[tuple[int, int], Range] = {}
        if isinstance(source, Path):
            model, initializers, attributes = load_skeleton(source, self._files)
        else:
            model = source
            count_model(model)
        check_texts(model)
        check_attributes(model.graph.node)
        for function in model.functions:
            check_attributes(function.node)
        problems: list[str] = []
        self.opset = _opset(model, problems)
        self._reader = reader = TensorReader(source if isinstance(source, Path) else None, self._files)
        self._constants = dict(weights) | {
            tensor.name: reader.weight(tensor, initializers.get(index))
            for index, tensor in enumerate(model.graph.initializer)
        }
        nodes = _take_constants(model.graph.node, reader, attributes, self._constants)
        self._count_own()
        if model.functions:
            nodes = _take_constants(inlined(model, nodes), reader, {}, self._constants)
        nodes = without_nbits(
            nodes, self._constants, (value.name for value in (*model.graph.input, *model.graph.output))
        )
        self._nodes = _live(nodes, {output.name for output in model.graph.output})
        self._outputs = [output.name for output in model.graph.output]
        self.inputs = _inputs(model.graph, self._constants, self._nodes, problems)
        _check_names([spec.name for spec in self.inputs], self._constants, self._nodes, self._outputs)
        problems += [
            f"initializer {tensor.values.name!r}: sparse tensors are not supported"
            for tensor in model.graph.sparse_initializer
        ]
        self._problems = problems

    def _count_own(self) -> None:
        """Count the model's own weights for the limits: their bytes as float32, at most what its files can hold."""
        own = 4 * sum(weight.size for weight in self._constants.values())
        limits.current().add_own(min(own, 4 * self._files.nbytes) if self._files.nbytes else own)

    def convert(self) -> list[Draft]:
        """A draft for each way that can be converted: one, unless free extents decide conditions.

        Raises:
            UnsupportedModelError: some nodes or attributes have no conversion; the text lists all of them.
            FormatError: a malformed model, or shapes that do not fit together.
        """
        return possible(self._ways())

    def _ways(self) -> Iterator[Callable[[], Draft]]:
        """A conversion for each way. The conditions are known once they were met."""
        way = Way()
        for _ in range(_MOST_WAYS):
            yield partial(self._convert, way)
            following = way.next()
            if following is None:
                return
            way = following
        raise UnsupportedModelError(
            [f"over {_MOST_WAYS} ways through conditions that free extents decide (If): fix some extents with inputs="]
        )

    def _convert(self, way: Way) -> Draft:
        """The draft of one way."""
        given = {spec.name: Fact(np.dtype(spec.dtype), spec.dims) for spec in self.inputs}
        facts = Facts(self.opset, dict(self._constants), given)
        problems = list(self._problems)
        # Nodes that only folded nodes read are not needed any more.
        computed = _live(self._learn(facts, way), set(self._outputs))
        names = {dim for spec in self.inputs for dim in spec.dims}
        draft = Draft(list(self.inputs), [_output(name, facts, names) for name in self._outputs])
        draft.dims = {name: fact.dims for name, fact in facts.tensors.items() if fact.dims is not None}
        wanted = {name for node in computed for name in node.input} | set(self._outputs)
        tensors = {name for node in computed for name in node.output} | {spec.name for spec in self.inputs}
        context = Context(facts, draft, wanted, tensors)
        doubtful: set[str] = set()  # tensors that depend on nodes that were refused
        for index, proto in enumerate(computed):
            with limits.current().at(describe(proto)):
                limits.current().check_time()
                found, complete = _convert(proto, index, context)
            doubts = not doubtful.isdisjoint(proto.input)
            problems += [str(problem) for problem in found if not (doubts and isinstance(problem, UnknownShapeError))]
            if doubts or not complete:
                doubtful.update(proto.output)
        problems += [
            f"output {name!r} does not depend on the values of any input"
            for name in self._outputs
            if facts.is_known(name)
        ]
        problems += [
            f"output {spec.name!r} is {spec.dtype}, expected one of {', '.join(TYPES)}"
            for spec in draft.outputs
            if spec.dtype not in TYPES and spec.name not in doubtful
        ]
        if problems:
            raise UnsupportedModelError(problems)
        return draft

    def _learn(self, facts: Facts, way: Way) -> list[NodeProto]:
        """Learn the facts about the nodes on a way; returns those that are computed when the model runs."""
        computed: list[NodeProto] = []
        defined = {spec.name for spec in self.inputs}
        names = defined.union(*((*node.input, *node.output) for node in self._nodes), self._outputs)
        pending = self._nodes[::-1]
        alike = Alike(facts)
        expansion = Expansion(facts.constants, self.opset, names, self._nodes, self._outputs)
        while pending:
            node = pending.pop()
            if parts := expansion.of(node):
                pending += parts[::-1]
                continue
            if is_if(node) and len(node.input) == 1 and facts.is_known(name := node.input[0]):
                value = facts.value(name)
                if value is not None and value.size == 1:
                    condition = bool(value.reshape(()))
                else:
                    number = alike.number(name)
                    is_new = not way.meets(number)
                    condition = way.take(number)
                    computed += [check_of(name, condition)] if is_new else []
                taken = taken_branch(node, condition, facts, defined, names, self._reader.weight)
                names.update(name for inner in taken for name in inner.output)
                others = _take_constants(taken, self._reader, {}, facts.constants)
                pending += without_nbits(others, facts.constants, names)[::-1]
                continue
            facts.learn(node)
            alike.learn(node)
            defined.update(node.output)
            if not all(name in facts.constants for name in node.output if name):
                computed.append(node)
        return computed


def _take_constants(
    nodes: Iterable[NodeProto],
    reader: TensorReader,
    ranges: dict[tuple[int, int], Range],
    constants: dict[str, Weight],
) -> list[NodeProto]:
    """Add the values of ``Constant`` nodes to ``constants``; returns the other nodes."""
    others = []
    for index, node in enumerate(nodes):
        weight = None
        if node.op_type == "Constant" and node.domain in _DEFAULT_DOMAINS and len(node.output) == 1:
            weight = _constant(node, index, reader, ranges)
        if weight is None:
            others.append(node)
        else:
            constants[node.output[0]] = weight
    return others


def _output(name: str, facts: Facts, names: Collection[str | int]) -> TensorSpec:
    """An output. NumPy has no bfloat16, so that becomes float32.

    An extent that is no number and none of ``names`` is free.
    """
    dtype, dims = facts.dtype(name), facts.dims(name) or ()
    return TensorSpec(
        name,
        tuple(
            dim if isinstance(dim, int) or (isinstance(dim, str) and dim in names) else f"{name}_{axis}"
            for axis, dim in enumerate(dims)
        ),
        "float32" if dtype is None or dtype.name == "bfloat16" else dtype.name,
    )


def _convert(proto: NodeProto, index: int, context: Context) -> tuple[list[UnsupportedNodeError], bool]:
    """Convert one node; returns the problems found, and whether the shapes of its outputs are right.

    If an attribute is refused, the node is tried again without it, to find further problems.
    """
    found: list[UnsupportedNodeError] = []
    refused: set[str] = set()
    while True:
        try:
            _convert_once(OnnxNode(proto, index, context))
        except UnsupportedNodeError as problem:
            if problem.attribute in refused:  # the conversion fails without it, too
                return found, False
            found.append(problem)
            kept = [attribute for attribute in proto.attribute if attribute.name != problem.attribute]
            if problem.attribute is None or len(kept) == len(proto.attribute):
                return found, False
            refused.add(problem.attribute)
            proto = NodeProto(
                name=proto.name, op_type=proto.op_type, input=proto.input, output=proto.output, attribute=kept
            )
        else:
            return found, not found


def _convert_once(node: OnnxNode) -> None:
    convert = CONVERSIONS.get(node.op)
    if is_check(node.proto):
        convert_size(node)
        return
    if node.proto.domain not in _DEFAULT_DOMAINS:
        other = f"operators of domain {node.proto.domain!r} are not supported, only those of 'ai.onnx'"
        constants = node.facts.constants
        raise node.problem(
            nbits_problem(node.proto, constants) or why_kept(node.proto, constants, node.facts.opset) or other
        )
    if is_if(node.proto):
        raise node.problem("its condition depends on values of the inputs, expected one that their extents decide")
    if all(name in node.facts.sizes or name in node.facts.constants for name in node.proto.output if name):
        convert_size(node)
        return
    if convert is None:
        raise node.problem(unsupported(node.op, "onnx"))
    schema = schema_of(node.op, node.opset)
    if schema is None:
        raise node.problem(f"the onnx package {onnx.__version__} does not know the operator: install a newer one")
    node.opset = max(node.opset, schema.since_version)  # some exporters write operators into older opsets
    node.expect_attributes(schema.attributes)
    convert(node)
    node.expect_all_read()


def _opset(model: onnx.ModelProto, problems: list[str]) -> int:
    versions = [int(entry.version) for entry in model.opset_import if entry.domain in _DEFAULT_DOMAINS]
    if not versions:
        raise FormatError("the ONNX model has no opset of domain 'ai.onnx', expected one")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= versions[0] <= newest:
        problems.append(f"opset {versions[0]}: expected {OLDEST_OPSET} to {newest}")
        return newest
    return versions[0]


def _constant(node: NodeProto, index: int, reader: TensorReader, ranges: dict[tuple[int, int], Range]) -> Weight | None:
    """The value of a ``Constant`` node; None if it is not an array of numbers."""
    for position, attribute in enumerate(node.attribute):
        match attribute.name, attribute.type:
            case "value", AttributeProto.TENSOR:
                return reader.weight(attribute.t, ranges.get((index, position)))
            case "value_float", AttributeProto.FLOAT:
                return Weight.of(np.asarray(attribute.f, np.float32))
            case "value_floats", AttributeProto.FLOATS:
                return Weight.of(np.asarray(attribute.floats, np.float32))
            case "value_int", AttributeProto.INT:
                return Weight.of(np.asarray(attribute.i, np.int64))
            case "value_ints", AttributeProto.INTS:
                return Weight.of(np.asarray(attribute.ints, np.int64))
    return None


def _live(nodes: list[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """The nodes on which ``outputs`` depend, in the same order. A node reads what graphs in it read and return."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output) or is_check(node):
            kept.append(node)
            pending = [node]
            while pending:
                inner = pending.pop()
                wanted.update(name for name in inner.input if name)
                for attribute in inner.attribute:
                    for graph in (attribute.g, *attribute.graphs):
                        pending += graph.node
                        wanted.update(result.name for result in graph.output)
    return kept[::-1]


def _check_names(inputs: list[str], constants: Collection[str], nodes: list[NodeProto], outputs: list[str]) -> None:
    """Raise unless every tensor is defined once, and before it is read."""
    defined = {"", *constants}
    for name in inputs:
        _define(name, defined)
    for node in nodes:
        for name in node.input:
            if name not in defined:
                raise FormatError(
                    f"node {node.name!r} ({node.op_type}) reads {name!r}, which is not an initializer, an input or "
                    "an output of an earlier node"
                )
        for name in node.output:
            if name:
                _define(name, defined)
    if not outputs or len(set(outputs)) != len(outputs):
        raise FormatError(f"the outputs of the model are {outputs}, expected at least one, and each once")
    for name in outputs:
        if not name or name not in defined:
            raise FormatError(f"output {name!r} is not computed by any node")


def _define(name: str, defined: set[str]) -> None:
    if name in defined:
        raise FormatError(f"tensor {name!r} is defined twice")
    defined.add(name)


def _inputs(
    graph: GraphProto, constants: dict[str, Weight], nodes: list[NodeProto], problems: list[str]
) -> list[TensorSpec]:
    """The inputs that are not initializers. A dynamic extent without a name is named after the input and the axis.

    Some exporters name all unknown extents ``?``, ``-1`` or ``None``. These do not count as names, because two such
    extents can differ.
    """
    specs = []
    for value in graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        dtype = _INPUT_TYPES.get(tensor.elem_type) if value.type.HasField("tensor_type") else None
        if dtype is None:
            kind = type_name(tensor.elem_type) if tensor.elem_type else "no tensor"
            problems.append(f"input {value.name!r} is {kind}, expected one of {', '.join(TYPES)}")
        if not tensor.HasField("shape"):
            problems.append(f"input {value.name!r} has no shape")
        if len(tensor.shape.dim) > MAX_RANK:
            raise FormatError(
                f"input {value.name!r:.200} has {len(tensor.shape.dim)} axes, expected no more than {MAX_RANK}"
            )
        dims: list[int | str] = []
        for axis, dim in enumerate(tensor.shape.dim):
            named = any(character.isalpha() for character in dim.dim_param) and SEPARATOR not in dim.dim_param
            if named and dim.dim_param != "None":
                dims.append(dim.dim_param)
            else:
                dims.append(dim.dim_value if dim.dim_value > 0 else f"{value.name}_{axis}")
        specs.append(TensorSpec(value.name, tuple(dims), dtype or "float32"))
    fixed = _fixed_extents(specs, constants, nodes)
    return [replace(s, dims=tuple(fixed.get(d, d) if isinstance(d, str) else d for d in s.dims)) for s in specs]


def _fixed_extents(specs: list[TensorSpec], constants: dict[str, Weight], nodes: list[NodeProto]) -> dict[str, int]:
    """Extents that are declared dynamic and are fixed by the weights of a node that reads the input."""
    dims = {spec.name: spec.dims for spec in specs}
    fixed: dict[str, int] = {}
    for node in nodes:
        if len(node.input) < 2 or node.input[0] not in dims or node.input[1] not in constants:
            continue
        shape, weight = dims[node.input[0]], constants[node.input[1]].shape
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Conv" and len(shape) > 1 and len(weight) > 1:
            dim, extent = shape[1], weight[1] * attributes.get("group", 1)
        elif node.op_type in ("Gemm", "MatMul") and len(weight) == 2 and shape and not attributes.get("transA"):
            dim, extent = shape[-1], weight[1 if attributes.get("transB") else 0]
        elif node.op_type in ("GRU", "LSTM", "RNN") and len(shape) == len(weight) == 3:
            dim, extent = shape[2], weight[2]
        else:
            continue
        if isinstance(dim, str):
            fixed.setdefault(dim, extent)
    return fixed
