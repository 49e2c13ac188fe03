"""The number of connections is limited, idle and unfinished ones end, and the count is exact."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from markers import needs
from model import zoo
from serve.process import Server
from serve.transport import Transport
from streamrt.serve.access import Connections

pytestmark = pytest.mark.extras
needs("starlette", "uvicorn", "prometheus_client")

import uvicorn  # noqa: E402
from uvicorn.server import ServerState  # noqa: E402

from streamrt.serve import main  # noqa: E402
from streamrt.serve.connection import connections_within  # noqa: E402

PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
LIMIT = 40


def serve(repository: Path, seconds: int) -> Server:
    """A server that cuts off clients which are idle, or send nothing, for so long."""
    options = ["--budget", "16MiB", "--max-connections", LIMIT, "--body-timeout", seconds, "--idle-timeout", seconds]
    return Server(repository, *options)


@pytest.fixture
def server(repository: Path) -> Iterator[Server]:
    with serve(repository, 120) as running:
        yield running


@pytest.fixture
def hasty(repository: Path) -> Iterator[Server]:
    with serve(repository, 3) as running:
        yield running


def everything(connection: socket.socket) -> bytes:
    """All bytes until the server closes the connection."""
    found = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(1 << 16):
            found += chunk
    return found


def ping(connection: socket.socket) -> None:
    connection.sendall(PING)
    answer = b""
    while b"healthy" not in answer:
        chunk = connection.recv(1 << 16)
        assert chunk
        answer += chunk
    assert answer.startswith(b"HTTP/1.1 200 ")


def count(server: Server, metric: str, own: HTTPConnection) -> float:
    """A metric, read over a connection that is open already."""
    own.request("GET", "/metrics")
    lines = own.getresponse().read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"streamrt_{metric} "))


def test_connections_beyond_the_limit_get_503_and_disturb_no_others(server: Server) -> None:
    own = HTTPConnection(server.address, timeout=60)
    with ExitStack() as stack:
        opened = [stack.enter_context(server.connect()) for _ in range(LIMIT - 1)]
        for connection in opened:
            ping(connection)
        assert count(server, "connections", own) == LIMIT
        for sent in (b"", PING, PING[:10], b"POST /x HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)):
            with server.connect() as late:
                with suppress(OSError):  # the server may close it meanwhile
                    late.sendall(sent)
                head, _, body = everything(late).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nRetry-After: 1" in head
                assert json.loads(body)["type"] == "TooManyConnectionsError"
                assert "--max-connections" in json.loads(body)["error"]
        assert count(server, "connections", own) == LIMIT
        assert count(server, "refused_connections_total", own) == 4
        for connection in opened:
            ping(connection)
        opened[0].close()
        zoo.eventually(lambda: count(server, "connections", own) == LIMIT - 1)
        with server.connect() as late:
            ping(late)
    own.close()
    zoo.eventually(lambda: bool(server.events("refused")))
    assert len(server.events("refused")) <= 4


def test_two_hundred_connections_that_send_nothing_end_and_the_others_are_served(hasty: Server) -> None:
    server, began = hasty, time.monotonic()
    own = HTTPConnection(server.address, timeout=60)
    count(server, "connections", own)
    over = threading.Event()
    slowest = 0.0

    def stay() -> None:
        nonlocal slowest
        while not over.wait(0.01):
            asked = time.monotonic()
            own.request("GET", "/ping")
            assert own.getresponse().read()
            slowest = max(slowest, time.monotonic() - asked)

    stayer = threading.Thread(target=stay)
    stayer.start()
    with ExitStack() as stack:
        silent = [stack.enter_context(server.connect()) for _ in range(200)]
        answers = [everything(connection) for connection in silent]  # until each is refused or cut off
    over.set()
    stayer.join()
    assert answers.count(b"") == LIMIT - 1
    assert sum(answer.startswith(b"HTTP/1.1 503 ") for answer in answers) == 201 - LIMIT
    assert slowest < 2.5
    assert count(server, "connections", own) == 1
    assert count(server, "refused_connections_total", own) == 201 - LIMIT
    with server.connect() as late:
        ping(late)
    own.close()
    assert len(server.events("refused")) <= 2 + time.monotonic() - began  # one a second


def test_an_idle_connection_is_closed_after_the_timeout(hasty: Server) -> None:
    with hasty.connect() as idle:
        began = time.monotonic()
        ping(idle)
        assert everything(idle) == b""
        assert 2.5 < time.monotonic() - began < 30


def test_the_count_is_exact_after_abrupt_ends(server: Server) -> None:
    own = HTTPConnection(server.address, timeout=60)
    assert count(server, "connections", own) == 1

    def leave(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            with suppress(OSError), server.connect() as connection:
                connection.sendall(PING[: chance.randrange(len(PING) + 1)] * chance.choice([1, 1, 3]))
                if chance.random() < 0.5:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                time.sleep(chance.choice([0, 0, 0.002]))

    threads = [threading.Thread(target=leave, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        count(server, "connections", own)  # this connection must not become idle
    zoo.eventually(lambda: count(server, "connections", own) == 1)
    with ExitStack() as stack:  # the limit counts from 0 again
        for _ in range(LIMIT - 1):
            ping(stack.enter_context(server.connect()))
    own.close()


def test_the_bookkeeping_of_connections() -> None:
    limit = Connections(2)
    assert [limit.enter(name) for name in "abc"] == [True, True, False]
    assert (limit.count, limit.refused) == (2, 1)
    limit.leave("c")
    limit.leave("a")
    limit.leave("a")
    assert limit.count == 1
    assert [limit.enter(name) for name in "de"] == [True, False]
    assert limit.is_news(7.0)
    assert not limit.is_news(7.9)
    assert limit.is_news(8.0)
    assert sum(limit.linger(number) for number in range(1000)) == 64
    limit.leave(0)
    assert limit.linger("e")
    assert not limit.linger("f")


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": b"x"})


ENDINGS: dict[str, bytes] = {
    "the client asks for it": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "the client is idle": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "the client is wrong": b"no HTTP\r\n\r\n",
    "the server ends": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_closing_connection_whose_client_takes_nothing_is_cut_off(
    ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        loop, skipped = asyncio.get_running_loop(), 0.0
        monkeypatch.setattr(loop, "time", lambda: time.monotonic() + skipped)

        async def settled() -> None:
            for _ in range(100):
                await asyncio.sleep(0)

        idle: Any = 100 if ending == "the client is idle" else 10_000
        config = uvicorn.Config(answer, log_config=None, timeout_keep_alive=idle, lifespan="off", ws="none")
        limit = Connections(1)
        connection = connections_within(1000, limit)(config, ServerState(), {}, loop)
        transport = Transport()
        connection.connection_made(transport)
        connection.data_received(ENDINGS[ending])
        await settled()
        if ending == "the server ends":
            connection.shutdown()
        if ending == "the client is idle":
            skipped += 101
            await settled()
        assert transport.written
        assert transport.closing
        assert not transport.aborted
        skipped += 1001
        await settled()
        assert transport.aborted
        assert limit.count == 1
        connection.connection_lost(None)
        assert limit.count == 0
        transport.aborted = False
        skipped += 1001
        await settled()
        assert not transport.aborted

    asyncio.run(run())


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "wanted", "warned"),
    [
        (1024, 4096, None, 2000, False),
        (1024, 1500, None, 1500, True),
        (4096, 4096, None, 4096, False),
        (1024, resource.RLIM_INFINITY, None, 2000, False),
        (1024, 4096, PermissionError, 1024, True),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, resource.RLIM_INFINITY, False),
    ],
)
def test_the_limit_on_open_files_is_raised(
    soft: int, hard: int, allowed: Any, wanted: int, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, lines = [soft, hard], []

    def change(kind: int, new: tuple[int, int]) -> None:
        if allowed:
            raise allowed
        limits[:] = new

    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", change)
    monkeypatch.setattr(main.log, "warning", lambda text, extra: lines.append(extra["fields"]))
    main._allow_files(2000)
    assert limits == [wanted, hard]
    assert bool(lines) == warned
