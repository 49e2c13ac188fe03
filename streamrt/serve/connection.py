"""Connections: their number is limited, and they have deadlines for requests to arrive and answers to be taken."""

from __future__ import annotations

import asyncio
import json
import re

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from streamrt.serve.access import Connections
from streamrt.serve.logs import log
from streamrt.serve.waiting import MAX_HEAD, TOO_LONG, HeadError, Waiting

#: Bytes of further requests that are read while a request waits. As long as bytes are read, the end of the connection
#: is noticed. 64 KiB are room for the usual pipelined request.
_AHEAD = 64 << 10
#: Seconds for which a refused connection is read. If it were closed at once, bytes that the client has sent would make
#: the kernel reset it, and the client might lose the answer.
_LINGER = 1.0
#: The field with which a client offers another protocol. The parser would take the body for bytes of that protocol.
_UPGRADE = re.compile(rb"^upgrade(?=[ \t]*:)", re.IGNORECASE | re.MULTILINE)


class _NotServedError(Exception):
    """A request that the parser understands, and this server does not. Raised in its callbacks, it answers 400."""


class Connection(HttpToolsProtocol):
    """A connection of uvicorn with two deadlines. All methods run on the event loop.

    The deadline for a request runs from the connection, or from the first byte of the next head, until the head is
    complete. It also runs after an early answer, such as 413, while the rest of the body arrives. That rest is read and
    dropped: closing the connection at once would reset it, and a client that is still sending would lose the answer.
    (While a body is read, `read_body` has a deadline.)

    The deadline for an answer runs from the moment at which the answer first waits for the client to read. It also runs
    once the connection is closing, because the end of an answer may wait then, too.

    A connection beyond the limit gets 503, and is closed. The parser gets a request when the answer before it is
    complete. Until then, the request waits as it came.
    """

    #: Seconds of each deadline, and the limit on connections; `connections_within` sets them.
    patience: float
    limit: Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has connected: the deadline for its request begins."""
        self._request = _Deadline(self, "the rest of a request did not arrive in time")
        self._answer = _Deadline(self, "the answer was not taken in time")
        self._waiting = Waiting()
        self._left: int | None = 0  # bytes that a body still has; 0 if a head is next; None in a body without a length
        self._between = 0  # bytes since the last byte of such a body
        self._refused = not self.limit.enter(self)
        if self._refused:
            self._refuse(transport)
        else:
            super().connection_made(transport)
            self.flow = _Flow(transport, self._waiting)
            self._request.start()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request have arrived."""
        if self._refused:
            return
        self._waiting.add(data)
        self._parse()
        if len(self._waiting) >= _AHEAD:
            self.flow.pause_reading()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of a head. Lines behind a body are dropped: nothing reads them, and their number has no limit.

        Raises:
            _NotServedError: there are blanks behind a coding. The parser does not know it then, and takes the body for
                the next request.
        """
        if self._left == 0:
            stripped = value.strip(b" \t")
            if stripped != value and name.lower() == b"transfer-encoding":
                raise _NotServedError("expected no blanks behind Transfer-Encoding")
            super().on_header(name, stripped)

    def on_headers_complete(self) -> None:
        """A head is complete. After this, the application runs, even if the parser refuses the head.

        Raises:
            _NotServedError: it may not be answered.
        """
        version = self.parser.get_http_version()
        headers = dict(self.headers)  # the parser refuses a second length, and a length beside chunks
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        hosts = sum(name == b"host" for name, _ in self.headers)
        if self.parser.get_method() == b"CONNECT":
            raise _NotServedError("tunnels are not supported")
        if version not in ("1.0", "1.1"):
            raise _NotServedError("expected HTTP/1.0 or HTTP/1.1")
        if hosts > 1 or (not hosts and version == "1.1"):
            raise _NotServedError("expected one header Host")
        if codings not in ([], [b"chunked"]):
            raise _NotServedError("expected no Transfer-Encoding but chunked")
        if self._is_answering():
            raise _NotServedError("expected a request to begin after the answer before it")
        if version == "1.0":
            self.expect_100_continue = False
        super().on_headers_complete()
        self._between = 0
        self._left = None if codings else int(headers.get(b"content-length", b"0"))

    def on_body(self, body: bytes) -> None:
        """Bytes of a body have arrived."""
        self._between = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._left = 0
        if not self.parser.should_keep_alive():  # a line behind the body may say so
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """An answer waits for the client to read."""
        if not self._refused:
            super().pause_writing()
            self._answer.start()

    def resume_writing(self) -> None:
        """The client has read enough. While more of the answer is to be written, its deadline stays."""
        if self._refused:
            return
        super().resume_writing()
        if self.cycle.response_complete or not self.cycle.response_started:
            self._answer.stop()
        self._watch_end()

    def on_response_complete(self) -> None:
        """All of an answer is written. The transport may still hold the end of it."""
        if not self.flow.write_paused:
            self._answer.stop()
        super().on_response_complete()
        self._parse()
        if len(self.cycle.body) <= HIGH_WATER_LIMIT:  # of the next request, which may have begun
            self.flow.resume_reading()
        self._watch_end()

    def timeout_keep_alive_handler(self) -> None:
        """No request came for long: the connection is closed."""
        super().timeout_keep_alive_handler()
        self._watch_end()

    def shutdown(self) -> None:
        """The server ends: the connection is closed after the request in progress."""
        super().shutdown()
        self._watch_end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed: the deadlines end."""
        self.limit.leave(self)
        if not self._refused:
            super().connection_lost(exc)
            self._unset_keepalive_if_required()  # uvicorn keeps this timer, and so the connection, after a reset
        self._request.end()
        self._answer.end()

    def send_400_response(self, msg: str) -> None:
        """The client broke the protocol. Nothing more is read, and no further answer is sent."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:  # its answer would follow this one
            cycle.disconnected = True
            cycle.message_event.set()
        if cycle is None or (cycle.response_complete and self._left == 0) or not cycle.response_started:
            super().send_400_response(msg)
        else:
            self.transport.close()
        self._watch_end()

    def cut_off(self, reason: str) -> None:
        """End the connection now. Bytes that are not yet sent are lost."""
        log.info("cut off", extra={"fields": {"client": self.client[0] if self.client else "", "reason": reason}})
        self.transport.abort()

    def _watch_request(self) -> None:
        if self._owes():
            self._request.start()
        else:
            self._request.stop()

    def _watch_idleness(self) -> None:
        """Keep uvicorn's timer of idle connections running exactly while the connection is idle."""
        if self.cycle is None or not self.cycle.response_complete or self._left != 0 or len(self._waiting) > 0:
            self._unset_keepalive_if_required()
        elif self.timeout_keep_alive_task is None and not self.transport.is_closing():
            end = self.timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, end)

    def _watch_end(self) -> None:
        """Start the deadline of an answer whose end the transport still holds, although the connection is closing."""
        if self.transport.is_closing():
            self._answer.start()

    def _parse(self) -> None:
        """Give the parser what it may have of the bytes that wait."""
        try:
            while not self._is_answering() and not self.transport.is_closing() and (part := self._next_part()):
                super().data_received(part)
        except HeadError as error:
            self.send_400_response(str(error))
        self._watch_request()
        self._watch_idleness()

    def _next_part(self) -> bytes:
        """What the parser gets next.

        Raises:
            HeadError: see there.
        """
        if self._left is None and self._between > MAX_HEAD:
            raise HeadError(TOO_LONG)
        part = self._waiting.take(self._left)
        if self._left is None:
            self._between += len(part)  # `on_body` begins anew
        elif self._left:
            self._left -= len(part)
        elif _UPGRADE.search(part):  # an ordinary request, as for a server that does not know the other protocol
            return _UPGRADE.sub(b"x-upgrade", part)
        return part

    def _is_answering(self) -> bool:
        """Whether a whole request has arrived, and its answer is not complete."""
        return self._left == 0 and self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, transport: asyncio.Transport) -> None:
        """Answer with 503. The client gets a moment to read that, unless many others do so already."""
        self.transport = transport
        if self.limit.is_news(self.loop.time()):
            log.warning("refused", extra={"fields": {"limit": self.limit.most, "connections": self.limit.refused}})
        transport.write(_refusal(self.limit.most))
        if self.limit.linger(self):
            transport.write_eof()
            self.loop.call_later(_LINGER, transport.abort)  # does nothing if the client has closed the connection
        else:
            transport.close()

    def _owes(self) -> bool:
        if self.transport.is_closing():
            return False
        if self._left != 0:
            return self.cycle.response_complete
        if self._is_answering():
            return False
        return self.cycle is None or len(self._waiting) > 0


class _Flow(FlowControl):
    """Uvicorn's control of reading and writing. It does not read on while many bytes wait to be parsed."""

    def __init__(self, transport: asyncio.Transport, waiting: Waiting) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Read on, unless enough bytes wait."""
        if len(self._waiting) < _AHEAD:
            super().resume_reading()


class _Deadline:
    """Cuts a connection off after `Connection.patience`, unless it is stopped before."""

    def __init__(self, connection: Connection, reason: str) -> None:
        self._connection = connection
        self._reason = reason
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def start(self) -> None:
        """Start the deadline, unless it runs already or has ended."""
        if self._timer is None and not self._ended:
            connection = self._connection
            self._timer = connection.loop.call_later(connection.patience, connection.cut_off, self._reason)

    def stop(self) -> None:
        """Stop the deadline, if it runs."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """Stop the deadline for ever: the connection is closed."""
        self.stop()
        self._ended = True


def connections_within(seconds: float, limit: Connections) -> type[Connection]:
    """The class of connections whose two deadlines are ``seconds`` long, and whose number ``limit`` bounds."""
    return type("Connection", (Connection,), {"patience": seconds, "limit": limit})


def _refusal(most: int) -> bytes:
    """The answer to a connection beyond the limit. It is sent before any request arrives, so it fits all protocols."""
    text = f"the server has {most} connections, which is its limit (--max-connections): try again later"
    body = json.dumps({"error": text, "type": "TooManyConnectionsError"}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable",
        "Connection: close",
        "Retry-After: 1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*head, "", ""]).encode() + body
