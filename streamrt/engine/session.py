"""A session: one program with its plan, its memory and its kernels bound to both; what a call runs."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic_ns

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Prefetcher, Step, run_steps
from streamrt.engine.planner import Prepared
from streamrt.engine.verification import Verifier
from streamrt.ops import Array, Run
from streamrt.plan import Plan
from streamrt.program.arena import ALIGNMENT
from streamrt.program.compile import Program
from streamrt.report.trace import PassTrace

#: Workspaces from this size on have a mapping of their own.
_MAPPED = 1 << 20


class Session:
    """The memory and the bound kernels of a program; at most one of a model is alive, for each has its workspace.

    Not thread-safe: whoever calls has the turn (`streamrt.engine.turns`).
    """

    def __init__(
        self,
        prepared: Prepared,
        params: Mapping[str, Array],
        prefetcher: Prefetcher,
        verifier: Verifier | None = None,
    ) -> None:
        self.prepared = prepared
        program, plan = prepared.program, prepared.plan
        memory = _allocated(program.workspace + ALIGNMENT)
        start = -memory.ctypes.data % ALIGNMENT
        self._memory = memory[start : start + program.workspace]
        self._program = program
        self._prefetcher = prefetcher
        self._verifier = verifier
        self._steps = _steps(program, plan, program.bind(self._memory, params))
        #: For each step of a pass its node, and the items of the schedule that it waits for.
        self.steps = tuple((step.node, step.waits) for step in self._steps)
        self._tensors: dict[str, Array] = {}
        prefetcher.schedule([(r.offset, r.length, r.pinned) for r in plan.ranges], plan.window, plan.granule)

    def tensor(self, name: str) -> Array:
        """An input or output in the workspace: a pass reads the one and leaves the other, until the next pass."""
        found = self._tensors.get(name)
        if found is None:
            found = self._tensors[name] = self._program.tensor(self._memory, name)
        return found

    def run(self) -> PassTrace:
        """One pass."""
        prefetcher, verifier = self._prefetcher, self._verifier
        start = monotonic_ns()
        try:
            times = run_steps(self._steps, prefetcher, verifier.arrived if verifier else None)
        except BaseException:
            if verifier:
                verifier.rewind()
            prefetcher.rewind()
            raise
        return PassTrace(start, monotonic_ns(), times, prefetcher.report())


def _allocated(size: int) -> NDArray[np.uint8]:
    """Memory that the process gives back the moment it is let go of, which a heap does as it pleases."""
    if size < _MAPPED:
        return np.empty(size, np.uint8)
    try:
        region = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for a workspace (activations and scratch) of {size} bytes") from error
    with suppress(OSError):  # advice only, which NumPy gives for its arrays too
        region.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(region, np.uint8)


def _steps(program: Program, plan: Plan, runs: list[Run]) -> list[Step]:
    first_use: dict[int, int] = {}
    last_use: dict[int, int] = {}
    for position, tile in enumerate(plan.tiles):
        for index in range(tile.begin, tile.end):
            first_use.setdefault(index, position)
            last_use[index] = position
    waits: list[list[int]] = [[] for _ in plan.tiles]
    dones: list[list[int]] = [[] for _ in plan.tiles]
    for index in range(len(plan.ranges)):
        waits[first_use[index]].append(index)
        dones[last_use[index]].append(index)
    return [
        Step(tile.node, tuple(waits[position]), runs[tile.node], tile.first, tile.last, tuple(dones[position]))
        for position, tile in enumerate(plan.tiles)
        if program.lowered[tile.node].view_of is None or tile.end > tile.begin
    ]
