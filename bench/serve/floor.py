"""The floor of a server: the model called directly in a process, one sample at a time and in batches.

A server adds to it what HTTP, tensors as bytes, queues and threads take. The floor has the server's number of threads
and all weights in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from bench.models import source
from bench.serve import models
from bench.serve.rows import Row

_CALLS = 5  # the fewest calls that are timed


def floor(row: Row, data: Path, batches: Sequence[int], seconds: float) -> dict[str, Any]:
    """Seconds of a call of one sample, and samples a second in each of ``batches``."""
    import streamrt

    x = source(row.model, data).input(max(batches))
    with streamrt.Model(models.packed(row, data) / f"{row.names[0]}.safetensors", None) as model:
        calls = {batch: _call(model, np.ascontiguousarray(x[:batch]), seconds) for batch in (1, *batches)}
    return {"call": calls[1], "rates": {str(batch): batch / took for batch, took in calls.items()}}


def _call(model: Any, x: Any, seconds: float) -> float:
    """The median of calls that take ``seconds`` together."""
    for _ in range(2):  # the first call loads the weights; after it, the plan may be made anew
        model(x)
    times: list[float] = []
    while len(times) < _CALLS or sum(times) < seconds:
        start = perf_counter()
        model(x)
        times.append(perf_counter() - start)
    return median(times)
