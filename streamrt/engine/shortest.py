"""Of the ways to run a call that fit in the budget, the one with the shortest planned time.

Activations of the whole call may leave little memory to the weights, which stream then. Smaller parts of the batch, a
lean program and bands of rows need less memory for activations, and compute for longer. So a larger budget, in which
more activations fit, is no reason to hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from streamrt.engine.bands import SEARCH, InBands, faster_bands
from streamrt.engine.cache_parts import in_parts
from streamrt.engine.micro_batch import Compile, begins, fit
from streamrt.errors import BudgetError
from streamrt.host.rates import Rates
from streamrt.plan import NodeWeights, Plan
from streamrt.program.compile import Program

#: Take another way only if a call then takes under 90 % of the time. Plans are estimates, and other ways have costs
#: that the simulation does not know.
_WORTH = 0.9
#: How many times as long a lean program computes that does without algorithms that need memory: 1.5 to 3 times. The
#: simulation has one computing speed for all programs.
_LEAN = 2
#: Seconds that each step in bands takes beside its operations (docs/bands.md).
_STEP = 1e-4
#: Calls that must save as much as the search for bands takes.
_CALLS = 5


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is planned.

    Attributes:
        samples: the batch; 0 if it cannot be divided.
        budget: bytes, or None.
        rates: of the machine.
        compile_for: compiles a program for some of the samples.
        plan_for: makes the plan of a program. Raises BudgetError if it does not fit.
        quick_plan_for: makes a plan in less time, with which ways are compared.
        weights_of: the weights that each step of a program reads, and how long it computes.
        in_bands: programs for one sample, or for the batch if it cannot be divided.
    """

    samples: int
    budget: int | None
    rates: Rates
    compile_for: Compile
    plan_for: Callable[[Program], Plan]
    quick_plan_for: Callable[[Program], Plan]
    weights_of: Callable[[Program], Sequence[NodeWeights]]
    in_bands: InBands


def planned(call: Call, program: Program, *, by_time: bool) -> tuple[Program, Plan]:
    """The program and plan of a call: the largest part of the batch that fits, or one sample in bands.

    Args:
        call: that is planned.
        program: for the whole batch.
        by_time: take another way if weights then stream, and it is faster.

    Raises:
        BudgetError: not even one sample fits. ``minimum`` is the smallest budget that does.
    """
    found = fit(program, call.samples, call.budget, call.compile_for, call.plan_for, call.in_bands)
    if by_time and found[1].streamed_bytes and not found[0].bands:
        found = _Search(call, *found).found()
    return in_parts(*found, call.samples, call.compile_for, call.plan_for, call.weights_of, call.rates)


class _Search:
    """Looks for a faster way than the ``first``, which has whole activations of the largest part that fits."""

    def __init__(self, call: Call, first: Program, plan: Plan) -> None:
        self._call, self._first, self._plan = call, first, plan
        self._part = plan.micro_batch or call.samples
        usual = call.compile_for(self._part, False) if first.lean else first
        self._lean = _LEAN if any(low.roomy for low in usual.lowered) else 1
        self._sample = self._computing(first) / max(1, self._part)  # seconds
        self._best = first, plan
        self._seconds = self._of_call(self._part, first, plan)

    def found(self) -> tuple[Program, Plan]:
        """The fastest way."""
        for part, program in self._undivided():
            if self._may_be_faster(part, program.workspace, program.lean):
                with suppress(BudgetError):
                    self._compare(part, program, self._call.quick_plan_for(program))
        self._try_bands()
        program, plan = self._best
        if program is self._first:
            return self._best
        return program, replace(self._call.plan_for(program), micro_batch=plan.micro_batch)

    def _try_bands(self) -> None:
        call, one = self._call, min(1, self._call.samples)
        assert call.budget is not None  # without one nothing streams
        saved = self._seconds - self._passes(one) * self._least(one)
        if saved * _CALLS < len(self._first.nodes) * SEARCH:
            return
        most = _WORTH * self._seconds / self._passes(one)  # seconds of a pass that is worth it
        steps, read = len(self._first.nodes) + (most - self._sample) / _STEP, most * call.rates.disk
        found = faster_bands(call.budget, call.in_bands, call.quick_plan_for, steps, read)
        if found is not None:
            self._compare(one, *found)

    def _undivided(self) -> Iterator[tuple[int, Program]]:
        """Programs of the part that fits and of its halves, without those that `fit` has tried."""
        part = self._part
        while self._may_be_faster(part):
            program = self._call.compile_for(part, False)
            if part != self._part:
                yield part, program
            if program.may_be_leaner and not (part == self._part and self._first.lean):
                yield part, self._call.compile_for(part, True)
            if part <= 1:
                return
            part = -(-part // 2)

    def _may_be_faster(self, part: int, workspace: int = 0, lean: bool = False) -> bool:
        return self._passes(part) * self._least(part, workspace, lean) < _WORTH * self._seconds

    def _least(self, part: int, workspace: int = 0, lean: bool = False) -> float:
        """Seconds that a pass of ``part`` samples takes at least, with a ``workspace`` of so many bytes.

        Compared with the first way, it reads at most as many bytes less as its workspace and window are smaller, and
        perhaps at the full speed of the disk.
        """
        disk, plan = self._call.rates.disk, self._plan
        saved = max(0, plan.workspace + plan.window - workspace) / disk
        fewer = (self._part - part) * self._sample  # seconds that it computes less
        computing = self._sample * max(1, part) * (self._lean if lean else 1)
        return max(
            computing, plan.streamed_bytes / disk - saved, plan.seconds * plan.speed(disk) / disk - fewer - saved
        )

    def _compare(self, part: int, program: Program, plan: Plan) -> None:
        seconds = self._of_call(part, program, plan)
        if seconds < self._seconds * (_WORTH if self._best[0] is self._first else 1):
            divided = part if part < self._call.samples else 0
            self._best, self._seconds = (program, replace(plan, micro_batch=divided)), seconds

    def _of_call(self, part: int, program: Program, plan: Plan) -> float:
        """Seconds of all passes."""
        computing = self._computing(program) * (self._lean if program.lean else 1)
        return self._passes(part) * (max(plan.seconds, computing) + _of_steps(program))

    def _computing(self, program: Program) -> float:
        """Seconds that a pass computes, as the simulation has it."""
        return sum(each.seconds for each in self._call.weights_of(program)) * program.rounds

    def _passes(self, part: int) -> int:
        return len(begins(self._call.samples, part))


def _of_steps(program: Program) -> float:
    """Seconds that steps in bands take beside their operations."""
    return _STEP * (len(program.steps) * program.rounds - len(program.nodes)) if program.bands else 0
