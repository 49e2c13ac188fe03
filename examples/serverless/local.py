"""A small local copy of Lambda's runtime interface, to try a function without Lambda.

python local.py event.json ...    # needs the extra serverless

It starts the function under Lambda's own runtime client, as Lambda does, and prints the answer to each event. The
client asks for events and sends answers over HTTP, with the paths of the interface's version 2018-06-01.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent
#: The most bytes of an event and of an answer, as Lambda has it.
MOST = 6 * 1024 * 1024
_VERSION = "/2018-06-01/runtime/"
_POLL = 0.05  # seconds after which a waiting request looks whether the server has ended


@dataclass(frozen=True, slots=True)
class Answer:
    """How the function answered.

    Attributes:
        body: its JSON: the answer, or what is wrong (``errorType``, ``errorMessage``).
        failed: whether it is an error.
        began, ended: when the event was there and when the answer was, by `time.monotonic`.
    """

    body: bytes
    failed: bool
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def value(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)


class FunctionError(Exception):
    """The function did not start, or has ended; the text has what it told."""


class SlowError(FunctionError):
    """The function took longer than it may."""


@dataclass(slots=True)
class _Invocation:
    event: bytes
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    began: float = field(default_factory=time.monotonic)
    answer: queue.SimpleQueue[Answer] = field(default_factory=queue.SimpleQueue)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments: object) -> None:
        """Say nothing: a function that ends breaks its connections off."""


class Interface:
    """The interface, at a free port of loopback. It gives the function one event at a time.

    Attributes:
        address: host and port, the value of ``AWS_LAMBDA_RUNTIME_API``.
        started: when the client first asked for an event, by `time.monotonic`: the function has started. None before.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[_Invocation] = queue.SimpleQueue()
        self._begun: dict[str, _Invocation] = {}  # by id; the lock of the interpreter is enough for single steps
        self.started: float | None = None
        self._failed: bytes | None = None
        self._ended = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def invoke(self, event: bytes, process: subprocess.Popen[bytes], timeout: float = 60.0) -> Answer:
        """Give the function an event, JSON; returns its answer.

        Raises:
            FunctionError: it ends instead.
            SlowError: it takes longer than ``timeout`` seconds.
            ValueError: the event is longer than Lambda takes.
        """
        if len(event) > MOST:
            raise ValueError(f"expected an event of at most {MOST} bytes, found {len(event)}")
        invocation = _Invocation(event)
        self._waiting.put(invocation)
        while True:
            try:
                return invocation.answer.get(timeout=_POLL)
            except queue.Empty:
                self._check(process, invocation.began + timeout)

    def wait_until_started(self, process: subprocess.Popen[bytes], timeout: float = 60.0) -> None:
        """Wait until the function has started, which is when its client asks for the first event.

        Raises:
            FunctionError, SlowError: as `invoke`.
        """
        deadline = time.monotonic() + timeout
        while self.started is None:
            self._check(process, deadline)
            time.sleep(_POLL)

    def _check(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        if self._failed is not None:
            raise FunctionError(f"the function did not start: {self._failed.decode()}")
        if process.poll() is not None:
            raise FunctionError(f"the function has ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise SlowError("the function took too long")

    # ---- what the client asks for, each in a thread of the server

    def next(self) -> _Invocation | None:
        """The next event, as soon as there is one; None at the end."""
        if self.started is None:
            self.started = time.monotonic()
        while not self._ended.is_set():
            try:
                invocation = self._waiting.get(timeout=_POLL)
            except queue.Empty:
                continue
            self._begun[invocation.id] = invocation
            return invocation
        return None

    def post(self, path: str, body: bytes) -> int:
        """Take what the client posts to a path below the version; returns the status of the answer to it."""
        if path == "init/error":
            self._failed = body
            return 202
        _, _, rest = path.partition("invocation/")
        id_, _, kind = rest.partition("/")
        if kind not in ("response", "error") or id_ not in self._begun:
            return 404
        if len(body) > MOST:
            return 413
        invocation = self._begun.pop(id_)
        invocation.answer.put(Answer(body, kind == "error", invocation.began, time.monotonic()))
        return 202


def _handler(interface: Interface) -> type[BaseHTTPRequestHandler]:
    """The class whose objects answer the requests for one interface."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else a body waits 40 ms for the acknowledgement of its header

        def do_GET(self) -> None:
            if self.path != f"{_VERSION}invocation/next":
                return self._answer(404, b"{}")
            if (invocation := interface.next()) is None:
                self.close_connection = True
                return None
            deadline = int((time.time() + 900) * 1000)  # Lambda's longest timeout, as milliseconds since 1970
            arn = "arn:aws:lambda:local:0:function:local"
            headers = {"Aws-Request-Id": invocation.id, "Deadline-Ms": str(deadline), "Invoked-Function-Arn": arn}
            return self._answer(200, invocation.event, {f"Lambda-Runtime-{k}": v for k, v in headers.items()})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(interface.post(self.path.removeprefix(_VERSION), body), b"{}")

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    return Handler


def command(handler: str = "handler.handler") -> list[str]:
    """The command that Lambda starts, with the interpreter of this process."""
    return [sys.executable, "-m", "awslambdaric", handler]


def environment(interface: Interface, memory: int, folder: Path = HERE) -> dict[str, str]:
    """What Lambda tells a function by environment variables: where the interface is, its memory in MB, its folder.

    Lambda starts the client in the folder, and so Python finds the function. ``PYTHONPATH`` is for other folders.
    """
    return {
        "AWS_LAMBDA_RUNTIME_API": interface.address,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
        "LAMBDA_TASK_ROOT": str(folder),
        "PYTHONPATH": str(folder),
    }


@contextmanager
def function(interface: Interface, memory: int = 256) -> Iterator[subprocess.Popen[bytes]]:
    """The function of this folder, which is told that it has this many MB. It is killed at the end."""
    with subprocess.Popen(command(), env=os.environ | environment(interface, memory), cwd=HERE) as process:
        try:
            yield process
        finally:
            process.kill()


def main(paths: list[str]) -> int:
    """Print the answer to the event of each file; the status is 1 if one was an error."""
    failed = False
    with Interface() as interface, function(interface) as process:
        for path in paths:
            answer = interface.invoke(Path(path).read_bytes(), process)
            print(f"{answer.seconds:.3f} s: {answer.body.decode()}")
            failed |= answer.failed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
