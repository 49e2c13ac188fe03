"""The steps of a round: each waits for ranges of weights, computes a tile, and releases ranges that are used up."""

from __future__ import annotations

from streamrt._core import Step
from streamrt.ops import Run
from streamrt.plan import Plan
from streamrt.program.compile import Program


def steps_of(program: Program, plan: Plan, runs: list[Run]) -> list[Step]:
    """A step for each tile of ``plan``; ``runs`` are the bound kernels of all nodes."""
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
        Step(node, tuple(waits[position]), runs[tile.node], tile.first, tile.last, tuple(dones[position]))
        for position, tile in enumerate(plan.tiles)
        if program.lowered[node := plan.node_of(tile)].view_of is None or tile.end > tile.begin
    ]
