"""Figures of a process that computed answers: how far they are from the reference's, and how its times are spread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.peers import Array
    from bench.process.job import Job

_PIECE = 1 << 16  # elements that are compared at once
# NumPy is imported late, because importing a contender into an interpreter without it is timed.


def error(job: Job, batch: int, y: Array) -> float:
    """The largest error of an answer, divided by the largest absolute value of the reference's; infinite for NaN."""
    import numpy as np

    from bench.models import source

    wanted = np.load(source(job.model, Path(job.data)).answer(batch), mmap_mode="r")
    if y.shape != wanted.shape:
        return float("inf")
    mine, right = y.reshape(-1), wanted.reshape(-1)
    difference = largest = 0.0
    for begin in range(0, mine.size, _PIECE):  # the memory of this comparison counts as the contender's
        one, two = mine[begin : begin + _PIECE], right[begin : begin + _PIECE]
        if not np.isfinite(one).all():
            return float("inf")
        difference = max(difference, float(np.abs(one - two).max()))
        largest = max(largest, float(np.abs(two).max()))
    return difference / largest


def distribution(times: list[float]) -> dict[str, float]:
    """Least, quartiles and most of many passes, and their number."""
    import numpy as np

    least, lower, median, upper, most = (float(value) for value in np.percentile(times, [0, 25, 50, 75, 100]))
    return {"least": least, "lower": lower, "median": median, "upper": upper, "most": most, "count": len(times)}
