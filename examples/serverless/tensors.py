"""Events with tensors: the JSON of the Open Inference Protocol, as `streamrt serve` takes it, and base64.

A tensor of an event has ``data``, a list of numbers in row-major order, or ``base64``, the bytes of the same numbers,
little-endian. The parameter ``binary_data_output``, or ``binary_data`` of an output, asks for base64 in the answer. ::

    {"inputs": [{"name": "image", "shape": [1, 64], "datatype": "FP32", "base64": "AACAPwAAAEA..."}]}
    {"outputs": [{"name": "logits", "shape": [1, 10], "datatype": "FP32", "data": [0.25, ...]}]}

Sizes are compared before an array is made. Lambda's client has parsed the event before it arrives here.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import streamrt
from streamrt.engine.inputs import check_inputs
from streamrt.serve.jsontext import kind_of
from streamrt.serve.protocol import (
    DATATYPES,
    InferRequest,
    Output,
    from_binary,
    read_request,
    tensor_of,
    to_array,
    to_json,
    to_numbers,
)
from streamrt.serve.refusal import ProtocolError

#: Bytes of the JSON of an answer: Lambda's limit of 6 MB, less the names and shapes.
MOST = 6_000_000
#: Characters of a float32 in a list, with its comma.
_NUMBER = 20


def answer(model: streamrt.Model, event: Any) -> dict[str, Any]:
    """The answer to an event.

    Raises:
        ProtocolError: the event is not of this form.
        UnrepresentableError: an output is wanted as a list, and has infinities or NaN.
        streamrt.InputError: the tensors do not fit the model, or the answer would be too long.
    """
    if not isinstance(event, dict):
        raise ProtocolError(f'expected an object {{"inputs": [...]}} with tensors, found {kind_of(event)}')
    request = read_request(event, _contents)
    results = run(model, request)
    outputs = [_told(output, results[output.name], request) for output in wanted(model, request)]
    return {"outputs": outputs} | ({} if request.id is None else {"id": request.id})


def run(model: streamrt.Model, request: InferRequest) -> dict[str, Any]:
    """The results of a request, by name.

    Raises:
        streamrt.InputError: as `answer`.
    """
    outputs = wanted(model, request)
    for spec in model.inputs:
        array = request.inputs.get(spec.name)
        if array is not None and array.dtype != np.dtype(spec.dtype):
            found = DATATYPES[array.dtype.name]
            raise streamrt.InputError(f"input {spec.name!r}: expected datatype {DATATYPES[spec.dtype]}, found {found}")
    check_inputs(request.inputs, model.inputs, model.inputs)
    _check_length(model, request, outputs)
    names = [output.name for output in outputs]
    results = model(request.inputs, names)
    return results if len(names) > 1 else {names[0]: results}


def wanted(model: streamrt.Model, request: InferRequest) -> Sequence[Output]:
    """The outputs that a request wants; all of the model if it names none.

    Raises:
        streamrt.InputError: the model has no output of a name.
    """
    known = [spec.name for spec in model.outputs]
    outputs = request.outputs or tuple(Output(name) for name in known)
    if unknown := [output.name for output in outputs if output.name not in known]:
        raise streamrt.InputError(f"expected outputs of {known}, found {unknown[0]!r:.80}")
    return outputs


def _contents(tensor: Mapping[str, Any], name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """The array of a tensor of an event."""
    if ("data" in tensor) == ("base64" in tensor):
        raise ProtocolError(f"input {name!r}: expected either data, a list of numbers, or base64, a string")
    if "data" in tensor:
        numbers = to_numbers(tensor["data"], name, dtype)[1]
        return to_array(numbers, shape, name, dtype)
    size, text = math.prod(shape) * dtype.itemsize, tensor["base64"]
    length = -(-size // 3) * 4  # characters, with the padding
    expected = f"input {name!r}: expected {length} characters of base64, {size} bytes for shape {list(shape)}"
    if not isinstance(text, str) or len(text) != length:
        found = f"a string of {len(text)}" if isinstance(text, str) else kind_of(text)
        raise ProtocolError(f"{expected}, found {found}")
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ProtocolError(f"{expected}: {error!s:.80}") from None
    if len(data) != size:  # the padding is another
        raise ProtocolError(f"{expected}, found {len(data)} bytes")
    return from_binary(memoryview(data), shape, dtype)


def _check_length(model: streamrt.Model, request: InferRequest, outputs: Sequence[Output]) -> None:
    """Refuse a request whose answer would be longer than Lambda takes, before the results are allocated."""
    shapes = {name: array.shape for name, array in request.inputs.items()}
    known = {dim: extent for spec in model.inputs for dim, extent in zip(spec.dims, shapes[spec.name], strict=True)}
    specs = {spec.name: spec for spec in model.outputs}
    length = 0
    for output in outputs:
        spec = specs[output.name]
        # An extent that the model computes is not known yet, and counts as 1.
        count = math.prod(known.get(dim, 1) if isinstance(dim, str) else dim for dim in spec.dims)
        length += count * np.dtype(spec.dtype).itemsize * 4 // 3 if is_binary(output, request) else count * _NUMBER
    if length > MOST:
        raise streamrt.InputError(
            f"expected a request whose answer has at most {MOST} bytes, found about {length}: send fewer samples, or "
            "ask for binary_data_output"
        )


def is_binary(output: Output, request: InferRequest) -> bool:
    """Whether a request wants an output as binary data."""
    return request.binary if output.binary is None else output.binary


def _told(output: Output, array: Any, request: InferRequest) -> dict[str, Any]:
    """An output as the answer has it."""
    told = tensor_of(output.name, array)
    if is_binary(output, request):
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        return told | {"base64": base64.b64encode(little).decode("ascii")}
    return told | {"data": to_json(array.ravel(), output.name).tolist()}  # Lambda's client takes no arrays
