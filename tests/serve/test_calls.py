"""Calls of multi-model-server, metrics, logs, and the control calls, which are off by default."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from model import zoo
from serve import packing
from serve.process import TOKEN, Server

pytestmark = pytest.mark.extras

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


def told(answer: tuple[int, Any, bytes]) -> tuple[int, Any]:
    return answer[0], json.loads(answer[2])


def test_ping(server: Server) -> None:
    assert told(server.ask("/ping")) == (200, {"health": "healthy!"})


def test_an_answer_is_not_held_back_for_acknowledgements(server: Server) -> None:
    """With Nagle's algorithm, the body of an answer would wait 40 ms for the acknowledgement of its head.

    On a busy machine most answers may take longer, but one of many does not.
    """
    connection = HTTPConnection(server.address, timeout=60)

    def seconds() -> float:
        began = time.monotonic()
        connection.request("GET", "/ping")
        connection.getresponse().read()
        return time.monotonic() - began

    seconds()  # it also connects
    assert any(seconds() < 0.03 for _ in range(500))
    connection.close()


def test_predictions(server: Server, repository: Path) -> None:
    x = zoo.random_input(3, 16)
    status, found = told(server.ask("/predictions/mlp", json.dumps(x.tolist())))
    with streamrt.Model(repository / "mlp.safetensors", None) as model:
        np.testing.assert_allclose(found, model(x), rtol=1e-5, atol=1e-5)
    assert status == 200
    answer = server.ask("/predictions/two", '{"a": [[1, 2]], "b": [[30, 40]]}')
    assert told(answer) == (200, {"sum": [[31, 42]], "difference": [[-29, -38]]})


def test_models_are_listed_registered_described_and_unregistered(server: Server) -> None:
    def ask(path: str, method: str | None = None, body: str | None = None) -> tuple[int, Any]:
        return told(server.ask(path, body, AUTHORIZED, method))

    files = {"kinds": "kinds.safetensors", "mlp": "mlp.safetensors", "two": "two.safetensors"}
    everything = [{"modelName": name, "modelUrl": file} for name, file in files.items()]
    assert ask("/models") == (200, {"models": everything})
    assert ask("/models?limit=2") == (200, {"models": everything[:2], "nextPageToken": "2"})
    assert ask("/models?limit=2&next_page_token=2") == (200, {"models": everything[2:]})
    assert ask("/models?next_page_token=9") == (200, {"models": []})

    new = "/models?url=two.safetensors&model_name=again"
    assert ask(new, "POST") == (200, {"status": 'Model "again" registered'})
    assert ask(new, "POST")[0] == 409
    status, found = ask("/models/again")
    assert (status, found["modelUrl"], found["batchSize"]) == (200, "two.safetensors", 32)
    assert found["workers"][0]["status"] == "UNAVAILABLE"
    body = '{"a": [[1, 2]], "b": [[3, 4]]}'
    assert told(server.ask("/predictions/again", body))[1]["sum"] == [[4, 6]]
    assert ask("/models/again")[1]["requests"] == 1
    assert b'model="again"' in server.ask("/metrics")[2]
    assert ask("/models/again", "DELETE") == (200, {"status": 'Model "again" unregistered'})
    assert ask("/models/again")[0] == ask("/models/again", "DELETE")[0] == 404
    assert server.ask("/predictions/again", body)[0] == 404
    assert b'model="again"' not in server.ask("/metrics")[2]

    assert ask(f"{new}&initial_workers=1&synchronous=true", "POST") == (200, {"status": "Worker scaled"})
    assert ask("/models/again")[1]["loads"] == 1
    assert ask("/models/again", "DELETE")[0] == 200
    assert ask(f"{new}&initial_workers=1", "POST") == (202, {"status": "Worker updated"})
    zoo.eventually(lambda: ask("/models/again")[1]["loads"] == 1)
    assert ask("/models/again", "DELETE")[0] == 200
    assert ask("/models") == (200, {"models": everything})


def prediction(body: str) -> bytes:
    """The head of a request for ``two`` with this body."""
    return f"POST /predictions/two HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()


def samples(text: bytes) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_metrics(repository: Path) -> None:
    with Server(repository, "--budget", "16MiB") as server:
        status, headers, _ = server.ask("/metrics")
        assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        body = '{"a": [[1, 2]], "b": [[3, 4]]}'
        for _ in range(3):
            assert server.ask("/predictions/two", body)[0] == 200
        assert server.ask("/predictions/two", "[]")[0] == 400
        for name in range(20):
            assert server.ask(f"/predictions/nobody{name}", body)[0] == 404
        found = samples(server.ask("/metrics")[2])
        assert found['streamrt_requests_total{model="two",outcome="ok"}'] == 3
        assert found['streamrt_requests_total{model="two",outcome="refused"}'] == 1
        assert found['streamrt_requests_total{model="",outcome="refused"}'] == 20
        assert len([name for name in found if name.startswith("streamrt_requests_total")]) == 5 + 1
        assert found["streamrt_request_seconds_count"] == 24
        assert found["streamrt_batch_requests_count"] == found["streamrt_batch_samples_sum"] == 3
        assert found["streamrt_queue_length"] == 0
        assert found["streamrt_pool_budget_bytes"] == 16 << 20
        assert found["streamrt_pool_models"] == 3
        assert found["streamrt_pool_requests_total"] == 3
        assert found["streamrt_pool_loads_total"] == 1


def test_logs_are_one_object_a_line(repository: Path) -> None:
    with Server(repository, "--budget", "16MiB") as server:
        server.ask("/v2/models/two/infer", '{"id": "an\\nid", "inputs": []}')
        server.ask("/v2/models/a%0Ab/ready")
        server.ask('/nowhere%0A{"event":"forged"}')
    assert all({"time", "level", "logger", "event"} <= line.keys() for line in server.log)
    requests = [line for line in server.log if line["event"] == "request"]
    assert [(line["route"], line["model"], line["status"], line["id"]) for line in requests] == [
        ("/v2/models/{model}/infer", "two", 400, "an\nid"),
        ("/v2/models/{model}/ready", "", 404, None),
        ("", "", 404, None),
    ]
    assert all(line["client"] == "127.0.0.1" and line["seconds"] >= 0 for line in requests)
    assert server.log[0]["event"] == "listening"
    assert server.log[0]["budget"] == 16 << 20
    assert server.log[-1]["event"] == "ended"


@pytest.fixture(scope="module")
def plain(repository: Path) -> Iterator[Server]:
    """A server without control calls, as it is by default."""
    with Server(repository, "--budget", "16MiB") as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/two/load"),
        ("POST", "/v2/repository/models/two/unload"),
        ("GET", "/models"),
        ("POST", "/models?url=two.safetensors"),
        ("GET", "/models/two"),
        ("DELETE", "/models/two"),
    ],
)
@pytest.mark.parametrize("headers", [None, AUTHORIZED, {"Authorization": "Bearer "}])
def test_control_is_off_by_default(plain: Server, method: str, path: str, headers: dict[str, str] | None) -> None:
    status, _, body = plain.ask(path, None, headers, method)
    assert status == 403
    assert b"are off" in body
    assert plain.ask("/v2/models/two/ready")[0] == 200
    assert told(plain.ask("/v2"))[1]["extensions"] == ["binary_tensor_data"]


def test_it_takes_connections_of_this_host_alone(plain: Server) -> None:
    assert plain.log[0]["host"] == "127.0.0.1"
    port = int(plain.address.split(":")[1])
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_a_model_that_is_too_large_for_the_pool(tmp_path: Path) -> None:
    zoo.mlp(tmp_path, 512, 1024, 512)
    packing.two(tmp_path)
    with Server(tmp_path, "--budget", "64KiB") as server:
        x = json.dumps(np.zeros((1, 512)).tolist())
        status, found = told(server.ask("/predictions/mlp", x))
        assert (status, found["type"]) == (507, "ModelTooLargeError")
        assert server.ask("/predictions/two", '{"a": [[1, 2]], "b": [[3, 4]]}')[0] == 200


def test_a_request_beyond_the_queue_gets_503(repository: Path) -> None:
    """Two requests wait. When one of them has left, a request with more samples fills the pass of the other."""
    body, statuses = '{"a": [[1, 2]], "b": [[3, 4]]}', []
    options = ["--max-queue", "4", "--max-delay", "600", "--max-batch", "3"]

    def ask() -> None:
        statuses.append(server.ask("/predictions/two", body)[0])

    with Server(repository, "--budget", "16MiB", *options) as server:
        waiting = threading.Thread(target=ask)
        with server.connect() as leaving:
            leaving.sendall(prediction(body) + body.encode())
            zoo.eventually(lambda: server.metric("queue_length") == 1)
            waiting.start()
            zoo.eventually(lambda: server.metric("queue_length") == 2)
            for _ in range(4):  # one model has half of the queue
                status, headers, answer = server.ask("/predictions/two", body)
                assert (status, json.loads(answer)["type"]) == (503, "QueueFullError")
                assert headers["Retry-After"] == "1"
        zoo.eventually(lambda: server.metric("queue_length") == 1)
        assert server.ask("/predictions/two", '{"a": [[1, 2], [1, 2]], "b": [[3, 4], [3, 4]]}')[0] == 200
        waiting.join()
        assert statuses == [200]
        found = samples(server.ask("/metrics")[2])
        assert found['streamrt_requests_total{model="two",outcome="busy"}'] == 4
        assert found["streamrt_batch_requests_sum"] == 2 * found["streamrt_batch_requests_count"] == 2


def test_a_request_that_is_not_served_in_time_gets_503(repository: Path) -> None:
    with Server(repository, "--budget", "16MiB", "--max-delay", "4", "--timeout", "1") as server:
        began = time.monotonic()
        status, headers, body = server.ask("/predictions/two", '{"a": [[1, 2]], "b": [[3, 4]]}')
        assert (status, headers["Retry-After"], json.loads(body)["type"]) == (503, "1", "PoolBusyError")
        assert time.monotonic() - began >= 1
        assert samples(server.ask("/metrics")[2])["streamrt_batch_requests_count"] == 0


def test_a_stopping_server_finishes_its_requests_and_takes_no_new_ones(repository: Path) -> None:
    """Five requests wait until a sixth, whose end is sent last, fills their pass."""
    body = '{"a": [[1, 2]], "b": [[3, 4]]}'
    options = ["--budget", "16MiB", "--max-delay", "600", "--max-batch", "6"]
    with Server(repository, *options) as server, server.connect() as last:
        last.sendall(prediction(body) + body[:1].encode())
        answers: list[tuple[int, Any, bytes]] = []

        def ask() -> None:
            answers.append(server.ask("/predictions/two", body))

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        zoo.eventually(lambda: samples(server.ask("/metrics")[2])["streamrt_queue_length"] == 5)
        with server.connect() as idle:
            server.process.terminate()
            assert idle.recv(100) == b""  # the server closed it
            with pytest.raises(ConnectionRefusedError):
                server.connect()
            assert answers == []
        last.sendall(body[1:].encode())
        assert last.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        for thread in threads:
            thread.join()
        assert [status for status, _, _ in answers] == [200] * 5
        assert server.wait() == 0
        assert server.log[-1]["event"] == "ended"


def test_a_signal_just_after_the_start_is_not_lost(repository: Path) -> None:
    for _ in range(5):
        assert Server(repository, "--budget", "16MiB").stop() == 0


def test_a_request_that_outlasts_the_grace_is_given_up(repository: Path) -> None:
    with Server(repository, "--budget", "16MiB", "--grace", "1") as server:
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as slow:
            slow.sendall(b"POST /predictions/two HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n[")
            zoo.eventually(lambda: f"streamrt_request_bytes {float(65536 + 1)}\n".encode() in server.ask("/metrics")[2])
            assert server.stop() == 0
