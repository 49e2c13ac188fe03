"""The parser of requests: valid requests arrive unchanged, and others are refused with a reason."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from streamrt.graph import TYPES, TensorSpec
from streamrt.serve.jsontext import dump_json, parse_json, weigh_json
from streamrt.serve.predictions import encode_prediction, parse_prediction
from streamrt.serve.protocol import (
    DATATYPES,
    InferRequest,
    Output,
    encode_response,
    parse_header_length,
    parse_request,
    split_body,
    to_json,
)
from streamrt.serve.refusal import ProtocolError, UnrepresentableError

LIMIT = 1 << 20


def encode(
    inputs: Mapping[str, tuple[np.ndarray, bool]], outputs: tuple[Output, ...] | None = None, **more: Any
) -> tuple[bytes, int | None]:
    """The body of a request and the length of its JSON. The flag of an array tells if it is sent as binary data."""
    tensors, binary = [], []
    for name, (array, is_binary) in inputs.items():
        tensor: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": "FP32"}
        if is_binary:
            binary.append(array.tobytes())
            tensor["parameters"] = {"binary_data_size": array.nbytes}
        else:
            tensor["data"] = array.tolist() if len(name) % 2 and array.ndim else array.ravel().tolist()
        tensors.append(tensor)
    request: dict[str, Any] = {"inputs": tensors, **more}
    if outputs is not None:
        request["outputs"] = [
            {"name": output.name} | ({} if output.binary is None else {"parameters": {"binary_data": output.binary}})
            for output in outputs
        ]
    text = json.dumps(request).encode()
    return b"".join([text, *binary]), len(text) if binary else None


def requested(body: bytes, header_length: int | None) -> InferRequest:
    text, data = split_body(body, header_length)
    return parse_request(weigh_json(text, LIMIT), data)


names = st.text(min_size=1, max_size=20)
arrays = st_numpy.arrays(
    np.float32,
    st_numpy.array_shapes(min_dims=0, max_dims=4, max_side=4),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
wishes = st.lists(st.builds(Output, names, st.sampled_from([None, True, False])), unique_by=lambda output: output.name)


@given(
    inputs=st.dictionaries(names, st.tuples(arrays, st.booleans()), max_size=4),
    outputs=st.none() | wishes.filter(len).map(tuple),
    id_=st.none() | st.text(max_size=50),
    binary=st.booleans(),
)
def test_valid_requests_arrive_unchanged(
    inputs: dict[str, tuple[np.ndarray, bool]], outputs: tuple[Output, ...] | None, id_: str | None, binary: bool
) -> None:
    more: dict[str, Any] = {"parameters": {"binary_data_output": binary, "priority": 1}}
    if id_ is not None:
        more["id"] = id_
    body, length = encode(inputs, outputs, **more)
    found = requested(body, length)
    assert (found.outputs, found.id, found.binary) == (outputs, id_, binary)
    assert found.inputs.keys() == inputs.keys()
    for name, (array, _) in inputs.items():
        assert found.inputs[name].dtype == np.float32
        np.testing.assert_array_equal(found.inputs[name], array)
        assert found.inputs[name].shape == array.shape


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("is_binary", [True, False])
def test_every_type_arrives_and_is_sent(dtype: str, is_binary: bool) -> None:
    if dtype == "bool":
        array = np.array([[True, False, True]])
    elif dtype.startswith("float"):
        array = np.array([[0.5, -1.25, 3]], dtype)
    else:
        array = np.array([[np.iinfo(dtype).min, np.iinfo(dtype).max, 7]], dtype)
    told: dict[str, Any] = {"name": "x", "shape": [1, 3], "datatype": DATATYPES[dtype]}
    more = {"parameters": {"binary_data_size": array.nbytes}} if is_binary else {"data": array.tolist()}
    text = json.dumps({"inputs": [told | more]}).encode()
    found = requested(text + array.tobytes() * is_binary, len(text) if is_binary else None)
    assert found.inputs["x"].dtype == dtype
    np.testing.assert_array_equal(found.inputs["x"], array)
    sent = encode_response("m", "1", InferRequest({}, binary=is_binary), {"y": array})
    (output,) = json.loads(sent.body[: sent.header_length])["outputs"]
    assert output["datatype"] == DATATYPES[dtype]
    if is_binary:
        assert sent.body[sent.header_length :] == array.tobytes()
    else:
        assert output["data"] == array.ravel().tolist()


def test_a_truth_value_is_any_byte() -> None:
    tensor = {"name": "x", "shape": [4], "datatype": "BOOL", "parameters": {"binary_data_size": 4}}
    text = json.dumps({"inputs": [tensor]}).encode()
    array = requested(text + b"\x00\x01\x02\xff", len(text)).inputs["x"]
    np.testing.assert_array_equal(array.astype(np.float32), [0, 1, 1, 1])


#: Values of JSON. Numbers that no 64 bits can hold are parsed as floating-point ones, other than Python does.
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
keys = ["inputs", "outputs", "id", "parameters", "name", "shape", "datatype", "data", "binary_data_size", "binary_data"]
likely = st.recursive(
    values
    | st.sampled_from(["FP32", "INT64", "UINT8", "BOOL", "x", 0, 1, 4, 2**31, 2**63, 2**64, 2**70, -1, -(2**63) - 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys), inner, max_size=6),
    max_leaves=20,
)


def refused_or_bounded(body: bytes, length: int | None) -> None:
    """Any body is refused, or makes arrays that are not larger than the body allows."""
    try:
        found = requested(body, length)
    except ProtocolError:
        return
    assert isinstance(found, InferRequest)
    assert sum(array.nbytes for array in found.inputs.values()) <= 4 * len(body)
    for array in found.inputs.values():
        assert array.dtype in TYPES
        assert array.size == math.prod(array.shape) > 0


@given(body=st.binary(max_size=200), length=st.none() | st.integers(0, 300))
@example(b"", None)
@example(b"\xef\xbb\xbf{}", None)
@example(b"{}" + b"\x00" * 8, 2)
def test_any_bytes(body: bytes, length: int | None) -> None:
    refused_or_bounded(body, length)


@given(request=likely, rest=st.binary(max_size=20), split=st.booleans())
def test_any_json(request: Any, rest: bytes, split: bool) -> None:
    text = json.dumps(request).encode()
    refused_or_bounded(text + rest if split else text, len(text) if split else None)


@given(
    inputs=st.dictionaries(names, st.tuples(arrays, st.booleans()), min_size=1, max_size=2),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 30),
    shift=st.integers(-3, 3),
)
def test_damaged_requests(
    inputs: dict[str, tuple[np.ndarray, bool]], changes: list[tuple[int, int]], cut: int, shift: int
) -> None:
    body, length = encode(inputs)
    damaged = bytearray(body)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    del damaged[max(0, len(damaged) - cut) :]
    refused_or_bounded(bytes(damaged), None if length is None else max(0, length + shift))


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]} | fields


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in tensor().items() if name != key}


HUGE = 2**62
HOSTILE: list[tuple[Any, str]] = [
    ([], "a JSON object, found a list"),
    (None, "a JSON object, found null"),
    ({}, "inputs: expected a list"),
    ({"inputs": {}}, "inputs: expected a list"),
    ({"inputs": [1]}, "each of inputs: expected a JSON object"),
    ({"inputs": [tensor()] * 2}, "input 'x': expected one tensor of this name, found two"),
    ({"inputs": [without("name")]}, "expected a name"),
    ({"inputs": [tensor(name="")]}, "expected a name"),
    ({"inputs": [tensor(name="n" * 1025)]}, "expected a name"),
    ({"inputs": [tensor(name=["x"])]}, "expected a name"),
    ({"inputs": [without("datatype")]}, "expected datatype FP32 or FP64 or FP16 or INT64 or"),
    ({"inputs": [tensor(datatype="BYTES")]}, "or BOOL, found 'BYTES'"),
    ({"inputs": [tensor(datatype="BF16")]}, "or BOOL, found 'BF16': send bfloat16 as FP32"),
    ({"inputs": [tensor(datatype="UINT64")]}, "or BOOL, found 'UINT64'"),
    ({"inputs": [tensor(datatype="INT64", data=[1.5, 2])]}, "expected whole numbers, found a number with a fraction"),
    ({"inputs": [tensor(datatype="INT64", data=[True, 2])]}, "expected whole numbers, found a boolean"),
    ({"inputs": [tensor(datatype="INT64", data=[2**63, 2])]}, "expected whole numbers from -9223372036854775808 to"),
    ({"inputs": [tensor(datatype="INT64", data=[2**70, 2])]}, "found a number with a fraction or above 2^64"),
    ({"inputs": [tensor(datatype="UINT8", data=[256, 2])]}, "expected whole numbers from 0 to 255, as uint8 has"),
    ({"inputs": [tensor(datatype="UINT8", data=[-1, 2])]}, "expected whole numbers from 0 to 255, as uint8 has"),
    ({"inputs": [tensor(datatype="BOOL", data=[1, 0])]}, "expected true or false, found a number"),
    ({"inputs": [tensor(datatype="FP16", data=[1e6, 0])]}, "at most 6.6e+04, found a number beyond float16"),
    ({"inputs": [tensor(datatype="FP64", data=[10**400, 0])]}, "number is infinity when parsed as double"),
    (
        {"inputs": [{"name": "x", "shape": [2], "datatype": "INT64", "parameters": {"binary_data_size": 8}}]},
        "expected 16 bytes for shape [2], found binary_data_size 8",
    ),
    ({"inputs": [tensor(datatype={"a": "b" * 9999})]}, "expected datatype FP32"),
    ({"inputs": [without("shape")]}, "whole numbers above 0, found null"),
    ({"inputs": [tensor(shape=2)]}, "expected a shape"),
    ({"inputs": [tensor(shape=[-2])]}, "whole numbers above 0, found [-2]"),
    ({"inputs": [tensor(shape=[-1, -2])]}, "expected a shape"),
    ({"inputs": [tensor(shape=[0])]}, "expected a shape"),
    ({"inputs": [tensor(shape=[0, HUGE])]}, "expected a shape"),
    ({"inputs": [tensor(shape=[2.0])]}, "expected a shape"),
    ({"inputs": [tensor(shape=[True, 2])]}, "expected a shape"),
    ({"inputs": [tensor(shape=["2"])]}, "whole numbers above 0, found a list"),
    ({"inputs": [tensor(shape=[2**64])]}, "expected a shape"),
    ({"inputs": [tensor(shape=[1] * 33)]}, "expected a shape"),
    ({"inputs": [tensor(shape=[HUGE, 4])]}, "expected 18446744073709551616 numbers"),  # 0 in 64 bits
    ({"inputs": [tensor(shape=[2**33, 2**31, 2])]}, "numbers for shape"),
    ({"inputs": [tensor(shape=[HUGE] * 32)]}, "numbers for shape"),
    ({"inputs": [tensor(shape=[3])]}, "expected 3 numbers for shape [3], found 2"),
    ({"inputs": [tensor(shape=[])]}, "expected 1 numbers for shape [], found 2"),
    ({"inputs": [without("data")]}, "expected a list of numbers, found null"),
    ({"inputs": [tensor(data="12")]}, "expected a list of numbers, found a string"),
    ({"inputs": [tensor(data=["1", "2"])]}, "expected numbers, found a string"),
    ({"inputs": [tensor(data=[True, False])]}, "expected numbers, found a boolean"),
    ({"inputs": [tensor(data=[None, 1])]}, "expected numbers, found null"),
    ({"inputs": [tensor(data=[1, [2]])]}, "expected numbers, found a list"),
    ({"inputs": [tensor(data=[[1], 2])]}, "numbers only at the last level"),
    ({"inputs": [tensor(data=[[1], [2, 3]])]}, "lists of one length at each level, found 1, 2"),
    ({"inputs": [tensor(data=[[], []])]}, "expected 2 numbers for shape [2], found 0"),
    ({"inputs": [tensor(data=[1e39, 1])]}, "beyond float32"),
    ({"inputs": [tensor(data=[1e300, 1])]}, "beyond float32"),
    ({"inputs": [tensor(data=json.loads("[" * 40 + "1" + "]" * 40))]}, "expected at most 32 levels of lists"),
    ({"inputs": [tensor(parameters=[])]}, "parameters of input 'x': expected a JSON object"),
    (
        {"inputs": [tensor(parameters={"a": []})]},
        "parameter 'a': expected a string, a number, true or false, found a list",
    ),
    ({"inputs": [tensor(parameters={"binary_data_size": 8})]}, "expected data or binary_data_size, found both"),
    (
        {"inputs": [without("data") | {"parameters": {"binary_data_size": 8}}]},
        "expected 8 bytes of binary data, found 0",
    ),
    ({"inputs": [without("data") | {"parameters": {"binary_data_size": 4}}]}, "expected 8 bytes for shape [2], found"),
    ({"inputs": [without("data") | {"parameters": {"binary_data_size": -8}}]}, "expected 8 bytes for shape"),
    ({"inputs": [without("data") | {"parameters": {"binary_data_size": 8.0}}]}, "expected 8 bytes for shape"),
    ({"inputs": [without("data") | {"parameters": {"binary_data_size": True}, "shape": []}]}, "expected 4 bytes"),
    ({"inputs": [without("data") | {"parameters": {"binary_data_size": 0}, "shape": [HUGE, 4]}]}, "expected 7378697"),
    ({"inputs": [without("data") | {"parameters": {"shared_memory_region": "r"}}]}, "shared memory is not supported"),
    ({"inputs": [], "outputs": {"name": "y"}}, "outputs: expected a list"),
    ({"inputs": [], "outputs": [{}]}, "an output: expected a name"),
    ({"inputs": [], "outputs": [{"name": "y"}] * 2}, "output 'y': expected one request for this output, found two"),
    (
        {"inputs": [], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
        "parameter 'binary_data': expected true or false, found 1",
    ),
    (
        {"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        "classification is not supported",
    ),
    (
        {"inputs": [], "parameters": {"binary_data_output": "yes"}},
        "parameter 'binary_data_output': expected true or false, found a string of 3",
    ),
    ({"inputs": [], "parameters": {"sequence_id": 3}}, "sequences are not supported"),
    ({"inputs": [], "parameters": "none"}, "expected a JSON object"),
    ({"inputs": [], "id": 7}, "id: expected a string of at most 1024 characters, found 7"),
    ({"inputs": [], "id": "i" * 1025}, "id: expected a string of at most 1024 characters, found a string of 1025"),
]


@pytest.mark.parametrize(("request_", "reason"), HOSTILE)
def test_hostile_requests_are_refused_before_anything_is_allocated(request_: Any, reason: str) -> None:
    body = json.dumps(request_).encode()
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError) as refused:
            requested(body, None)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "expected JSON"),
        (b"{", "expected JSON"),
        (b"{}{}", "expected JSON"),
        (b"\xff\xfe{\x00}\x00", "expected JSON"),  # UTF-16
        (b'{"a": "\xff"}', "expected JSON"),
        (b"[NaN]", "expected JSON: "),
        (b"[-Infinity]", "expected JSON: "),
        (b"[" * 100_000, "depth"),
        (b'{"a":' * 20_000, "depth"),
        (b"[" * 100_000 + b"]" * 100_000, "depth"),
        (b"9" * 10_000, "expected JSON"),
        (b'{"inputs": [], "inputs": []}', "a key twice"),
        (b'{"inputs": [{"name": "x", "name": "y"}]}', "a key twice"),
        (rb'{"id": 1, "id": "\u003a"}', "a key twice"),  # as many colons as what is kept of it
        (b'{"inputs": [{"parameters": {"a": {"b": [], "b": []}}}]}', "a key twice"),
        (b'{"a": {"a": {"a": {"a": {"a": {"a": 1, "a": 2}}}}}}', "a key twice"),
        (b'[1, {"a": 1, "a": 2}]', "a key twice"),
        (b'[[{"a": 1, "a": 2}]]', "a key twice"),
        (b'[{"a": 1}, {"a": ":", "a": 2}]', "a key twice"),
        (b'{"a":' * 100_000, "bytes once parsed"),
        (b" " * (LIMIT + 1), f"at most {LIMIT} bytes of JSON"),
    ],
)
def test_texts_that_are_no_json(text: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        parse_json(weigh_json(text, LIMIT))


@given(value=values.filter(lambda value: "NaN" not in (text := json.dumps(value)) and "Infinity" not in text))
@example({"inputs:0": [{"name": "a:b", "parameters": {"c:": "::"}}]})
@example({"a": [{"b": [{"c": [{"d": [{"e": [{"f": "g:h"}]}]}]}]}]})
@example({"層": ["\\", "\x00", ":"]})
def test_texts_are_parsed_as_python_parses_them(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        found = parse_json(weigh_json(text.encode(), LIMIT))
        assert found == value
        assert json.dumps(found) == json.dumps(value)  # types, too


@given(array=st_numpy.arrays(st.sampled_from(TYPES), st_numpy.array_shapes(min_dims=0, max_dims=3, max_side=4)))
def test_numbers_keep_their_values(array: np.ndarray) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return
    found = np.array(json.loads(dump_json(to_json(array.T, "y"))), array.dtype)
    np.testing.assert_array_equal(found.reshape(array.T.shape), array.T)


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1 ", "1.0", "0x10", "1e3", "\u0661", "1_0", "9" * 19, "2, 2"])
def test_invalid_header_lengths(text: str) -> None:
    with pytest.raises(ProtocolError, match="expected a number of bytes"):
        parse_header_length(text)


def test_header_lengths() -> None:
    assert parse_header_length(None) is None
    assert parse_header_length("012") == 12
    body = json.dumps({"inputs": []}).encode()
    for length in (len(body) + 1, 10**17):
        with pytest.raises(ProtocolError, match="as the body has"):
            requested(body, length)
    with pytest.raises(ProtocolError, match="expected 0 bytes of binary data behind the JSON, found 3"):
        requested(body + b"abc", len(body))
    assert requested(body, len(body)).inputs == {}


def test_binary_inputs_are_not_copied() -> None:
    body, length = encode({"x": (np.arange(6, dtype=np.float32).reshape(2, 3), True)})
    found = requested(body, length).inputs["x"]
    assert not found.flags.owndata
    assert not found.flags.writeable


def test_responses_in_both_forms() -> None:
    results = {"y": np.float32([[1.5, -2]]), "above": np.array([True, False]), "best": np.array([7, -1])}
    request = InferRequest({}, (Output("best"), Output("y", True), Output("above", False)), "me", True)
    encoded = encode_response("m", "1", request, results)
    assert encoded.header_length is not None
    told = json.loads(encoded.body[: encoded.header_length])
    assert told == {
        "model_name": "m",
        "model_version": "1",
        "id": "me",
        "outputs": [
            {"name": "best", "shape": [2], "datatype": "INT64", "parameters": {"binary_data_size": 16}},
            {"name": "y", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "above", "shape": [2], "datatype": "BOOL", "data": [True, False]},
        ],
    }
    assert encoded.body[encoded.header_length :] == results["best"].tobytes() + results["y"].tobytes()
    everything = encode_response("m", "1", InferRequest({}), results)
    assert everything.header_length is None
    assert [output["name"] for output in json.loads(everything.body)["outputs"]] == ["y", "above", "best"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_json_cannot_express_need_binary_data(value: float) -> None:
    results = {"y": np.float32([1, value])}
    with pytest.raises(UnrepresentableError, match="ask for binary data"):
        encode_response("m", "1", InferRequest({}), results)
    with pytest.raises(UnrepresentableError, match="ask for binary data"):
        encode_prediction(results)
    assert encode_response("m", "1", InferRequest({}, binary=True), results).header_length is not None


def spec(name: str) -> TensorSpec:
    return TensorSpec(name, ("batch", 2))


def test_predictions() -> None:
    one = parse_prediction(weigh_json(b"[[1, 2.5]]", LIMIT), [spec("x")])
    np.testing.assert_array_equal(one["x"], np.float32([[1, 2.5]]))
    two = parse_prediction(weigh_json(b'{"a": [[1, 2]], "b": [[3, 4]]}', LIMIT), [spec("a"), spec("b")])
    np.testing.assert_array_equal(two["b"], np.float32([[3, 4]]))
    assert encode_prediction({"y": np.float32([[1.5, 2]])}) == b"[[1.5,2.0]]"
    assert encode_prediction({"y": np.float32([1]), "z": np.array([True])}) == b'{"y":[1.0],"z":[true]}'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "expected JSON"),
        (b"7", "expected a JSON object with a list of numbers for each of 'x' (batch, 2)"),
        (b"[[1, 2], [3]]", "lists of one length at each level, found 1, 2"),
        (b"[[[1]], [[2], [3]]]", "lists of one length at each level, found 1, 2"),
        (b'{"x": 1}', "input 'x': expected a list of numbers, found a number"),
        (b"[" * 40 + b"1" + b"]" * 40, "at most 32"),
    ],
)
def test_invalid_predictions(body: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        parse_prediction(weigh_json(body, LIMIT), [spec("x")])
    assert reason in str(refused.value)


@given(body=values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50))
def test_any_prediction(body: bytes) -> None:
    try:
        found = parse_prediction(weigh_json(body, LIMIT), [spec("x")])
    except ProtocolError:
        return
    assert sum(array.nbytes for array in found.values()) <= 4 * len(body)
