"""Memory for the results of requests: new arrays, or arrays of the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from streamrt.engine.foreign import Foreign, Writable
from streamrt.engine.inputs import Result, Source, Target
from streamrt.engine.prepared import Prepared
from streamrt.engine.turns import Request
from streamrt.errors import InputError
from streamrt.graph import TensorSpec
from streamrt.ops import Shape

#: Arrays of a caller: for the only output, or for all by name.
Out = Result | Writable | Mapping[str, Result | Writable]


def check_out(out: Out, outputs: Sequence[TensorSpec], inputs: Mapping[str, Source]) -> dict[str, Target]:
    """The arrays of a caller for ``outputs``, by name. Their shapes and types are checked when these are known.

    Raises:
        InputError: an array is missing, cannot be written, or shares memory with an input or another one.
    """
    names = [spec.name for spec in outputs]
    given = dict(out) if isinstance(out, Mapping) else dict.fromkeys(names[:1], out)
    if given.keys() != set(names):
        raise InputError(f"out: expected arrays for {names!s:.500}, found {list(given)!s:.200}")
    found = {name: _checked(name, array) for name, array in given.items()}
    for name, array in found.items():
        others = {**inputs, **{other: each for other, each in found.items() if other != name}}
        if shared := next((other for other, each in others.items() if _are_shared(array, each)), None):
            raise InputError(f"out: {name!r:.80}: its memory lies within that of {shared!r:.80}, expected arrays apart")
    return found


def result_types(prepared: Prepared) -> list[tuple[str, Shape, str]]:
    """Name, shape and type of the outputs of a pass. In a divided batch it has some of the samples."""
    program = prepared.program
    return [(spec.name, program.shapes[spec.name], program.output_type(spec)) for spec in prepared.graph.outputs]


def new_results(requests: Sequence[Request], prepared: Prepared) -> list[dict[str, Target]]:
    """Arrays for the outputs of each request. In a shared or divided batch the first axis is the batch.

    Raises:
        InputError: an array of the caller has another shape or type.
    """
    divided = len(requests) > 1 or prepared.plan.micro_batch
    types = result_types(prepared)
    return [
        {
            name: _array(request, name, (request.samples, *shape[1:]) if divided else shape, dtype)
            for name, shape, dtype in types
        }
        for request in requests
    ]


def _checked(name: str, array: object) -> Target:
    if isinstance(array, np.ndarray) and array.flags.writeable:
        return array
    if hasattr(type(array), "__setitem__") and Foreign.may_be(array):
        return Foreign(array, f"out: {name!r:.80}")
    what = "an array that cannot be written" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
    raise InputError(f"out: {name!r:.80}: expected a NumPy array that can be written, found {what}")


def _are_shared(array: Target, other: Source) -> bool:
    """Whether two arrays may have memory in common. Of foreign ones no more is known than whether they are the same."""
    if isinstance(array, Foreign) or isinstance(other, Foreign):
        return isinstance(array, Foreign) and array.is_same(other)
    return np.may_share_memory(array, other)


def _array(request: Request, name: str, shape: Shape, dtype: str) -> Target:
    if request.out is None:
        return np.empty(shape, dtype)
    array = request.out[name]
    if array.shape != shape or array.dtype != dtype:
        raise InputError(
            f"out: {name!r:.80}: expected an array of shape {shape} and type {dtype}, found {array.shape} and "
            f"{array.dtype}"
        )
    return array
