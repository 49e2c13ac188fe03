"""A client with many connections in one thread. Its requests are bytes that were made before.

Every connection has one request at a time, and sends the next as soon as it has its answer.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Self

_PART = 1 << 18  # bytes that are received at once


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers with lower-case names, and body."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Played:
    """What a stretch of requests came to.

    Attributes:
        seconds: of the timed stretch.
        busy: the client's processor time in it, in seconds.
        times: of each request that was answered in it, from its first byte sent to the last byte received.
        cycles: by connection, the times from each of its answers to the next.
        failed: answers with each other status than 200.
    """

    seconds: float = 0.0
    busy: float = 0.0
    times: list[float] = field(default_factory=list)
    cycles: dict[int, list[float]] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers a second. It is taken from whole cycles: answers come in batches, of which a stretch may cut one."""
        return sum(len(cycles) / sum(cycles) for cycles in self.cycles.values())


class Connection:
    """A connection that is kept alive.

    Args:
        port: of the server on loopback.
        patience: seconds for which nothing may arrive, where the connection is waited for.
    """

    def __init__(self, port: int, patience: float = 60.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=patience)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self.answered = 0.0  # when the last answer was complete; 0 before the first
        self._unsent = memoryview(b"")
        self._received = bytearray()
        self._length: int | None = None  # of the whole answer, once its head is here
        self._head = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def ask(self, request: bytes) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            OSError: the connection failed.
            ValueError: the answer is not of a known form.
        """
        self.begin(request)
        self.socket.sendall(request)
        self._unsent = memoryview(b"")
        while not self.receive():
            pass
        return self.answer()

    def begin(self, request: bytes) -> None:
        self._unsent, self._length = memoryview(request), None
        self._received.clear()
        self.began = perf_counter()

    def send(self) -> bool:
        """Send what the socket takes; whether all is sent."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            return False
        return True

    def receive(self) -> bool:
        """Receive once; whether the answer is complete.

        Raises:
            OSError: the server closed the connection.
            ValueError: the answer has no length.
        """
        part = self.socket.recv(_PART)
        if not part:
            raise ConnectionError("the server closed a connection before its answer was complete")
        self._received += part
        if self._length is None:
            self._head = self._received.find(b"\r\n\r\n") + 4
            if self._head < 4:
                return False
            self._length = self._head + self._content()
        return len(self._received) >= self._length

    @property
    def status(self) -> int:
        return int(self._received[9:12])

    def answer(self) -> Answer:
        lines = self._received[: self._head].decode("latin-1").split("\r\n")[1:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return Answer(self.status, headers, bytes(self._received[self._head : self._length]))

    def _content(self) -> int:
        head = bytes(self._received[: self._head]).lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            raise ValueError("an answer has no content-length")
        start = at + len(b"\r\ncontent-length:")
        return int(head[start : head.index(b"\r\n", start)])


def play(
    port: int, requests: Iterator[bytes], connections: int, seconds: float, *, least: int, patience: float
) -> Played:
    """Warm up for a quarter of ``seconds``, and then time for ``seconds`` and until there are ``least`` answers.

    There are at least four answers for each connection, too. The stretch ends after ``patience`` seconds in any case.
    What is not answered then does not count.

    Raises:
        OSError: a connection failed.
        TimeoutError: nothing was answered for a minute.
    """
    found = Played()
    open_ = [Connection(port) for _ in range(connections)]
    try:
        with selectors.DefaultSelector() as selector:
            for connection in open_:
                connection.socket.setblocking(False)
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                _next(selector, connection, next(requests))
            _stretch(selector, requests, Played(), seconds / 4, connections, patience)
            busy = time.process_time()
            _stretch(selector, requests, found, seconds, max(least, 4 * connections), patience)
            found.busy = time.process_time() - busy
    finally:
        for connection in open_:
            connection.socket.close()
    return found


def _stretch(
    selector: selectors.BaseSelector,
    requests: Iterator[bytes],
    found: Played,
    seconds: float,
    least: int,
    patience: float,
) -> None:
    start = now = perf_counter()
    heard = start
    while now - start < seconds or (len(found.times) < least and now - start < patience):
        for key, events in selector.select(1.0):
            connection: Connection = key.data
            if events & selectors.EVENT_WRITE and connection.send():
                selector.modify(key.fileobj, selectors.EVENT_READ, connection)
            if events & selectors.EVENT_READ and connection.receive():
                heard = perf_counter()
                cycle = heard - (connection.answered or connection.began)
                found.cycles.setdefault(key.fd, []).append(cycle)
                connection.answered = heard
                if connection.status == 200:
                    found.times.append(heard - connection.began)
                else:
                    found.failed[connection.status] = found.failed.get(connection.status, 0) + 1
                _next(selector, connection, next(requests))
        now = perf_counter()
        if now - heard > 60:
            raise TimeoutError("no answer for a minute")
    found.seconds = now - start


def _next(selector: selectors.BaseSelector, connection: Connection, request: bytes) -> None:
    connection.begin(request)
    if not connection.send():
        selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)


def in_turn(requests: Sequence[bytes], order: Sequence[int]) -> Iterator[bytes]:
    """The requests at ``order``, again and again."""
    while True:
        for index in order:
            yield requests[index]
