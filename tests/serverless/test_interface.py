"""The local copy of Lambda's runtime interface keeps to the paths and the states of the interface."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from serverless.function import local

NEXT = "/2018-06-01/runtime/invocation/next"


@pytest.fixture
def interface() -> Iterator[Any]:
    with local.Interface() as found:
        yield found


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Stands in for the function; the test is its client."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as found:
        yield found
        found.kill()


def ask(interface: Any, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(interface.address, timeout=30)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def post(interface: Any, path: str, body: bytes) -> int:
    return ask(interface, "POST", f"/2018-06-01/runtime/{path}", body)[0]


def test_an_event_and_its_answer(interface: Any, process: subprocess.Popen[bytes]) -> None:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(interface.invoke(b'{"a": 1}', process)))
    assert interface.started is None
    thread.start()
    status, headers, body = ask(interface, "GET", NEXT)
    assert (status, body) == (200, b'{"a": 1}')
    assert interface.started <= time.monotonic()
    id_ = headers["Lambda-Runtime-Aws-Request-Id"]
    assert int(headers["Lambda-Runtime-Deadline-Ms"]) > time.time() * 1000
    assert headers["Lambda-Runtime-Invoked-Function-Arn"].startswith("arn:aws:lambda:")
    assert post(interface, "invocation/another/response", b"{}") == 404
    assert post(interface, f"invocation/{id_}/response", b" " * (local.MOST + 1)) == 413
    assert post(interface, f"invocation/{id_}/response", b'{"b": 2}') == 202
    thread.join(30)
    (answer,) = answers
    assert (answer.value, answer.failed) == ({"b": 2}, False)
    assert answer.seconds > 0
    assert post(interface, f"invocation/{id_}/response", b"{}") == 404  # it has an answer


def test_the_client_waits_for_an_event(interface: Any, process: subprocess.Popen[bytes]) -> None:
    bodies: list[bytes] = []
    client = threading.Thread(target=lambda: bodies.append(ask(interface, "GET", NEXT)[2]))
    client.start()
    interface.wait_until_started(process)
    time.sleep(0.2)
    assert not bodies
    with pytest.raises(local.SlowError):
        interface.invoke(b"7", process, timeout=0.3)
    client.join(30)
    assert bodies == [b"7"]


def test_errors(interface: Any, process: subprocess.Popen[bytes]) -> None:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(interface.invoke(b"1", process)))
    thread.start()
    id_ = ask(interface, "GET", NEXT)[1]["Lambda-Runtime-Aws-Request-Id"]
    assert post(interface, f"invocation/{id_}/error", json.dumps({"errorType": "E"}).encode()) == 202
    thread.join(30)
    assert (answers[0].failed, answers[0].value) == (True, {"errorType": "E"})
    assert ask(interface, "GET", "/2018-06-01/runtime/other")[0] == 404
    assert ask(interface, "GET", "/2019-01-01/runtime/invocation/next")[0] == 404
    assert post(interface, "init/error", b"broken") == 202
    with pytest.raises(local.FunctionError, match="did not start: broken"):
        interface.invoke(b"1", process)


def test_a_function_that_ends(interface: Any, process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with pytest.raises(local.FunctionError, match="has ended with status -9"):
        interface.invoke(b"1", process)
    with pytest.raises(local.FunctionError, match="has ended"):
        interface.wait_until_started(process)
