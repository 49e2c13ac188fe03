"""The Open Inference Protocol (KServe V2) with its binary tensor data: bytes to tensors, results to bytes.

Pure: no HTTP, no model, no file. A request is hostile until it is parsed: sizes are compared as integers of Python,
which do not overflow, before an array is made, and what comes as binary data is looked at where it lies.

See the protocol's ``specification/protocol/inference_rest.md`` (github.com/kserve/open-inference-protocol), and for
binary data ``docs/protocol/extension_binary_data.md`` (github.com/triton-inference-server/server).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from streamrt.engine.inputs import Result
from streamrt.ops import Array, Shape
from streamrt.serve.parsing import weigh

#: Of a model's tensors, the protocol's names.
DATATYPES = {"float32": "FP32", "int64": "INT64", "bool": "BOOL"}

_FLOAT = np.dtype("<f4")
_MAX_RANK = 32
_MAX_EXTENT = 2**62
_MAX_NAME = 1024
#: Bytes of lists, objects, strings and numbers for each byte of JSON that a request may have, and for all requests.
_VALUES, _MORE_VALUES = 12, 1 << 20
#: Parameters that would change what is computed or where it goes: to ignore one would give a wrong answer.
_UNSUPPORTED = {
    "classification": "classification is not supported: ask for the tensor",
    "sequence_id": "sequences are not supported: models have no state",
    "shared_memory_region": "shared memory is not supported: send tensors with the request",
}


class ProtocolError(ValueError):
    """A request breaks the protocol; the text says what was expected, for whoever sent it."""


class UnrepresentableError(ValueError):
    """A result cannot be told in the form that was asked for."""


@dataclass(frozen=True, slots=True)
class Output:
    """An output that a request asks for; ``binary`` None leaves its form to the request."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a request says.

    Attributes:
        inputs: float32 arrays by name; binary ones lie in the body, unaligned and not writable.
        outputs: what it asks for; None is everything, in the order of the model.
        id: to be returned, or None.
        binary: outputs are wanted as binary data, unless they say otherwise themselves.
    """

    inputs: Mapping[str, Array]
    outputs: tuple[Output, ...] | None = None
    id: str | None = None
    binary: bool = False


@dataclass(frozen=True, slots=True)
class Encoded:
    """A response: its body, and the bytes of JSON that it begins with if binary data follows, else None."""

    body: bytes
    header_length: int | None


def weigh_json(text: bytes | bytearray | memoryview, limit: int) -> int:
    """The most bytes of memory that parsing a text takes, beside itself.

    Its lists and numbers may have 12 times ``limit``, and a MiB, which is enough for flat lists of any numbers. Many
    short lists, objects or strings would take up to 40 times the memory of the text.

    Raises:
        ProtocolError: it is longer than ``limit``, or has more values than that.
    """
    if len(text) > limit:
        raise ProtocolError(
            f"expected at most {limit} bytes of JSON (--max-json), found {len(text)}: send tensors as binary data"
        )
    weight = weigh(bytes(text))
    if weight.values > (most := _VALUES * limit + _MORE_VALUES):
        raise ProtocolError(
            f"expected JSON whose lists, objects and values take at most {most} bytes once parsed ({_VALUES} times "
            f"--max-json, and {_MORE_VALUES}), found {weight.values}: send tensors as binary data, or in a flat list"
        )
    return weight.total


def parse_json(text: bytes | bytearray | memoryview, limit: int) -> Any:
    """A JSON text that `weigh_json` lets through.

    Raises:
        ProtocolError: it is not let through, nested too deeply, or no JSON; NaN and infinities, which Python's parser
            would take, are none, and an object with a key twice is refused.
    """
    weigh_json(text, limit)
    try:
        return json.loads(str(text, "utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ProtocolError("the JSON is nested too deeply") from None
    except ProtocolError:
        raise
    except ValueError as error:  # no JSON, no UTF-8, or an integer of thousands of digits
        raise ProtocolError(f"expected JSON: {error!s:.200}") from None


def parse_header_length(text: str | None) -> int | None:
    """The value of the header ``Inference-Header-Content-Length``; None where there is none.

    Raises:
        ProtocolError: it is no length.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ProtocolError(f"Inference-Header-Content-Length: expected a number of bytes, found {text!r:.40}")
    return int(text)


def parse_request(body: bytes | bytearray, header_length: int | None, max_json: int) -> InferRequest:
    """An inference request.

    Args:
        body: of the HTTP request.
        header_length: bytes of JSON that it begins with; None if it is JSON and nothing else.
        max_json: the most bytes of JSON.

    Raises:
        ProtocolError: it is no request, or asks for what is not supported.
    """
    view = memoryview(body)
    if header_length is not None and header_length > len(view):
        raise ProtocolError(f"Inference-Header-Content-Length is {header_length}, and the body has {len(view)} bytes")
    request = _object(parse_json(view[:header_length], max_json), "the request")
    parameters = _parameters(request, "the request")
    found = request.get("id")
    if found is not None and not (isinstance(found, str) and len(found) <= _MAX_NAME):
        raise ProtocolError(f"id: expected a text of at most {_MAX_NAME} characters")
    return InferRequest(
        inputs=_inputs(request, view[len(view) if header_length is None else header_length :]),
        outputs=_outputs(request),
        id=found,
        binary=_flag(parameters, "binary_data_output", "the request") or False,
    )


def encode_response(model: str, version: str, request: InferRequest, results: Mapping[str, Result]) -> Encoded:
    """The response to ``request``.

    Args:
        model: its name.
        version: of it.
        request: what was asked for, in which form.
        results: arrays by name; all of them are told, in their order, if the request names none.

    Raises:
        UnrepresentableError: an output is wanted as JSON and has a value that JSON cannot express.
    """
    outputs, binary = [], []
    for output in request.outputs or map(Output, results):
        array = results[output.name]
        told: dict[str, Any] = {
            "name": output.name,
            "shape": list(array.shape),
            "datatype": DATATYPES[array.dtype.name],
        }
        if request.binary if output.binary is None else output.binary:
            data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
            told["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            told["data"] = to_lists(array.ravel(), output.name)
        outputs.append(told)
    response: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        response["id"] = request.id
    text = json.dumps(response, allow_nan=False, separators=(",", ":")).encode()
    return Encoded(b"".join([text, *binary]), len(text) if binary else None)


def to_lists(array: Result, name: str) -> Any:
    """The values of an output as lists of Python's numbers.

    Raises:
        UnrepresentableError: one is infinite or NaN.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnrepresentableError(
            f"output {name!r} has values that are infinite or NaN, which JSON cannot express: ask for binary data"
        )
    return array.tolist()


def to_floats(data: Any, name: str) -> tuple[Shape, list[Any]]:
    """The shape of nested lists of numbers, and the numbers in row-major order.

    Raises:
        ProtocolError: something in it is no number, lists stand beside numbers, or differ in length.
    """
    if type(data) is not list:
        raise ProtocolError(f"input {name!r}: expected a list of numbers, found {_kind(data)}")
    shape = [len(data)]
    while data and type(data[0]) is list:
        if len(shape) == _MAX_RANK or set(map(type, data)) != {list}:
            raise ProtocolError(f"input {name!r}: expected lists of the same depth, at most {_MAX_RANK}")
        if len(lengths := set(map(len, data))) != 1:
            raise ProtocolError(f"input {name!r}: expected lists of the same length at every level")
        shape.append(lengths.pop())
        data = list(chain.from_iterable(data))
    if others := set(map(type, data)) - {int, float}:
        found = ", ".join(sorted(kind.__name__ for kind in others))
        raise ProtocolError(f"input {name!r}: expected numbers, found {found}")
    return tuple(shape), data


def to_array(numbers: Sequence[float], shape: Shape, name: str) -> Array:
    """A float32 array of these numbers, whose count is compared with the shape before it is made.

    Raises:
        ProtocolError: it has another number of elements, or one is beyond float32.
    """
    if len(numbers) != (count := math.prod(shape)):
        raise ProtocolError(f"input {name!r}: expected {count} numbers for shape {list(shape)}, found {len(numbers)}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(numbers, np.float32)
    except OverflowError:  # an integer beyond float64
        array = None
    if array is None or not np.isfinite(array).all():
        raise ProtocolError(f"input {name!r}: a number is beyond float32")
    return array.reshape(shape)


def _inputs(request: Mapping[str, Any], rest: memoryview) -> dict[str, Array]:
    """The input tensors; ``rest`` is the binary data behind the JSON, all of which must belong to one."""
    arrays: dict[str, Array] = {}
    begin = 0
    for tensor in _list(request, "inputs"):
        name = _name(tensor, "an input")
        if name in arrays:
            raise ProtocolError(f"input {name!r} is there twice")
        parameters = _parameters(tensor, f"input {name!r}")
        if (datatype := tensor.get("datatype")) != "FP32":
            raise ProtocolError(f"input {name!r}: expected datatype FP32, found {datatype!r:.40}")
        shape = _shape(tensor, name)
        size = parameters.get("binary_data_size")
        if size is None:
            arrays[name] = to_array(to_floats(tensor.get("data"), name)[1], shape, name)
            continue
        if "data" in tensor:
            raise ProtocolError(f"input {name!r} has both data and binary_data_size")
        wanted = math.prod(shape) * _FLOAT.itemsize
        if type(size) is not int or size != wanted:
            raise ProtocolError(
                f"input {name!r}: expected {wanted} bytes for shape {list(shape)}, found binary_data_size {size!r:.40}"
            )
        if size > len(rest) - begin:
            raise ProtocolError(f"input {name!r}: expected {size} bytes of binary data, found {len(rest) - begin}")
        arrays[name] = np.frombuffer(rest[begin : begin + size], _FLOAT).reshape(shape)
        begin += size
    if begin != len(rest):
        raise ProtocolError(f"expected {begin} bytes of binary data behind the JSON, found {len(rest)}")
    return arrays


def _outputs(request: Mapping[str, Any]) -> tuple[Output, ...] | None:
    if not request.get("outputs"):  # missing, null or none: all
        return None
    outputs: dict[str, Output] = {}
    for tensor in _list(request, "outputs"):
        name = _name(tensor, "an output")
        if name in outputs:
            raise ProtocolError(f"output {name!r} is asked for twice")
        parameters = _parameters(tensor, f"output {name!r}")
        outputs[name] = Output(name, _flag(parameters, "binary_data", f"output {name!r}"))
    return tuple(outputs.values())


def _shape(tensor: Mapping[str, Any], name: str) -> Shape:
    shape = tensor.get("shape")
    if not (
        type(shape) is list
        and len(shape) <= _MAX_RANK
        and all(type(extent) is int and 0 < extent <= _MAX_EXTENT for extent in shape)
    ):
        raise ProtocolError(f"input {name!r}: expected a shape of at most {_MAX_RANK} whole numbers above 0")
    return tuple(shape)


def _parameters(owner: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """The ``parameters`` of something: an object of texts, numbers and truth values. Unknown ones are let be."""
    found = owner.get("parameters")
    if found is None:
        return {}
    parameters = _object(found, f"the parameters of {what}")
    for name, value in parameters.items():
        if not isinstance(value, (str, int, float, bool)):
            raise ProtocolError(f"{what}: expected parameter {name!r:.80} to be a text, a number, true or false")
        if name in _UNSUPPORTED and value:
            raise ProtocolError(f"{what}: {_UNSUPPORTED[name]}")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, what: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and type(value) is not bool:
        raise ProtocolError(f"{what}: expected parameter {name!r} to be true or false")
    return value


def _list(owner: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = owner.get(key)
    if type(found) is not list:
        raise ProtocolError(f"{key}: expected a list of tensors")
    return [_object(tensor, f"each of {key}") for tensor in found]


def _name(tensor: Mapping[str, Any], what: str) -> str:
    name = tensor.get("name")
    if not (isinstance(name, str) and 0 < len(name) <= _MAX_NAME):
        raise ProtocolError(f"{what}: expected a name of 1 to {_MAX_NAME} characters")
    return name


def _object(found: Any, what: str) -> Mapping[str, Any]:
    if type(found) is not dict:
        raise ProtocolError(f"{what}: expected a JSON object, found {_kind(found)}")
    return found


def _kind(found: Any) -> str:
    return "null" if found is None else f"a {type(found).__name__}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ProtocolError("a JSON object has a key twice")
    return found


def _no_constant(name: str) -> Any:
    raise ProtocolError(f"{name} is no JSON: send such values as binary data")
