"""Hostile calls to a real server: each gets its code, memory returns to where it was, and other calls are served."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from markers import needs
from model import zoo
from serve import packing
from serve.process import TOKEN, Server
from serve.rpc import http2

pytestmark = pytest.mark.extras
needs("grpc", "google.protobuf", "starlette", "prometheus_client", "tritonclient.grpc")

import grpc  # noqa: E402
from tritonclient.grpc import service_pb2  # noqa: E402

MIB = 1 << 20
KIB = 1 << 10
#: Values of an output of ``mlp``. An answer for 32 samples has 8 MiB.
WIDTH = 1 << 16
SECRETS = ("/tmp", "/root", "/home", "/usr", "site-packages", "Traceback", "Errno", TOKEN)
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    zoo.mlp(made, 2, WIDTH)
    packing.two(made)
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with Server(folder, "--budget", "16MiB", "--max-body", "2MiB", "--grpc-port", "0", token=TOKEN) as running:
        yield running
        assert not [line for line in running.log if line["event"] == "not JSON" or "traceback" in line]


@pytest.fixture
def channel(server: Server) -> Iterator[Any]:
    with open_channel(server) as made:
        yield made


def open_channel(server: Server) -> Any:
    """A connection of its own, with no limit of a message's size."""
    options = {"grpc.use_local_subchannel_pool": 1, "grpc.max_receive_message_length": -1}
    return grpc.insecure_channel(server.grpc_address, options=list(options.items()))


def raw(channel: Any, method: str = "ModelInfer") -> Any:
    """A function that sends bytes as a message, and returns those of the answer."""
    return channel.unary_unary(f"/inference.GRPCInferenceService/{method}")


def good(model: str = "two", samples: int = 1) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name in "ab" if model == "two" else ["input"]:
        request.inputs.add(name=name, datatype="FP32", shape=[samples, 2])
        request.raw_input_contents.append(np.ones((samples, 2), np.float32).tobytes())
    return bytes(request.SerializeToString())


def refusal(call: Callable[..., object], *arguments: Any, **options: Any) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call(*arguments, **options)
    return refused.value.code(), refused.value.details()


def assert_serves(server: Server, samples: int = 1) -> None:
    with open_channel(server) as channel:
        answer = service_pb2.ModelInferResponse.FromString(raw(channel)(good(samples=samples), timeout=60))
    assert answer.raw_output_contents[0] == np.float32([[2, 2]] * samples).tobytes()


def held(server: Server) -> float:
    (line,) = [line for line in server.ask("/metrics")[2].splitlines() if line.startswith(b"streamrt_request_bytes ")]
    return float(line.split()[1])


def anonymous(server: Server) -> int:
    """Bytes of anonymous memory of the server."""
    lines = Path(f"/proc/{server.process.pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) << 10


def reset_peak(server: Server) -> int:
    """Let the peak of the server's memory begin anew; returns what it has now."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    return peak(server)


def peak(server: Server) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) << 10


def calls(server: Server) -> list[dict[str, Any]]:
    """The lines of the log about calls, which come a moment after their answers."""
    return [line for line in server.log if line.get("method") == "gRPC"]


def cut_off(server: Server) -> list[str]:
    return [line["reason"] for line in server.log if line["event"] == "cut off"]


# ---- messages


MESSAGES: dict[str, tuple[bytes, Any, str]] = {
    "nothing": (b"", Code.NOT_FOUND, "no model named '' is served"),
    "text": (b"GET / HTTP/1.1\r\n\r\n", Code.INVALID_ARGUMENT, "expected a message inference.ModelInferRequest"),
    "a model name of 1 MB": (
        service_pb2.ModelInferRequest(model_name="m" * 10**6).SerializeToString(), Code.NOT_FOUND, "no model named"),
    "a model name of lines": (
        service_pb2.ModelInferRequest(model_name="two\r\nx: y\x00").SerializeToString(), Code.NOT_FOUND, "\\r\\nx: y"),
    "a path as a model name": (
        service_pb2.ModelInferRequest(model_name="../two").SerializeToString(), Code.NOT_FOUND, "no model named"),
    "empty tensors": (b"\x2a\x00" * 9000, Code.INVALID_ARGUMENT, "an input: expected a name"),
    "too many tensors": (b"\x2a\x00" * MIB, Code.INVALID_ARGUMENT, "expected at most 10000 fields"),
    "contents for nobody": (b"\x3a\x00" * 9000, Code.INVALID_ARGUMENT, "one for each of 0 inputs, or none, found 9000"),
    "a message of grpcio's size": (bytes(2 * MIB), Code.INVALID_ARGUMENT, "expected a message inference.ModelInfer"),
    "a message above that": (bytes(2 * MIB + 1), Code.RESOURCE_EXHAUSTED, "larger than max (2097153 vs. 2097152)"),
    "a giant": (bytes(16 * MIB), Code.RESOURCE_EXHAUSTED, "larger than max"),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_a_hostile_message(server: Server, channel: Any, name: str) -> None:
    message, code, reason = MESSAGES[name]
    found, text = refusal(raw(channel), message)
    assert (found, reason if reason in text else text) == (code, reason)
    assert len(text) < 2000
    assert not [secret for secret in SECRETS if secret in text]
    assert_serves(server)


def test_random_bytes_as_messages(server: Server, channel: Any) -> None:
    rng = random.Random(7)
    whole = good()
    for method in ("ModelInfer", "ModelReady", "ModelMetadata"):
        for _ in range(100):
            if rng.random() < 0.5:
                message = rng.randbytes(rng.randrange(200))
            else:
                changed = bytearray(whole)
                changed[rng.randrange(len(changed))] = rng.randrange(256)
                message = bytes(changed[: rng.randrange(len(changed) + 1)])
            with suppress(grpc.RpcError):
                raw(channel, method)(message)
    assert {line["status"] for line in calls(server)} <= {200, 400, 401, 404, 499}
    assert_serves(server)
    assert held(server) == 0


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_bomb_is_not_decompressed_beyond_the_limit(server: Server, compression: Any) -> None:
    bomb = bytes(256 * MIB)  # it has 256 KiB compressed
    assert_serves(server)
    before = reset_peak(server)
    with open_channel(server) as channel:
        code, text = refusal(raw(channel), bomb, compression=compression)
    assert (code, text) == (Code.RESOURCE_EXHAUSTED, "Decompressed message larger than max")
    assert peak(server) - before < 16 * MIB
    assert_serves(server)


def test_a_large_message_of_another_call(channel: Any) -> None:
    name = bytes(service_pb2.ModelMetadataRequest(name="m" * 70_000).SerializeToString())
    code, text = refusal(raw(channel, "ModelMetadata"), name)
    assert (code, text) == (Code.RESOURCE_EXHAUSTED, f"expected a message of at most 65536 bytes, found {len(name)}")
    assert refusal(raw(channel, "RepositoryModelLoad"), bytes(70_000))[0] == Code.UNAUTHENTICATED


def test_large_metadata(server: Server, channel: Any) -> None:
    assert raw(channel)(good(), metadata=(("x-much", "x" * 14_000),))
    code, text = refusal(raw(channel), good(), metadata=(("x-much", "x" * 18_000),))
    assert (code, "metadata size exceeds" in text) == (Code.RESOURCE_EXHAUSTED, True)
    assert_serves(server)


def test_another_number_of_messages_than_one(server: Server, channel: Any) -> None:
    call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
    assert refusal(call, iter([])) == (Code.INVALID_ARGUMENT, "expected a message, found none")
    assert call(iter([good(), bytes(3 * MIB), b"more"]))
    assert_serves(server)


# ---- connections


def test_bytes_that_are_not_grpc(server: Server) -> None:
    rng = random.Random(3)
    hostile = [
        b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n",
        rng.randbytes(5000),
        http2.PREFACE + rng.randbytes(5000),
        http2.PREFACE + http2.settings() + http2.frame(9, 4, 1, b"\xff" * 100),
        http2.PREFACE + http2.settings() + http2.headers(1) + http2.frame(0, 0, 1, b"\x07" * 300),
        http2.PREFACE + http2.settings() + http2.headers(2) + http2.data(2, http2.message(good())),
        http2.PREFACE + http2.settings() + http2.data(1, bytes(200_000)) * 3,
    ]
    for content in hostile:
        with http2.silent(server.grpc_address) as connection:
            with suppress(ConnectionError):  # the server may close the connection meanwhile
                connection.sendall(content)
            connection.settimeout(0.2)
            with suppress(TimeoutError):
                http2.until_closed(connection)
        assert_serves(server)
    zoo.eventually(lambda: held(server) == 0)


def test_a_message_that_ends_before_its_length(server: Server) -> None:
    with http2.connect(server.grpc_address) as connection:
        connection.sendall(http2.headers(1) + http2.data(1, http2.message(good(), length=10_000)))
        zoo.eventually(lambda: server.log[-1].get("code") in ("CANCELLED", "INVALID_ARGUMENT"))
    assert_serves(server)


def test_a_connection_that_sends_nothing_is_closed(folder: Path) -> None:
    options = ["--budget", "16MiB", "--grpc-port", "0", "--body-timeout", "1"]
    with Server(folder, *options) as server, http2.silent(server.grpc_address) as connection:
        began = time.monotonic()
        http2.until_closed(connection)
        assert time.monotonic() - began < 30


def test_messages_that_are_not_asked_for_take_little_memory(folder: Path) -> None:
    """While one message arrives, there is no room for others. grpcio must not take them from their clients."""
    options = ["--budget", "16MiB", "--grpc-port", "0", "--max-body", "4MiB", "--max-held", "8MiB", "--timeout", "8"]
    with Server(folder, *options, "--body-timeout", "60") as server, ExitStack() as stack:
        assert_serves(server)
        slow = stack.enter_context(http2.connect(server.grpc_address))
        slow.sendall(http2.headers(1) + http2.data(1, http2.message(b"\x0a", 4 * MIB), end=False))
        zoo.eventually(lambda: held(server) > 4 * MIB)
        before = anonymous(server)
        channels = [stack.enter_context(open_channel(server)) for _ in range(5)]
        calls = [raw(channel).future(bytes(4 * MIB)) for channel in channels for _ in range(8)]
        zoo.eventually(lambda: held(server) > 4 * MIB + 20 * 64 * KIB)
        assert anonymous(server) - before < 20 * MIB  # 160 MiB wait in the clients
        codes = {call.exception().code() for call in calls}
        assert codes == {Code.UNAVAILABLE}
        slow.close()
        zoo.eventually(lambda: held(server) == 0)
        assert_serves(server)


def test_a_message_that_does_not_arrive(folder: Path) -> None:
    """It holds the room of the largest message, for as long as a body may take."""
    options = ["--budget", "16MiB", "--grpc-port", "0", "--max-body", "64KiB", "--max-held", "192KiB"]
    with Server(folder, *options, "--body-timeout", "5") as server, http2.connect(server.grpc_address) as slow:
        began = time.monotonic()
        slow.sendall(http2.headers(1) + http2.data(1, http2.message(b"\x0a", 1000), end=False))
        zoo.eventually(lambda: held(server) == 128 * KIB)
        assert_serves(server)  # it waits for the room
        assert time.monotonic() - began > 4.9
        zoo.eventually(lambda: len(calls(server)) == 2)
        assert [(line["status"], line["code"]) for line in calls(server)] == [(408, "DEADLINE_EXCEEDED"), (200, "OK")]
        assert held(server) == 0


def test_no_room_for_a_message(folder: Path) -> None:
    """Bytes of requests that have arrived make no room soon, so the call is refused at once, as HTTP's are."""
    options = ["--budget", "16MiB", "--grpc-port", "0", "--max-body", "128KiB", "--max-held", "256KiB"]
    with Server(folder, *options, "--max-delay", "600", "--max-batch", "8002") as server:
        with open_channel(server) as channel:
            waiting = raw(channel).future(good(samples=8000))
            zoo.eventually(lambda: b"streamrt_queue_length 1.0" in server.ask("/metrics")[2])
            code, text = refusal(raw(channel), good())
            assert not waiting.done()
            assert (code, "--max-held" in text) == (Code.UNAVAILABLE, True)
            assert channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"") == b"\x08\x01"
            rest = '{"a": [[1, 1], [1, 1]], "b": [[1, 1], [1, 1]]}'  # fills the pass, and needs less room
            assert server.ask("/predictions/two", rest)[0] == 200
            assert waiting.result(60)
        assert held(server) == 0


def test_the_most_memory_of_large_messages(folder: Path) -> None:
    """Many clients send the largest message at once, and their samples are refused when they have arrived."""
    options = ["--budget", "16MiB", "--grpc-port", "0", "--max-body", "16MiB", "--max-held", "136MiB"]
    message = good(samples=MIB - 10)
    with Server(folder, *options) as server, ExitStack() as stack:
        channels = [stack.enter_context(open_channel(server)) for _ in range(10)]
        assert_serves(server)
        before = reset_peak(server)
        calls = [raw(channel).future(message) for channel in channels for _ in range(3)]
        found = {(call.exception().code(), call.exception().details()) for call in calls}
        # Eight messages have room. grpcio copies each twice when it has arrived, and keeps the pieces of 16 MiB.
        assert peak(server) - before < (136 + 2 * 16 + 16 + 16) * MIB
        assert {code for code, _ in found} <= {Code.INVALID_ARGUMENT, Code.UNAVAILABLE}
        assert any("--max-batch" in text for _, text in found)
        zoo.eventually(lambda: held(server) == 0)


# ---- clients that go


def test_an_answer_that_is_not_taken_is_given_up(folder: Path) -> None:
    with Server(folder, "--budget", "16MiB", "--grpc-port", "0", "--body-timeout", "2") as server:
        before = 0
        for turn in range(6):
            with http2.connect(server.grpc_address, initial_window=1000) as slow:
                for stream in (1, 3):
                    slow.sendall(http2.headers(stream) + http2.data(stream, http2.message(good("mlp", 32))))
                zoo.eventually(lambda: held(server) > 32 * MIB)  # two answers of 8 MiB, and grpcio's copies
                http2.until_closed(slow)
            zoo.eventually(lambda: held(server) == 0)
            if turn == 1:  # before, the allocator keeps more from turn to turn
                before = anonymous(server)
        zoo.eventually(lambda: set(cut_off(server)) == {"the answer was not taken in time"})
        zoo.eventually(lambda: anonymous(server) - before < 32 * MIB)  # four turns with 32 MiB
        assert_serves(server)


def test_a_large_answer_arrives_whole_and_is_counted_until_then(server: Server) -> None:
    with open_channel(server) as channel:
        call = channel.unary_stream("/inference.GRPCInferenceService/ModelInfer")(good("mlp", 32))
        zoo.eventually(lambda: held(server) > 16 * MIB)
        (answer,) = list(call)
    assert len(service_pb2.ModelInferResponse.FromString(answer).raw_output_contents[0]) == 32 * WIDTH * 4
    zoo.eventually(lambda: held(server) == 0)
    assert cut_off(server) == []


@pytest.mark.parametrize("way", ["cancel", "deadline", "close"])
def test_nothing_is_computed_for_a_client_that_left(folder: Path, way: str) -> None:
    options = ["--budget", "16MiB", "--grpc-port", "0", "--max-delay", "600", "--max-batch", "2"]
    with Server(folder, *options) as server:
        with open_channel(server) as channel:
            call = raw(channel).future(good(), timeout=5 if way == "deadline" else None)
            zoo.eventually(lambda: b"streamrt_queue_length 1.0" in server.ask("/metrics")[2])
            if way == "cancel":
                call.cancel()
            elif way == "deadline":
                assert call.exception().code() == Code.DEADLINE_EXCEEDED
        zoo.eventually(lambda: any(line.get("status") == 499 for line in server.log))
        assert_serves(server, samples=2)  # as many as a pass may have: they wait for no others
        metrics = server.ask("/metrics")[2]
        assert b"streamrt_batch_requests_sum 1.0" in metrics
        assert b'streamrt_requests_total{model="two",outcome="gone"} 1.0' in metrics
        assert held(server) == 0
    assert [line["client"] for line in server.log if line.get("status") == 499] == ["127.0.0.1"]


def test_many_clients_that_cancel(folder: Path) -> None:
    """A hundred clients, of which half leave before their answer: the others get theirs, and memory is given back."""
    with Server(folder, "--budget", "16MiB", "--grpc-port", "0", "--max-queue", "300") as server:
        wrong: list[str] = []
        wanted = np.full((3, 2), 2, np.float32).tobytes()

        def ask(seed: int, rounds: int) -> None:
            rng = random.Random(seed)
            with open_channel(server) as channel:
                for _ in range(rounds):
                    large = rng.random() < 0.1
                    call = raw(channel).future(good("mlp", 8) if large else good(samples=3))
                    if seed % 2:
                        time.sleep(rng.random() * 0.02)
                        call.cancel()
                        continue
                    try:
                        answer = service_pb2.ModelInferResponse.FromString(call.result(120))
                    except grpc.RpcError as error:
                        if error.code() is not Code.UNAVAILABLE:
                            wrong.append(str(error))
                        continue
                    if not large and answer.raw_output_contents[0] != wanted:
                        wrong.append("other values")

        def run(rounds: int) -> None:
            clients = [threading.Thread(target=ask, args=(seed, rounds)) for seed in range(100)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            zoo.eventually(lambda: held(server) == 0)

        run(2)
        before = anonymous(server)
        run(6)
        assert wrong == []
        zoo.eventually(lambda: 499 in {line["status"] for line in calls(server)})
        assert {line["status"] for line in calls(server)} <= {200, 499, 503}
        zoo.eventually(lambda: anonymous(server) - before < 16 * MIB)
        assert_serves(server)
    assert not [line for line in server.log if line["event"] == "not JSON" or "traceback" in line]


def test_a_failed_request_holds_nothing(server: Server, channel: Any) -> None:
    """Errors have frames, which have the arrays of the request."""
    request = service_pb2.ModelInferRequest(model_name="two", raw_input_contents=[bytes(MIB - 1000)] * 2)
    for name in "ab":
        request.inputs.add(name=name, datatype="FP32", shape=[1, (MIB - 1000) // 4])
    message = bytes(request.SerializeToString())

    def run(count: int) -> None:
        for _ in range(count):
            code, text = refusal(raw(channel), message)
            assert (code, text) == (Code.INVALID_ARGUMENT, "input 'a': expected shape (batch, 2), found (1, 261894)")
        zoo.eventually(lambda: held(server) == 0)

    run(10)
    before = anonymous(server)
    run(30)  # 60 MiB
    zoo.eventually(lambda: anonymous(server) - before < 8 * MIB)


def test_streams_that_are_reset_at_once(server: Server) -> None:
    """A message that nobody takes must not be kept. grpcio ends a connection that resets some hundred calls."""
    body = http2.message(bytes(50_000))

    def run(connections: int) -> None:
        for _ in range(connections):
            with http2.connect(server.grpc_address) as connection, suppress(ConnectionError):
                for stream in range(1, 1000, 2):
                    connection.sendall(http2.headers(stream) + http2.data(stream, body) + http2.reset(stream))

    def serves() -> bool:
        """While the event loop ends the calls that were reset, grpcio cancels others."""
        with suppress(grpc.RpcError):
            assert_serves(server)
            return held(server) == 0
        return False

    run(8)  # the allocator keeps some of it
    zoo.eventually(serves)
    before = anonymous(server)
    run(8)  # 200 MB
    zoo.eventually(serves)
    assert anonymous(server) - before < 32 * MIB
