"""Connections: their number is limited, and they have deadlines for requests to arrive and answers to be taken."""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamrt.serve.access import Connections
from streamrt.serve.logs import log

#: Bytes of further requests that are read while a request waits. As long as bytes are read, the end of the connection
#: is noticed. 64 KiB are room for the usual pipelined request.
_AHEAD = 64 << 10
#: Seconds for which a refused connection is read. If it were closed at once, bytes that the client has sent would make
#: the kernel reset it, and the client might lose the answer.
_LINGER = 1.0


class Connection(H11Protocol):
    """A connection of uvicorn with two deadlines. All methods run on the event loop.

    The deadline for a request runs from the connection, or from the first byte of the next head, until the head is
    complete. It also runs after an early answer, such as 413, while the rest of the body arrives. That rest is read and
    dropped: closing the connection at once would reset it, and a client that is still sending would lose the answer.
    (While a body is read, `read_body` has a deadline.)

    The deadline for an answer runs from the moment at which the answer first waits for the client to read. It also runs
    once the connection is closing, because the end of an answer may wait then, too.

    A connection beyond the limit gets 503, and is closed.
    """

    #: Seconds of each deadline, and the limit on connections; `connections_within` sets them.
    patience: float
    limit: Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has connected: the deadline for its request begins."""
        self._request = _Deadline(self, "the rest of a request did not arrive in time")
        self._answer = _Deadline(self, "the answer was not taken in time")
        self._refused = not self.limit.enter(self)
        if self._refused:
            self._refuse(transport)
        else:
            super().connection_made(transport)
            self._request.start()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request have arrived."""
        if self._refused:
            return
        super().data_received(data)
        self._watch_request()
        self._read_ahead()

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
        self._watch_request()
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
        if self.cycle is not None and not self.cycle.response_complete:  # its answer would follow this one
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun, or it was the last answer of this connection
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

    def _watch_end(self) -> None:
        """Start the deadline of an answer whose end the transport still holds, although the connection is closing."""
        if self.transport.is_closing():
            self._answer.start()

    def _read_ahead(self) -> None:
        """Go on reading while a request waits, although the next one has begun to arrive."""
        if self.conn.their_state is h11.DONE and len(self.conn.trailing_data[0]) < _AHEAD:
            self.flow.resume_reading()

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
        if self.conn.their_state is h11.SEND_BODY:
            return self.cycle.response_complete
        return self.conn.their_state is h11.IDLE and (self.cycle is None or bool(self.conn.trailing_data[0]))


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
