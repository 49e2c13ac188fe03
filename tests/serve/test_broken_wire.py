"""Clients that break HTTP while they wait for an answer get at most one answer, and one line in the log."""

from __future__ import annotations

import json

import pytest

from model import zoo
from serve.process import Server
from serve.test_hostile import exchange, http

pytestmark = pytest.mark.extras

NO_CHUNK = http("POST", "/nowhere", "Transfer-Encoding: chunked", body=b"zz\r\n")


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(NO_CHUNK, id="while a request is answered"),
        pytest.param(http("GET", "/ping", "Connection: close") + b"\x00 behind the last\r\n\r\n", id="behind the last"),
        pytest.param(http("GET", "/ping") + b"\x00 no request\r\n\r\n", id="behind another"),
    ],
)
def test_broken_http_gets_one_answer_and_no_traceback(server: Server, request_: bytes) -> None:
    begin = len(server.log)
    status, _, body = exchange(server, request_)
    assert status in (200, 400, 404)
    assert b"HTTP/1.1" not in body
    # When this is answered, the log has the lines of the request above.
    assert json.loads(server.ask("/ping")[2]) == {"health": "healthy!"}
    zoo.eventually(lambda: any(line.get("route") == "/ping" for line in server.log[begin:]))
    assert [line for line in server.log[begin:] if line["level"] == "error"] == []
