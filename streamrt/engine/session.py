"""A session: a program and its plan, with memory and with kernels that are bound to it. It runs passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic_ns

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Kernel, Prefetcher, run_steps, threads, widest
from streamrt.engine.prepared import Prepared
from streamrt.engine.steps import steps_of
from streamrt.engine.verification import Verifier
from streamrt.ops import Array, Param, Table
from streamrt.plan import Plan
from streamrt.program.current import Current
from streamrt.program.sections import Whole
from streamrt.report.trace import PassTrace, Rounds


class Session:
    """The workspace and the bound kernels of a program.

    Not thread-safe: callers have the turn (`streamrt.engine.turns`). Other sessions may use the same workspace between
    its passes (`streamrt.engine.sessions`).

    Args:
        prepared: program and plan.
        memory: the workspace, at least as large as the program needs.
        params: parameters by name, as they lie in the mapped file.
        prefetcher: gets the plan's ranges as its schedule.
        verifier: checks ranges as they arrive, if given.
        tables: parameters of which single rows are read if the plan says so (`Plan.by_index`).
        scheduled: whether the prefetcher has the plan's ranges already.

    Attributes:
        verifier: as above.
        threads: the most that a step could use in the last pass; before the first one, all that there are.
        interpreted: whether a step is a Python function, which may use BLAS and NumPy's arithmetic.
    """

    def __init__(
        self,
        prepared: Prepared,
        memory: NDArray[np.uint8],
        params: Mapping[str, Param],
        prefetcher: Prefetcher,
        verifier: Verifier | None,
        tables: Mapping[str, Table],
        scheduled: bool,
    ) -> None:
        self.prepared = prepared
        program, plan = prepared.program, prepared.plan
        self._memory, self._program = memory, program
        self._current = Current()
        self._prefetcher = prefetcher
        self.verifier, self.threads = verifier, threads()
        #: Names of inputs and outputs that the workspace has no memory for, and their arrays during a pass.
        self.borrowed = program.outside
        self.outside: dict[str, Whole] = {}
        runs = program.bind(self._memory, params, tables if plan.by_index else None, self.outside, self._current)
        self._steps = steps_of(program, plan, runs)
        self.interpreted = not all(isinstance(step.run, Kernel) for step in self._steps)
        #: The node of each step of a round, and the items of the schedule that the step waits for.
        self.steps = tuple((step.node, step.waits) for step in self._steps)
        self._tensors: dict[str, Array] = {}
        if not scheduled:
            schedule(prefetcher, plan)

    def tensor(self, name: str) -> Array:
        """An input or output in the workspace. A pass reads inputs; outputs stay until the next pass of any session."""
        found = self._tensors.get(name)
        if found is None:
            found = self._tensors[name] = self._program.tensor(self._memory, name)
        return found

    def run(self, stepped: Callable[[int], object] | None = None) -> list[PassTrace]:
        """Run one pass; returns its times, those of each of its rounds.

        ``stepped`` is called after each step with the number of all steps, those of all rounds.

        Raises:
            WeightsIOError: weights could not be read, or do not match their checksums.
        """
        rounds = self.prepared.plan.rounds

        def counted(steps: int) -> None:
            assert stepped is not None
            stepped(steps * rounds)

        found = Rounds()
        widest()  # counts from here on
        for self._current.strip in range(rounds):
            found.add(self._run_round(counted if stepped else None))
        self.threads = widest()
        return found.traces()

    def _run_round(self, stepped: Callable[[int], object] | None) -> PassTrace:
        """The prefetcher has a schedule of one round. It reads ahead into the next round as into the next pass."""
        prefetcher, verifier = self._prefetcher, self.verifier
        start = monotonic_ns()
        try:
            times = run_steps(self._steps, prefetcher, verifier.arrived if verifier else None, stepped)
        except BaseException:
            if verifier:
                verifier.rewind()
            prefetcher.rewind()
            raise
        return PassTrace(start, monotonic_ns(), times, prefetcher.report())


def schedule(prefetcher: Prefetcher, plan: Plan) -> None:
    """Give the prefetcher the ranges of a plan. It reads those that are pinned at once, and the others in a pass."""
    prefetcher.schedule([(r.offset, r.length, r.pinned) for r in plan.ranges], plan.window, plan.granule)
