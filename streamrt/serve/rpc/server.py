"""The server for gRPC, in the event loop of HTTP's: its limits, its start and its end."""

from __future__ import annotations

import asyncio

from grpc import aio

from streamrt.serve.access import LEAST_HELD
from streamrt.serve.logs import log
from streamrt.serve.rpc.calls import OpenInference
from streamrt.serve.service import Service
from streamrt.serve.settings import Settings

#: The most bytes of a call's metadata.
_MAX_METADATA = 16 << 10
#: The shortest idle time, in milliseconds. It runs from the connection on, so a first call needs some of it.
_LEAST_IDLE = 1000
#: Calls of one connection at the same time, beside those that may wait for a pass.
_MORE_CALLS = 100
#: The most calls that the event loop has not taken yet. Each may have 64 KiB of metadata and of its message.
_MAX_PENDING = 1500
#: The largest value of a setting. grpcio keeps them as C's int, and takes no number of connections that is the largest.
_LARGEST = 2**31 - 2


class RpcServer:
    """A server for gRPC. All methods run on the event loop.

    Args:
        service: with the models.
        host: the IP address to listen at.
        port: the port to listen at; 0 takes any free one.
    """

    def __init__(self, service: Service, host: str, port: int) -> None:
        self.host = host
        self._port = port
        self._service = service
        self._server: aio.Server | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen, and serve; returns the port.

        Raises:
            OSError: the address is in use.
        """
        host, port = self.host, self._port
        server = aio.server(
            handlers=[OpenInference(self._service).handlers()], options=list(_options(self._service.settings).items())
        )
        try:
            bound: int = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:  # its text has no reason
            raise OSError(f"cannot listen at {host} (--host), port {port} (--grpc-port)") from error
        await server.start()
        self._server = server
        log.info("listening for gRPC", extra={"fields": {"host": host, "port": bound}})
        return bound

    def begin_stop(self) -> None:
        """Accept no more calls, and give those in flight their time (`grace`)."""
        if self._server is not None and self._stopping is None:
            self._stopping = asyncio.create_task(self._server.stop(self._service.settings.grace))

    async def stopped(self) -> None:
        """Return when all calls have ended."""
        self.begin_stop()
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    async def abort(self) -> None:
        """End all calls now. Nothing happens if they have ended."""
        if self._server is not None:
            await self._server.stop(None)


def _options(settings: Settings) -> dict[str, int]:
    """The settings of grpcio's server."""
    wanted = {
        # A second server would share the port otherwise.
        "grpc.so_reuseport": 0,
        # A compressed message counts decompressed.
        "grpc.max_receive_message_length": settings.max_body,
        "grpc.max_metadata_size": _MAX_METADATA,
        "grpc.absolute_max_metadata_size": _MAX_METADATA,
        # What grpcio takes of a message before it is asked for; every call counts for this and its metadata. By default
        # it grows with the speed of the network, to some MiB for each call.
        "grpc.http2.lookahead_bytes": LEAST_HELD - _MAX_METADATA,
        "grpc.http2.bdp_probe": 0,
        # Further calls of a connection wait in the client. Up to here they are refused, as HTTP's are, if the queue is
        # full.
        "grpc.max_concurrent_streams": 2 * settings.max_queue + _MORE_CALLS,
        # Calls that the event loop has not taken yet; grpcio cancels some from 1000 on.
        "grpc.server.max_pending_requests_hard_limit": _MAX_PENDING,
        # grpcio closes further connections at once, without an answer. It counts them from the moment when it accepts
        # them, so a client that sends nothing counts, too: until the handshake's limit, or the idle time if it is less.
        "grpc.max_allowed_incoming_connections": settings.max_connections,
        "grpc.server_handshake_timeout_ms": round(settings.body_timeout * 1000),
        # grpcio looks once in this time whether there was a call since it looked last.
        "grpc.max_connection_idle_ms": max(_LEAST_IDLE, round(settings.idle_timeout * 1000)),
    }
    return {name: min(value, _LARGEST) for name, value in wanted.items()}
