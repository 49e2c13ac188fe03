"""Programs in bands of rows, for budgets in which whole activations of one sample do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from streamrt.errors import BudgetError
from streamrt.graph import Graph
from streamrt.plan import Bands, Plan
from streamrt.program.compile import Program

#: The numbers of bands that are tried. More bands are lower, need less memory, and read the weights more often.
_COUNTS = (2, 4, 8, 16, 32, 64, 128, 256)
#: The most steps of a pass in bands. A step takes up to 4 KiB of memory beside the budget, and some 20 us of planning.
_MOST_STEPS = 2**11
#: The most inputs of all nodes in all bands. Finding out which rows they need takes up to 10 us each.
_MOST_INPUTS = 2**16
#: The most bytes of weights that a pass may read if all nodes run in each band: half of what any pass may read
#: (`streamrt.engine.node_weights`), since other nodes may read theirs several times.
_MOST_READ = 2**39

#: Prefer lower bands, with which more weights are pinned, only if a pass takes under 98 % of the time.
_GAIN = 0.98

#: Compiles a program; a lean one if the first argument is true; in the number of bands of the second argument.
Compile = Callable[[bool, int], Program]


class InBands:
    """Programs in bands, those with the fewest and tallest bands first; none if no nodes can run in bands.

    There are no further programs when more bands need no less memory. Iterating gives lean programs.

    Args:
        compile_for: see `Compile`.
        graph: of the programs.
        sizes: bytes of each parameter, by name.
        wanted: whether there are any programs.
        exact: whether lean programs are as fast as others.
    """

    def __init__(
        self, compile_for: Compile, graph: Graph, sizes: Mapping[str, int], *, wanted: bool, exact: bool
    ) -> None:
        self._compile, self._graph, self._sizes = compile_for, graph, sizes
        self._wanted, self._exact = wanted, exact

    def __iter__(self) -> Iterator[Program]:
        return self._programs(lean=True, fewest=0)

    def faster(self, program: Program) -> Iterator[Program]:
        """Programs that are not lean, in at least as many bands as ``program``."""
        return iter(()) if self._exact else self._programs(lean=False, fewest=program.bands)

    def _programs(self, lean: bool, fewest: int) -> Iterator[Program]:
        nodes = list(self._graph.all_nodes)
        inputs = [name for node in nodes for name in node.inputs]
        read = sum(self._sizes.get(name, 0) for name in inputs)
        if not (self._wanted and 1 < len(nodes) <= _MOST_STEPS // _COUNTS[0]):
            return
        least: float = math.inf
        for bands in (count for count in _COUNTS if count >= fewest):
            if bands * read > _MOST_READ or bands * len(inputs) > _MOST_INPUTS:
                return
            program = self._compile(lean, bands)
            if not program.sections or len(program.steps) > _MOST_STEPS or program.workspace >= least:
                return
            least = program.workspace
            yield program


def fit_in_bands(
    refused: BudgetError, budget: int | None, programs: InBands, plan_for: Callable[[Program], Plan]
) -> tuple[Program, Plan]:
    """Of ``programs`` one with a short pass, and its plan. Ties go to the first, which has the tallest bands.

    The first program that is not lean, fits, and reads no more is taken instead.

    Args:
        refused: the error of the whole activations.
        budget: bytes.
        programs: that are tried.
        plan_for: makes the plan of a program. Raises `BudgetError` if it does not fit.

    Raises:
        BudgetError: none fits. It is ``refused``, or that of a program whose ``minimum`` is smaller.
    """
    assert budget is not None  # without one everything fits
    best: tuple[Program, Plan] | None = None
    larger: list[Program] = []
    for program in programs:
        if program.workspace > budget:
            larger.append(program)
            continue
        try:
            plan = plan_for(program)
        except BudgetError as error:
            refused = min(refused, error, key=_minimum)
            continue
        if best is not None and plan.seconds >= best[1].seconds * _GAIN:
            break
        best = program, plan
        if not plan.streamed_bytes:
            break  # lower bands would save no reading
    if best is not None:
        return _faster(best, programs.faster(best[0]), budget, plan_for)
    for program in reversed(larger):
        if program.workspace < refused.minimum:
            try:
                plan_for(program)
            except BudgetError as error:
                refused = min(refused, error, key=_minimum)
    try:
        raise refused from None
    finally:
        del refused  # the traceback has this frame, so that the error would refer to itself


def _faster(
    found: tuple[Program, Plan], programs: Iterable[Program], budget: int, plan_for: Callable[[Program], Plan]
) -> tuple[Program, Plan]:
    """The first of ``programs`` that fits and reads no more than what was ``found``, with its plan; else that."""
    for program in programs:
        if program.workspace <= budget:
            with suppress(BudgetError):
                plan = plan_for(program)
                if plan.streamed_bytes <= found[1].streamed_bytes:
                    return program, plan
    return found


def _minimum(error: BudgetError) -> int:
    return error.minimum


def least_budget(programs: Iterable[Program], window_of: Callable[[Program], int]) -> int:
    """The least bytes of workspace and window. ``window_of``, which takes long, is asked for few programs."""
    least: float = math.inf
    for program in sorted(programs, key=_workspace):
        if program.workspace < least:
            least = min(least, program.workspace + window_of(program))
    return int(least)


def _workspace(program: Program) -> int:
    return program.workspace


def with_bands(plan: Plan, program: Program) -> Plan:
    """``plan``, with what it says of the sections of ``program``."""
    if not program.sections:
        return plan
    return replace(
        plan,
        bands=tuple(Bands(each.first, each.last, each.bands, each.nbytes) for each in program.sections),
        nodes=tuple(step.node for step in program.steps),
    )
