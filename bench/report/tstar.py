"""T*: the shortest time that any plan can take for a pass, given the machine and the budget.

Given are three limits: the disk reads at most ``bandwidth`` bytes a second, layer ``l`` computes for ``compute[l]``
seconds, and no more than the budget is ever in memory. A plan chooses the rest. It chooses the bytes that stay and the
bytes that stream, which are at least as many as the budget demands. It chooses how many bytes are ahead in the window
at the end of each layer, and how long each layer waits. Here bytes need not come in tiles. So every real plan is among
the plans considered, and none is shorter than the best of them. That best plan is the optimum of a linear program, and
its time is T*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Problem:
    """A model on a machine.

    Attributes:
        weights: bytes of each layer.
        compute: seconds that each layer computes when its weights are in memory.
        room: bytes that weights may take in memory, pinned and in the window: the budget less the least workspace.
        window: bytes of the smallest window; a pass needs at least as many.
        bandwidth: the most bytes a second that the disk reads.
    """

    weights: Sequence[float]
    compute: Sequence[float]
    room: float
    window: float
    bandwidth: float


def steady(problem: Problem) -> float:
    """Seconds of one pass among many. Each pass finds in memory the bytes that the previous pass left there."""
    total = float(sum(problem.weights))
    if total <= problem.room:
        return float(sum(problem.compute))
    return _shortest(problem, cyclic=True)


def first(problem: Problem) -> float:
    """Seconds of a pass that begins with nothing in memory."""
    return _shortest(problem, cyclic=False)


def _shortest(problem: Problem, *, cyclic: bool) -> float:
    """The linear program. Unknowns, in gigabytes and seconds to keep it well scaled, for n layers:

    duration[n], read[n] (while the layer runs), streamed[n], ahead[n] (in the window when the layer ends), window.
    """
    from scipy.optimize import linprog  # not earlier, so that tables without T* need no SciPy

    giga = 1e9
    weights = np.asarray(problem.weights, np.float64) / giga
    compute = np.asarray(problem.compute, np.float64)
    n, total, room, bandwidth = len(weights), weights.sum(), problem.room / giga, problem.bandwidth / giga
    duration, read, streamed, ahead = (np.arange(n) + n * i for i in range(4))
    window, unknowns = 4 * n, 4 * n + 1

    upper, upper_bound = [], []
    equal, equal_bound = [], []
    for layer in range(n):
        row = np.zeros(unknowns)  # reading takes time
        row[read[layer]], row[duration[layer]] = 1, -bandwidth
        upper.append(row)
        upper_bound.append(0)
        row = np.zeros(unknowns)  # bytes that are ahead are in the window
        row[ahead[layer]], row[window] = 1, -1
        upper.append(row)
        upper_bound.append(0)
        row = np.zeros(unknowns)  # ahead = ahead before + read - streamed
        row[ahead[layer]], row[read[layer]], row[streamed[layer]] = 1, -1, 1
        if layer or cyclic:
            row[ahead[layer - 1]] -= 1
        equal.append(row)
        equal_bound.append(0)
    if cyclic:
        row = np.zeros(unknowns)  # window + pinned <= room, where pinned = total - streamed
        row[window], row[streamed] = 1, -1
        upper.append(row)
        upper_bound.append(room - total)

    least_window = min(problem.window / giga, room)
    bounds = [
        *((seconds, None) for seconds in compute),
        *((0, None) for _ in range(n)),
        *((0, size) if cyclic else (size, size) for size in weights),
        *((0, None) for _ in range(n)),
        (least_window, room if cyclic else max(room, least_window)),
    ]
    cost = np.zeros(unknowns)
    cost[duration] = 1
    found = linprog(cost, np.array(upper), upper_bound, np.array(equal), equal_bound, bounds)
    if found.status != 0:
        raise ValueError(f"no pass is possible: {found.message}")
    return float(found.fun)
