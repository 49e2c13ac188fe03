"""Running the server: one process, with uvicorn's event loop in the main thread."""

from __future__ import annotations

import signal
import socket
import sys
from types import FrameType

import uvicorn

from streamrt.serve.app import make_app
from streamrt.serve.connection import connection_within
from streamrt.serve.logs import log, set_up
from streamrt.serve.service import Service
from streamrt.serve.settings import Settings

#: Seconds that an idle connection is kept. Load balancers usually keep connections for 60 s, and must close first.
_KEEP_ALIVE = 75
#: The most bytes of a request's head: room for long tokens and cookies, and little memory for each connection.
_MAX_HEAD = 64 << 10
#: Connections that may wait to be accepted: uvicorn's default.
_BACKLOG = 2048


def serve(settings: Settings, level: str = "info") -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight; logs go to stderr.

    Raises:
        InputError: a setting is wrong.
        OSError: the folder cannot be read, or the server cannot listen at the address.
    """
    set_up(sys.stderr, level)
    service = Service(settings)
    server = _Server(configure(service), service)
    # Without this, a SIGTERM before uvicorn runs would end the process. uvicorn raises its signals again at its end.
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        count = service.catalog.register_all()
        with _listen(settings.host, settings.port) as listener:
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
    log.info("ended")


def configure(service: Service) -> uvicorn.Config:
    """How uvicorn serves ``service``."""
    return uvicorn.Config(
        make_app(service),
        http=connection_within(service.settings.body_timeout),
        ws="none",
        loop="asyncio",
        lifespan="on",
        backlog=_BACKLOG,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(service.settings.grace)),
        h11_max_incomplete_event_size=_MAX_HEAD,
    )


class _Server(uvicorn.Server):
    """A server that notifies the service when a signal ends it."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT has arrived."""
        self._service.draining = True
        super().handle_exit(sig, frame)


def _listen(host: str, port: int) -> socket.socket:
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
        text = f"cannot listen at {host} (--host), port {port} (--port): {error.strerror}"
        raise OSError(error.errno, text) from error
    return listener
