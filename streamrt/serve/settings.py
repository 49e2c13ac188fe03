"""Every choice and limit of a server, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from streamrt.errors import InputError
from streamrt.host.budget import Budget
from streamrt.serve.access import LEAST_HELD

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server serves, and how much of it at once.

    Attributes:
        folder: of weights files; nothing outside it is served.
        host, port: to listen at; port 0 is any that is free.
        budget, policy, threads, io, verify: of the pool, see `streamrt.ModelPool`.
        timeout: seconds from a request's arrival to the start of its computation, waiting and loading included.
        workers: models that may compute, or wait for memory, at the same time; each takes a thread.
        max_batch: samples of one pass, and so of one request.
        max_delay: seconds that a request may be held back for others to share its pass.
        max_queue: requests that wait; of one model, half as many, so that there is room for others.
        max_body: bytes of a request's body, decompressed.
        max_json: bytes of JSON in it; once parsed, its lists and values may take 12 times that, and a MiB.
        max_held: bytes of bodies, of JSON while it is parsed, and of answers on their way, held at the same time.
        body_timeout: seconds that the head of a request may take to arrive, its body, and its answer to be taken.
        grace: seconds that requests in flight have to end when the server is told to.
        token: that repository and registration calls need; None leaves them off.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8000
    budget: Budget = "auto"
    policy: str = "adaptive"
    threads: int | None = None
    io: str = "auto"
    verify: str | None = None
    timeout: float = 30.0
    workers: int = 4
    max_batch: int = 32
    max_delay: float = 0.0
    max_queue: int = 256
    max_body: int = 64 * _MIB
    max_json: int = 8 * _MIB
    max_held: int = 512 * _MIB
    body_timeout: float = 60.0
    grace: float = 30.0
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise `InputError` for limits that contradict each other."""
        if self.max_held < (least := self.max_body + LEAST_HELD):
            raise InputError(
                f"max_held: expected at least {least} bytes, for one body of max_body, found {self.max_held}"
            )
