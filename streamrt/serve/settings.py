"""Every choice and every limit of a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from streamrt.errors import InputError
from streamrt.host.budget import Budget
from streamrt.serve.access import LEAST_HELD

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """The choices and limits of a server.

    Attributes:
        folder: the folder of weights files; no file outside of it is served.
        host, port: the address to listen at; port 0 takes any free port.
        grpc_port: the port to listen at for gRPC, if any.
        budget, policy, threads, io, verify: of the pool, see `streamrt.ModelPool`.
        pin: names of models whose weights stay in memory.
        timeout: the most seconds from a request's arrival to the start of its computation. Waiting and loading count.
        workers: how many models may compute, or wait for memory, at the same time; each takes a thread.
        max_batch: the most samples of one pass, and so of one request.
        max_delay: seconds that a request is held back, so that others can share its pass.
        max_queue: the most requests that wait. At most 50 % of them may wait for one model, which leaves room for
            others.
        max_body: the most bytes of a request's body, decompressed.
        max_json: the most bytes of JSON in a body. Once parsed, its values may take 12 times as many bytes, and 1 MiB.
        max_held: the most bytes of bodies, of JSON while it is parsed, and of answers that are being sent, together.
        body_timeout: the most seconds until a request's head has arrived; again until its body has arrived; and again
            until the client has taken the answer.
        idle_timeout: seconds after which a connection without a request is closed. One of gRPC is closed after 1 to 2
            times as long, and after at least 1 s.
        max_connections: the most open connections of HTTP, and the most of gRPC. Further ones of HTTP get 503; those of
            gRPC are closed.
        rescan: seconds after which the folder is compared with the models that are served, again and again; None does
            that only on SIGHUP and for the index.
        grace: the most seconds that requests in flight go on after SIGTERM.
        page: whether there is a page for people at ``/``. It shows what the metrics show.
        token: the token that repository and registration calls need; None refuses these calls.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    budget: Budget = "auto"
    policy: str = "adaptive"
    threads: int | None = None
    io: str = "auto"
    verify: str | None = None
    pin: tuple[str, ...] = ()
    timeout: float = 30.0
    workers: int = 4
    max_batch: int = 32
    max_delay: float = 0.0
    max_queue: int = 256
    max_body: int = 64 * _MIB
    max_json: int = 8 * _MIB
    max_held: int = 512 * _MIB
    body_timeout: float = 60.0
    idle_timeout: float = 75.0
    max_connections: int = 1000
    rescan: float | None = None
    grace: float = 30.0
    page: bool = True
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the limits against each other; raises `InputError`."""
        if self.max_held < (least := self.max_body + LEAST_HELD):
            raise InputError(
                f"max_held (--max-held): expected at least {least} bytes, for one body of max_body (--max-body) and "
                f"{LEAST_HELD} bytes, found {self.max_held}"
            )
