"""Bytes of messages to the requests that `streamrt.serve.protocol` makes of JSON, too, and results to bytes.

Pure, and any bytes may be hostile. Raw contents are not copied: arrays are views of the message. protobuf would copy
them twice, so they are cut out of the bytes before it parses the rest, and put behind the bytes that it makes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from streamrt.engine.inputs import Given, Result
from streamrt.ops import Shape
from streamrt.serve.protocol import (
    DATATYPES,
    MAX_DIMS,
    InferRequest,
    Output,
    check_count,
    from_binary,
    read_request,
    tensor_of,
    to_integers,
)
from streamrt.serve.refusal import ProtocolError, UnrepresentableError
from streamrt.serve.rpc.messages import METHODS
from streamrt.serve.rpc.wire import Scan, bytes_field, no_message

_INFER = METHODS["ModelInfer"]
_RAW_INPUTS = _INFER.request.DESCRIPTOR.fields_by_name["raw_input_contents"].number
_RAW_OUTPUTS = _INFER.response.DESCRIPTOR.fields_by_name["raw_output_contents"].number

#: The most fields of a message, with those of the messages in it. A tensor has about five, and its numbers are one if
#: they are packed, as they are unless a client forbids it.
_MAX_FIELDS = 10_000
#: The most bytes that parsing takes for each field: it may be a tensor, with objects in protobuf and in Python.
_FIELD = 1 << 10
#: The most bytes that parsing takes for each byte of packed numbers: 16 in protobuf (numbers of 8 bytes in a list that
#: has just grown), and 8 in an array.
_NUMBER = 24
#: The most bytes of a message: clients and protobuf count them in 31 bits.
_MAX_MESSAGE = 2**31 - 1

#: The fields of contents, by the dtypes of their tensors: their names, and the types of their numbers.
_CONTENTS: dict[str, tuple[str, type[np.generic]]] = {
    "bool": ("bool_contents", np.bool_),
    **dict.fromkeys(("int8", "int16", "int32"), ("int_contents", np.int32)),
    "int64": ("int64_contents", np.int64),
    **dict.fromkeys(("uint8", "uint16", "uint32"), ("uint_contents", np.uint32)),
    "float32": ("fp32_contents", np.float32),
    "float64": ("fp64_contents", np.float64),
}


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a request's message.

    Attributes:
        rest: the message without its raw contents, which is a message, too.
        raw: the raw contents, in their order, as views of the message.
        fields: the number of fields, with those of messages within.
    """

    rest: bytes
    raw: list[memoryview]
    fields: int

    @property
    def weight(self) -> int:
        """The most bytes of memory that parsing takes, beside the message."""
        return _NUMBER * len(self.rest) + _FIELD * self.fields


def split(message: bytes, limit: int) -> Parts:
    """Find the parts of an inference request.

    Args:
        message: of a `ModelInferRequest`.
        limit: the most bytes beside raw contents.

    Raises:
        ProtocolError: these bytes are no message, or there are more of them beside raw contents, or more fields than
            a request has.
    """
    view = memoryview(message)
    raw, rest, kept = [], [], 0
    scan = Scan(message, _INFER.request.DESCRIPTOR, _MAX_FIELDS)
    for field in scan.fields():
        if field.number == _RAW_INPUTS and field.content is not None:
            raw.append(view[field.content : field.end])
            rest.append(view[kept : field.begin])
            kept = field.end
    rest.append(view[kept:])
    if (size := sum(map(len, rest))) > limit:
        raise ProtocolError(
            f"expected at most {limit} bytes beside raw_input_contents (--max-json), found {size}: send tensors in "
            "raw_input_contents"
        )
    return Parts(b"".join(rest), raw, scan.found)


def parse_infer(parts: Parts) -> tuple[str, str | None, InferRequest]:
    """The name of the model, the version that the request wants or None, and the request.

    Raises:
        ProtocolError: the message is not an inference request, or has a parameter that is not supported.
    """
    message = parse("ModelInfer", parts.rest)
    count, raw = len(message.inputs), parts.raw
    if raw and len(raw) != count:
        raise ProtocolError(f"raw_input_contents: expected one for each of {count} inputs, or none, found {len(raw)}")
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape[: MAX_DIMS + 1],
            "parameters": _parameters(tensor.parameters),
            "raw": raw[index] if raw else None,
            "contents": tensor.contents if tensor.HasField("contents") else None,
        }
        for index, tensor in enumerate(message.inputs)
    ]
    outputs = [{"name": tensor.name, "parameters": _parameters(tensor.parameters)} for tensor in message.outputs]
    request = {
        "id": message.id or None,
        "parameters": _parameters(message.parameters),
        "inputs": inputs,
        "outputs": outputs,
    }
    return message.model_name, message.model_version or None, read_request(request, _contents)


def parse(method: str, message: bytes) -> Any:
    """The message of a call.

    Raises:
        ProtocolError: these bytes are no such message.
    """
    kind = METHODS[method].request
    try:
        return kind.FromString(message)
    except DecodeError:
        raise no_message(kind.DESCRIPTOR) from None


def encode_infer(model: str, version: str, request: InferRequest, results: Mapping[str, Result]) -> bytes:
    """The message with the response to ``request``. All outputs are raw contents, whatever form the request asks for.

    Args:
        model: name of the model.
        version: of the model.
        request: names the outputs that are wanted.
        results: arrays by name. If the request names no outputs, all are sent, in this order.

    Raises:
        UnrepresentableError: the results are too large for a message.
    """
    names = [output.name for output in request.outputs or map(Output, results)]
    arrays = [np.ascontiguousarray(results[name], results[name].dtype.newbyteorder("<")) for name in names]
    outputs = [tensor_of(name, results[name]) for name in names]
    parts: list[Any] = [
        _INFER.response(
            model_name=model, model_version=version, id=request.id or "", outputs=outputs
        ).SerializeToString()
    ]
    for array in arrays:
        parts += [bytes_field(_RAW_OUTPUTS, array.nbytes), array.reshape(-1).view(np.uint8)]
    if (size := sum(map(len, parts))) > _MAX_MESSAGE:
        raise UnrepresentableError(
            f"the results take {size} bytes, and a message of gRPC has at most {_MAX_MESSAGE}: ask for fewer outputs "
            "or samples"
        )
    return b"".join(parts)


def _parameters(found: Mapping[str, Any]) -> dict[str, Any]:
    """The values of parameters by name; None for a parameter without a value."""
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in found.items()}
    return {name: getattr(found[name], choice) if choice else None for name, choice in chosen.items()}


def _contents(tensor: Mapping[str, Any], name: str, dtype: np.dtype[Any], shape: Shape) -> Given:
    """The array of an input; see `streamrt.serve.protocol.Contents`."""
    raw, contents = tensor["raw"], tensor["contents"]
    if raw is not None:
        if contents is not None:
            raise ProtocolError(f"input {name!r}: expected contents or raw_input_contents, found both")
        if len(raw) != (wanted := math.prod(shape) * dtype.itemsize):
            raise ProtocolError(f"input {name!r}: expected {wanted} bytes for shape {list(shape)}, found {len(raw)}")
        return from_binary(raw, shape, dtype)
    if dtype.name not in _CONTENTS:
        raise ProtocolError(
            f"input {name!r}: expected raw_input_contents, since contents have no field for {DATATYPES[dtype.name]}"
        )
    field, kind = _CONTENTS[dtype.name]
    others = [found.name for found, _ in contents.ListFields() if found.name != field] if contents is not None else []
    if others:
        raise ProtocolError(
            f"input {name!r}: expected {field} for datatype {DATATYPES[dtype.name]}, found {', '.join(others)}"
        )
    numbers = getattr(contents, field) if contents is not None else ()
    check_count(len(numbers), shape, name)
    array = np.fromiter(numbers, kind, len(numbers))
    return (to_integers(array, name, dtype) if dtype.kind in "iu" else array).reshape(shape)
