"""The planner finds a program and a plan for a call's shapes, within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from streamrt.engine.bands import least_budget, with_bands
from streamrt.engine.inputs import batch_of, with_batch
from streamrt.engine.node_weights import node_weights
from streamrt.engine.pass_size import best_size, most_held
from streamrt.engine.prepared import REMEMBERED, CallKey, Prepared, Refusals, Remembered, key_of
from streamrt.engine.programs import Programs
from streamrt.engine.shortest import Call, planned
from streamrt.engine.trial import first_program
from streamrt.errors import FormatError, InputError
from streamrt.graph import Graph
from streamrt.host.rates import Rates, measured_speed, same_speed
from streamrt.ops import Shape, sizes
from streamrt.plan import (
    HUGE,
    NodeWeights,
    Plan,
    all_weights,
    make_plan,
    seconds_of_rows,
    simulated_seconds,
    smallest_window,
)
from streamrt.program.compile import Program

#: Replace a plan by a plan from measured times if its pass takes at most 95 % of the time. A change of plan reads newly
#: pinned weights, which a smaller gain would not pay for.
_WORTH = 0.95
#: Plans of a pass with more steps are not thorough: each would take a second longer.
_MOST_THOROUGH = 2**11
#: Count memory in pages if granules of 2 MiB would hold over 1/8 more. Pages hold less, but are read more slowly.
_WASTE = 8


class Planner:
    """Plans of one weights file under one budget. Not thread-safe.

    Args:
        programs: of the file.
        budget: bytes, or None.
        rates: of the machine.
        frugal: count memory in pages if granules of 2 MiB would hold over 1/8 more, though pages are read more slowly.
            Plans for different budgets then have the same granule, except for very small budgets, so that weights
            stay in memory when the budget changes.
        thorough: see `make_plan`; also look for faster ways than the first that fits, if calls may run in bands. Plans
            from measured times are always thorough.

    Attributes:
        budget: as above.
        rates: as above, with the disk's speed as passes have measured it.
    """

    def __init__(
        self, programs: Programs, budget: int | None, rates: Rates, *, frugal: bool = False, thorough: bool = True
    ) -> None:
        self._programs = programs
        self._file = file = programs.file
        self.budget, self.rates = budget, rates
        self._huge = file.huge
        self._frugal, self._thorough = frugal, thorough
        self._usual: Mapping[str, Shape] | None = None  # shapes with which the graph is known to run
        self._usual_bytes = 0  # of all weights in a call with these, if `check` counted them
        self._whole = Remembered()  # calls that are not in bands
        self._latest: Prepared | None = None  # the last result of `prepare` that is not in bands
        self._refusals = Refusals()
        self._together: dict[CallKey, int] = {}  # results of `samples_together`

    def with_budget(self, budget: int | None) -> Planner:
        """A planner of the same programs for another budget, with the disk's speed as the process knows it now."""
        disk = measured_speed(self._file.identity.device, self.rates.disk)
        planner = Planner(self._programs, budget, replace(self.rates, disk=disk), thorough=self._thorough)
        planner._usual, planner._huge = self._usual, self._huge
        return planner

    def check(self) -> None:
        """Refuse a graph that cannot run.

        Raises:
            FormatError: see `first_program`.
        """
        program = first_program(self._programs)
        if program is None:
            return
        self._programs.keep(program)
        self._usual = {spec.name: program.shapes[spec.name] for spec in program.graph.inputs}
        if self._huge and self._frugal:
            weights, size = self._weights(program), self._file.size
            pages, blocks = (all_weights(weights, size, huge=huge) for huge in (False, True))
            self._huge = blocks * _WASTE <= pages * (_WASTE + 1)
            self._usual_bytes = blocks if self._huge else pages

    def prepare_usual(self) -> Prepared | None:
        """`prepare` with ``bands`` for the shapes with which `check` found the graph to run; None if it found none."""
        return None if self._usual is None else self.prepare(self._file.graph, self._usual, bands=True)

    def needs(self) -> tuple[int, int, int, int]:
        """Bytes of all weights, of the workspace, of the smallest window, and of the smallest budget.

        They are for the shapes of `prepare_usual`. If there are none, the workspace counts as 0.
        """
        if self._usual is None:
            least = min(self._file.size, HUGE)
            return self._file.size, 0, least, least
        program = self._programs.compile(self._file.graph, self._usual)
        lean = self._programs.compile(self._file.graph, self._usual, lean=True) if program.may_be_leaner else program
        weights, size = self._weights(program), self._file.size
        least = smallest_window(weights, size, huge=self._huge)
        held = self._usual_bytes or all_weights(weights, size, huge=self._huge)
        return held, program.workspace, least, min(program.workspace, lean.workspace) + least

    def prepare(self, graph: Graph, shapes: Mapping[str, Shape], *, bands: bool = False) -> Prepared:
        """The program and plan for the whole batch or, if that does not fit, for the largest part found by halving.

        Results are remembered: see `Remembered`. So are refusals, by kind of call and ``bands``.

        Args:
            graph: computes the requested outputs.
            shapes: of its inputs.
            bands: whether the call may run in bands though the file's `Programs` have none unless asked. Without it the
                result never is in bands that were asked for, whatever was prepared before.

        Raises:
            InputError: the graph cannot run with these shapes.
            FormatError: as above, and it is not known to run with any others.
            BudgetError: not even one sample fits.
        """
        latest = self._latest
        if latest is not None and latest.graph is graph and latest.shapes == shapes:
            return latest
        call, asked = key_of(graph, shapes), bands or self._programs.bands
        found = self._whole.get((self.budget, call))
        if found is None and asked:
            found = self._programs.calls_in_bands.get((self.budget, call))
        if found is None:
            with self._refusals.of(call, asked):
                found = self._prepare(graph, shapes, thorough=self._thorough, bands=asked)
            self._kept_with(found).put((self.budget, call), found)
            if not found.program.bands:
                self._programs.keep(found.program)
        self._latest = None if found.program.bands else found
        return found

    def _kept_with(self, prepared: Prepared) -> Remembered:
        return self._programs.calls_in_bands if prepared.program.bands else self._whole

    def learn(self, prepared: Prepared, seconds: Sequence[float], speed: float) -> None:
        """Learn from a pass. If by its times another plan has a pass 5 % shorter, `prepare` returns that plan later.

        Args:
            prepared: the program and plan that ran.
            seconds: computing time of each node.
            speed: bytes a second at which the streamed ranges arrived.
        """
        known = self.rates.disk
        disk = prepared.plan.disk_speed(speed, known)
        if not (same_speed(speed, prepared.plan.speed(known)) or same_speed(disk, known)):
            self.rates = replace(self.rates, disk=disk)
            self._together.clear()
        key, remembered = (self.budget, key_of(prepared.graph, prepared.shapes)), self._kept_with(prepared)
        if key in remembered.measured or remembered.get(key) is not prepared:
            return
        remembered.measured.add(key)
        kept, program = prepared.plan, prepared.program
        seconds = seconds_of_rows(kept, self._weights(program), program.by_step(seconds))
        plan, weights = self._plan(program, seconds, thorough=True), self._weights(program, seconds)
        if plan.seconds < _WORTH * simulated_seconds(kept, weights, self._file.size, self.rates.disk):
            remembered.put(key, replace(prepared, plan=replace(plan, micro_batch=kept.micro_batch)))
            self._latest = None

    def min_budget(self, graph: Graph, shapes: Mapping[str, Shape], *, divided: bool = True) -> int:
        """The smallest budget that is enough, in bytes; unless ``divided``, one that has room for the whole batch.

        Raises:
            InputError, FormatError: as `prepare`.
        """
        program = self._fitting(graph, shapes)
        divisible = divided and program.batchwise and batch_of(shapes, graph.inputs) > 1
        one = with_batch(shapes, 1) if divisible else shapes
        others = [self._programs.compile(graph, one, lean) for lean in ((False, True) if divisible else (True,))]
        # Take the least: a lean program may need more than the other, and one sample may need more than two.
        programs = (program, *others, *self._programs.in_bands(graph, one, self.rates.disk, asked=True))
        return least_budget(programs, lambda it: smallest_window(self._weights(it), self._file.size, huge=self._huge))

    def samples_together(self, graph: Graph, shapes: Mapping[str, Shape]) -> int:
        """The samples in one pass that give the most samples a second; a multiple of the batch of ``shapes``.

        Raises:
            InputError, FormatError, BudgetError: as `prepare`.
        """
        key = key_of(graph, shapes)
        if key not in self._together:
            self._together[key] = self._best_size(graph, shapes)
            if len(self._together) > REMEMBERED:
                self._together.pop(next(iter(self._together)))
        return self._together[key]

    def _best_size(self, graph: Graph, shapes: Mapping[str, Shape]) -> int:
        batch = batch_of(shapes, graph.inputs)
        program = self.prepare(graph, shapes).program
        if not program.batchwise or batch == 0 or self.budget is None:
            return batch

        def undivided(samples: int) -> Plan | None:
            prepared = self._prepare(graph, with_batch(shapes, samples), thorough=False)
            return prepared.plan if prepared.program.batchwise and not prepared.plan.micro_batch else None

        most = most_held(self.budget, program.transfer_bytes // batch)
        return best_size(batch, most, program.flops / self.rates.flops / batch, undivided)

    def _fitting(self, graph: Graph, shapes: Mapping[str, Shape]) -> Program:
        """Compile for a caller's shapes. If the graph is known to run with other shapes, raise `InputError`."""
        try:
            return self._programs.compile(graph, shapes)
        except FormatError as error:
            if self._usual is None and not isinstance(error, sizes.OtherCaseError):
                raise
            raise InputError(f"the model cannot run with inputs of shapes {dict(shapes)}: {error}") from error

    def _prepare(self, graph: Graph, shapes: Mapping[str, Shape], *, thorough: bool, bands: bool = False) -> Prepared:
        program = self._fitting(graph, shapes)
        samples = batch_of(shapes, graph.inputs) if program.batchwise else 0
        one = with_batch(shapes, 1) if samples else shapes
        in_bands = self._programs.in_bands(graph, one, self.rates.disk, asked=bands)

        def compile_for(part: int, lean: bool) -> Program:
            return self._programs.compile(graph, with_batch(shapes, part) if samples else shapes, lean)

        plan_for, quick = (partial(self._plan, thorough=each) for each in (thorough, False))
        call = Call(samples, self.budget, self.rates, compile_for, plan_for, quick, self._weights, in_bands)
        return Prepared(graph, shapes, *planned(call, program, by_time=thorough and self._programs.bands))

    def _plan(self, program: Program, seconds: Sequence[float] | None = None, *, thorough: bool) -> Plan:
        plan = make_plan(
            self._weights(program, seconds),
            file_size=self._file.size,
            workspace=program.memory,
            budget=self.budget,
            huge=self._huge,
            rate=self.rates.disk,
            thorough=thorough and len(program.steps) <= _MOST_THOROUGH,
        )
        return with_bands(plan, program)

    def _weights(self, program: Program, seconds: Sequence[float] | None = None) -> list[NodeWeights]:
        return node_weights(self._file, program, self.rates, seconds)
