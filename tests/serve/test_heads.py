"""Requests without a socket: pipelined, in chunks, answered early, and heads that must not begin a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from markers import needs
from serve.transport import Transport
from streamrt.serve.access import Connections
from streamrt.serve.waiting import MAX_HEAD

pytestmark = pytest.mark.extras
uvicorn, server, connection_module = needs("uvicorn", "uvicorn.server", "streamrt.serve.connection")

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def exchange(
    sent: bytes, *, part: int = 1 << 20, until: Callable[[bytes], bool] = bool, early: bool = False
) -> tuple[list[Any], bytes]:
    """Serve ``sent`` by an application that answers with the number and the body of a request.

    Returns the requests for which the application ran (path, body, headers), and all answers. Where it answers
    ``early``, it does not read the body.
    """
    seen: list[Any] = []
    most = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal most
        request = [scope["path"], b"", dict(scope["headers"])]
        seen.append(request)
        body, more = b"", not early
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        most = max(most, len(connection.pipeline))
        request[1] = body
        answer = b"%d:%s;" % (len(seen), body)
        length = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": answer})

    transport = Transport()

    async def run() -> None:
        nonlocal connection
        config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none")
        connection = connection_module.connections_within(60, Connections(1))(
            config, server.ServerState(), {}, asyncio.get_running_loop()
        )
        connection.connection_made(transport)
        for begin in range(0, len(sent), part):
            if not transport.closing:
                connection.data_received(sent[begin : begin + part])
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            while not until(transport.written):
                await asyncio.sleep(0.001)
        connection.connection_lost(None)

    connection: Any = None
    asyncio.run(run())
    assert most <= 1  # the parser never got many requests at once
    return seen, transport.written


@pytest.mark.parametrize("part", [1, 7, 1 << 20])
def test_many_requests_in_one_stretch_are_answered_in_their_order(part: int) -> None:
    bodies = [b"", b"one", b"\r\n\r\n", b"x" * 300] * 20
    sent = b"".join(b"POST /a%%20b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(b), b) for b in bodies)
    seen, written = exchange(sent, part=part, until=lambda got: got.count(b";") >= len(bodies))
    assert [(path, body) for path, body, _ in seen] == [("/a b", body) for body in bodies]
    assert written.count(b"HTTP/1.1 200 ") == len(bodies)


@pytest.mark.parametrize("part", [1, 5, 1 << 20])
def test_chunks_and_lines_behind_them(part: int) -> None:
    chunked = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = chunked + b"3\r\nabc\r\n4;x=y\r\n\r\n\r\n\r\n0\r\nLate: 1\r\nHost: other\r\n\r\n" + HEAD
    seen, _ = exchange(sent, part=part, until=lambda got: got.count(b";") >= 2)
    assert [(path, body) for path, body, _ in seen] == [("/c", b"abc\r\n\r\n"), ("/", b"")]
    assert seen[0][2] == {b"host": b"x", b"transfer-encoding": b"chunked"}


def test_an_upgrade_that_is_not_supported_is_an_ordinary_request() -> None:
    upgrade = b"GET /u HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    seen, _ = exchange(upgrade + HEAD, until=lambda got: got.count(b";") >= 2)
    assert [path for path, _, _ in seen] == ["/u", "/"]


UPLOAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNK = b"3\r\nabc\r\n0\r\n\r\n"
WRONG = {
    "no HTTP": b"no HTTP\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a length beside chunks": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a length below 0": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length beyond 64 bits": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "another coding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a line without a colon": b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
    "a space before a colon": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n",
    "a folded line": b"GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n",
    "a zero byte": b"GET / HTTP/1.1\r\nHost: x\0y\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: x\n\n" + HEAD,
    "a long head": b"GET / HTTP/1.1\r\nHost: " + b"x" * MAX_HEAD + b"\r\n\r\n",
    "a head without an end": b"GET / HTTP/1.1\r\nHost: " + b"x" * MAX_HEAD,
    "no coding": (UPLOAD + b"Transfer-Encoding: identity\r\n\r\n" + CHUNK),
    "an unknown coding": (UPLOAD + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNK),
    "a parameter of a coding": (UPLOAD + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + CHUNK),
    "two codings": (UPLOAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNK),
    "two codings in two lines": (UPLOAD + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNK),
    "an empty coding": (UPLOAD + b"Transfer-Encoding: ,chunked\r\n\r\n" + CHUNK),
    "a blank behind the coding": (UPLOAD + b"Transfer-Encoding: chunked\t\r\n\r\n" + CHUNK),
    "an empty coding and a length": (UPLOAD + b"Transfer-Encoding:\r\nContent-Length: 3\r\n\r\nabc"),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"),
    "two hosts in HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n"),
    "HTTP/0.9": (b"GET /\r\n\r\n"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "another version": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n"),
    "a tunnel": (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a beginning of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "bare line feeds without more": (b"GET / HTTP/1.0\n\n"),
    "a chunk of no size": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_request_that_is_no_http_gets_400_and_ends_the_connection(wrong: str) -> None:
    seen, written = exchange(HEAD + WRONG[wrong], until=lambda got: b"HTTP/1.1 400 " in got)
    # The body of the chunked request that breaks off is read by the application before the parser sees its end.
    assert [path for path, _, _ in seen] == ["/"] * (2 if wrong == "a chunk of no size" else 1)
    assert written.startswith(b"HTTP/1.1 200 ")
    assert written.count(b"HTTP/1.1 ") == 2


def test_an_expectation_of_http_1_0_is_ignored() -> None:
    head = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"
    _, written = exchange(head, until=lambda got: b"1:abc;" in got)
    assert b" 100 " not in written


def test_an_early_answer_and_a_line_that_ends_the_connection() -> None:
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = chunked + b"3\r\nabc\r\n0\r\nConnection: close\r\n\r\n" + HEAD
    seen, written = exchange(sent, part=8, until=lambda got: b"1:;" in got, early=True)
    assert len(seen) == written.count(b"HTTP/1.1 ") == 1


def test_an_early_answer_and_a_request_behind_the_body() -> None:
    sent = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(HEAD) + HEAD + HEAD
    seen, written = exchange(sent, part=8, until=lambda got: b"2:;" in got, early=True)
    assert len(seen) == written.count(b"HTTP/1.1 200 ") == 2
