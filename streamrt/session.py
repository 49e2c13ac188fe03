"""A session: one program with its plan, its memory and its kernels bound to both; what a call runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from streamrt._core import Prefetcher
from streamrt.arena import ALIGNMENT
from streamrt.ops import Array, Run
from streamrt.plan import Plan
from streamrt.program import Program


@dataclass(frozen=True, slots=True)
class _Step:
    """A tile bound to memory: wait for ``waits``, compute, and give ``dones`` back."""

    node: int
    waits: tuple[int, ...]
    run: Run
    first: int
    last: int
    dones: tuple[int, ...]


class Session:
    """The memory and the bound kernels of a program; at most one of a model is alive, for each has its workspace.

    Not thread-safe: the model's lock is held around every call.
    """

    def __init__(self, program: Program, plan: Plan, params: Mapping[str, Array], prefetcher: Prefetcher) -> None:
        memory = np.empty(program.workspace + ALIGNMENT, dtype=np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        self._memory = memory[start : start + program.workspace]
        self._program = program
        self._prefetcher = prefetcher
        self._steps = _steps(program, plan, program.bind(self._memory, params))
        prefetcher.schedule([(r.offset, r.length, r.pinned) for r in plan.ranges], plan.window, plan.granule)

    def run(self, inputs: Mapping[str, Array], computed: list[float]) -> float:
        """One pass; returns its seconds, and adds those that each node computed to ``computed``.

        The outputs stay in the workspace until the next pass.
        """
        for name, array in inputs.items():
            np.copyto(self._program.tensor(self._memory, name), array)
        prefetcher = self._prefetcher
        start = perf_counter()
        try:
            for step in self._steps:
                for index in step.waits:
                    prefetcher.wait(index)
                began = perf_counter()
                step.run(step.first, step.last)
                computed[step.node] += perf_counter() - began
                for index in step.dones:
                    prefetcher.done(index)
            prefetcher.finish()
        except BaseException:
            prefetcher.rewind()
            raise
        return perf_counter() - start

    def output(self, name: str) -> Array:
        """The array of an output in the workspace; a copy is what a caller may keep."""
        return self._program.tensor(self._memory, name)


def _steps(program: Program, plan: Plan, runs: list[Run]) -> list[_Step]:
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
        _Step(tile.node, tuple(waits[position]), runs[tile.node], tile.first, tile.last, tuple(dones[position]))
        for position, tile in enumerate(plan.tiles)
        if program.lowered[tile.node].view_of is None or tile.end > tile.begin
    ]
