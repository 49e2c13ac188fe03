"""The Open Inference Protocol: Triton's own client against a server in another process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from serve.process import TOKEN
from streamrt.format import read_header

pytestmark = pytest.mark.extras

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def http() -> Any:
    return pytest.importorskip("tritonclient.http")


@pytest.fixture
def client(server: Any, http: Any) -> Iterator[Any]:
    with http.InferenceServerClient(server.address) as connected:
        yield connected


@pytest.fixture
def make_input(http: Any) -> Any:
    def make(name: str, array: np.ndarray, binary: bool = True) -> Any:
        tensor = http.InferInput(name, list(array.shape), "FP32")
        tensor.set_data_from_numpy(array, binary_data=binary)
        return tensor

    return make


def random_input(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata() == {
        "name": "streamrt",
        "version": streamrt.__version__,
        "extensions": ["binary_tensor_data", "model_repository"],
    }


def test_model_metadata(client: Any, repository: Path) -> None:
    version = read_header(repository / "kinds.safetensors").checksum
    assert client.get_model_metadata("kinds") == {
        "name": "kinds",
        "versions": [version],
        "platform": "streamrt",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [
            {"name": "positive", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "above", "datatype": "BOOL", "shape": [-1, 2]},
            {"name": "best", "datatype": "INT64", "shape": [-1]},
        ],
    }
    assert client.get_model_metadata("kinds", version) == client.get_model_metadata("kinds")
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("kinds", version)
    assert not client.is_model_ready("mlp", version)
    assert not client.is_model_ready("unknown")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("batch", [1, 5])
def test_infer(client, http, make_input, repository, binary_in, binary_out, batch) -> None:
    x = random_input(batch, 16)
    outputs = None if binary_out is None else [http.InferRequestedOutput("output", binary_data=binary_out)]
    result = client.infer("mlp", [make_input("input", x, binary_in)], request_id="an id", outputs=outputs)
    with streamrt.Model(repository / "mlp.safetensors", None) as model:
        np.testing.assert_allclose(result.as_numpy("output"), model(x), rtol=1e-5, atol=1e-5)
        version = model.checksum
    told = result.get_response()
    assert (told["model_name"], told["model_version"], told["id"]) == ("mlp", version, "an id")
    assert ("data" in told["outputs"][0]) == (binary_out is False)


def test_several_inputs_and_outputs_in_either_form(client, http, make_input) -> None:
    a, b = random_input(3, 2, seed=1), random_input(3, 2, seed=2)
    inputs = [make_input("b", b, True), make_input("a", a, False)]
    outputs = [http.InferRequestedOutput("difference"), http.InferRequestedOutput("sum", binary_data=False)]
    (version,) = client.get_model_metadata("two")["versions"]
    result = client.infer("two", inputs, model_version=version, outputs=outputs)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["difference", "sum"]
    np.testing.assert_array_equal(result.as_numpy("sum"), a + b)
    np.testing.assert_array_equal(result.as_numpy("difference"), a - b)
    only = client.infer("two", inputs, outputs=outputs[:1])
    np.testing.assert_array_equal(only.as_numpy("difference"), a - b)
    assert only.as_numpy("sum") is None


@pytest.mark.parametrize("binary", [True, False])
def test_outputs_of_other_types(client, http, make_input, binary) -> None:
    x = np.float32([[1, -2], [-3, 4]])
    outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in ("positive", "above", "best")]
    result = client.infer("kinds", [make_input("x", x)], outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("positive"), [[1, 0], [0, 4]])
    np.testing.assert_array_equal(result.as_numpy("above"), [[False, False], [False, False]])
    np.testing.assert_array_equal(result.as_numpy("best"), [0, 1])
    assert result.as_numpy("above").dtype == np.bool_
    assert result.as_numpy("best").dtype == np.int64


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(client, make_input, algorithm) -> None:
    a, b = random_input(3, 2, seed=1), random_input(3, 2, seed=2)
    inputs = [make_input("a", a), make_input("b", b)]
    result = client.infer(
        "two", inputs, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    np.testing.assert_array_equal(result.as_numpy("sum"), a + b)


def test_parameters_that_change_nothing_are_accepted(client, make_input) -> None:
    x = random_input(1, 16)
    result = client.infer("mlp", [make_input("input", x)], priority=3, timeout=10, parameters={"mood": "good"})
    assert result.as_numpy("output").shape == (1, 10)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sequence_id": 7, "sequence_start": True}, "sequences are not supported"),
        ({"classes": 3}, "classification is not supported"),
        ({"region": "shared"}, "shared memory is not supported"),
    ],
)
def test_unsupported_requests_are_refused(client, http, make_input, options, reason) -> None:
    tensor = make_input("input", random_input(1, 16))
    outputs = [http.InferRequestedOutput("output", class_count=options.pop("classes", 0))]
    if "region" in options:
        tensor.set_shared_memory(options.pop("region"), 64)
    with pytest.raises(http.InferenceServerException, match=reason) as refused:
        client.infer("mlp", [tensor], outputs=outputs, **options)
    assert refused.value.status() == "400"


def test_concurrent_requests(client, http, server, make_input, repository) -> None:
    x = [random_input(1 + i % 3, 16, seed=i) for i in range(24)]
    with streamrt.Model(repository / "mlp.safetensors", None) as model:
        expected = [model(array) for array in x]
    with http.InferenceServerClient(server.address, concurrency=8) as many:
        pending = [many.async_infer("mlp", [make_input("input", array)]) for array in x]
        for request, wanted in zip(pending, expected, strict=True):
            np.testing.assert_allclose(request.get_result().as_numpy("output"), wanted, rtol=1e-5, atol=1e-5)


def test_the_repository(client, http, make_input) -> None:
    def states(**query: object) -> dict[str, str]:
        return {entry["name"]: entry["state"] for entry in client.get_model_repository_index(headers=AUTHORIZED)}

    assert states() == {"kinds": "READY", "mlp": "READY", "two": "READY"}
    client.load_model("two", headers=AUTHORIZED)
    client.unload_model("two", headers=AUTHORIZED)
    try:
        assert states() == {"kinds": "READY", "mlp": "READY", "two": "UNAVAILABLE"}
        assert not client.is_model_ready("two")
        inputs = [make_input(name, random_input(1, 2)) for name in "ab"]
        with pytest.raises(http.InferenceServerException, match="no model named 'two'") as refused:
            client.infer("two", inputs)
        assert refused.value.status() == "404"
        with pytest.raises(http.InferenceServerException, match="no model named 'two'"):
            client.unload_model("two", headers=AUTHORIZED)
    finally:
        client.load_model("two", headers=AUTHORIZED)
    assert client.is_model_ready("two")
    assert client.infer("two", inputs).as_numpy("sum").shape == (1, 2)
    with pytest.raises(http.InferenceServerException, match="no model named 'other'"):
        client.load_model("other", headers=AUTHORIZED)
    with pytest.raises(http.InferenceServerException, match="parameters: expected none"):
        client.load_model("two", headers=AUTHORIZED, config="{}")


def test_the_repository_needs_the_token(client, http) -> None:
    for headers in (None, {"Authorization": "Bearer another-token-0123456789"}, {"Authorization": TOKEN}):
        for call in (
            lambda headers=headers: client.get_model_repository_index(headers=headers),
            lambda headers=headers: client.load_model("two", headers=headers),
            lambda headers=headers: client.unload_model("two", headers=headers),
        ):
            with pytest.raises(http.InferenceServerException, match="expected the bearer token") as refused:
                call()
            assert refused.value.status() == "401"
    assert client.is_model_ready("two")
