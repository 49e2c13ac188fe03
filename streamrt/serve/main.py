"""Running the server: one process, uvicorn's event loop in the main thread, and the end of it all."""

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

#: Seconds that an idle connection is kept: more than load balancers keep theirs, which must not meet a closed one.
_KEEP_ALIVE = 75
#: Bytes of a request's head.
_MAX_HEAD = 64 << 10
#: Connections that wait to be accepted.
_BACKLOG = 2048


def serve(settings: Settings, level: str = "info") -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight; logs go to stderr.

    Raises:
        InputError, OSError: ``settings`` cannot be had.
    """
    set_up(sys.stderr, level)
    service = Service(settings)
    server = _Server(configure(service), service)
    # From now on no signal is lost. uvicorn takes over, and raises it again at its end, for the handler before its own.
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        count = service.catalog.register_all()
        with _listen(settings.host, settings.port) as listener:
            host, port = listener.getsockname()[:2]
            fields = {"host": host, "port": port, "models": count, "budget": service.pool.budget}
            log.info("listening", extra={"fields": fields})
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
    """Tells the service as soon as the server is told to end."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has arrived."""
        self._service.draining = True
        super().handle_exit(sig, frame)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Its protocol is named, for else asyncio would leave Nagle's algorithm on."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen at {host}, port {port}: {error.strerror}") from error
    return listener
