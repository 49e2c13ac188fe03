"""Memory for the results of requests: new arrays, or arrays of the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from streamrt.engine.inputs import Given, Result
from streamrt.engine.planner import Prepared
from streamrt.engine.turns import Request
from streamrt.errors import InputError
from streamrt.graph import TensorSpec
from streamrt.ops import Shape

#: Arrays of a caller: for the only output, or for all by name.
Out = Result | Mapping[str, Result]


def check_out(out: Out, outputs: Sequence[TensorSpec], inputs: Mapping[str, Given]) -> dict[str, Result]:
    """The arrays of a caller for ``outputs``, by name. Their shapes and types are checked when these are known.

    Raises:
        InputError: an array is missing, cannot be written, or shares memory with an input or another one.
    """
    names = [spec.name for spec in outputs]
    found = dict(out) if isinstance(out, Mapping) else dict.fromkeys(names[:1], out)
    if found.keys() != set(names):
        raise InputError(f"out: expected arrays for {names!s:.500}, found {list(found)!s:.200}")
    for name, array in found.items():
        if not isinstance(array, np.ndarray) or not array.flags.writeable:
            what = "an array that cannot be written" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
            raise InputError(f"out: {name!r:.80}: expected a NumPy array that can be written, found {what}")
        others = {**inputs, **{other: each for other, each in found.items() if other != name}}
        if shared := next((other for other, each in others.items() if np.may_share_memory(array, each)), None):
            raise InputError(f"out: {name!r:.80}: its memory lies within that of {shared!r:.80}, expected arrays apart")
    return found


def new_results(requests: Sequence[Request], prepared: Prepared) -> list[dict[str, Result]]:
    """Arrays for the outputs of each request. In a shared or divided batch the first axis is the batch.

    Raises:
        InputError: an array of the caller has another shape or type.
    """
    program, divided = prepared.program, len(requests) > 1 or prepared.plan.micro_batch
    found = [(spec.name, program.shapes[spec.name], program.output_type(spec)) for spec in prepared.graph.outputs]
    shaped = [(name, shape[1:] if divided else shape, dtype) for name, shape, dtype in found]
    starts = [(request.samples,) if divided else () for request in requests]
    return [
        {name: _array(request, name, (*start, *shape), dtype) for name, shape, dtype in shaped}
        for request, start in zip(requests, starts, strict=True)
    ]


def _array(request: Request, name: str, shape: Shape, dtype: str) -> Result:
    if request.out is None:
        return np.empty(shape, dtype)
    array = request.out[name]
    if array.shape != shape or array.dtype != dtype:
        raise InputError(
            f"out: {name!r:.80}: expected an array of shape {shape} and type {dtype}, found {array.shape} and "
            f"{array.dtype}"
        )
    return array
