"""The Open Inference Protocol (KServe V2) with its binary tensor data: bytes to tensors, results to bytes.

Pure: no HTTP, no model, no file. Any request may be hostile. Sizes are compared before an array is made, as Python's
integers, which do not overflow. Binary data is not copied: arrays are views of the body.

`read_request` checks requests of both forms, JSON and gRPC (`streamrt.serve.rpc.codec`).

See the protocol's ``specification/protocol/inference_rest.md`` (github.com/kserve/open-inference-protocol), and for
binary data ``docs/protocol/extension_binary_data.md`` (github.com/triton-inference-server/server).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from streamrt.engine.inputs import Given, Result
from streamrt.graph import TYPES
from streamrt.ops import Shape
from streamrt.serve.jsontext import KINDS, JsonText, dump_json, kind_of, parse_json
from streamrt.serve.refusal import ProtocolError, UnrepresentableError

#: Names of dtypes in the protocol, by their names in a model.
DATATYPES = {
    "float32": "FP32",
    "float64": "FP64",
    "float16": "FP16",
    **{dtype: dtype.upper() for dtype in TYPES if "int" in dtype},
    "bool": "BOOL",
}
#: The inverse of `DATATYPES`, with the order of bytes of binary data.
_DTYPES = {datatype: np.dtype(dtype).newbyteorder("<") for dtype, datatype in DATATYPES.items()}

#: The most axes of a tensor, as in NumPy 1 and in the weights file.
MAX_DIMS = 32
_MAX_EXTENT = 2**62  # more than any body has elements; the number still fits into an int64
_MAX_NAME = 1024  # characters of a tensor's name or a request's id, as in the weights file
#: Parameters that change the result, or where it is stored. A server that ignored them would give a wrong answer.
_UNSUPPORTED = {
    "classification": "classification is not supported: ask for the tensor",
    "sequence_id": "sequences are not supported: models have no state",
    "shared_memory_region": "shared memory is not supported: send tensors with the request",
}


@dataclass(frozen=True, slots=True)
class Output:
    """An output that a request wants, as binary data or JSON. If ``binary`` is None, the request's default decides."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A parsed request.

    Attributes:
        inputs: arrays by name. Arrays of binary data are views of the body, unaligned and maybe not writable, except
            truth values.
        outputs: outputs that are wanted; None stands for all, in the order of the model.
        id: text that the response repeats, or None.
        binary: whether outputs are wanted as binary data, unless an output says otherwise.
    """

    inputs: Mapping[str, Given]
    outputs: tuple[Output, ...] | None = None
    id: str | None = None
    binary: bool = False


@dataclass(frozen=True, slots=True)
class Encoded:
    """A response: its body, and the number of bytes of JSON at its start, or None if no binary data follows."""

    body: bytes
    header_length: int | None


def parse_header_length(text: str | None) -> int | None:
    """The value of the header ``Inference-Header-Content-Length``, or None without such a header.

    Raises:
        ProtocolError: it is not a number of bytes.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ProtocolError(f"Inference-Header-Content-Length: expected a number of bytes, found {text!r:.40}")
    return int(text)


def split_body(body: bytes | bytearray, header_length: int | None) -> tuple[memoryview, memoryview]:
    """The JSON text at the start of a body, and the binary data behind it. Without a length all of it is JSON.

    Raises:
        ProtocolError: the body is shorter than that.
    """
    view = memoryview(body)
    length = len(view) if header_length is None else header_length
    if length > len(view):
        raise ProtocolError(
            f"Inference-Header-Content-Length: expected at most {len(view)}, as the body has, found {length}"
        )
    return view[:length], view[length:]


def parse_request(text: JsonText, data: memoryview) -> InferRequest:
    """Parse an inference request, of which ``data`` is the binary data.

    Raises:
        ProtocolError: it is not an inference request, or has a parameter that is not supported.
    """
    rest = _Rest(data)
    found = read_request(_object(parse_json(text), "the request"), rest.contents)
    rest.finish()
    return found


#: Makes the array of an input. The arguments are the tensor of the request, its name, its dtype and its shape, which
#: were checked. It compares the number of elements with the shape before it makes an array.
Contents = Callable[[Mapping[str, Any], str, np.dtype[Any], Shape], Given]


def read_request(request: Mapping[str, Any], contents: Contents) -> InferRequest:
    """Check an inference request that has been parsed, in the form and with the names that it has as JSON.

    Args:
        request: the request. Beside what the protocol names, its tensors may have what ``contents`` reads.
        contents: called for each input, in the order of the request.

    Raises:
        ProtocolError: it is not an inference request, or has a parameter that is not supported.
    """
    parameters = _parameters(request, "the request")
    found = request.get("id")
    if found is not None and not (isinstance(found, str) and len(found) <= _MAX_NAME):
        raise ProtocolError(f"id: expected a string of at most {_MAX_NAME} characters, found {_shown(found)}")
    return InferRequest(
        inputs=_inputs(request, contents),
        outputs=_outputs(request),
        id=found,
        binary=_flag(parameters, "binary_data_output", "the request") or False,
    )


def encode_response(model: str, version: str, request: InferRequest, results: Mapping[str, Result]) -> Encoded:
    """Make the response to ``request``.

    Args:
        model: name of the model.
        version: of the model.
        request: names the outputs that are wanted, and their form.
        results: arrays by name. If the request names no outputs, all are sent, in this order.

    Raises:
        UnrepresentableError: an output is wanted as JSON, and has a value that JSON cannot express.
    """
    outputs, binary = [], []
    for output in request.outputs or map(Output, results):
        array = results[output.name]
        told = tensor_of(output.name, array)
        if request.binary if output.binary is None else output.binary:
            data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
            told["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            told["data"] = to_json(array.ravel(), output.name)
        outputs.append(told)
    response: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        response["id"] = request.id
    text = dump_json(response)
    return Encoded(b"".join([text, *binary]), len(text) if binary else None)


def tensor_of(name: str, array: Result) -> dict[str, Any]:
    """Name, shape and datatype of an output, by the protocol's names."""
    return {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}


def to_json(array: Result, name: str) -> Any:
    """The values of an output in a form that `dump_json` takes.

    Raises:
        UnrepresentableError: a value is infinite or NaN.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnrepresentableError(
            f"output {name!r} has values that are infinite or NaN, which JSON cannot express: ask for binary data"
        )
    return np.ascontiguousarray(array) if array.ndim else array.item()


def to_numbers(data: Any, name: str, dtype: np.dtype[Any]) -> tuple[Shape, list[Any]]:
    """The shape of nested lists of numbers, and the numbers in row-major order.

    Raises:
        ProtocolError: an item is not of ``dtype``, items stand beside lists, or lists of one level differ in length.
    """
    if type(data) is not list:
        raise ProtocolError(f"input {name!r}: expected a list of numbers, found {kind_of(data)}")
    shape = [len(data)]
    while data and type(data[0]) is list:
        if len(shape) == MAX_DIMS or set(map(type, data)) != {list}:
            raise ProtocolError(
                f"input {name!r}: expected at most {MAX_DIMS} levels of lists, and numbers only at the last level"
            )
        if len(lengths := set(map(len, data))) != 1:
            raise ProtocolError(f"input {name!r}: expected lists of one length at each level, found {_few(lengths)}")
        shape.append(lengths.pop())
        data = list(chain.from_iterable(data))
    expected, types = _ITEMS[dtype.kind]
    if others := set(map(type, data)) - types:
        kinds = KINDS if types != {int} else {int: "a whole number", float: "a number with a fraction or above 2^64"}
        found = ", ".join(sorted(kinds.get(kind, KINDS[kind]) for kind in others))
        raise ProtocolError(f"input {name!r}: expected {expected}, found {found}")
    return tuple(shape), data


#: What the items of a list are, by the kind of the dtype: a text and the Python types of parsed values.
_ITEMS: dict[str, tuple[str, set[type]]] = {
    "f": ("numbers", {int, float}),
    "i": ("whole numbers", {int}),
    "u": ("whole numbers", {int}),
    "b": ("true or false", {bool}),
}


def to_array(numbers: Sequence[Any], shape: Shape, name: str, dtype: np.dtype[Any]) -> Given:
    """An array of these numbers. Their count is compared with the shape before the array is made.

    Raises:
        ProtocolError: the shape has another number of elements, or a number is beyond the type.
    """
    check_count(len(numbers), shape, name)
    if dtype.kind in "iu":
        return to_integers(numbers, name, dtype).reshape(shape)
    with np.errstate(over="ignore"):
        array = np.array(numbers, dtype)
    if not np.isfinite(array).all():
        most = np.finfo(dtype).max
        raise ProtocolError(
            f"input {name!r}: expected numbers of at most {most:.2g}, found a number beyond {dtype.name}"
        )
    return array.reshape(shape)


def check_count(found: int, shape: Shape, name: str) -> None:
    """Compare a number of elements with a shape.

    Raises:
        ProtocolError: the shape has another number of elements.
    """
    if found != (count := math.prod(shape)):
        raise ProtocolError(f"input {name!r}: expected {count} numbers for shape {list(shape)}, found {found}")


def to_integers(numbers: Sequence[int] | Given, name: str, dtype: np.dtype[Any]) -> Given:
    """A flat array of whole numbers.

    Raises:
        ProtocolError: a number is beyond the type.
    """
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    try:
        wide = np.asarray(numbers, np.int64)
    except OverflowError:
        wide = None
    if wide is None or wide.min(initial=0) < least or wide.max(initial=0) > most:
        raise ProtocolError(f"input {name!r}: expected whole numbers from {least} to {most}, as {dtype.name} has")
    return wide.astype(dtype, copy=False)


def from_binary(data: memoryview, shape: Shape, dtype: np.dtype[Any]) -> Given:
    """An array of binary data with the number of bytes that shape and type have; a view, except of truth values."""
    # A truth value is any byte; NumPy expects 0 or 1.
    array = np.frombuffer(data, np.uint8) != 0 if dtype.kind == "b" else np.frombuffer(data, dtype)
    return array.reshape(shape)


class _Rest:
    """The binary data behind the JSON of a body. Inputs take it in their order, and must take all of it."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._begin = 0

    def contents(self, tensor: Mapping[str, Any], name: str, dtype: np.dtype[Any], shape: Shape) -> Given:
        """The array of an input, from its part of the binary data or from its lists; see `Contents`."""
        size = (tensor.get("parameters") or {}).get("binary_data_size")
        if size is None:
            return to_array(to_numbers(tensor.get("data"), name, dtype)[1], shape, name, dtype)
        if "data" in tensor:
            raise ProtocolError(f"input {name!r}: expected data or binary_data_size, found both")
        wanted = math.prod(shape) * dtype.itemsize
        if type(size) is not int or size != wanted:
            raise ProtocolError(
                f"input {name!r}: expected {wanted} bytes for shape {list(shape)}, found binary_data_size {size!r:.40}"
            )
        begin, left = self._begin, len(self._data) - self._begin
        if size > left:
            raise ProtocolError(f"input {name!r}: expected {size} bytes of binary data, found {left}")
        self._begin += size
        return from_binary(self._data[begin : begin + size], shape, dtype)

    def finish(self) -> None:
        """Check that no data is left."""
        if self._begin != len(self._data):
            raise ProtocolError(f"expected {self._begin} bytes of binary data behind the JSON, found {len(self._data)}")


def _inputs(request: Mapping[str, Any], contents: Contents) -> dict[str, Given]:
    arrays: dict[str, Given] = {}
    for tensor in _list(request, "inputs"):
        name = _name(tensor, "an input")
        if name in arrays:
            raise ProtocolError(f"input {name!r}: expected one tensor of this name, found two")
        _parameters(tensor, f"input {name!r}")
        dtype = _dtype(tensor.get("datatype"), name)
        arrays[name] = contents(tensor, name, dtype, _shape(tensor, name))
    return arrays


def _dtype(datatype: Any, name: str) -> np.dtype[Any]:
    found = _DTYPES.get(datatype) if isinstance(datatype, str) else None
    if found is None:
        more = ": send bfloat16 as FP32" if datatype == "BF16" else ""
        raise ProtocolError(f"input {name!r}: expected datatype {' or '.join(_DTYPES)}, found {datatype!r:.40}{more}")
    return found


def _outputs(request: Mapping[str, Any]) -> tuple[Output, ...] | None:
    if not request.get("outputs"):  # missing, null or empty stands for all
        return None
    outputs: dict[str, Output] = {}
    for tensor in _list(request, "outputs"):
        name = _name(tensor, "an output")
        if name in outputs:
            raise ProtocolError(f"output {name!r}: expected one request for this output, found two")
        parameters = _parameters(tensor, f"output {name!r}")
        outputs[name] = Output(name, _flag(parameters, "binary_data", f"output {name!r}"))
    return tuple(outputs.values())


def _shape(tensor: Mapping[str, Any], name: str) -> Shape:
    shape = tensor.get("shape")
    if not (
        type(shape) is list
        and len(shape) <= MAX_DIMS
        and all(type(extent) is int and 0 < extent <= _MAX_EXTENT for extent in shape)
    ):
        raise ProtocolError(
            f"input {name!r}: expected a shape of at most {MAX_DIMS} whole numbers above 0, found {_shown(shape)}"
        )
    return tuple(shape)


def _parameters(owner: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """The ``parameters`` of a request or a tensor: strings, numbers and booleans by name. Unknown names are ignored."""
    found = owner.get("parameters")
    if found is None:
        return {}
    parameters = _object(found, f"the parameters of {what}")
    for name, value in parameters.items():
        if not isinstance(value, (str, int, float, bool)):
            raise ProtocolError(
                f"{what}: parameter {name!r:.80}: expected a string, a number, true or false, found {kind_of(value)}"
            )
        if name in _UNSUPPORTED and value:
            raise ProtocolError(f"{what}: {_UNSUPPORTED[name]}")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, what: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and type(value) is not bool:
        raise ProtocolError(f"{what}: parameter {name!r}: expected true or false, found {_shown(value)}")
    return value


def _list(owner: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = owner.get(key)
    if type(found) is not list:
        raise ProtocolError(f"{key}: expected a list of tensors, found {kind_of(found)}")
    return [_object(tensor, f"each of {key}") for tensor in found]


def _name(tensor: Mapping[str, Any], what: str) -> str:
    name = tensor.get("name")
    if not (isinstance(name, str) and 0 < len(name) <= _MAX_NAME):
        raise ProtocolError(f"{what}: expected a name of 1 to {_MAX_NAME} characters, found {_shown(name)}")
    return name


def _object(found: Any, what: str) -> Mapping[str, Any]:
    if type(found) is not dict:
        raise ProtocolError(f"{what}: expected a JSON object, found {kind_of(found)}")
    return found


def _shown(found: Any) -> str:
    """A value for the text of an error. A large or deep value is described instead of converted."""
    if isinstance(found, str):
        return f"a string of {len(found)} characters"
    if isinstance(found, dict) or (isinstance(found, list) and (len(found) > MAX_DIMS or not _flat(found))):
        return kind_of(found)
    return json.dumps(found)[:80]


def _flat(items: list[Any]) -> bool:
    return {*map(type, items)} <= {int, float}


def _few(numbers: Collection[int]) -> str:
    return ", ".join(map(str, sorted(numbers)[:3]))
