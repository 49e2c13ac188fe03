"""The number of connections of gRPC is limited, and connections without calls end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from markers import needs
from model import zoo
from serve.process import Server
from serve.rpc import http2

pytestmark = pytest.mark.extras
grpc, *_, triton = needs("grpc", "google.protobuf", "starlette", "prometheus_client", "tritonclient.grpc")

LIVE = "/inference.GRPCInferenceService/ServerLive"
LIMIT = 5
#: Starts the server with a soft limit of open files that is too small.
FEW_FILES = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, (300, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
runpy.run_module("streamrt", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    zoo.mlp(made, 2, 16)
    return made


def start(folder: Path, *options: object, **more: Any) -> Server:
    return Server(folder, "--budget", "16MiB", "--grpc-port", "0", *options, **more)


def open_channel(server: Server) -> Any:
    return grpc.insecure_channel(server.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)])


def is_live(channel: Any) -> bool:
    answer = channel.unary_unary(LIVE)(b"", timeout=60)
    return bool(triton.service_pb2.ServerLiveResponse.FromString(answer).live)


def serves(server: Server) -> bool:
    """Whether a new connection is served."""
    with open_channel(server) as channel, suppress(grpc.RpcError):
        return is_live(channel)
    return False


def is_closed(connect: Callable[[str], Any], server: Server) -> bool:
    """Whether a new connection is closed at once, without an answer."""
    with suppress(ConnectionError), connect(server.grpc_address) as connection:
        connection.settimeout(5)
        return http2.until_closed(connection) == b""
    return True


def test_connections_beyond_the_limit_are_closed_and_disturb_no_others(folder: Path) -> None:
    with start(folder, "--max-connections", LIMIT) as server, ExitStack() as stack:
        channel = stack.enter_context(open_channel(server))
        assert is_live(channel)
        opened = [stack.enter_context(http2.connect(server.grpc_address)) for _ in range(LIMIT - 2)]
        opened.append(stack.enter_context(http2.silent(server.grpc_address)))  # it counts, too
        time.sleep(0.5)  # until all are accepted
        assert is_closed(http2.connect, server)
        assert is_closed(http2.silent, server)
        assert not serves(server)
        assert is_live(channel)
        assert server.ask("/ping")[0] == 200  # HTTP has a limit of its own
        for connection in opened[:2]:
            connection.close()
        zoo.eventually(lambda: serves(server))
        assert is_live(channel)


def test_the_limit_is_one_of_open_connections(folder: Path) -> None:
    with start(folder, "--max-connections", LIMIT) as server:
        for _ in range(4 * LIMIT):
            zoo.eventually(lambda: serves(server))


@pytest.mark.parametrize("sent", [b"", http2.frame(1, 0, 1, b"\x00")], ids=["nothing", "a part of a head"])
def test_a_connection_without_a_call_is_closed(folder: Path, sent: bytes) -> None:
    with start(folder, "--idle-timeout", "1") as server, http2.connect(server.grpc_address) as connection:
        connection.sendall(sent)
        began = time.monotonic()
        http2.until_closed(connection)
        assert time.monotonic() - began < 20
        assert serves(server)


def test_a_connection_with_calls_is_kept(folder: Path) -> None:
    with start(folder, "--idle-timeout", "0") as server, http2.connect(server.grpc_address) as connection:
        for stream in range(1, 21, 2):  # 5 s, with pauses below the least idle time
            connection.sendall(http2.headers(stream, LIVE) + http2.data(stream, http2.message(b"")))
            time.sleep(0.5)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):  # it would return if the connection were closed
            http2.until_closed(connection)


def test_a_call_that_takes_long_is_no_idle_time(folder: Path) -> None:
    request = triton.service_pb2.ModelInferRequest(model_name="mlp", raw_input_contents=[bytes(8)])
    request.inputs.add(name="input", datatype="FP32", shape=[1, 2])
    with start(folder, "--idle-timeout", "1", "--max-delay", "5") as server, open_channel(server) as channel:
        began = time.monotonic()
        assert channel.unary_unary(http2.METHOD)(request.SerializeToString(), timeout=60)
        assert time.monotonic() - began > 4.5


def test_limits_beyond_those_of_grpcio(folder: Path) -> None:
    many = 2**31
    with start(folder, "--max-connections", many, "--max-body", "4GiB", "--max-held", "8GiB") as server:
        assert serves(server)


def test_open_files_are_enough_for_both_protocols(folder: Path) -> None:
    with start(folder, "--max-connections", "100", program=("-c", FEW_FILES)) as server:
        limits = Path(f"/proc/{server.process.pid}/limits").read_text().splitlines()
        (files,) = [line.split() for line in limits if line.startswith("Max open files")]
        assert int(files[3]) == 100 + 100 + 256
