"""From a call's shapes to a program and its plan: what depends on both the graph and the budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from streamrt.errors import BudgetError, FormatError, InputError
from streamrt.format import WeightsFile
from streamrt.graph import Graph
from streamrt.inputs import batch_of, with_batch
from streamrt.ops import Shape, supported
from streamrt.plan import HUGE, Extent, NodeWeights, Plan, make_plan, smallest_window
from streamrt.program import Program, compile_program

#: Extents with which a graph is tried in place of those that its inputs leave free.
_TRIED = (1, 2, 8, 32, 224, 256)
#: Calls, told apart by input shapes and outputs, whose programs and plans are remembered.
_REMEMBERED = 16


@dataclass(frozen=True, slots=True)
class Prepared:
    """How one kind of call runs: the program is for ``plan.micro_batch`` samples where that is not 0."""

    graph: Graph
    program: Program
    plan: Plan


class Planner:
    """Programs and plans of one weights file under one budget. Not thread-safe."""

    def __init__(self, file: WeightsFile, budget: int | None) -> None:
        self._file = file
        self._budget = budget
        self._checked = False  # the graph is known to run with some shapes
        self._params = {name: tensor.shape for name, tensor in file.tensors.items()}
        self._prepared: OrderedDict[object, Prepared] = OrderedDict()

    def subgraph(self, outputs: Sequence[str] | None) -> Graph:
        """The part of the graph that computes ``outputs``; all of it for None.

        Raises:
            InputError: a name that the graph does not compute.
        """
        if outputs is None:
            return self._file.graph
        names = tuple(outputs) if isinstance(outputs, (list, tuple)) else ()
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise InputError(f"outputs: expected a list of different tensor names, found {outputs!r:.200}")
        try:
            return self._file.graph.subgraph(names)
        except KeyError as unknown:
            raise InputError(f"outputs: the graph computes no tensor named {unknown}") from None

    def compile(self, graph: Graph, shapes: Mapping[str, Shape]) -> Program:
        """The program of ``graph`` for these input shapes.

        Raises:
            FormatError: the graph cannot run with them.
        """
        return compile_program(graph, self._params, shapes)

    def check(self) -> None:
        """Refuse a graph that cannot run.

        With extents that its inputs leave free it may fit a few sizes only, such as those of one image: if none of the
        sizes tried will do, it is the first call that tells.

        Raises:
            FormatError: it cannot be lowered, or its outputs have not the extents declared.
        """
        graph = self._file.graph
        program = None
        for extent in _TRIED:
            shapes = {s.name: tuple(extent if isinstance(d, str) else d for d in s.dims) for s in graph.inputs}
            try:
                program = self.compile(graph, shapes)
                break
            except FormatError:
                if not any(isinstance(dim, str) for spec in graph.inputs for dim in spec.dims):
                    raise
        if program is None:
            if unknown := {node.op for node in graph.nodes} - supported():
                raise FormatError(f"no such operators: {', '.join(sorted(unknown))}")
            return
        self._checked = True
        for spec in graph.outputs:
            shape = program.shapes[spec.name]
            fixed = [found == dim for found, dim in zip(shape, spec.dims, strict=False) if isinstance(dim, int)]
            if len(shape) != len(spec.dims) or not all(fixed):
                raise FormatError(f"output {spec.name!r} is declared as {spec.dims}, and computed as {shape}")

    def prepare(self, graph: Graph, shapes: Mapping[str, Shape]) -> Prepared:
        """The program and plan for the whole batch or, if that does not fit, for the largest part found by halving.

        Raises:
            InputError: the graph cannot run with these shapes (FormatError: nor with any that were tried).
            BudgetError: not even one sample fits.
        """
        key = (tuple(shapes.items()), tuple(spec.name for spec in graph.outputs))
        if key not in self._prepared:
            self._prepared[key] = self._prepare(graph, shapes)
            if len(self._prepared) > _REMEMBERED:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(key)
        return self._prepared[key]

    def min_budget(self, graph: Graph, shapes: Mapping[str, Shape]) -> int:
        """The smallest budget that would do, in bytes.

        Raises:
            InputError: the graph cannot run with these shapes (FormatError: nor with any that were tried).
        """
        program = self._fitting(graph, shapes)
        if program.batchwise and batch_of(shapes, graph.inputs) > 1:
            program = self.compile(graph, with_batch(shapes, 1))
        return program.workspace + smallest_window(self._weights(program), self._file.size)

    def _fitting(self, graph: Graph, shapes: Mapping[str, Shape]) -> Program:
        """`compile` for a caller's shapes: it is they that do not fit, if the graph is known to run with others."""
        try:
            return self.compile(graph, shapes)
        except FormatError as error:
            if not self._checked:
                raise
            raise InputError(f"the model cannot run with inputs of shapes {dict(shapes)}: {error}") from error

    def _prepare(self, graph: Graph, shapes: Mapping[str, Shape]) -> Prepared:
        program = self._fitting(graph, shapes)
        samples = part = batch_of(shapes, graph.inputs) if program.batchwise else 0
        while True:
            try:
                plan = make_plan(
                    self._weights(program),
                    file_size=self._file.size,
                    workspace=program.workspace,
                    budget=self._budget,
                    huge=self._file.data_offset % HUGE == 0,
                )
            except BudgetError:
                if part <= 1:
                    raise
                part = -(-part // 2)
                program = self.compile(graph, with_batch(shapes, part))
            else:
                return Prepared(graph, program, replace(plan, micro_batch=part if part < samples else 0))

    def _weights(self, program: Program) -> list[NodeWeights]:
        """Where in the file the parameters of each node lie."""
        found = []
        for node, low in zip(program.graph.nodes, program.lowered, strict=True):
            whole: dict[str, Extent] = {}
            tiled: dict[str, Extent] = {}
            for index, name in enumerate(node.inputs):
                if tensor := self._file.tensors.get(name):
                    (tiled if index in low.tiled else whole)[name] = Extent(tensor.offset, tensor.nbytes)
            found.append(NodeWeights(tuple(whole.values()), tuple(tiled.values()), low.rows, low.row_step))
        return found
