"""Programs in bands of rows, for budgets in which whole activations of one sample do not fit.

If no bands of whole rows fit, strips of columns are computed in bands.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice, takewhile
from typing import NamedTuple

from streamrt.errors import BudgetError
from streamrt.graph import Graph
from streamrt.plan import Bands, Plan
from streamrt.program.again import Way
from streamrt.program.compile import Program
from streamrt.program.division import Known, Schedules
from streamrt.program.strips import NARROWEST

#: The numbers of bands that are tried. More bands are lower, need less memory, and read the weights more often.
_COUNTS = tuple(2**power for power in range(1, 13))
#: The most numbers of bands that are tried in strips: those of most bands, which need the least memory.
_MOST_COUNTS = 4
#: Try no more numbers of bands, or of strips, if so many in a row did not need less memory. Sections may have fewer.
_MOST_IDLE = 2
#: The same if some nodes run whole: these may need most, until there are so many bands that sections need less.
_MOST_IDLE_WHOLE = 4
#: The most steps of a pass in bands, or of each of its rounds. Planning takes some 20 us for each.
_MOST_STEPS = 3 * 2**13
#: All rounds together may have more steps if each has so many operations on average: 10 us of them at 100 GFLOP/s. A
#: step takes 0.1 ms by itself, so that a pass takes at most some 10 times as long for its many steps.
_LEAST_WORK = 2**20
#: The most nodes of a graph in bands. Planning takes 3 s for a chain of twice as many (docs/measurements.md).
_MOST_NODES = 2**10
#: The most inputs of all nodes in all bands, parameters not counted. Finding out which rows they need takes 10 us each.
_MOST_INPUTS = 2**16
#: The most bytes of weights that a pass, or each of its rounds, may read if all nodes run in each band: half of what
#: any may read (`streamrt.engine.node_weights`), since other nodes may read theirs several times.
_MOST_READ = 2**39

#: Prefer lower bands, with which more weights are pinned, only if a pass takes under 98 % of the time.
_GAIN = 0.98

#: Seconds that finding programs in bands takes for each node of a graph (docs/measurements.md).
SEARCH = 5e-3
#: Look for a way in which more nodes run again only if so many passes may save as much as finding it takes, and if
#: reading takes over this part of a pass.
_PASSES, _MUCH = 20, 0.5

#: Prefer a program that is not lean if its simulated pass takes at most this many times as long: it computes 1.5 to 3
#: times as fast.
_LONGER = 1.2
#: Of these programs plan the first that fit, because a plan takes up to a second.
_MOST_FASTER = 3

#: The refusal that a search begins with if whole activations fit: no program can need fewer bytes.
_FITS = BudgetError("whole activations fit", 0)

#: Compiles a program; a lean one if the first argument is true; in the numbers of bands and strips of the next two. For
#: the others see `compile_program`.
Compile = Callable[[bool, int, int, int, tuple[Way, ...], Known], Program]


class Group(NamedTuple):
    """Programs in as many strips, and of one way to run them (`Program.again`), those with the tallest bands first.

    Their sections hold ``held`` bytes of whole tensors. Programs in which nodes run whole may need a little less.
    """

    again: int
    strips: int
    held: int
    programs: Iterable[Program]


class InBands:
    """Programs in bands, those with the fewest and tallest bands first; none if no nodes can run in bands.

    There are no further programs when more bands need no less memory. Iterating gives all lean programs that may need
    the least memory.

    Args:
        compile_for: see `Compile`.
        graph: of the programs.
        sizes: bytes of each parameter, by name.
        disk: bytes a second that the disk delivers.
        wanted: whether there are any programs.
        exact: whether lean programs are as fast as others.
    """

    def __init__(
        self, compile_for: Compile, graph: Graph, sizes: Mapping[str, int], disk: float, *, wanted: bool, exact: bool
    ) -> None:
        self._compile, self._graph, self._sizes, self._disk = compile_for, graph, sizes, disk
        self._wanted, self._exact = wanted, exact
        self._ways: tuple[Way, ...] = ()  # of all programs, once there is one
        self._schedules: dict[int, Schedules] = {}  # of programs of each way

    def __iter__(self) -> Iterator[Program]:
        least: float = math.inf
        for group in self.groups(reverse=True):
            for program in group.programs if group.held < least else ():
                least = min(least, program.memory)
                yield program

    def groups(self, *, reverse: bool = False) -> Iterator[Group]:
        """Lean programs: those in whole rows, then those in which more and more nodes run again, then those in strips.

        In strips no nodes run again at first, then as many as can; ``reverse`` begins with as many as can. There are
        more strips in each further group, until two in a row need no less memory and are empty. So the programs of a
        group in strips must be used up before the next is asked for. There are none in strips if those in whole rows
        have not been used.
        """
        held = self._programs(lean=True, fewest=0, again=0)
        first = next(held, None)
        if first is None:
            return
        last: dict[int, Program] = {}  # of the programs in whole rows, in each of the ways to run it

        def whole(again: int) -> Iterator[Program]:
            further = self._programs(lean=True, fewest=0, again=again) if again else chain((first,), held)
            for program in further:
                last[again] = program
                yield program

        numbers = range(len(first.ways))[:: -1 if reverse else 1]
        for again in numbers:
            yield Group(again, 1, first.ways[again].held, whole(again))
        for again in dict.fromkeys((numbers[0], numbers[-1])):
            if again in last and last[again].columns >= 2 * NARROWEST:
                yield from self._all_in_strips(last[again])

    def _all_in_strips(self, whole: Program) -> Iterator[Group]:
        """Programs in few strips, then in more. ``whole`` has whole rows, and the lowest bands."""
        least, idle = whole.memory, 0
        found: list[Program] = []

        def programs(strips: int) -> Iterator[Program]:
            found.extend(self._in_strips(strips, whole, least))
            yield from found

        for strips in _COUNTS:
            found.clear()
            yield Group(whole.again, strips, whole.ways[whole.again].held, programs(strips))
            idle = 0 if found else idle + 1
            if idle == _MOST_IDLE:
                return
            least = min((program.memory for program in found), default=least)

    def _in_strips(self, strips: int, whole: Program, memory: int) -> list[Program]:
        """Lean programs in strips that need less than ``memory``."""
        # Nodes that run whole may be in sections again if these have strips, and then there may be no rounds.
        some = _some_run_whole(whole)
        rounds = whole.in_rounds is not None and not some
        steps = len(whole.nodes) if some else len(whole.steps) / whole.bands  # of each band
        times = 1 if rounds else strips  # that each band is in the steps
        of_all = max(_MOST_STEPS, whole.flops // _LEAST_WORK) if rounds else _MOST_STEPS
        most = min(whole.bands, self._most_times() // times, int(min(_MOST_STEPS, of_all // strips) / steps))
        found: list[Program] = []
        known = Known(self._schedules.setdefault(whole.again, {}))
        for bands in [count for count in reversed(_COUNTS) if count <= most][:_MOST_COUNTS]:
            program = self._compile(True, bands, strips, whole.again, whole.ways, known)
            if program.strips < strips or program.workspace >= memory:
                break  # fewer bands need more
            if program.memory < memory and len(program.steps) <= _MOST_STEPS:
                found.append(program)
        return found[::-1]

    def faster(self, program: Program) -> Iterator[Program]:
        """Programs that are not lean, in at least as many bands as ``program``; none if they compute alike."""
        none = self._exact or program.strips > 1
        found = iter(()) if none else self._programs(lean=False, fewest=program.bands, again=program.again)
        return takewhile(_is_faster, found)

    def read(self, plan: Plan) -> float:
        """The bytes that a pass could read in large ranges in the time that its reading takes."""
        return plan.streamed_bytes * self._disk / plan.speed(self._disk)

    def reads_long(self, plan: Plan) -> bool:
        """Whether a pass reads for much of its time, and reading weights once would save more than a search takes."""
        reading, once = self.read(plan) / self._disk, sum(self._sizes.values()) / self._disk
        return reading > _MUCH * plan.seconds and (reading - once) * _PASSES > len(self._graph.nodes) * SEARCH

    def least_read(self, program: Program, budget: int) -> int:
        """Bytes that a pass of ``program`` reads at least.

        The weights of a section are read once if they fit. Those that are read most often are pinned.
        """
        readings: Counter[tuple[int, str]] = Counter()
        for (section, node), times in Counter((step.section, step.node) for step in program.steps).items():
            indexed = program.lowered[node].indexed
            for position, name in enumerate(program.nodes[node].inputs):
                readings[section, name] += times * (name in self._sizes and position not in indexed)
        room, read = max(0, budget - program.memory), 0
        for section in range(1, len(program.sections) + 1):
            own = [each for each in readings if each[0] == section and readings[each]]
            if sum(self._sizes[name] for _, name in own) <= room:
                readings.update({each: 1 - readings[each] for each in own})
        for (_, name), times in readings.most_common():
            size = self._sizes.get(name, 0)
            pinned = min(room, size)
            room -= pinned
            read += times * (size - pinned)
        return read * program.rounds

    def _programs(self, lean: bool, fewest: int, again: int) -> Iterator[Program]:
        least, idle, most, steps, whole = math.inf, 0, self._most_times(), 0, False
        known = Known(self._schedules.setdefault(again, {}))
        for bands in (count for count in _COUNTS if count >= fewest):
            if bands > most or 2 * steps > _MOST_STEPS or idle >= (_MOST_IDLE_WHOLE if whole else _MOST_IDLE):
                return
            program = self._compile(lean, bands, 1, again, self._ways, known)
            steps, self._ways = len(program.steps), program.ways
            if not program.sections or steps > _MOST_STEPS:
                return
            idle = 0 if program.memory < least else idle + 1
            whole = _some_run_whole(program)
            if not idle:
                least = program.memory
                yield program

    def _most_times(self) -> int:
        """How often a pass may run all nodes; 0 if none can run in bands."""
        nodes = list(self._graph.all_nodes)
        if not (self._wanted and 1 < len(nodes) <= _MOST_NODES):
            return 0
        names = [name for node in nodes for name in node.inputs]
        inputs = sum(name not in self._sizes for name in names)
        read = sum(self._sizes.get(name, 0) for name in names)
        return min(_MOST_READ // max(1, read), _MOST_INPUTS // max(1, inputs))


def fit_in_bands(
    refused: BudgetError, budget: int | None, programs: InBands, plan_for: Callable[[Program], Plan]
) -> tuple[Program, Plan]:
    """Of ``programs`` one with a short pass, and its plan. Ties go to the first, which has the tallest bands.

    Bands of whole rows are taken if any fit, else those of as few strips as fit. So are those in which nodes run again,
    unless weights then stream no more, or another program has a shorter pass. Then the first program that is not lean,
    fits, and takes little longer is taken instead.

    Args:
        refused: the error of the whole activations.
        budget: bytes.
        programs: that are tried.
        plan_for: makes the plan of a program. Raises `BudgetError` if it does not fit.

    Raises:
        BudgetError: none fits. It is ``refused``, or that of a program whose ``minimum`` is smaller.
    """
    assert budget is not None  # without one everything fits
    found: list[tuple[Program, Plan]] = []
    left_out = False
    for group in programs.groups():
        if found and not _may_be_shorter(group, found, programs):
            break
        if group.held >= budget:
            left_out = True
            continue
        best, refused = _shortest(refused, budget, programs, group, found, plan_for)
        found += [best] if best is not None else []
    if found:
        return _faster(min(found, key=_seconds), programs, budget, plan_for)
    # Nodes that run whole need not hold at once what they read and make, so that a group may need less than ``held``.
    for program in sorted(programs, key=_memory) if left_out else ():
        if program.memory < refused.minimum:
            try:
                return _faster((program, plan_for(program)), programs, budget, plan_for)
            except BudgetError as error:
                refused = min(refused, error, key=_minimum)
    try:
        raise refused from None
    finally:
        del refused  # the traceback has this frame, so that the error would refer to itself


def faster_bands(
    budget: int, programs: InBands, plan_for: Callable[[Program], Plan], most_steps: float, most_read: float
) -> tuple[Program, Plan] | None:
    """One of ``programs`` with a short pass, and its plan, where whole activations fit; None if there is none.

    It has whole rows, and no node runs again. More bands have more steps, and read more.

    Args:
        budget: bytes.
        programs: that are tried.
        plan_for: see `fit_in_bands`.
        most_steps: of a pass.
        most_read: bytes of weights that a pass may read.
    """
    group = next(programs.groups(), None)
    if group is None or group.held >= budget:
        return None
    best, _ = _shortest(_FITS, budget, programs, group, (), plan_for, most_steps, most_read)
    return None if best is None else _faster(best, programs, budget, plan_for)


def _may_be_shorter(group: Group, found: Sequence[tuple[Program, Plan]], programs: InBands) -> bool:
    """Whether a program of a group that comes later may have a shorter pass than those that were ``found``.

    If more nodes run again, there is more memory for weights. That helps if reading takes long. In strips columns are
    computed again instead of nodes.
    """
    if group.strips == 1:
        return programs.reads_long(min(found, key=_seconds)[1])
    return group.again == 0 and all(program.again and program.strips == 1 for program, _ in found)


def _seconds(found: tuple[Program, Plan]) -> float:
    return found[1].seconds


def _shortest(
    refused: BudgetError,
    budget: int,
    programs: InBands,
    group: Group,
    before: Sequence[tuple[Program, Plan]],
    plan_for: Callable[[Program], Plan],
    most_steps: float = math.inf,
    most_read: float = math.inf,
) -> tuple[tuple[Program, Plan] | None, BudgetError]:
    """One program of a group, and the error with the least ``minimum``.

    A program in which more nodes run again than in those that were found ``before`` must read fewer bytes than these.
    ``most_steps`` and ``most_read`` are those of `faster_bands`.
    """
    most = min((plan.streamed_bytes for _, plan in before if group.strips == 1), default=most_read)
    best: tuple[Program, Plan] | None = None
    larger: list[Program] = []
    for program in group.programs:
        if len(program.steps) > most_steps:
            break
        if program.memory > budget:
            larger.append(program)
            continue
        if programs.least_read(program, budget) >= most:
            continue
        try:
            plan = plan_for(program)
        except BudgetError as error:
            refused = min(refused, error, key=_minimum)
            continue
        if best is not None and plan.seconds >= best[1].seconds * _GAIN:
            break
        best, most = (program, plan), min(most, programs.read(plan))
        if not plan.streamed_bytes:
            break  # lower bands would save no reading
    for program in () if best or before else reversed(larger):
        refused = _least(refused, program, plan_for)
    return best, refused


def _least(refused: BudgetError, program: Program, plan_for: Callable[[Program], Plan]) -> BudgetError:
    """The error of a program that does not fit, if its ``minimum`` is smaller than that of ``refused``, else this."""
    if program.memory < refused.minimum:
        try:
            plan_for(program)
        except BudgetError as error:
            return min(refused, error, key=_minimum)
    return refused


def _faster(
    found: tuple[Program, Plan], programs: InBands, budget: int, plan_for: Callable[[Program], Plan]
) -> tuple[Program, Plan]:
    """The first faster program that fits, and whose pass is simulated to take little longer; else what was ``found``.

    The simulation assumes one computing speed for both.
    """
    fitting = (program for program in programs.faster(found[0]) if program.memory <= budget)
    for program in islice(fitting, _MOST_FASTER):
        with suppress(BudgetError):
            plan = plan_for(program)
            if plan.seconds <= found[1].seconds * _LONGER:
                return program, plan
    return found


def _some_run_whole(program: Program) -> bool:
    """Whether nodes that can be in a section are in none."""
    return len(program.sections) < len(program.ways[program.again].runs)


def _is_faster(program: Program) -> bool:
    return any(low.roomy for low in program.lowered)


def _minimum(error: BudgetError) -> int:
    return error.minimum


def least_budget(programs: Iterable[Program], window_of: Callable[[Program], int]) -> int:
    """The least bytes of workspace and window. ``window_of``, which takes long, is asked for few programs."""
    least: float = math.inf
    for program in sorted(programs, key=_memory):
        if program.memory < least:
            least = min(least, program.memory + window_of(program))
    return int(least)


def _memory(program: Program) -> int:
    return program.memory


def with_bands(plan: Plan, program: Program) -> Plan:
    """``plan``, with what it says of the sections of ``program``."""
    if not program.sections:
        return plan
    return replace(
        plan,
        bands=tuple(Bands(each.first, each.last, each.bands, each.nbytes, each.times) for each in program.sections),
        nodes=tuple(step.node for step in program.steps),
        rounds=program.rounds,
        seconds=plan.seconds * program.rounds,
        streamed_bytes=plan.streamed_bytes * program.rounds,
    )
