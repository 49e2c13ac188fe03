"""The gRPC form of the Open Inference Protocol: Triton's own client against a server in another process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from markers import needs
from model import zoo
from serve import packing
from serve.process import TOKEN, Server
from streamrt.format import read_header
from streamrt.graph import TYPES

pytestmark = pytest.mark.extras
needs("grpc", "google.protobuf", "starlette", "prometheus_client", "tritonclient.grpc")

import grpc  # noqa: E402
import tritonclient.grpc as triton  # noqa: E402

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    zoo.mlp(made, 16, 64, 32, 10)
    packing.two(made)
    packing.kinds(made)
    packing.types(made)
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with Server(folder, "--budget", "16MiB", "--max-body", "1MiB", "--grpc-port", "0", token=TOKEN) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(server.grpc_address) as connected:
        yield connected


def tensor(name: str, array: np.ndarray, datatype: str = "FP32") -> Any:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def ask(client: Any, model: str, inputs: list[Any]) -> Future[Any]:
    """Begin an inference; returns the result to come."""
    future = Future[Any]()

    def end(result: Any, error: Exception | None) -> None:
        if error:
            future.set_exception(error)
        else:
            future.set_result(result)

    client.async_infer(model, inputs, end)
    return future


def test_health_and_metadata(client: Any, server: Server) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    told = client.get_server_metadata()
    assert (told.name, told.version) == ("streamrt", streamrt.__version__)
    assert list(told.extensions) == ["binary_tensor_data", "model_repository"]


def test_model_metadata(client: Any, folder: Path) -> None:
    version = read_header(folder / "kinds.safetensors").checksum
    assert client.get_model_metadata("kinds", as_json=True) == {
        "name": "kinds",
        "versions": [version],
        "platform": "streamrt",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": ["-1", "2"]}],
        "outputs": [
            {"name": "positive", "datatype": "FP32", "shape": ["-1", "2"]},
            {"name": "above", "datatype": "BOOL", "shape": ["-1", "2"]},
            {"name": "best", "datatype": "INT64", "shape": ["-1"]},
        ],
    }
    assert client.get_model_metadata("kinds", version) == client.get_model_metadata("kinds")
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("kinds", version)
    assert not client.is_model_ready("mlp", version)
    assert not client.is_model_ready("unknown")


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("wanted", [True, False])
def test_infer(client: Any, folder: Path, batch: int, wanted: bool) -> None:
    x = zoo.random_input(batch, 16)
    outputs = [triton.InferRequestedOutput("output")] if wanted else None
    result = client.infer("mlp", [tensor("input", x)], request_id="an id", outputs=outputs)
    with streamrt.Model(folder / "mlp.safetensors", None) as model:
        np.testing.assert_allclose(result.as_numpy("output"), model(x), rtol=1e-5, atol=1e-5)
        version = model.checksum
    told = result.get_response()
    assert (told.model_name, told.model_version, told.id) == ("mlp", version, "an id")


def test_several_inputs_and_outputs(client: Any) -> None:
    a, b = zoo.random_input(3, 2, seed=1), zoo.random_input(3, 2, seed=2)
    inputs = [tensor("b", b), tensor("a", a)]
    outputs = [triton.InferRequestedOutput("difference"), triton.InferRequestedOutput("sum")]
    (version,) = client.get_model_metadata("two").versions
    result = client.infer("two", inputs, model_version=version, outputs=outputs)
    assert [output.name for output in result.get_response().outputs] == ["difference", "sum"]
    np.testing.assert_array_equal(result.as_numpy("sum"), a + b)
    np.testing.assert_array_equal(result.as_numpy("difference"), a - b)
    only = client.infer("two", inputs, outputs=outputs[:1])
    np.testing.assert_array_equal(only.as_numpy("difference"), a - b)
    assert only.as_numpy("sum") is None


def test_outputs_of_other_types(client: Any) -> None:
    result = client.infer("kinds", [tensor("x", np.float32([[1, -2], [-3, 4]]))])
    np.testing.assert_array_equal(result.as_numpy("positive"), [[1, 0], [0, 4]])
    np.testing.assert_array_equal(result.as_numpy("above"), [[False, False], [False, False]])
    np.testing.assert_array_equal(result.as_numpy("best"), [0, 1])
    assert (result.as_numpy("above").dtype, result.as_numpy("best").dtype) == (np.bool_, np.int64)


def test_every_type(client: Any) -> None:
    whole = np.array([[1, 0], [7, 100]])
    arrays = {dtype: whole.astype(dtype) for dtype in TYPES} | {"int64": whole * 2**50}
    datatypes = {told.name: told.datatype for told in client.get_model_metadata("types").inputs}
    result = client.infer("types", [tensor(name, array, datatypes[name]) for name, array in arrays.items()])
    assert len(arrays) == 11
    for name, array in arrays.items():
        found = result.as_numpy(f"{name}_out")
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(client: Any, algorithm: str) -> None:
    a, b = np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32)
    result = client.infer("two", [tensor("a", a), tensor("b", b)], compression_algorithm=algorithm)
    np.testing.assert_array_equal(result.as_numpy("sum"), a + b)


def test_parameters_that_change_nothing_are_accepted(client: Any) -> None:
    x = zoo.random_input(1, 16)
    result = client.infer("mlp", [tensor("input", x)], priority=3, timeout=10, parameters={"mood": "good", "p": 0.5})
    assert result.as_numpy("output").shape == (1, 10)


def test_asynchronous_requests(client: Any, folder: Path) -> None:
    x = [zoo.random_input(1 + i % 3, 16, seed=i) for i in range(24)]
    with streamrt.Model(folder / "mlp.safetensors", None) as model:
        expected = [model(array) for array in x]
    pending = [ask(client, "mlp", [tensor("input", array)]) for array in x]
    for request, wanted in zip(pending, expected, strict=True):
        np.testing.assert_allclose(request.result(60).as_numpy("output"), wanted, rtol=1e-5, atol=1e-5)


def test_the_repository(client: Any) -> None:
    def states() -> dict[str, str]:
        return {entry.name: entry.state for entry in client.get_model_repository_index(headers=AUTHORIZED).models}

    ready = dict.fromkeys(["kinds", "mlp", "two", "types"], "READY")
    assert states() == ready
    client.load_model("two", headers=AUTHORIZED)
    client.unload_model("two", headers=AUTHORIZED)
    try:
        assert states() == ready | {"two": "UNAVAILABLE"}
        assert not client.is_model_ready("two")
        with pytest.raises(triton.InferenceServerException, match="no model named 'two'"):
            client.infer("two", [tensor(name, np.ones((1, 2), np.float32)) for name in "ab"])
        with pytest.raises(triton.InferenceServerException, match="no model named 'two'"):
            client.unload_model("two", headers=AUTHORIZED)
    finally:
        client.load_model("two", headers=AUTHORIZED)
    assert client.is_model_ready("two")
    with pytest.raises(triton.InferenceServerException, match="no model named 'other'") as refused:
        client.load_model("other", headers=AUTHORIZED)
    assert refused.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(triton.InferenceServerException, match="parameters: expected none"):
        client.load_model("two", headers=AUTHORIZED, config="{}")


def test_the_index_of_models_that_are_ready(client: Any, server: Server) -> None:
    client.unload_model("two", headers=AUTHORIZED)
    try:
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
            request = triton.service_pb2.RepositoryIndexRequest(ready=True)
            found = stub.RepositoryIndex(request, metadata=tuple(AUTHORIZED.items()))
        assert [entry.name for entry in found.models] == ["kinds", "mlp", "types"]
    finally:
        client.load_model("two", headers=AUTHORIZED)


CONTROL: dict[str, Callable[[Any, Any], Any]] = {
    "index": lambda client, headers: client.get_model_repository_index(headers=headers),
    "load": lambda client, headers: client.load_model("two", headers=headers),
    "unload": lambda client, headers: client.unload_model("two", headers=headers),
}


@pytest.mark.parametrize("call", CONTROL)
def test_the_repository_needs_the_token(client: Any, call: str) -> None:
    for headers in (None, {"authorization": "Bearer another-token-0123456789"}, {"authorization": TOKEN}):
        with pytest.raises(triton.InferenceServerException, match="expected the bearer token") as refused:
            CONTROL[call](client, headers)
        assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
    assert client.is_model_ready("two")


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_model_config("mlp"),
        lambda client: client.get_inference_statistics(),
        lambda client: client.get_trace_settings(),
        lambda client: client.register_system_shared_memory("r", "/dev/mem", 64),
    ],
)
def test_other_calls_of_triton_are_not_implemented(client: Any, call: Callable[[Any], object]) -> None:
    with pytest.raises(triton.InferenceServerException) as refused:
        call(client)
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_streams_are_not_implemented(client: Any) -> None:
    found: list[tuple[Any, Any]] = []
    client.start_stream(lambda result, error: found.append((result, error)))
    zoo.eventually(lambda: bool(found))
    client.stop_stream()
    assert (found[0][0], found[0][1].status()) == (None, "StatusCode.UNIMPLEMENTED")


def test_calls_are_counted_and_logged(folder: Path) -> None:
    with Server(folder, "--budget", "16MiB", "--grpc-port", "0") as server:
        with triton.InferenceServerClient(server.grpc_address) as client:
            inputs = [tensor(name, np.ones((1, 2), np.float32)) for name in "ab"]
            for _ in range(3):
                client.infer("two", inputs, request_id="an\nid")
            for name, given in (("two", []), ("no\none", inputs)):
                with pytest.raises(triton.InferenceServerException):
                    client.infer(name, given)
            with pytest.raises(triton.InferenceServerException, match="calls are off: start the server with --control"):
                client.load_model("two")
            assert list(client.get_server_metadata().extensions) == ["binary_tensor_data"]
        text = server.ask("/metrics")[2].decode()
        assert 'streamrt_requests_total{model="two",outcome="ok"} 3.0' in text
        assert 'streamrt_requests_total{model="two",outcome="refused"} 1.0' in text
        assert 'streamrt_requests_total{model="",outcome="refused"} 1.0' in text
        assert "streamrt_request_seconds_count 5.0" in text
        assert "streamrt_request_bytes 0.0" in text
    lines = [line for line in server.log if line["event"] == "request" and line["method"] == "gRPC"]
    route = "/inference.GRPCInferenceService/ModelInfer"
    assert [(line["route"], line["model"], line["status"], line["code"], line["id"]) for line in lines[2:5]] == [
        (route, "two", 200, "OK", "an\nid"),
        (route, "two", 400, "INVALID_ARGUMENT", None),
        (route, "", 404, "NOT_FOUND", None),
    ]
    assert (lines[5]["route"][-4:], lines[5]["status"], lines[5]["code"]) == ("Load", 403, "PERMISSION_DENIED")
    assert all(line["client"] == "127.0.0.1" and line["seconds"] >= 0 for line in lines)


#: A request waits until there is another one.
PAIRS = ("--budget", "16MiB", "--grpc-port", "0", "--max-delay", "600", "--max-batch", "2")


def test_requests_of_both_forms_share_a_pass(folder: Path) -> None:
    with Server(folder, *PAIRS) as server:
        with triton.InferenceServerClient(server.grpc_address) as client:
            pending = ask(client, "two", [tensor(name, np.ones((1, 2), np.float32)) for name in "ab"])
            zoo.eventually(lambda: b"streamrt_queue_length 1.0" in server.ask("/metrics")[2])
            status, _, _ = server.ask("/predictions/two", '{"a": [[1, 2]], "b": [[3, 4]]}')
            assert status == 200
            np.testing.assert_array_equal(pending.result(60).as_numpy("sum"), [[2, 2]])
        text = server.ask("/metrics")[2]
    assert b"streamrt_batch_requests_count 1.0" in text
    assert b"streamrt_batch_requests_sum 2.0" in text


def test_calls_in_flight_end_before_the_server_does(folder: Path) -> None:
    body = b'{"a": [[1, 2]], "b": [[3, 4]]}'
    with Server(folder, *PAIRS) as server:
        with (
            server.connect() as other,
            server.connect() as idle,
            triton.InferenceServerClient(server.grpc_address) as client,
        ):
            pending = ask(client, "two", [tensor(name, np.ones((1, 2), np.float32)) for name in "ab"])
            zoo.eventually(lambda: b"streamrt_queue_length 1.0" in server.ask("/metrics")[2])
            held = server.metric("request_bytes")
            other.sendall(b"POST /predictions/two HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{" % len(body))
            zoo.eventually(lambda: server.metric("request_bytes") > held)
            server.process.terminate()
            assert idle.recv(100) == b""  # the server has begun to end
            assert not pending.done()
            other.sendall(body[1:])  # and the call shares a pass
            assert other.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            np.testing.assert_array_equal(pending.result(60).as_numpy("sum"), [[2, 2]])
        assert server.wait() == 0
    assert not [line for line in server.log if line["event"] == "not JSON" or "traceback" in line]


def test_calls_that_take_too_long_end_after_the_time_of_grace(folder: Path) -> None:
    with Server(folder, "--budget", "16MiB", "--grpc-port", "0", "--max-delay", "20", "--grace", "1") as server:
        with triton.InferenceServerClient(server.grpc_address) as client:
            pending = ask(client, "two", [tensor(name, np.ones((1, 2), np.float32)) for name in "ab"])
            zoo.eventually(lambda: b"streamrt_queue_length 1.0" in server.ask("/metrics")[2])
            began = time.monotonic()
            server.process.terminate()
            with pytest.raises(triton.InferenceServerException):
                pending.result(60)
        assert server.wait() == 0
        assert time.monotonic() - began < 15
