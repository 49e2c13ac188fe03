"""Many models, and clients that ask for them over one connection each and check every answer."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from memory_limit import MIB
from model import zoo
from streamrt.format import read_header

MODELS, CONNECTIONS = 50, 32
WIDTH = 256


@dataclass
class Served:
    """A model that is served.

    Attributes:
        inner: width of its hidden layer.
        weights: bytes of its weights.
        x: the input that clients send.
        answers: right answers to ``x``, by version of the file.
    """

    inner: int
    weights: int
    x: Any
    answers: dict[str, Any] = field(default_factory=dict)

    def make(self, path: Path, aside: Path, seed: int) -> str:
        """Move a new file to ``path``; returns its version. It is made in the folder ``aside``, of the same disk."""
        packed = zoo.mlp(aside, WIDTH, self.inner, WIDTH, seed=seed)
        version = read_header(packed.path).checksum
        self.answers[version] = packed.answer(self.x)  # known before any client can get it
        packed.path.replace(path)
        return version


def make_models(folder: Path, aside: Path) -> dict[str, Served]:
    """Fifty models of 0.5 to 12 MiB, lognormal, with an input of ``WIDTH``, in ``folder``: m0, m1 ..."""
    sizes = np.exp(np.random.default_rng(5).normal(0.7, 0.8, MODELS)).clip(0.5, 12)
    models = {}
    for index, size in enumerate(sizes):
        inner = int(size * MIB / 4 / (2 * WIDTH))
        weights = 4 * (2 * WIDTH * inner + inner + WIDTH)
        made = models[f"m{index}"] = Served(inner, weights, zoo.random_input(1 + index % 3, WIDTH, seed=index))
        made.make(folder / f"m{index}.safetensors", aside, seed=index)
    return models


@dataclass(frozen=True)
class Outcome:
    """The end of one request.

    Attributes:
        name: of the model.
        address: of the server.
        began, ended: in monotonic seconds.
        status: of the answer; 0 if the connection ended instead.
        kind: type of the error; empty for an answer with results.
        version: of the model that computed the results.
    """

    name: str
    address: str
    began: float
    ended: float
    status: int
    kind: str = ""
    version: str = ""


class Client(threading.Thread):
    """Send requests with binary data over one connection, one after another, until told to stop.

    Results must be right for the version that the answer names. Other answers must have the documented form of errors.

    Args:
        addresses: of servers. When a connection ends, the request is sent again to the next of them.
        models: by name. Earlier ones are asked for more often.
        seed: of the choices.
        over: set when to stop.

    Attributes:
        outcomes: of all requests.
        errors: what was wrong.
    """

    def __init__(
        self, addresses: Sequence[str], models: Mapping[str, Served], seed: int, over: threading.Event
    ) -> None:
        super().__init__()
        self.outcomes: list[Outcome] = []
        self.errors: list[str] = []
        self._addresses, self._models, self._over = list(addresses), models, over
        self._random = random.Random(seed)

    def run(self) -> None:
        names = list(self._models)
        popularity = [1 / (1 + rank) for rank in range(len(names))]
        connection = self._connect()
        try:
            while not self._over.is_set():
                name = self._random.choices(names, popularity)[0]
                while not self._ask(connection, name):
                    connection.close()
                    self._addresses.append(self._addresses.pop(0))
                    connection = self._connect()
        except Exception:  # of a check, too: the error of a thread is lost unless the test finds it here
            self.errors.append(traceback.format_exc())
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._addresses[0], timeout=120)

    def _ask(self, connection: http.client.HTTPConnection, name: str) -> bool:
        """Whether there was an answer; without other servers, the error of the connection."""
        asked, began = self._models[name], time.monotonic()
        try:
            answer, body = request(connection, name, asked.x)
        except (OSError, http.client.HTTPException) as error:
            if len(self._addresses) == 1:
                raise
            self._note(name, began, 0, type(error).__name__)
            return False
        if answer.status == 200:
            version, y = results(answer, body)
            zoo.assert_close(y.reshape(asked.answers[version].shape), asked.answers[version])
            self._note(name, began, 200, version=version)
            return True
        told = json.loads(body)
        assert told.keys() == {"error", "type"}, body
        assert told["error"], body
        self._note(name, began, answer.status, told["type"])
        if answer.status == 503:
            assert answer.headers["Retry-After"]
            time.sleep(0.05)
        return True

    def _note(self, name: str, began: float, status: int, kind: str = "", version: str = "") -> None:
        self.outcomes.append(Outcome(name, self._addresses[0], began, time.monotonic(), status, kind, version))


def request(connection: http.client.HTTPConnection, name: str, x: Any) -> tuple[http.client.HTTPResponse, bytes]:
    """The answer of a model, and its body."""
    text = (
        f'{{"inputs":[{{"name":"input","shape":[{len(x)},{WIDTH}],"datatype":"FP32","parameters":'
        f'{{"binary_data_size":{x.nbytes}}}}}],"parameters":{{"binary_data_output":true}}}}'
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    connection.request("POST", f"/v2/models/{name}/infer", text + x.tobytes(), headers)
    answer = connection.getresponse()
    return answer, answer.read()


def results(answer: http.client.HTTPResponse, body: bytes) -> tuple[str, Any]:
    """The version and the numbers of an answer with results."""
    length = int(answer.headers["Inference-Header-Content-Length"])
    return json.loads(body[:length])["model_version"], np.frombuffer(body[length:], np.float32)


@contextmanager
def crowd(addresses: Sequence[str], models: Mapping[str, Served]) -> Iterator[list[Client]]:
    """Clients on all connections, which run until the block ends. Servers get equal shares of them."""
    over = threading.Event()
    turns = [[*addresses[n % len(addresses) :], *addresses[: n % len(addresses)]] for n in range(CONNECTIONS)]
    clients = [Client(turn, models, seed, over) for seed, turn in enumerate(turns)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        over.set()
        for client in clients:
            client.join()


def outcomes(clients: Sequence[Client], since: float = 0.0) -> list[Outcome]:
    """Outcomes of requests that began after ``since``, in monotonic seconds."""
    return [outcome for client in clients for outcome in list(client.outcomes) if outcome.began > since]


def errors(clients: Sequence[Client]) -> list[str]:
    """Everything that was wrong."""
    return [error for client in clients for error in client.errors]


def anonymous(process: int) -> int:
    """Bytes of anonymous memory of a process."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) << 10
