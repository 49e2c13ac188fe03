"""Clients that do not send, or do not read their answers: their bytes are counted, and their connections end."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from markers import needs
from model import zoo
from serve import packing
from serve.process import Server
from streamrt.serve.access import Gate, OverloadedError

pytestmark = pytest.mark.extras
needs("starlette", "prometheus_client")

from serve.asgi import ask  # noqa: E402
from streamrt.serve.service import Service  # noqa: E402
from streamrt.serve.settings import Settings  # noqa: E402

MIB = 1 << 20
#: Values of an output. An answer for 32 samples has 8 MiB: more than the buffers of sockets take.
WIDTH = 1 << 16
X = zoo.random_input(32, 2)


def large(samples: int = 32) -> bytes:
    """A request to ``mlp`` with this many samples, for an answer in binary data."""
    tensor = {"name": "input", "shape": [samples, 2], "datatype": "FP32", "data": X[:samples].ravel().tolist()}
    return json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()


def test_answers_are_bounded_with_the_bodies() -> None:
    gate = Gate(200 << 10)
    with gate.hold() as held:
        held.add(100 << 10)
        with gate.answer(1 << 30):  # the first answer has no limit
            assert gate.held == (164 << 10) + (1 << 30)
            with pytest.raises(OverloadedError, match="and 1 more would exceed 204800"), gate.answer(1):
                pass
            with pytest.raises(OverloadedError, match="--max-held"):
                held.add(1)
        with gate.answer(30 << 10), gate.answer(6 << 10), pytest.raises(OverloadedError), gate.answer(1):
            pass
    assert gate.held == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("slow")
    zoo.mlp(made, 2, WIDTH)
    packing.two(made)
    return made


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    made = Service(Settings(folder, budget="16MiB", max_body=2 * MIB, max_held=3 * MIB))
    made.catalog.register_all()
    yield made
    made.close()


def test_an_answer_is_counted_until_it_is_taken(service: Service) -> None:
    path = "/v2/models/mlp/infer"

    async def run() -> None:
        parts: list[int] = []
        go_on = asyncio.Event()

        async def send(message: dict[str, Any]) -> None:
            if not message.get("more_body", True):  # the end: the client has taken everything before it
                assert parts
                await go_on.wait()
            parts.append(len(message.get("body", b"")))

        slow = asyncio.create_task(ask(service, path, large(), send=send))
        async with asyncio.timeout(60):
            while not service.gate.held > 8 * MIB:  # this answer is sent although it is larger than the limit
                await asyncio.sleep(0.01)
        status, body = await ask(service, path, large(1))
        assert (status, json.loads(body)["type"]) == (503, "OverloadedError")
        assert max(parts) <= MIB
        go_on.set()
        status, body = await slow
        assert (status, sum(parts)) == (200, len(body))
        assert service.gate.held == 0
        assert (await ask(service, path, large(1)))[0] == 200
        small = json.dumps({"a": [[1, 2]], "b": [[3, 4]]}).encode()
        assert (await ask(service, "/predictions/two", small))[0] == 200
        assert service.gate.held == 0

    asyncio.run(run())


@pytest.fixture(scope="module")
def hasty(folder: Path) -> Iterator[Server]:
    """A server whose deadlines for clients are 1 s."""
    with Server(folder, "--budget", "16MiB", "--body-timeout", "1") as running:
        yield running


def connect(server: Server, receive: int | None = None) -> socket.socket:
    host, port = server.address.split(":")
    made = socket.socket()
    if receive is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    made.settimeout(60)
    made.connect((host, int(port)))
    return made


def post(path: str, body: bytes, length: int | None = None) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length or len(body)}\r\n\r\n".encode() + body


def held(server: Server) -> float:
    (line,) = [line for line in server.ask("/metrics")[2].splitlines() if line.startswith(b"streamrt_request_bytes ")]
    return float(line.split()[1])


def cut_off(server: Server) -> list[str]:
    return [line["reason"] for line in server.log if line["event"] == "cut off"]


def test_a_large_answer_is_counted_until_it_is_taken_and_arrives_whole(folder: Path) -> None:
    with Server(folder, "--budget", "16MiB") as server:
        with connect(server, receive=4096) as slow:
            slow.sendall(post("/v2/models/mlp/infer", large()))
            zoo.eventually(lambda: held(server) > 8 * MIB)
        zoo.eventually(lambda: held(server) == 0)  # the client has gone
        status, headers, body = server.ask("/v2/models/mlp/infer", large())
        assert status == 200
        found = np.frombuffer(body[int(headers["Inference-Header-Content-Length"]) :], np.float32)
        with streamrt.Model(folder / "mlp.safetensors", None) as model:
            zoo.assert_close(found.reshape(32, WIDTH), model(X))
        zoo.eventually(lambda: held(server) == 0)
        assert cut_off(server) == []


def test_an_answer_that_is_not_taken_is_given_up(hasty: Server) -> None:
    with connect(hasty, receive=4096) as slow:
        slow.sendall(post("/v2/models/mlp/infer", large()))
        zoo.eventually(lambda: "the answer was not taken in time" in cut_off(hasty))
        zoo.eventually(lambda: held(hasty) == 0)
        count = 0
        with suppress(ConnectionResetError):
            while chunk := slow.recv(1 << 20):
                count += len(chunk)
        assert count < 8 * MIB
    assert not [line for line in hasty.log if "traceback" in line]


#: By name: the bytes that a client sends before it stops, and the start of the answer before it is cut off.
UNFINISHED = {
    "nothing": (b"", b""),
    "a part of a head": (b"GET /ping HTTP/1.1\r\nHost: x\r\n", b""),
    "a part of another head": (b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\nGET /pi", b"HTTP/1.1 200"),
    "a body for nobody": (post("/v2/models/nobody/infer", b"{", 1000), b"HTTP/1.1 404"),
}


def test_the_wait_for_an_unfinished_request_ends(hasty: Server) -> None:
    with ExitStack() as stack:
        connections = {name: stack.enter_context(connect(hasty)) for name in UNFINISHED}
        for name, (sent, _) in UNFINISHED.items():
            connections[name].sendall(sent)
        for name, (_, answer) in UNFINISHED.items():
            found = b""
            with suppress(ConnectionResetError):
                while chunk := connections[name].recv(1 << 16):
                    found += chunk
            assert found.startswith(answer), name
            assert bool(found) == bool(answer), name


def test_a_head_that_arrives_byte_by_byte_is_cut_off(hasty: Server) -> None:
    with connect(hasty) as slow:
        slow.settimeout(0.05)
        slow.sendall(b"GET /ping HTTP/1.1\r\nX-Slow: ")
        ended = False
        for _ in range(1000):
            try:
                slow.sendall(b"x")
                ended = slow.recv(100) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
            if ended:
                break
        assert ended


def test_a_client_in_time_is_served_whatever_it_sent_before(hasty: Server) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(hasty)) for _ in range(3)]
        for connection in connections:
            for part in (b"GET /ping HT", b"TP/1.1\r\nHost: x\r\n\r\n", b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"):
                connection.sendall(part)
        with connect(hasty) as late:
            assert late.recv(1) == b""  # cut off after 1 s; the other connections were idle as long, and are not
        for connection in connections:
            connection.sendall(post("/predictions/two", b'{"a": [[1, 2]], "b": [[3, 4]]}'))
            found = b""
            while b'"sum"' not in found:
                found += connection.recv(1 << 16)
            assert found.count(b"HTTP/1.1 200") == 3
