"""Memory for the results of requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamrt.engine.inputs import Result
from streamrt.engine.planner import Prepared
from streamrt.engine.turns import Request


def new_results(requests: Sequence[Request], prepared: Prepared) -> list[dict[str, Result]]:
    """New arrays for the outputs of each request. In a shared or divided batch the first axis is the batch."""
    program, divided = prepared.program, len(requests) > 1 or prepared.plan.micro_batch
    found = [(spec.name, program.shapes[spec.name], program.output_type(spec)) for spec in prepared.graph.outputs]
    shaped = [(name, shape[1:] if divided else shape, dtype) for name, shape, dtype in found]
    starts = [(request.samples,) if divided else () for request in requests]
    return [{name: np.empty((*start, *shape), dtype) for name, shape, dtype in shaped} for start in starts]
