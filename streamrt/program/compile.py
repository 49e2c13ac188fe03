"""A program: a graph lowered for given input shapes, with every activation placed in one arena.

Pure: nothing is allocated and no file is touched. `Program.bind` hands the memory to the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from streamrt.errors import FormatError, printable
from streamrt.graph import MAX_VALUES, Graph, Node, TensorSpec
from streamrt.host.yielding import give_way
from streamrt.ops import (
    FLOAT32,
    INT64,
    NUMPY_TYPES,
    Array,
    Buffers,
    Lowered,
    Operand,
    Param,
    Run,
    Shape,
    Table,
    Value,
    computed_type,
    lower,
    size_problem,
    sizes,
    traits_of,
)
from streamrt.ops.rows import Again, Rows, has_rows, in_strip, rows_of
from streamrt.program.again import Way, ways_of
from streamrt.program.casts import Casts, read_as_floats
from streamrt.program.current import Beginning, Current, InRound
from streamrt.program.division import InUse, Known, section_of_rounds, sections_of
from streamrt.program.placement import lay_out, nbytes
from streamrt.program.sections import Section, Whole

#: Bytes that a step takes beside the workspace: its part of the schedule and the plan, and its bound kernel.
_STEP_BYTES = 1536
#: The steps of sections that are not counted, as little else of a program is. They take 3 MiB.
_FEW_STEPS = 2**11


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a pass: a node, or some of its rows.

    Attributes:
        node: its index.
        share: the part of the node's operations.
        section: the number of its section, from 1 on, of which other steps compute other rows; 0 if there is none.
    """

    node: int
    share: float = 1.0
    section: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """A graph for given input shapes.

    Attributes:
        graph: the case of the graph that runs, or the part of it that computes the requested outputs.
        nodes: the nodes that a pass runs: those of the graph without its size nodes.
        sizes: the size nodes, if results of theirs are read during a pass.
        constants: the types of these results, by name. They lie in the arena.
        shapes: the shape of every tensor by name, parameters included.
        integers: the names of the computed tensors that are int64; the others are float32.
        lowered: the lowering of each of the ``nodes``.
        batchwise: whether sample n of every output depends on sample n of every input only; samples lie along axis 0.
        offsets: where each computed tensor begins in the arena, bytes.
        scratch: where the scratch memory of each node begins in the arena, bytes.
        workspace: size of the arena, bytes.
        lean: the program takes less memory, and may be slower: see `compile_program`.
        bands: into about how many bands its sections are divided; 0 if it has none.
        strips: into how many strips at most; 1 if none has any.
        again: which of the ``ways`` to run it; 0 if no node runs again.
        ways: all of them, if it has sections: see `streamrt.program.again`.
        sections: nodes that run in bands. Tensors within a section have no offset, and all its nodes have the memory of
            the section as their scratch memory.
        in_rounds: the number of the section of which each strip is a round of the same ``steps``; or None. See
            `streamrt.program.current`.
        steps: what a round runs, in this order: each node, or the visits of a section.
    """

    graph: Graph
    nodes: tuple[Node, ...]
    sizes: tuple[Node, ...]
    constants: tuple[str, ...]
    shapes: Mapping[str, Shape]
    integers: frozenset[str]
    lowered: tuple[Lowered, ...]
    batchwise: bool
    offsets: Mapping[str, int]
    scratch: tuple[int, ...]
    workspace: int
    lean: bool
    bands: int = 0
    strips: int = 1
    again: int = 0
    ways: tuple[Way, ...] = ()
    sections: tuple[Section, ...] = ()
    in_rounds: int | None = None
    steps: tuple[Step, ...] = ()

    @property
    def memory(self) -> int:
        """Bytes of the workspace, and those that further steps take beside it, if there are many."""
        return self.workspace + _STEP_BYTES * max(0, len(self.steps) - len(self.nodes) - _FEW_STEPS)

    @property
    def rounds(self) -> int:
        """How often a pass runs the steps."""
        return self.sections[self.in_rounds].times if self.in_rounds is not None else 1

    @property
    def columns(self) -> int:
        """The columns of the widest tensor of nodes that can be in a section."""
        runs = self.ways[self.again].runs if self.ways else ()
        made = (
            name for run in runs for node in self.nodes[slice(*run)] for name in (*node.inputs, *node.outputs) if name
        )
        return max((shape[3] for name in made if len(shape := self.shapes[name]) == 4), default=0)

    @property
    def names(self) -> list[str]:
        """The name of each step's node."""
        return [self.nodes[step.node].name for step in self.steps]

    def by_step(self, seconds: Sequence[float]) -> list[float]:
        """The seconds of each step in a round, of those that each node took in all."""
        shares = [0.0] * len(self.nodes)
        for step in self.steps:
            shares[step.node] += step.share * self.rounds
        return [seconds[step.node] * step.share / max(1.0, shares[step.node]) for step in self.steps]

    @property
    def may_be_leaner(self) -> bool:
        """Whether a ``lean`` program may take less memory than this one, or take it in another way."""
        return any(low.roomy or low.joins for low in self.lowered)

    @property
    def flops(self) -> int:
        """Floating-point operations of a pass."""
        return sum(low.flops for low in self.lowered)

    @property
    def transfer_bytes(self) -> int:
        """Bytes of all inputs and outputs in the types that the caller gives and gets."""
        ends = (*self.graph.inputs, *self.graph.outputs)
        return sum(math.prod(self.shapes[spec.name]) * np.dtype(self.output_type(spec)).itemsize for spec in ends)

    def output_type(self, spec: TensorSpec) -> str:
        """The NumPy type of an output that a caller gets. A tensor inside the graph declares none."""
        return "int64" if not spec.dtype and spec.name in self.integers else spec.dtype or "float32"

    def tensor(self, memory: NDArray[np.uint8], name: str) -> Array:
        """The array of a computed tensor in the arena ``memory``, float32 or int64."""
        operand = Operand(self.shapes[name], INT64 if name in self.integers else FLOAT32)
        start = self.offsets[name]
        return memory[start : start + nbytes(operand)].view(NUMPY_TYPES[operand.dtype]).reshape(operand.shape)

    @property
    def outside(self) -> frozenset[str]:
        """The inputs and outputs that have no memory in the arena: sections read and write the caller's arrays."""
        return frozenset(name for section in self.sections for name in section.outside)

    def bind(
        self,
        memory: NDArray[np.uint8],
        params: Mapping[str, Param],
        tables: Mapping[str, Table] | None = None,
        outside: Mapping[str, Whole] = MappingProxyType({}),
        current: Current | None = None,
    ) -> list[Run]:
        """The function that runs each of the ``steps``.

        Args:
            memory: the arena, ``workspace`` bytes.
            params: all parameters by name, as they lie in the weights file.
            tables: parameters of which nodes read single rows (`Lowered.indexed`), in place of ``params``.
            outside: during a pass it has the array (1, C, H, W) of each tensor that is `outside` the arena. Its type is
                any that is converted to and from float32.
            current: the round that the functions run. It is set before each if there are several.
        """
        self._place_constants(memory)
        current = current or Current()
        sections = {section.first: section for section in self.sections}
        runs: list[Run] = []
        behind = 0  # the node behind the last section
        only = 0  # the round in which nodes compute that are not in the section of the rounds
        for index, start in enumerate(self.scratch):
            give_way()
            if section := sections.get(index):
                whole = {name: self.tensor(memory, name) for name in (*section.inputs, *section.outputs)}
                visits = [*section.bind(memory[start : start + section.nbytes], whole, params, outside, current)]
                if self.in_rounds is None and section.times > 1:
                    for strip in range(section.times):
                        give_way()
                        runs += [Beginning(current, strip, visits[0]), *visits[1:]]
                elif self.in_rounds is not None and section is self.sections[self.in_rounds]:
                    runs += visits
                    only = self.rounds - 1
                else:
                    runs += [self._in_round(current, only, run) for run in visits]
                behind = section.last
            elif index >= behind:
                run = self._bind_node(index, memory, params, tables or {})
                runs.append(self._in_round(current, only, run))
        return runs

    def _in_round(self, current: Current, number: int, run: Run) -> Run:
        return InRound(current, number, run) if self.rounds > 1 else run

    def _bind_node(
        self, index: int, memory: NDArray[np.uint8], params: Mapping[str, Param], tables: Mapping[str, Table]
    ) -> Run:
        node, low, start = self.nodes[index], self.lowered[index], self.scratch[index]
        inputs: list[Param | Table | None] = [self._input(name, memory, params) for name in node.inputs]
        for position in low.indexed:
            inputs[position] = tables.get(node.inputs[position], inputs[position])
        outputs = tuple(self.tensor(memory, name) for name in node.outputs if name)
        return low.bind(Buffers(tuple(inputs), outputs, memory[start : start + low.scratch]))

    def _place_constants(self, memory: NDArray[np.uint8]) -> None:
        """Compute the constants again, so that they need no memory beside the arena between calls."""
        values: dict[str, Value] = {}
        meter = sizes.Meter()
        for node in self.sizes:
            give_way()
            inputs = [values.get(name) or Operand(self.shapes[name]) if name else None for name in node.inputs]
            values.update(zip(node.outputs, sizes.evaluate(node, inputs, meter), strict=True))
        for name in self.constants:
            np.copyto(self.tensor(memory, name), values[name].array, casting="unsafe")

    def _input(self, name: str, memory: NDArray[np.uint8], params: Mapping[str, Param]) -> Param | None:
        if not name:
            return None
        return params[name] if name in params else self.tensor(memory, name)


def compile_program(
    graph: Graph,
    params: Mapping[str, Operand],
    inputs: Mapping[str, Shape],
    exact: bool = False,
    lean: bool = False,
    bands: int = 0,
    strips: int = 1,
    again: int = 0,
    ways: tuple[Way, ...] = (),
    known: Known | None = None,
) -> Program:
    """Lower ``graph`` for given inputs: the first of its cases that runs with them.

    Args:
        graph: the graph.
        params: all parameters of the weights file by name.
        inputs: the shape of each input by name.
        exact: use no algorithm that rounds more than a plain sum does.
        lean: use no algorithm that needs more memory than a plain sum; ``exact`` excludes the same algorithms. Also
            place no tensor inside another one, since that may take more memory.
        bands: compute sections of nodes in about so many bands of rows, if this is not 0. The result has no
            ``sections`` if no nodes can.
        strips: the most strips of columns into which a section in bands is divided.
        again: which of the ``ways`` to run it in bands is taken.
        ways: of an earlier program with the same arguments but for ``bands`` and ``strips``; () if there is none.
        known: see `sections_of`: of earlier programs with the same arguments.

    Raises:
        FormatError: a node's attributes or the shapes do not fit together, or an input's size is out of bounds, even
            if no node reads that input.
        OtherCaseError: the extents lead to a case that the graph does not have. It is a `FormatError`.
    """
    for name, shape in inputs.items():
        if problem := size_problem(shape):
            raise FormatError(f"input {name!r} {problem}")
    meter = sizes.Meter()

    def compiled(case: Graph) -> Program:
        compiler = _Compiler(case, params, inputs, exact or lean, meter, bands, strips)
        return compiler.program(params, lean, again, ways, known)

    *others, last = graph.cases
    for case in others:
        with suppress(sizes.OtherCaseError):
            return compiled(case)
    return compiled(last)


class _Compiler:
    """Lowers the nodes of a graph one after the other, and evaluates its size nodes."""

    def __init__(
        self,
        graph: Graph,
        params: Mapping[str, Operand],
        inputs: Mapping[str, Shape],
        plain: bool,
        meter: sizes.Meter,
        bands: int,
        strips: int,
    ) -> None:
        self.graph = graph
        dtypes = {spec.name: computed_type(spec.dtype) for spec in graph.inputs}
        floats = read_as_floats(graph)
        dtypes |= dict.fromkeys(floats, FLOAT32)
        given = {name: Operand(shape, dtypes.get(name, FLOAT32)) for name, shape in inputs.items()}
        self.operands = {**params, **given}
        self.values: dict[str, Value] = {}
        self._casts = Casts(graph, floats)
        self.nodes: list[Node] = []
        self.sizes: list[Node] = []
        self.lowered: list[Lowered] = []
        self.constants: dict[str, None] = {}  # names of results of size nodes that are read during a pass
        self._plain, self._bands, self._strips = plain, bands, strips
        self._names = {*params, *inputs, *(name for node in graph.nodes for name in node.outputs)}
        self._meter = meter
        self._numbers = 0  # in computed attributes
        first = {shape[0] if shape else 0 for shape in inputs.values()}
        #: The samples of a call, if all inputs have as many; else 0.
        self.samples = first.pop() if len(first) == 1 else 0
        self.whole = self.samples > 0  # whether all nodes so far work sample by sample
        for node in graph.nodes:
            give_way()
            if sizes.is_size_node(node, self.values):
                self._evaluate(node)
            elif not self._casts.replaced(node, self.nodes, self.operands):
                self._lower(self._casts.reader(node))
        for spec in graph.outputs:
            self._operand(spec.name)

    def _evaluate(self, node: Node) -> None:
        inputs = [self.values.get(name) or self.operands[name] if name else None for name in node.inputs]
        found = sizes.evaluate(node, inputs, self._meter)
        self.values.update((name, value) for name, value in zip(node.outputs, found, strict=True) if name)
        self.sizes.append(node)
        if node.op == "If":  # a part of the batch could be another case
            self.whole &= not any(value.depends_on_batch for value in inputs if isinstance(value, Value))

    def _lower(self, node: Node, part: bool = False) -> None:
        given = {name: self._value(node, name, tensor) for name, tensor in node.sizes.items()}
        operands = [self._operand(name) if name else None for name in node.inputs]
        low = lower(node, operands, self._plain, samples=self.samples, sizes=given, hidden=part)
        new = {name for each in low.parts for name in each.outputs}.difference(node.outputs)
        if self._bands and low.parts and not new & self._names and operands[0] is not None and has_rows(operands[0]):
            for each in low.parts:
                self._lower(each, part=True)
            return
        if self._bands and self._casts.unchanged(node, low, self.operands):
            self.whole &= low.batchwise
            return
        batch = None if low.fixed else low.batch
        for index, (name, shape) in enumerate(zip(node.outputs, low.outputs, strict=True)):
            if name:
                self.operands[name] = Operand(shape, low.dtype(index), batch=batch)
        self.nodes.append(node)
        self.lowered.append(low)
        self.whole &= low.batchwise

    def _value(self, node: Node, attribute: str, tensor: str) -> Value:
        if tensor not in self.values:
            raise FormatError(
                f"node {node.name!r} ({printable(node.op):.80}): attribute {attribute!r:.80} is {tensor!r:.80}, "
                "expected a tensor that is computed from sizes alone"
            )
        value = self.values[tensor]
        self._numbers += value.array.size
        if self._numbers > MAX_VALUES:
            raise FormatError(
                f"node {node.name!r}: {self._numbers} numbers in computed attributes of all nodes up to this one, more "
                f"than the {MAX_VALUES} allowed"
            )
        return value

    def _operand(self, name: str) -> Operand:
        """A tensor as a node that runs in a pass sees it. A value becomes a constant in the arena."""
        value = self.values.get(name)
        if value is not None and name not in self.constants:
            if problem := size_problem(value.array.shape):
                raise FormatError(f"tensor {name!r}, which is computed from sizes and read as data, {problem}")
            self.constants[name] = None
            dtype = INT64 if value.array.dtype.kind == "i" else FLOAT32
            self.operands[name] = Operand(value.array.shape, dtype, batch=value.batch)
            # A number that depends on the samples is data here: each part of a batch would have another.
            self.whole &= value.from_batch is None
            if value.batch is not None:
                self.whole &= value.array.shape[value.batch] % max(1, self.samples) == 0
        return self.operands[name]

    def program(
        self, params: Mapping[str, Operand], lean: bool, again: int, ways: tuple[Way, ...], known: Known | None
    ) -> Program:
        """The finished program."""
        sections: list[Section] = []
        if self._bands:
            rows = [self._rows(index, low, self.operands) for index, low in enumerate(self.lowered)]
            ways = ways or self._ways(rows)
            in_use = partial(self._in_use, params)
            sections = self._sections(ways[again], rows, in_use, Known() if known is None else known)
        shapes = {name: operand.shape for name, operand in self.operands.items()}
        ends = [*self.graph.inputs, *self.graph.outputs]
        by_sample = all(
            shapes[spec.name][:1] == (self.samples,) and self.operands[spec.name].batch == 0 for spec in ends
        )
        spans = [(section.first, section.last) for section in sections]
        rounds = section_of_rounds(spans, self.nodes, self.operands)
        nodes, lowered, parts = _joined(self.nodes, self.lowered, sections, self.operands)
        outside = {name for section in sections for name in section.outside}
        inputs, outputs = ([name for name in names if name not in outside] for names in self._ends())
        offsets, scratch, workspace = lay_out(
            *(inputs, outputs, nodes, tuple(self.constants), params, self.operands, lowered), join=not lean
        ).placed()
        return Program(
            graph=self.graph,
            nodes=tuple(self.nodes),
            sizes=tuple(self.sizes) if self.constants else (),
            constants=tuple(self.constants),
            shapes=shapes,
            integers=frozenset(
                name for name, tensor in self.operands.items() if tensor.dtype == INT64 and not tensor.is_param
            ),
            lowered=tuple(self.lowered),
            batchwise=self.whole and by_sample,
            offsets=offsets,
            scratch=tuple(scratch[part] for part in parts),
            workspace=workspace,
            lean=lean,
            bands=self._bands if sections else 0,
            strips=self._strips if any(section.strips for section in sections) else 1,
            again=again if sections else 0,
            ways=ways if sections else (),
            sections=tuple(sections),
            in_rounds=rounds,
            steps=tuple(_steps(len(self.nodes), sections, rounds)),
        )

    def _ends(self) -> tuple[list[str], list[str]]:
        """The names of the graph's inputs and outputs."""
        return [spec.name for spec in self.graph.inputs], [spec.name for spec in self.graph.outputs]

    def _ways(self, rows: Sequence[Rows | None]) -> tuple[Way, ...]:
        inputs, results = self._ends()
        sizes = {name: nbytes(self.operands[name]) for name in inputs}
        for node, low in zip(self.nodes, self.lowered, strict=True):
            for name in filter(None, node.outputs):
                sizes[name] = nbytes(self.operands[name]) if low.view_of is None else 0
        shapes = {name: operand.shape for name, operand in self.operands.items()}
        work = [low.flops + sum(map(math.prod, low.outputs)) for low in self.lowered]
        return tuple(ways_of(self.nodes, rows, shapes, sizes, work, results, {*self._names, *self.operands}))

    def _in_use(self, params: Mapping[str, Operand], outside: Set[str]) -> Sequence[int]:
        """See `InUse`. An input that is ``outside`` counts until it is read, for a node may compute in its place."""
        inputs, outputs = self._ends()
        tensors = self.operands | dict.fromkeys(outside & {*outputs}, Operand((0,)))
        arguments = inputs, outputs, self.nodes, tuple(self.constants), params, tensors, self.lowered
        return lay_out(*arguments, join=False).in_use()

    def _sections(self, way: Way, rows: Sequence[Rows | None], in_use: InUse, known: Known) -> list[Section]:
        """The sections of the nodes that run in one of the ways, which become those of the program."""
        for node, source in zip(way.nodes, way.sources, strict=True):
            for name, made in zip(node.outputs, self.nodes[source].outputs, strict=True):
                if name != made:
                    self.operands[name] = self.operands[made]
        self.nodes, self.lowered = list(way.nodes), [self.lowered[source] for source in way.sources]
        return sections_of(
            *(self.nodes, self.lowered, [rows[source] for source in way.sources], self.operands, *self._ends()),
            *(way.runs, self._bands, self._strips),
            in_use=in_use,
            narrowed=self._narrowed,
            known=known,
        )

    def _rows(self, index: int, low: Lowered, tensors: Mapping[str, Operand]) -> Rows | None:
        give_way()
        node = self.nodes[index]
        return rows_of(node, low, [tensors.get(name) for name in node.inputs], self._again(node))

    def _again(self, node: Node) -> Again:
        return partial(lower, node, exact=self._plain, hidden=traits_of(node.op).hidden)

    def _narrowed(self, index: int, tensors: Mapping[str, Operand]) -> tuple[Lowered, Rows | None]:
        node = self.nodes[index]
        operands = [tensors.get(name) for name in node.inputs]
        wide, output = self.operands[node.inputs[0]], tensors[node.outputs[0]]
        low = in_strip(self.lowered[index], operands, wide, output, self._again(node))
        return low, self._rows(index, low, tensors)


def _joined(
    nodes: Sequence[Node], lowered: Sequence[Lowered], sections: Sequence[Section], tensors: Mapping[str, Operand]
) -> tuple[list[Node], list[Lowered], list[int]]:
    """The nodes as `place` sees them: each section is one. The last list has the index of each node among these."""
    found: list[Node] = []
    forms: list[Lowered] = []
    parts: list[int] = []
    starts = {section.first: section for section in sections}
    for index, (node, low) in enumerate(zip(nodes, lowered, strict=True)):
        if section := starts.get(index):
            node = replace(node, inputs=section.inputs, outputs=section.outputs)
            shapes = tuple(tensors[name].shape for name in section.outputs)
            low = replace(low, outputs=shapes, scratch=section.nbytes, inplace=section.inplace, joins=False)
        elif index < len(parts):
            continue
        found.append(node)
        forms.append(low)
        parts += [len(found) - 1] * (section.last - section.first if section else 1)
    return found, forms, parts


def _steps(nodes: int, sections: Sequence[Section], rounds: int | None) -> list[Step]:
    """The steps of a round. Those that are alike are one object, to save memory."""
    found: list[Step] = []
    starts = {section.first: (number, section) for number, section in enumerate(sections, 1)}
    # Steps of other sections, and of nodes in none, compute in one of the rounds.
    once = 1.0 if rounds is None else 1.0 / sections[rounds].times
    index = 0
    while index < nodes:
        if place := starts.get(index):
            section_number, section = place
            alike: dict[tuple[int, float], Step] = {}
            visits: list[Step] = []
            for number, visit in enumerate(section.schedule.visits):
                part = 1.0 if rounds == section_number - 1 else once
                kind = index + visit.node, section.share(number) * part
                visits.append(alike.setdefault(kind, Step(*kind, section_number)))
            found += visits * (section.times if rounds is None else 1)
            index = section.last
        else:
            found.append(Step(index, once))
            index += 1
    return found
