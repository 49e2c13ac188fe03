"""The benchmark's client of gRPC, with a server of the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bench.serve import client, rpc, wire
from bench.serve.rows import GRPC
from bench.serve.servers import MLSERVER, US
from markers import needs

pytestmark = pytest.mark.extras
grpc, *_, messages = needs("grpc", "google.protobuf", "starlette", "prometheus_client", "streamrt.serve.rpc.messages")

INFER = messages.METHODS["ModelInfer"]
X = np.arange(6, dtype=np.float32).reshape(1, 2, 3) / 7
#: Seconds that the server takes for an answer.
TAKES = 0.01


class Echo:
    """Answers with the tensor of the request; the model ``busy`` refuses every third one."""

    def __init__(self) -> None:
        self.asked = 0
        self.peers: set[str] = set()
        self._lock = threading.Lock()

    def infer(self, body: bytes, context: Any) -> bytes:
        request = INFER.request.FromString(body)
        with self._lock:
            self.asked += 1
            self.peers.add(context.peer())
        if request.model_name == "busy" and self.asked % 3 == 0:
            context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        time.sleep(TAKES)
        answer = INFER.response(model_name=request.model_name, raw_output_contents=request.raw_input_contents)
        return bytes(answer.SerializeToString())


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def port(echo: Echo) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(8))
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(echo.infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE, handlers),))
    found = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield found
    server.stop(None).wait()


def test_raw_contents() -> None:
    message = wire.request(US, GRPC, "m", X)
    assert message == wire.request(MLSERVER, GRPC, "m", X)
    read = INFER.request.FromString(message)
    (given,) = read.inputs
    assert (read.model_name, given.name, given.datatype, [*given.shape]) == ("m", "x", "FP32", [1, 2, 3])
    assert [*read.raw_input_contents] == [X.tobytes()]


def test_answers_in_their_order(port: int) -> None:
    requests = [rpc.request("m", X + index) for index in range(3)]
    for index, body in enumerate(rpc.ask(port, requests)):
        assert np.array_equal(wire.answer(US, GRPC, {}, body), (X + index).ravel())


def test_an_answer_that_is_an_error(port: int) -> None:
    with pytest.raises(ValueError, match="UNAVAILABLE: busy"):
        list(rpc.ask(port, [rpc.request("busy", X)] * 3))


@pytest.mark.parametrize("connections", [1, 5])
def test_a_stretch(port: int, echo: Echo, connections: int) -> None:
    requests = client.in_turn([rpc.request("m", X)], [0])
    found = rpc.play(port, requests, connections, 0.2, least=20, patience=20)
    assert len(echo.peers) == connections
    assert len(found.times) >= 20
    assert found.failed == {}
    assert found.seconds >= 0.2
    assert all(TAKES <= seconds < found.seconds + 1 for seconds in found.times)
    cycles = [cycle for of_one in found.cycles.values() for cycle in of_one]
    assert len(found.cycles) == connections
    assert len(cycles) == len(found.times)
    assert found.rate <= connections / TAKES
    assert found.busy > 0


def test_refusals_are_counted(port: int) -> None:
    found = rpc.play(port, client.in_turn([rpc.request("busy", X)], [0]), 1, 0.05, least=10, patience=20)
    assert set(found.failed) == {grpc.StatusCode.UNAVAILABLE.value[0]}
    assert found.failed[14] >= 4


def test_a_stretch_ends_when_its_patience_does(port: int) -> None:
    found = rpc.play(port, client.in_turn([rpc.request("m", X)], [0]), 1, 0.02, least=10**9, patience=0.1)
    assert 0.1 <= found.seconds < 5
