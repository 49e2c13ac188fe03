"""Parts of the server for gRPC, in this process: room for messages, closing connections, and where it listens."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from markers import needs
from processes import descriptors
from serve import packing
from serve.process import Server
from streamrt.serve.access import Gate, OverloadedError

pytestmark = pytest.mark.extras
needs("grpc", "google.protobuf", "starlette", "prometheus_client")

from streamrt.serve import main  # noqa: E402
from streamrt.serve.rpc import peers  # noqa: E402
from streamrt.serve.rpc.intake import Intake  # noqa: E402
from streamrt.serve.settings import Settings  # noqa: E402


async def settled() -> None:
    """Let all tasks run until they wait."""
    for _ in range(100):
        await asyncio.sleep(0)


def test_room_is_counted_before_a_message_arrives() -> None:
    gate = Gate(100)
    order: list[str] = []

    async def take(intake: Intake, name: str, over: asyncio.Event) -> None:
        async with intake.room():
            order.append(name)
            await over.wait()

    async def run() -> None:
        intake, over = Intake(gate, 40, 60.0), {name: asyncio.Event() for name in "abcd"}
        tasks = {name: asyncio.create_task(take(intake, name, over[name])) for name in "abcd"}
        await settled()
        assert (order, gate.held) == (["a", "b"], 80)
        over["b"].set()  # c takes its place, and d waits behind c
        await settled()
        assert (order, gate.held) == (["a", "b", "c"], 80)
        tasks["d"].cancel()
        tasks["d2"] = asyncio.create_task(take(intake, "d2", over["d"]))
        await settled()
        for event in over.values():
            event.set()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert (order, gate.held) == (["a", "b", "c", "d2"], 0)

    asyncio.run(run())


def test_room_that_no_message_makes() -> None:
    """Bytes that are held otherwise are given back when their requests are served. Nobody waits for that."""
    gate = Gate(200 << 10)

    async def run() -> None:
        intake = Intake(gate, 150 << 10, 0.05)
        with gate.hold():
            with pytest.raises(OverloadedError, match="--max-held"):
                async with intake.room():
                    pass
            assert gate.held == 64 << 10
        async with intake.room():
            text = r"other messages took all room \(--max-held\) while they arrived, for 0.05 s \(--timeout\)"
            with pytest.raises(OverloadedError, match=text):
                async with intake.room():
                    pass
        with pytest.raises(KeyError):
            async with intake.room():
                raise KeyError
        async with intake.room():
            assert gate.held == 150 << 10

    asyncio.run(run())
    assert gate.held == 0


def test_a_message_that_ends_makes_room_only_for_the_line() -> None:
    """The room that an ended message leaves may be taken meanwhile. Then the next call is refused."""
    gate = Gate(100)

    async def run() -> None:
        intake = Intake(gate, 60, 60.0)
        async with intake.room():
            waiting = asyncio.create_task(intake.room().__aenter__())
            await settled()
        gate.take(50)
        with pytest.raises(OverloadedError):
            await waiting
        gate.take(-50)

    asyncio.run(run())
    assert gate.held == 0


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:4711", "127.0.0.1"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::1%eth0"),
        ("", ""),
        ("unix:", ""),
    ],
)
def test_the_address_of_a_client(peer: str, host: str) -> None:
    assert peers.host_of(peer) == host


def has_version_6() -> bool:
    """Whether this machine has version 6 of IP; containers may not."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


VERSION_6 = has_version_6()


@pytest.mark.parametrize(
    ("listens", "connects", "peer"),
    [
        ("127.0.0.1", "127.0.0.1", "ipv4:127.0.0.1:{}"),
        *[
            ("::1", "::1", "ipv6:%5B::1%5D:{}"),
            ("::", "127.0.0.1", "ipv4:127.0.0.1:{}"),  # a socket for both versions of IP
            ("::", "127.0.0.1", "ipv6:%5B::ffff:127.0.0.1%5D:{}"),
        ]
        * VERSION_6,
    ],
)
def test_the_connection_of_one_client_is_closed(listens: str, connects: str, peer: str) -> None:
    family = socket.AF_INET6 if ":" in listens else socket.AF_INET
    with ExitStack() as stack:
        listener = stack.enter_context(
            socket.create_server((listens, 0), family=family, dualstack_ipv6=listens == "::")
        )
        clients = [
            stack.enter_context(socket.create_connection((connects, listener.getsockname()[1]), 60)) for _ in range(3)
        ]
        accepted = [stack.enter_context(closing(listener.accept()[0])) for _ in range(3)]
        files = descriptors()
        assert peers.close(peer.format(clients[1].getsockname()[1])) == 1
        assert descriptors() <= files
        assert clients[1].recv(1) == b""
        for client, other in zip(clients, accepted, strict=True):
            if client is not clients[1]:
                other.sendall(b"x")
                assert client.recv(1) == b"x"
        assert peers.close("ipv4:127.0.0.1:1") == 0


def test_a_port_that_is_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(tmp_path, port=0, grpc_port=port, budget="1MiB")
        text = rf"cannot listen at 127.0.0.1 \(--host\), port {port} \(--grpc-port\): Address already in use"
        with pytest.raises(OSError, match=text):
            main.serve(settings, "error")


def test_a_port_that_another_server_takes_meanwhile(
    run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """By default two servers of grpcio share a port, and each gets some of the connections."""
    code = """
        import asyncio, sys
        from pathlib import Path
        from streamrt.serve.rpc.server import RpcServer
        from streamrt.serve.service import Service
        from streamrt.serve.settings import Settings

        async def run(service):
            first = RpcServer(service, "127.0.0.1", 0)
            port = await first.start()
            try:
                await RpcServer(service, "127.0.0.1", port).start()
            except OSError as error:
                print(str(error).replace(str(port), "N"))
            await first.abort()

        service = Service(Settings(Path(sys.argv[1]), budget="1MiB"))
        asyncio.run(run(service))
        service.close()
    """
    done = run_python(code, tmp_path)
    assert done.stdout == "cannot listen at 127.0.0.1 (--host), port N (--grpc-port)\n", done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", *["::1"] * VERSION_6])
def test_the_address_that_it_listens_at(tmp_path: Path, host: str) -> None:
    grpc = needs("grpc")[0]
    packing.two(tmp_path)
    with Server(tmp_path, "--budget", "1MiB", "--grpc-port", "0", "--host", host) as server:
        (found,) = {line["host"] for line in server.log if line["event"].startswith("listening")}
        port = server.grpc_address.partition(":")[2]
        with grpc.insecure_channel(f"[{found}]:{port}" if ":" in found else f"{found}:{port}") as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert live(b"", timeout=60) == b"\x08\x01"
    # The log is whole now: its lines are written by another thread.
    assert [line["client"] for line in server.log if line["event"] == "request"] == [found]
