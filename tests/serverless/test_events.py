"""Events and their answers, through Lambda's own client: right ones, and bad ones that say what was expected."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from markers import needs
from model import zoo
from serve import packing
from serverless.function import Function, array, event, function, local, tensor
from streamrt.graph import TYPES

pytestmark = pytest.mark.extras
needs("awslambdaric")

X = zoo.random_input(2, 3)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> zoo.Packed:
    """Inputs (batch, 3), outputs (batch, 1000): an answer is longer than its event."""
    return zoo.mlp(tmp_path_factory.mktemp("model"), 3, 1000)


@pytest.fixture(scope="module")
def running(packed: zoo.Packed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    with function(tmp_path_factory.mktemp("function"), packed.path, memory=1024) as found:
        yield found


def lists(**fields: Any) -> dict[str, Any]:
    """An event with a list of numbers; ``fields`` replace those of its tensor."""
    given = {"name": "input", "shape": [2, 3], "datatype": "FP32", "data": X.ravel().tolist()}
    return {"inputs": [{name: value for name, value in (given | fields).items() if value is not None}]}


def binary(**fields: Any) -> dict[str, Any]:
    """The same with base64."""
    return lists(**{"data": None, "base64": tensor(X, "input")["base64"]} | fields)


@pytest.mark.parametrize("given", [lists(), lists(data=X.tolist()), binary()], ids=["flat", "nested", "base64"])
@pytest.mark.parametrize("wanted", [{}, {"parameters": {"binary_data_output": True}}], ids=["data", "base64"])
def test_forms_of_tensors(running: Function, packed: zoo.Packed, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    answer = running.result(given | wanted | {"id": "seven"})
    zoo.assert_close(array(answer), packed.answer(X))
    assert answer["id"] == "seven"
    (told,) = answer["outputs"]
    assert ("base64" in told) == bool(wanted)


def test_one_output_in_a_form_of_its_own(running: Function, packed: zoo.Packed) -> None:
    output = {"name": "output", "parameters": {"binary_data": True}}
    answer = running.result(lists() | {"outputs": [output]})
    assert "base64" in answer["outputs"][0]
    zoo.assert_close(array(answer), packed.answer(X))


def test_inputs_and_outputs_of_all_types(tmp_path: Path) -> None:
    packing.types(tmp_path)
    samples = {dtype: np.array([[1, 0], [7, 100]]).astype(dtype) for dtype in TYPES}
    names = {"float32": "FP32", "float64": "FP64", "float16": "FP16"}
    inputs = [tensor(x, dtype, names.get(dtype, dtype.upper())) for dtype, x in samples.items()]
    with function(tmp_path, tmp_path / "types.safetensors") as found:
        told = found.result({"inputs": inputs, "parameters": {"binary_data_output": True}})["outputs"]
        assert [output["base64"] for output in told] == [given["base64"] for given in inputs]
        told = found.result({"inputs": inputs})["outputs"]
    assert [output["data"] for output in told] == [x.ravel().tolist() for x in samples.values()]


#: Begins the text about base64 of another length.
OTHER = "expected 32 characters of base64, 24 bytes for shape [2, 3], found "
BAD = [
    (b"[]", "ProtocolError", 'expected an object {"inputs": [...]} with tensors, found a list'),
    (b"null", "ProtocolError", "found null"),
    (b"{}", "ProtocolError", "inputs: expected a list of tensors, found null"),
    (b'{"inputs": [3]}', "ProtocolError", "each of inputs: expected a JSON object, found a number"),
    (lists(name=7), "ProtocolError", "an input: expected a name"),
    (lists(name="other"), "InputError", "no input is named ['other']; the model has 'input' (N, 3)"),
    (lists(datatype="FP33"), "ProtocolError", "expected datatype FP32"),
    (lists(datatype="FP64"), "InputError", "input 'input': expected datatype FP32, found FP64"),
    (lists(shape=[3, 2]), "InputError", "found (3, 2)"),
    (lists(shape=[6]), "InputError", "found (6,)"),
    (lists(shape=[-2, -3]), "ProtocolError", "expected a shape of at most 32 whole numbers above 0"),
    (lists(shape=[1 << 40, 3]), "ProtocolError", "expected 3298534883328 numbers for shape [1099511627776, 3]"),
    (lists(data=[1, 2]), "ProtocolError", "expected 6 numbers for shape [2, 3], found 2"),
    (lists(data=[[1, 2, 3], [4, 5]]), "ProtocolError", "expected lists of one length at each level"),
    (lists(data=["1"] * 6), "ProtocolError", "expected numbers, found a string"),
    (lists(data=[1e39] * 6), "ProtocolError", "found a number beyond float32"),
    (lists(data=None), "ProtocolError", "expected either data, a list of numbers, or base64, a string"),
    (lists(base64="AAAA"), "ProtocolError", "expected either data, a list of numbers, or base64, a string"),
    (binary(base64="AAAA"), "ProtocolError", OTHER + "a string of 4"),
    (binary(base64=[0] * 32), "ProtocolError", OTHER + "a list"),
    (binary(base64="A" * 31 + "*"), "ProtocolError", "expected 32 characters of base64"),
    (binary(base64="é" * 32), "ProtocolError", "expected 32 characters of base64"),
    (binary(base64="A" * 31 + "="), "ProtocolError", OTHER + "23 bytes"),
    (binary(base64="AAAA", shape=[1 << 60, 1 << 60]), "ProtocolError", "found a string of 4"),
    (lists() | {"outputs": [{"name": "nothing"}]}, "InputError", "expected outputs of ['output'], found 'nothing'"),
    (b'{"inputs": ', "Runtime.UnmarshalError", "Unable to unmarshal input"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "kind", "text"), BAD)
def test_bad_events_say_what_was_expected(running: Function, given: Any, kind: str, text: str) -> None:
    answer = running.invoke(given)
    assert answer.failed
    assert answer.value["errorType"] == kind
    assert text in answer.value["errorMessage"]


def test_bad_events_harm_no_other(running: Function, packed: zoo.Packed) -> None:
    for given, _, _ in BAD:
        running.invoke(given)
        zoo.assert_close(array(running.result(binary())), packed.answer(X))


def test_an_answer_that_would_be_too_long_is_refused_before_it_is_computed(running: Function) -> None:
    """An event of 5.6 MiB would have an answer of 1.4 GiB, for a function of 1 GiB."""
    answer = running.invoke(event(np.ones((340_000, 3), np.float32)))
    assert answer.failed
    assert answer.value["errorType"] == "InputError"
    assert (
        "expected a request whose answer has at most 6000000 bytes, found about 18133" in answer.value["errorMessage"]
    )
    most = np.ones((300, 3), np.float32)  # as numbers in lists
    assert running.invoke(lists(shape=[300, 3], data=most.ravel().tolist())).failed is False
    assert running.invoke(lists(shape=[301, 3], data=np.ones(903).tolist())).failed is True


def test_an_event_longer_than_lambda_takes_is_not_sent(running: Function) -> None:
    with pytest.raises(ValueError, match="at most 6291456 bytes"):
        running.invoke(b" " * (local.MOST + 1))


# ---------------------------------------------------------------- HTTP


def http(body: Any, *, base64_encoded: bool = False, **headers: str) -> dict[str, Any]:
    """The event of a request, with the fields that all gateways send."""
    return {"requestContext": {}, "headers": headers, "body": body, "isBase64Encoded": base64_encoded}


def test_a_request_of_http(running: Function, packed: zoo.Packed) -> None:
    text = json.dumps(lists())
    for given in (http(text), http(base64.b64encode(text.encode()).decode(), base64_encoded=True)):
        response = running.result(given)
        assert response["statusCode"] == 200
        assert response["headers"] == {"Content-Type": "application/json"}
        told = json.loads(response["body"])
        zoo.assert_close(array(told), packed.answer(X))
        with streamrt.Model(packed.path) as model:
            assert told["model_version"] == model.checksum


def test_binary_tensors_of_http(running: Function, packed: zoo.Packed) -> None:
    head = lists(data=None, parameters={"binary_data_size": X.nbytes}) | {"parameters": {"binary_data_output": True}}
    text = json.dumps(head).encode()
    body = base64.b64encode(text + X.tobytes()).decode()
    response = running.result(http(body, base64_encoded=True, **{"inference-header-content-length": str(len(text))}))
    assert response["statusCode"] == 200
    assert response["isBase64Encoded"] is True
    content = base64.b64decode(response["body"])
    length = int(response["headers"]["Inference-Header-Content-Length"])
    assert json.loads(content[:length])["outputs"][0]["shape"] == [2, 1000]
    zoo.assert_close(np.frombuffer(content[length:], np.float32).reshape(2, 1000), packed.answer(X))


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        (http(None), "ProtocolError", "expected a body with an inference request, found null"),
        (http("AAA", base64_encoded=True), "ProtocolError", "expected a body in base64"),
        (http("{"), "ProtocolError", "expected JSON"),
        (http('{"inputs": [], "inputs": []}'), "ProtocolError", "found a key twice"),
        (http("[" * 100_000), "ProtocolError", "depth"),
        (http("[" + "[]," * 700_000 + "[]]"), "ProtocolError", "expected at most 2097152 bytes of JSON"),
        (http(json.dumps(lists(shape=[3, 2]))), "InputError", "found (3, 2)"),
        (http("{}", **{"Inference-Header-Content-Length": "x"}), "ProtocolError", "expected a number of bytes"),
        ({"requestContext": {}}, "ProtocolError", "expected a body with an inference request, found null"),
    ],
)  # fmt: skip
def test_bad_requests_of_http(running: Function, given: Any, kind: str, text: str) -> None:
    response = running.result(given)
    assert response["statusCode"] == 400
    told = json.loads(response["body"])
    assert told["type"] == kind
    assert text in told["error"]
