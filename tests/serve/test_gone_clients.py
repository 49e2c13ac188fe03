"""Clients that go away: a request that has not begun ends with its connection, and gives its memory back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

import streamrt
from markers import needs
from model import zoo
from serve.process import Server

pytestmark = pytest.mark.extras
needs("starlette", "uvicorn", "prometheus_client")

from starlette.requests import ClientDisconnect, Request  # noqa: E402

from streamrt.serve.inference import Watch, WithdrawnError  # noqa: E402

X = zoo.random_input(1, 64)
BODY = json.dumps({"inputs": [{"name": "input", "shape": [1, 64], "datatype": "FP32", "data": X[0].tolist()}]}).encode()


def post(model: str = "slow", body: bytes = BODY) -> bytes:
    return f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``slow`` streams about 1.5 MiB a pass; ``quick`` has a few KiB."""
    made = tmp_path_factory.mktemp("gone")
    zoo.mlp(made, 64, 1024, 512).path.rename(made / "slow.safetensors")
    zoo.mlp(made, 64, 32, 8).path.rename(made / "quick.safetensors")
    return made


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    found = {}
    for name in ("slow", "quick"):
        with streamrt.Model(folder / f"{name}.safetensors", None) as model:
            found[name] = model(X)
    return found


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    """While this file exists, a pass of ``slow`` takes about 25 s. The file grows by a byte with each read."""
    found = tmp_path / "slow"
    found.touch()
    return found


@pytest.fixture
def server(folder: Path, switch: Path, slow_reads: Callable[..., dict[str, str]]) -> Iterator[Server]:
    with Server(folder, "--budget", "1MiB", environment=slow_reads(0.06e6, switch)) as running:
        yield running


@pytest.fixture
def busy(folder: Path, slow_reads: Callable[..., dict[str, str]]) -> Iterator[Server]:
    """A pass of ``slow`` takes about 2 s."""
    with Server(folder, "--budget", "1MiB", environment=slow_reads(0.75e6)) as running:
        yield running


def values(answer: bytes) -> Any:
    told = json.loads(answer)
    return zoo.np.array(told["outputs"][0]["data"], zoo.np.float32).reshape(1, -1)


def infer(server: Server, model: str) -> Any:
    status, _, body = server.ask(f"/v2/models/{model}/infer", BODY)
    assert status == 200, body
    return values(body)


def close(connection: socket.socket) -> None:
    connection.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def pipeline(connection: socket.socket) -> None:
    """Begin the next request, and close."""
    connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\nGET /")
    connection.close()


@pytest.mark.parametrize("leave", [close, reset, pipeline])
def test_a_waiting_request_ends_with_its_connection(
    server: Server, switch: Path, expected: dict[str, Any], leave: Callable[[socket.socket], None]
) -> None:
    found: list[Any] = []
    occupant = threading.Thread(target=lambda: found.append(infer(server, "slow")))
    occupant.start()
    zoo.eventually(lambda: server.metric("pool_leases") == 1)  # its pass has begun
    held = server.metric("request_bytes")
    client = server.connect()
    client.sendall(post())
    zoo.eventually(lambda: server.metric("queue_length") == 1)
    assert server.metric("request_bytes") > held
    leave(client)
    zoo.eventually(lambda: server.metric("queue_length") == 0)
    zoo.eventually(lambda: server.metric("request_bytes") == held)
    assert not found  # the pass before it has not ended
    switch.unlink()
    assert server.metric("withdrawn_requests_total") == 1
    occupant.join()
    zoo.assert_close(found[0], expected["slow"])
    zoo.assert_close(infer(server, "slow"), expected["slow"])
    assert server.metric("batch_requests_sum") == 2
    assert server.metric('requests_total{model="slow",outcome="gone"}') == 1
    assert server.metric("request_bytes") == 0


def test_a_request_that_has_begun_is_finished_and_holds_its_memory_until_then(
    server: Server, switch: Path, expected: dict[str, Any]
) -> None:
    with server.connect() as client:
        client.sendall(post())
        zoo.eventually(lambda: server.metric("pool_leases") == 1)
        reads = switch.stat().st_size  # opening the model has read its header
        zoo.eventually(lambda: switch.stat().st_size > reads)  # its pass has begun: it reads weights
    time.sleep(0.1)
    assert server.metric("request_bytes") > 0
    assert not [line for line in server.log if line.get("status") == 499]
    switch.unlink()
    zoo.eventually(lambda: server.metric("request_bytes") == 0)
    zoo.eventually(lambda: server.metric('requests_total{model="slow",outcome="gone"}') == 1)
    assert server.metric("withdrawn_requests_total") == 0
    assert server.metric("batch_requests_sum") == 1
    zoo.assert_close(infer(server, "slow"), expected["slow"])
    assert not [line for line in server.log if line["level"] == "error"]


def leave_at_random(server: Server, chance: random.Random) -> None:
    """Send a request, or a part of it, and leave at a random moment."""
    request = post(chance.choice(["slow", "quick"]))
    with contextlib.suppress(OSError):
        client = server.connect()
        client.sendall(request[: chance.choice([len(request), len(request), chance.randrange(len(request))])])
        time.sleep(chance.choice([0, 0, 0.001, 0.01, 0.1]))
        chance.choice([close, reset, pipeline])(client)


def test_clients_that_leave_at_random_moments_harm_no_others(busy: Server, expected: dict[str, Any]) -> None:
    server = busy
    infer(server, "quick")
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    over = threading.Event()
    answers: list[tuple[str, Any]] = []

    def stay(name: str) -> None:
        connection = HTTPConnection(server.address, timeout=60)
        while not over.is_set():
            connection.request("POST", f"/v2/models/{name}/infer", BODY)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            answers.append((name, values(body)))
        connection.close()

    def leave(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(40):
            leave_at_random(server, chance)

    stayers = [threading.Thread(target=stay, args=(name,)) for name in ("quick", "quick", "slow")]
    leavers = [threading.Thread(target=leave, args=(seed,)) for seed in range(6)]
    for thread in [*stayers, *leavers]:
        thread.start()
    for thread in leavers:
        thread.join()
    over.set()
    for thread in stayers:
        thread.join()
    assert {name for name, _ in answers} == {"quick", "slow"}
    for name, answer in answers:
        zoo.assert_close(answer, expected[name])
    zoo.eventually(lambda: server.metric("request_bytes") == 0)
    assert server.metric("queue_length") == 0
    assert server.metric("pool_leases") == 0
    zoo.eventually(lambda: server.metric("connections") == 1)  # the one that asks
    zoo.eventually(lambda: len(list(descriptors.iterdir())) <= before + 2)  # the model `slow` is open, too
    assert server.metric("withdrawn_requests_total") > 0
    assert not [line for line in server.log if line["level"] == "error"], server.log


def test_a_client_that_leaves_while_another_text_is_parsed() -> None:
    async def run() -> None:
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        with Watch(Request({"type": "http"}, receive)) as watch:  # type: ignore[arg-type]
            watch.require()
            async with watch.required():
                await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                async with watch.required(), asyncio.timeout(0):
                    await asyncio.sleep(60)
            asyncio.get_running_loop().call_later(0.05, gone.set)
            began = time.monotonic()
            with pytest.raises(WithdrawnError):
                async with watch.required():
                    await asyncio.sleep(60)
            assert time.monotonic() - began < 30
            with pytest.raises(ClientDisconnect):
                watch.require()
            with pytest.raises(WithdrawnError):
                async with watch.required():
                    raise AssertionError("it has gone already")

    asyncio.run(run())
