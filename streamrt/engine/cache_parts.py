"""A batch whose activations do not fit in the processor's cache is divided into parts whose activations do.

A part reads all weights again. So the time of a batch is estimated for each size of its parts, and the size with the
shortest is chosen. Moving activations between cache and memory and computing overlap in part, so that a node takes the
root of the sum of the squares of both times. Measured on eight networks of pictures, the estimate tells which of them
gain (docs/measurements.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from streamrt.errors import BudgetError
from streamrt.host.rates import Rates
from streamrt.ops import FLOAT32, INT64, Operand
from streamrt.plan import NodeWeights, Plan
from streamrt.program.compile import Program
from streamrt.program.placement import nbytes

#: Divide a batch if that saves over 4 % of the estimated time. Networks that were measured gained nothing with less.
_GAIN = 0.04
#: Tensors of a node stay in the cache until the next node reads them if they take at most 50 % of it: weights, scratch
#: memory and other processes have the rest.
_SHARE = 0.5
#: The threads that move as many bytes as memory gives; one of them alone moves 50 %.
_MOVERS = 2
#: Seconds that a node takes beside its operations and bytes: threads wait for each other.
_NODE = 5e-6
#: Threads for each sample of a part: with more they would wait for each other longer in small maps. Measured with two.
_THREADS = 2
#: The most parts that are tried.
_MOST = 1 << 10


def in_parts(
    program: Program,
    plan: Plan,
    samples: int,
    compile_for: Callable[[int, bool], Program],
    plan_for: Callable[[Program], Plan],
    weights_of: Callable[[Program], Sequence[NodeWeights]],
    rates: Rates,
) -> tuple[Program, Plan]:
    """The program and plan of a part of the batch if parts are faster, else those that are given.

    All parts are of one size, so that no sample is computed twice. Nothing is divided if weights of a part stream.

    Args:
        program: for the whole batch, or for a part of it because the whole does not fit in the budget.
        plan: of ``program``.
        samples: the batch; 0 if it cannot be divided.
        compile_for: compiles a program for a number of samples; a lean one if the second argument is true.
        plan_for: makes the plan of a program. Raises BudgetError if it does not fit.
        weights_of: the weights that each step of a program reads.
        rates: of the machine.
    """
    batch = plan.micro_batch or samples
    if batch < 2 or program.bands:
        return program, plan
    weights = sum(each.read for each in weights_of(program))
    flops = [low.flops for low in program.lowered]
    part = best_part(batch, moved_by_node(program), flops, weights, rates)
    if part == batch:
        return program, plan
    try:
        divided = compile_for(part, program.lean)
        found = plan_for(divided)
    except BudgetError:  # one sample may need more than two
        return program, plan
    return (program, plan) if found.streamed_bytes else (divided, replace(found, micro_batch=part))


def best_part(samples: int, moved: Sequence[int], flops: Sequence[int], weights: int, rates: Rates) -> int:
    """The samples of a part that take the shortest time, the most of ties; ``samples`` if parts gain too little.

    Args:
        samples: the batch, at least 1.
        moved: bytes of activations that each node reads and writes for the batch.
        flops: floating-point operations of each node for the batch.
        weights: bytes of weights that a pass reads, whatever its batch.
        rates: of the machine.
    """
    memory = rates.memory * min(1, rates.threads / _MOVERS)

    def seconds(count: int) -> float:
        """Of the batch in ``count`` parts."""
        room = _SHARE * rates.cache * count
        nodes = (
            math.hypot(work / rates.flops, size / memory if size > room else 0)
            for size, work in zip(moved, flops, strict=True)
        )
        return sum(nodes) + count * (weights / memory + len(moved) * _NODE)

    most = min(samples, _MOST, samples * _THREADS // rates.threads)
    count = min((count for count in range(1, most + 1) if samples % count == 0), key=seconds, default=1)
    return samples // count if seconds(count) < (1 - _GAIN) * seconds(1) else samples


def moved_by_node(program: Program) -> list[int]:
    """Bytes of activations that each node reads and writes; those that it writes in place count once."""

    def size(name: str) -> int:
        return nbytes(Operand(program.shapes[name], INT64 if name in program.integers else FLOAT32))

    places = program.offsets
    return [
        sum({places[name]: size(name) for name in (*node.inputs, *node.outputs) if name in places}.values())
        if low.view_of is None
        else 0
        for node, low in zip(program.nodes, program.lowered, strict=True)
    ]
