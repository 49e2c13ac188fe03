"""HTTP and gRPC give the same answers to the same requests: the same values, the same errors, in the same words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from markers import needs
from model import zoo
from serve import packing
from serve.process import TOKEN, Server
from streamrt.graph import TYPES

pytestmark = pytest.mark.extras
needs("grpc", "google.protobuf", "starlette", "prometheus_client", "tritonclient.grpc")

import grpc  # noqa: E402
from tritonclient.grpc import service_pb2, service_pb2_grpc  # noqa: E402

from streamrt.serve import http  # noqa: E402
from streamrt.serve.protocol import DATATYPES  # noqa: E402
from streamrt.serve.rpc.call import CODES  # noqa: E402

FIELDS = {
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


@dataclass(frozen=True)
class Tensor:
    """An input: its data is an array, sent as bytes or as numbers."""

    name: str
    data: Any
    shape: tuple[int, ...] | None = None
    datatype: str | None = None
    parameters: tuple[tuple[str, Any], ...] = ()

    @property
    def array(self) -> np.ndarray:
        return np.asarray(self.data)

    def described(self) -> dict[str, Any]:
        shape = self.array.shape if self.shape is None else self.shape
        return {
            "name": self.name,
            "shape": list(shape),
            "datatype": self.datatype or DATATYPES[self.array.dtype.name],
        }


@dataclass(frozen=True)
class Case:
    """A request, which is sent in both forms, and the reason of its error."""

    inputs: tuple[Tensor, ...]
    reason: str = ""
    model: str = "mlp"
    version: str = ""
    outputs: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    id: str = ""
    parameters: tuple[tuple[str, Any], ...] = ()


def as_http(case: Case, binary: bool) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers."""
    data, tensors = b"", []
    for tensor in case.inputs:
        told = tensor.described()
        if binary:
            data += tensor.array.tobytes()
            told["parameters"] = {"binary_data_size": tensor.array.nbytes} | dict(tensor.parameters)
        else:
            told |= {"data": tensor.array.ravel().tolist(), "parameters": dict(tensor.parameters)}
        tensors.append(told)
    outputs = [{"name": name, "parameters": dict(parameters)} for name, parameters in case.outputs]
    request = {
        "id": case.id,
        "inputs": tensors,
        "outputs": outputs,
        "parameters": {"binary_data_output": True} | dict(case.parameters),
    }
    text = json.dumps(request).encode()
    version = f"/versions/{case.version}" if case.version else ""
    headers = {"Inference-Header-Content-Length": str(len(text))} if binary else {}
    return f"/v2/models/{case.model}{version}/infer", text + data, headers


def set_parameters(owner: Any, parameters: tuple[tuple[str, Any], ...]) -> None:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in parameters:
        setattr(owner[name], kinds[type(value)], value)


def as_grpc(case: Case, binary: bool) -> Any:
    message = service_pb2.ModelInferRequest(model_name=case.model, model_version=case.version, id=case.id)
    set_parameters(message.parameters, case.parameters)
    for tensor in case.inputs:
        made = message.inputs.add(**tensor.described())
        set_parameters(made.parameters, tensor.parameters)
        if binary:
            message.raw_input_contents.append(tensor.array.tobytes())
        else:
            field = FIELDS.get(made.datatype, "fp32_contents")
            getattr(made.contents, field).extend(tensor.array.ravel().tolist())
    for name, parameters in case.outputs:
        set_parameters(message.outputs.add(name=name).parameters, parameters)
    return message


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    zoo.mlp(folder, 16, 64, 32, 10)
    packing.two(folder)
    packing.kinds(folder)
    packing.types(folder)
    (folder / "broken.safetensors").write_bytes(b"no model")
    (folder / "cut.safetensors").write_bytes((folder / "mlp.safetensors").read_bytes()[:-5000])
    options = ["--budget", "16MiB", "--max-body", "1MiB", "--max-json", "256KiB", "--grpc-port", "0"]
    with Server(folder, *options, token=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


X = np.linspace(-1, 1, 16, dtype=np.float32)[None]
GOOD = Tensor("input", X)
WHOLE = np.array([[1, 0], [7, 100]])
ALL_TYPES = tuple(Tensor(dtype, WHOLE.astype(dtype)) for dtype in TYPES)
ANSWERED = {
    "one input": Case((GOOD,)),
    "an id": Case((GOOD,), id="an\nid \u00e9"),
    "wanted outputs": Case(
        (Tensor("a", X[:, :2]), Tensor("b", X[:, 2:4])), model="two", outputs=(("difference", ()), ("sum", ()))
    ),
    "outputs of other types": Case((Tensor("x", X.reshape(8, 2)),), model="kinds"),
    "parameters that change nothing": Case(
        (Tensor("input", X, parameters=(("sequence_id", 0), ("mood", "good"))),),
        parameters=(("timeout", 10), ("priority", 3), ("ratio", 0.5), ("flag", True)),
    ),
    "every type": Case(ALL_TYPES, model="types"),
}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", ANSWERED)
def test_the_same_answers(server: Server, stub: Any, name: str, binary: bool) -> None:
    case = ANSWERED[name]
    path, body, headers = as_http(case, binary)
    status, answer, content = server.ask(path, body, headers)
    assert status == 200, content
    if not binary:  # FP16 has no field for numbers
        case = Case(tuple(t for t in case.inputs if t.array.dtype != np.float16), model=case.model)
    length = int(answer["Inference-Header-Content-Length"])
    told, rest = json.loads(content[:length]), content[length:]
    if not binary and name == "every type":
        return
    found = stub.ModelInfer(as_grpc(ANSWERED[name], binary))
    assert (found.model_name, found.model_version, found.id) == (
        told["model_name"],
        told["model_version"],
        told["id"],
    )
    outputs = [{"name": o.name, "shape": list(o.shape), "datatype": o.datatype} for o in found.outputs]
    assert outputs == [{key: output[key] for key in ("name", "shape", "datatype")} for output in told["outputs"]]
    assert b"".join(found.raw_output_contents) == rest


MANY = "n" * 1025
REFUSED = {
    "an unknown model": Case((GOOD,), "no model named 'nobody' is served", model="nobody"),
    "another version": Case((GOOD,), "found a request for '2'", version="2"),
    "a broken file": Case((GOOD,), "the server's log has the reason", model="broken"),
    "a file cut short": Case((GOOD,), "the server's log has the reason", model="cut"),
    "no inputs": Case((), "input 'input' is missing"),
    "another input": Case((GOOD, Tensor("other", X)), "no input is named ['other']"),
    "an input twice": Case((GOOD, GOOD), "input 'input': expected one tensor of this name, found two"),
    "no name": Case((Tensor("", X),), "an input: expected a name of 1 to 1024 characters, found a string of 0"),
    "a long name": Case((Tensor(MANY, X),), "found a string of 1025 characters"),
    "another rank": Case((Tensor("input", X[0]),), "expected shape (N, 16), found (16,)"),
    "another width": Case((Tensor("input", X.reshape(2, 8)),), "expected shape (N, 16), found (2, 8)"),
    "another type": Case((Tensor("input", X.astype(np.int64)),), "expected datatype FP32, found INT64"),
    "BYTES": Case((Tensor("input", X, datatype="BYTES"),), "or BOOL, found 'BYTES'"),
    "BF16": Case((Tensor("input", X, datatype="BF16"),), "found 'BF16': send bfloat16 as FP32"),
    "UINT64": Case((Tensor("input", X, datatype="UINT64"),), "found 'UINT64'"),
    "an extent of 0": Case((Tensor("input", X, (0, 16)),), "whole numbers above 0, found [0, 16]"),
    "an extent below 0": Case((Tensor("input", X, (-1, 16)),), "whole numbers above 0, found [-1, 16]"),
    "many axes": Case((Tensor("input", X, (1,) * 32 + (16,)),), "a shape of at most 32 whole numbers above 0"),
    "more samples than a pass may have": Case(
        (Tensor("input", np.zeros((33, 16), np.float32)),), "at most 32 samples in a request (--max-batch), found 33"
    ),
    "another output": Case((GOOD,), "no output is named ['secret']", outputs=(("secret", ()),)),
    "an output twice": Case((GOOD,), "expected one request for this output, found two", outputs=(("output", ()),) * 2),
    "an output without a name": Case((GOOD,), "an output: expected a name", outputs=(("", ()),)),
    "a classification": Case((GOOD,), "classification is not", outputs=(("output", (("classification", 3),)),)),
    "an output in words": Case((GOOD,), "expected true or false", outputs=(("output", (("binary_data", "no"),)),)),
    "a long id": Case((GOOD,), "id: expected a string of at most 1024 characters", id=MANY),
    "a sequence": Case((GOOD,), "sequences are not supported", parameters=(("sequence_id", "s"),)),
    "shared memory": Case((Tensor("input", X, parameters=(("shared_memory_region", "r"),)),), "shared memory is not"),
}
#: Requests that are wrong only in one form of data, and requests whose errors name the form of data.
REFUSED_NUMBERS = {
    "too few numbers": Case((Tensor("input", X, (2, 16)),), "expected 32 numbers for shape [2, 16], found 16"),
    "too many numbers": Case((Tensor("input", X, (1, 8)),), "expected 8 numbers for shape [1, 8], found 16"),
    "a shape that overflows": Case((Tensor("input", X, (2**62, 4)),), "expected 18446744073709551616 numbers"),
    "a number beyond uint8": Case((Tensor("uint8", [[300, 1]], datatype="UINT8"),), "from 0 to 255, as uint8 has"),
    "a number beyond int16": Case((Tensor("int16", [[-32769]], datatype="INT16"),), "from -32768 to 32767, as int16"),
}


def both(server: Server, stub: Any, case: Case, binary: bool) -> tuple[int, str, Any, str]:
    """Status and text of HTTP, code and text of gRPC."""
    path, body, headers = as_http(case, binary)
    status, _, content = server.ask(path, body, headers)
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(as_grpc(case, binary))
    return status, json.loads(content)["error"], refused.value.code(), refused.value.details()


@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_NUMBERS])
def test_the_same_errors(server: Server, stub: Any, name: str) -> None:
    case = (REFUSED | REFUSED_NUMBERS)[name]
    status, text, code, details = both(server, stub, case, binary=name in REFUSED)
    assert case.reason in text
    assert details == text
    assert code == CODES.get(status, grpc.StatusCode.INTERNAL) != grpc.StatusCode.OK


def test_errors_about_bytes(server: Server, stub: Any) -> None:
    """HTTP names the parameter with the number of bytes, which gRPC has no need of."""
    case = Case((Tensor("input", X, (2, 16)),))
    status, text, code, details = both(server, stub, case, binary=True)
    assert (status, code) == (400, grpc.StatusCode.INVALID_ARGUMENT)
    assert details == "input 'input': expected 128 bytes for shape [2, 16], found 64"
    assert text == details.replace("found 64", "found binary_data_size 64")


def test_a_message_that_is_too_large(stub: Any) -> None:
    """grpcio refuses it with the code for 413, in its own words."""
    case = Case((Tensor("input", np.zeros((20_000, 16), np.float32)),))
    with pytest.raises(grpc.RpcError, match="larger than max") as refused:
        stub.ModelInfer(as_grpc(case, True))
    assert refused.value.code() == CODES[413] == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("path", "call", "request_"),
    [
        ("/v2/models/nobody", "ModelMetadata", service_pb2.ModelMetadataRequest(name="nobody")),
        ("/v2/models/mlp/versions/2", "ModelMetadata", service_pb2.ModelMetadataRequest(name="mlp", version="2")),
        ("/v2/models/broken", "ModelMetadata", service_pb2.ModelMetadataRequest(name="broken")),
        ("/v2/repository/index", "RepositoryIndex", service_pb2.RepositoryIndexRequest()),
        ("/v2/repository/models/x/load", "RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name="x")),
    ],
)
def test_the_same_errors_of_other_calls(server: Server, stub: Any, path: str, call: str, request_: Any) -> None:
    method = "POST" if "repository" in path else "GET"
    status, _, content = server.ask(path, method=method)
    with pytest.raises(grpc.RpcError) as refused:
        getattr(stub, call)(request_)
    assert refused.value.details() == json.loads(content)["error"]
    assert refused.value.code() == CODES.get(status, grpc.StatusCode.INTERNAL)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (".hidden", "expected a model name of at most 128 letters"),
        ("../x", "expected a model name of at most 128 letters"),
        ("", "expected a model name of at most 128 letters"),
        ("other", "the repository has no model named 'other'"),
    ],
)
def test_the_names_of_models_to_load(stub: Any, model: str, reason: str) -> None:
    with pytest.raises(grpc.RpcError, match=reason):
        stub.RepositoryModelLoad(
            service_pb2.RepositoryModelLoadRequest(model_name=model), metadata=(("authorization", f"Bearer {TOKEN}"),)
        )


def test_every_status_has_a_code() -> None:
    assert set(http._TOLD.values()) <= CODES.keys()
    assert len(set(CODES.values()) - {grpc.StatusCode.OK}) >= 10
    assert grpc.StatusCode.INTERNAL not in CODES.values()  # for errors of the server, such as 500


def test_a_client_that_should_try_again_is_told_when(tmp_path: Path) -> None:
    """HTTP has the header Retry-After for this."""
    packing.two(tmp_path)
    case = Case((Tensor("a", X[:, :2]), Tensor("b", X[:, 2:4])), model="two")
    options = ["--budget", "16MiB", "--grpc-port", "0", "--max-queue", "1", "--max-delay", "3"]
    with Server(tmp_path, *options) as server, grpc.insecure_channel(server.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        first = stub.ModelInfer.future(as_grpc(case, True))
        zoo.eventually(lambda: b"streamrt_queue_length 1.0" in server.ask("/metrics")[2])
        status, text, code, details = both(server, stub, case, binary=True)
        assert (status, code, details) == (503, grpc.StatusCode.UNAVAILABLE, text)
        with pytest.raises(grpc.RpcError, match="--max-queue") as refused:
            stub.ModelInfer(as_grpc(case, True))
        assert ("grpc-retry-pushback-ms", "1000") in refused.value.trailing_metadata()
        assert first.result(60).model_name == "two"


@pytest.mark.parametrize("letter", ["\u20ac", "%"])
def test_a_long_text_of_an_error_is_cut(stub: Any, letter: str) -> None:
    """Clients accept 8 KiB of metadata, where a byte takes three."""
    for count in (50, 1000):
        tensor = Tensor(letter * count, X)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(as_grpc(Case((tensor, tensor)), True))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        whole = f"input '{letter * count}': expected one tensor of this name, found two"
        cut = f"{whole[:500]}..." if len(whole.encode()) > 2000 else whole
        assert refused.value.details() == cut
