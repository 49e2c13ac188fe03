"""From a call's shapes to a program and its plan: what depends on both the graph and the budget."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from streamrt.engine.inputs import batch_of, with_batch
from streamrt.engine.programs import REMEMBERED, Programs, key_of
from streamrt.errors import BudgetError, FormatError, InputError
from streamrt.graph import Graph
from streamrt.host.rates import Rates, disk_speed
from streamrt.ops import Shape, supported
from streamrt.plan import (
    HUGE,
    Extent,
    NodeWeights,
    Plan,
    all_weights,
    make_plan,
    seconds_of_rows,
    simulated_seconds,
    smallest_window,
    too_small,
)
from streamrt.program.compile import Program
from streamrt.report.printable import printable

#: Extents to try a graph with, in place of those that its inputs leave free.
_TRIED = (1, 2, 8, 32, 224, 256)
#: Nodes lowered in these trials before no further one begins. It bounds the time that a hostile graph takes.
_MOST_TRIED = 20_000
#: Bytes of weights that a pass may read; weights that several nodes read count for each. Reading more takes minutes,
#: and planning it more memory than opening a file may take.
_MOST_READ = 2**40
#: Skip a part of a batch if it needs more than this multiple of the budget.
_HOPELESS = 2
#: Multiples of a batch that share a pass: powers of two, and the numbers half-way between.
_COUNTS = (1, 2, *(count << power for power in range(20) for count in (3, 4)))
#: Treat results within 5 % of the best as ties.
_CLOSE = 1.05
#: Stop doubling the batch once it gains under 2 % per sample.
_LITTLE = 0.98
#: Inputs and results of a shared pass lie outside the budget. They may take 1/16 of it, and 32 MiB in any case: as much
#: as the budget ``"auto"`` leaves free.
_LEAST_HELD = 32 << 20
_HELD_SHARE = 16
#: Rows that the call of a kernel costs, added to each streamed tile. Measured with rows of 8192 weights: a row takes
#: 1/8 longer in tiles of 128 rows than in tiles of 512.
_CALL_ROWS = 20
#: Replace a plan by one from measured times if its pass takes at most 95 % of the time: the change costs reading.
_WORTH = 0.95
#: Use pages if 2 MiB granules would hold over 1/8 more.
_WASTE = 8
#: Measured speeds of reading that differ by less than 25 % are the same.
_SAME_SPEED = 1.25


@dataclass(frozen=True, slots=True)
class Prepared:
    """How calls with inputs of these shapes run: the program is for ``plan.micro_batch`` samples unless that is 0."""

    graph: Graph
    shapes: Mapping[str, Shape]
    program: Program
    plan: Plan


class Planner:
    """Plans of one weights file under one budget. Not thread-safe.

    Args:
        programs: of the file.
        budget: bytes, or None.
        rates: of the machine.
        frugal: whether memory is to be counted in pages if granules of 2 MiB would waste an eighth of it, though pages
            are read more slowly. Plans for different budgets then have the same granule, but for very small ones, so
            that weights stay when the budget changes.
        thorough: see `make_plan`; what is planned with measured times always is.
    """

    def __init__(
        self,
        programs: Programs,
        budget: int | None,
        rates: Rates,
        *,
        frugal: bool = False,
        thorough: bool = True,
    ) -> None:
        self._programs = programs
        self._file = file = programs.file
        self.budget = budget
        self.rates = rates
        self._huge = file.large_segments
        self._frugal = frugal
        self._thorough = thorough
        self._checked = False  # the graph is known to run with some shapes
        self._usual: Mapping[str, Shape] | None = None  # which those are
        self._prepared: OrderedDict[object, Prepared] = OrderedDict()
        self._latest: Prepared | None = None  # of those the one that was asked for last
        self._measured: set[object] = set()  # of those, whose plans were looked at again with what passes took
        self._together: dict[object, int] = {}  # what `samples_together` found

    def with_budget(self, budget: int | None) -> Planner:
        """The same under another budget, with the same programs, and the speed of the disk that is known by now."""
        disk = disk_speed(self._file.identity[0], self.rates.disk)
        planner = Planner(self._programs, budget, replace(self.rates, disk=disk), thorough=self._thorough)
        planner._checked, planner._usual, planner._huge = self._checked, self._usual, self._huge
        return planner

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

    def check(self) -> None:
        """Refuse a graph that cannot run.

        With extents that its inputs leave free it may fit a few sizes only, such as those of one image: if none of the
        sizes tried will do, it is the first call that tells.

        Raises:
            FormatError: it cannot be lowered, or its outputs have not the extents declared.
        """
        graph = self._file.graph
        program = None
        for extent in _TRIED[: max(1, _MOST_TRIED // max(1, len(graph.nodes)))]:
            shapes = {s.name: tuple(extent if isinstance(d, str) else d for d in s.dims) for s in graph.inputs}
            try:
                program = self._programs.compile(graph, shapes)
                break
            except FormatError:
                if not any(isinstance(dim, str) for spec in graph.inputs for dim in spec.dims):
                    raise
        if program is None:
            known = supported()
            if unknown := next((node for node in graph.nodes if node.op not in known), None):
                where = f"{self._file.path}: node {unknown.name!r} ({printable(unknown.op):.80})"
                raise FormatError(f"{where}: no such operator")
            return
        self._programs.keep(program)
        self._checked, self._usual = True, shapes
        if self._huge and self._frugal:
            weights, size = self._weights(program), self._file.size
            pages, blocks = (all_weights(weights, size, huge=huge) for huge in (False, True))
            self._huge = blocks * _WASTE <= pages * (_WASTE + 1)
        for spec in graph.outputs:
            shape = program.shapes[spec.name]
            fixed = [found == dim for found, dim in zip(shape, spec.dims, strict=False) if isinstance(dim, int)]
            if len(shape) != len(spec.dims) or not all(fixed):
                raise FormatError(f"output {spec.name!r} is declared as {spec.dims}, and computed as {shape}")

    def prepare_usual(self) -> Prepared | None:
        """`prepare` for the first shapes that `check` found to work, a batch of one; None if it found none."""
        return None if self._usual is None else self.prepare(self._file.graph, self._usual)

    def needs(self) -> tuple[int, int, int, int]:
        """Bytes of all weights, of the workspace, of the smallest window, and of the smallest budget.

        For the shapes of `prepare_usual`; the workspace is 0 where there are none.
        """
        if self._usual is None:
            least = min(self._file.size, HUGE)
            return self._file.size, 0, least, least
        program = self._programs.compile(self._file.graph, self._usual)
        weights = self._weights(program)
        size = self._file.size
        least = smallest_window(weights, size, huge=self._huge)
        minimum = program.workspace + least
        lean = self._programs.compile(self._file.graph, self._usual, lean=True)
        if lean.workspace < program.workspace:
            minimum = min(minimum, lean.workspace + smallest_window(self._weights(lean), size, huge=self._huge))
        return all_weights(weights, size, huge=self._huge), program.workspace, least, minimum

    def prepare(self, graph: Graph, shapes: Mapping[str, Shape]) -> Prepared:
        """The program and plan for the whole batch or, if that does not fit, for the largest part found by halving.

        Raises:
            InputError: the graph cannot run with these shapes (FormatError: nor with any that were tried).
            BudgetError: not even one sample fits.
        """
        latest = self._latest
        if latest is not None and latest.graph is graph and latest.shapes == shapes:
            return latest
        key = key_of(graph, shapes)
        if key not in self._prepared:
            self._prepared[key] = self._prepare(graph, shapes, thorough=self._thorough)
            self._programs.keep(self._prepared[key].program)
            if len(self._prepared) > REMEMBERED:
                self._measured.discard(self._prepared.popitem(last=False)[0])
        self._prepared.move_to_end(key)
        self._latest = self._prepared[key]
        return self._latest

    def learn(self, prepared: Prepared, seconds: Sequence[float], speed: float) -> None:
        """Take note of a pass: of ``seconds`` that each node computed, and the ``speed`` of its ranges, bytes a second.

        If another plan would do much better by these, `prepare` gives that from now on.
        """
        known = self.rates.disk
        disk = prepared.plan.disk_speed(speed, known)
        if not (_same_speed(speed, prepared.plan.speed(known)) or _same_speed(disk, known)):
            self.rates = replace(self.rates, disk=disk)
            self._together.clear()
        key = key_of(prepared.graph, prepared.shapes)
        if key in self._measured or self._prepared.get(key) is not prepared:
            return
        self._measured.add(key)
        kept = prepared.plan
        seconds = seconds_of_rows(kept, self._weights(prepared.program), seconds)
        plan, weights = self._plan(prepared.program, seconds, thorough=True), self._weights(prepared.program, seconds)
        if plan.seconds < _WORTH * simulated_seconds(kept, weights, self._file.size, self.rates.disk):
            self._prepared[key] = replace(prepared, plan=replace(plan, micro_batch=kept.micro_batch))
            self._latest = None

    def min_budget(self, graph: Graph, shapes: Mapping[str, Shape]) -> int:
        """The smallest budget that would do, in bytes.

        Raises:
            InputError: the graph cannot run with these shapes (FormatError: nor with any that were tried).
        """
        program = self._fitting(graph, shapes, lean=True)
        if program.batchwise and batch_of(shapes, graph.inputs) > 1:
            shapes = with_batch(shapes, 1)
            program = self._programs.compile(graph, shapes, lean=True)
        other = self._programs.compile(graph, shapes)
        workspace = min(program.workspace, other.workspace)  # either may be the smaller one
        return workspace + smallest_window(self._weights(program), self._file.size, huge=self._huge)

    def samples_together(self, graph: Graph, shapes: Mapping[str, Shape]) -> int:
        """The samples, a multiple of the batch of ``shapes``, with which one pass serves the most of them in a second.

        Activations take memory from pinned weights, so that a pass reads more, but one reading serves more samples. Of
        sizes that come close to the best the smallest: more than keep the processor busy gain nothing.

        Raises:
            InputError, BudgetError: as `prepare`.
        """
        key = key_of(graph, shapes)
        if key not in self._together:
            self._together[key] = self._best_together(graph, shapes)
            if len(self._together) > REMEMBERED:
                self._together.pop(next(iter(self._together)))
        return self._together[key]

    def _best_together(self, graph: Graph, shapes: Mapping[str, Shape]) -> int:
        batch = batch_of(shapes, graph.inputs)
        program = self.prepare(graph, shapes).program
        if not program.batchwise or batch == 0 or self.budget is None:
            return batch
        most = max(_LEAST_HELD, self.budget // _HELD_SHARE) // max(1, program.transfer_bytes // batch)
        least = program.flops / self.rates.flops / batch
        costs: dict[int, float] = {}  # of a sample, in seconds: all of plans made alike, by what is known today

        def tried(samples: int) -> Plan | None:
            """The plan for so many, which is noted among the costs; None if they do not fit."""
            if samples > max(most, batch):
                return None
            prepared = self._prepare(graph, with_batch(shapes, samples), thorough=False)
            if prepared.plan.micro_batch or not prepared.program.batchwise:
                return None
            costs[samples] = prepared.plan.seconds / samples
            return prepared.plan

        def cheapest() -> int:
            close = min(costs.values()) * _CLOSE
            return min(samples for samples, cost in costs.items() if cost <= close)

        samples, plan = batch, tried(batch)
        if plan is None:
            return batch
        while plan.streamed_bytes and costs[samples] > least * _CLOSE:
            samples *= 2
            plan = tried(samples)
            if plan is None or costs[samples] > costs[samples // 2] * _LITTLE:
                break
        best = cheapest() // batch
        for count in (best * 3 // 4, best * 3 // 2):
            if count in _COUNTS and batch * count not in costs:
                tried(batch * count)
        return cheapest()

    def _fitting(self, graph: Graph, shapes: Mapping[str, Shape], lean: bool = False) -> Program:
        """Compile for a caller's shapes: it is they that do not fit, if the graph is known to run with others."""
        try:
            return self._programs.compile(graph, shapes, lean)
        except FormatError as error:
            if not self._checked:
                raise
            raise InputError(f"the model cannot run with inputs of shapes {dict(shapes)}: {error}") from error

    def _prepare(self, graph: Graph, shapes: Mapping[str, Shape], *, thorough: bool) -> Prepared:
        program = self._fitting(graph, shapes)
        samples = part = batch_of(shapes, graph.inputs) if program.batchwise else 0
        lean = False
        window = None
        budget = math.inf if self.budget is None else self.budget
        while True:
            try:
                if self.budget is not None and window is not None and program.workspace + window > self.budget:
                    raise too_small(self.budget, program.workspace, window)
                plan = self._plan(program, thorough=thorough)
            except BudgetError as error:
                if lean and part <= 1:
                    one = with_batch(shapes, 1) if samples else shapes
                    self._check_one(graph, one, error.minimum - program.workspace)  # it knows the least budget
                    raise
                window = error.minimum - program.workspace  # the same for every batch
                if not lean and part == samples > 2:  # or all parts would be tried in vain
                    self._check_one(graph, with_batch(shapes, 1), window)
                if lean:
                    need = program.workspace // part  # of a sample, or about that
                    part = -(-part // 2)
                    while part > 1 and need * part > _HOPELESS * budget:
                        part = -(-part // 2)
                lean = not lean
                program = self._programs.compile(graph, with_batch(shapes, part) if samples else shapes, lean)
            else:
                return Prepared(graph, shapes, program, replace(plan, micro_batch=part if part < samples else 0))

    def _check_one(self, graph: Graph, shapes: Mapping[str, Shape], window: int) -> None:
        """Raise `BudgetError` if one sample, of these shapes, does not fit beside the smallest ``window``."""
        # Of the two forms either may be the smaller one.
        workspace = min(self._programs.compile(graph, shapes, lean).workspace for lean in (False, True))
        if self.budget is not None and workspace + window > self.budget:
            raise too_small(self.budget, workspace, window)

    def _plan(self, program: Program, seconds: Sequence[float] | None = None, *, thorough: bool) -> Plan:
        return make_plan(
            self._weights(program, seconds),
            file_size=self._file.size,
            workspace=program.workspace,
            budget=self.budget,
            huge=self._huge,
            rate=self.rates.disk,
            thorough=thorough,
        )

    def _weights(self, program: Program, seconds: Sequence[float] | None = None) -> list[NodeWeights]:
        """Where in the file the parameters of each node lie, and how long it computes: as measured, or estimated."""
        found = []
        total = 0
        for position, (node, low) in enumerate(zip(program.graph.nodes, program.lowered, strict=True)):
            whole: dict[str, Extent] = {}
            tiled: dict[str, Extent] = {}
            for index, name in enumerate(node.inputs):
                if tensor := self._file.tensors.get(name):
                    (tiled if index in low.tiled else whole)[name] = Extent(tensor.offset, tensor.nbytes)
            size = sum(extent.length for extent in (*whole.values(), *tiled.values()))
            total += size
            if total > _MOST_READ:
                raise FormatError(f"node {node.name!r}: up to here a pass reads {total} bytes, more than 2**40")
            estimate = low.flops / self.rates.flops + size / self.rates.memory
            found.append(
                NodeWeights(
                    whole=tuple(whole.values()),
                    tiled=tuple(tiled.values()),
                    rows=low.rows,
                    row_step=low.row_step,
                    seconds=estimate if seconds is None else seconds[position],
                    call_rows=_CALL_ROWS if tiled else 0,
                )
            )
        return found


def _same_speed(one: float, other: float) -> bool:
    return other / _SAME_SPEED < one < other * _SAME_SPEED


def rounded(samples: int, batch: int) -> int:
    """The size of a pass for so many samples of several requests, the first of which has ``batch`` of them.

    Of sizes there are few, so that one plan, with what is pinned and read ahead for it, serves any number of callers.
    """
    return next((batch * count for count in _COUNTS if batch * count >= samples), samples)
