"""Running the server: one process, with uvicorn's event loop in the main thread."""

from __future__ import annotations

import resource
import signal
import socket
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from streamrt.serve.allocator import keep_little
from streamrt.serve.app import make_app
from streamrt.serve.connection import connections_within
from streamrt.serve.logs import log, logging_to
from streamrt.serve.service import Service
from streamrt.serve.settings import Settings

if TYPE_CHECKING:
    from streamrt.serve.rpc.server import RpcServer  # it needs the extra `grpc`

#: The descriptor of standard error, which `sys.stderr` may not have if a program replaced it.
_STDERR = 2
#: Connections that may wait to be accepted: uvicorn's default.
_BACKLOG = 2048
#: File descriptors beside those of connections: for the weights files of open models, and for the process itself.
_OTHER_FILES = 256


def serve(settings: Settings, level: str = "info") -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight; logs go to stderr.

    Raises:
        InputError: a setting is wrong.
        OSError: the folder cannot be read, or the server cannot listen at the address.
    """
    keep_little()
    with logging_to(_STDERR, level) as written:
        service = Service(settings)
        service.metrics.tell(
            "lost_log_lines", "Lines that the log had no room for.", lambda: written.lost, counter=True
        )
        _serve(service)
        log.info("ended")


def _serve(service: Service) -> None:
    settings = service.settings
    rpc = _rpc_server(service)
    server = _Server(configure(service, rpc), service, rpc)
    # Without this, a SIGTERM before uvicorn runs would end the process. uvicorn raises its signals again at its end.
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    before_hangup = signal.signal(signal.SIGHUP, server.handle_hangup)
    try:
        _allow_files(settings.max_connections * (1 if rpc is None else 2) + _OTHER_FILES)
        count = service.start()
        with _listen(settings.host, settings.port) as listener:
            if rpc is not None and settings.grpc_port is not None:
                with _listen(settings.host, settings.grpc_port, "--grpc-port") as tried:  # tells why it cannot
                    rpc.host = tried.getsockname()[0]
            host, port = listener.getsockname()[:2]
            fields = {"host": host, "port": port, "models": count, "budget": service.pool.budget}
            log.info("listening", extra={"fields": fields})
            if not count:
                log.warning(
                    "no models", extra={"fields": {"folder": str(settings.folder), "expected": "*.safetensors"}}
                )
            server.run([listener])
    finally:
        signal.signal(signal.SIGTERM, before)
        service.close()
        signal.signal(signal.SIGHUP, before_hangup)


def configure(service: Service, rpc: RpcServer | None = None) -> uvicorn.Config:
    """How uvicorn serves ``service``, beside ``rpc`` if there is one."""
    return uvicorn.Config(
        make_app(service, None if rpc is None else rpc.stopped),
        http=connections_within(service.settings.body_timeout, service.connections),
        ws="none",
        loop="asyncio",
        lifespan="on",
        backlog=_BACKLOG,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=service.settings.idle_timeout,  # type: ignore[arg-type]  # uvicorn says int, asyncio takes both
        timeout_graceful_shutdown=max(1, round(service.settings.grace)),
    )


def _rpc_server(service: Service) -> RpcServer | None:
    """The server for gRPC, if there is a port for it."""
    if service.settings.grpc_port is None:
        return None
    from streamrt.serve.rpc.server import RpcServer

    return RpcServer(service, service.settings.host, service.settings.grpc_port)


class _Server(uvicorn.Server):
    """A server that notifies the service when a signal ends it, and that serves gRPC, too, if it is given ``rpc``."""

    def __init__(self, config: uvicorn.Config, service: Service, rpc: RpcServer | None = None) -> None:
        super().__init__(config)
        self._service = service
        self._rpc = rpc

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal arrives.

        Raises:
            OSError: the server cannot listen for gRPC.
        """
        if self._rpc is None:
            await super().serve(sockets)
            return
        await self._rpc.start()
        try:
            await super().serve(sockets)
        finally:
            await self._rpc.abort()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the requests in flight. Those of gRPC end beside those of HTTP, and before the service is closed."""
        if self._rpc is not None:
            self._rpc.begin_stop()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT has arrived."""
        self._service.draining = True
        super().handle_exit(sig, frame)

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """SIGHUP has arrived: the folder may have other files."""
        self._service.refresher.ask()


def _allow_files(count: int) -> None:
    """Raise this process's soft limit on open files to ``count``, or log that it cannot have so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except (OSError, ValueError):  # a sandbox may refuse it
            allowed = soft
    if allowed < count:
        fields = {"limit": allowed, "wanted": count, "reason": "--max-connections and models take more (ulimit -n)"}
        log.warning("few files may be open", extra={"fields": fields})


def _listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket that listens.

    It is made with TCP named as its protocol, because only then asyncio switches Nagle's algorithm off.

    Raises:
        OSError: the host is unknown, or the address is in use, or does not belong to this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, f"cannot listen at {host!r:.100} (--host): {error.strerror}") from error
    family, kind, _, _, address = found[0]
    listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        text = f"cannot listen at {host} (--host), port {port} ({option}): {error.strerror}"
        raise OSError(error.errno, text) from error
    return listener
