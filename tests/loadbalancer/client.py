"""A client of the Open Inference Protocol that shows whole answers, and other helpers for tests of real servers."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """An answer of a server or of nginx. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def cache(self) -> str:
        """HIT, MISS or BYPASS of nginx's cache, or empty."""
        return self.headers.get("x-cache-status", "")


class Client:
    """Requests to one port, over one connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request. Underscores in names of ``headers`` become hyphens. An iterable body is sent in chunks."""
        try:
            self._connection.request(
                method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            response = self._connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        except BaseException:
            self.close()  # the next request gets a new connection
            raise

    def get(self, path: str) -> Any:
        """The JSON in the body of an answer to a GET."""
        answer = self.request("GET", path)
        assert answer.status == 200, answer
        return json.loads(answer.body)

    def version(self, model: str) -> str:
        """The version of a model, from its metadata."""
        (version,) = self.get(f"/v2/models/{model}")["versions"]
        return str(version)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def infer_path(model: str, version: str | None = None) -> str:
    """The path for inferences of a model."""
    return f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"


def binary(x: Array) -> tuple[bytes, str]:
    """The body of an inference with binary inputs and outputs, and the length of its JSON."""
    tensor = {"name": "input", "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return text + x.tobytes(), str(len(text))


def output(answer: Answer) -> Array:
    """The only output, as binary data."""
    assert answer.status == 200, answer
    length = int(answer.headers["inference-header-content-length"])
    (told,) = json.loads(answer.body[:length])["outputs"]
    return np.frombuffer(answer.body[length:], np.float32).reshape(told["shape"])


def free_ports(count: int) -> list[int]:
    """Ports at which no process listens."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [opened.getsockname()[1] for opened in sockets]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Fail unless ``condition`` becomes true. A refused connection counts as not yet true."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (OSError, http.client.HTTPException):
            pass
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)
