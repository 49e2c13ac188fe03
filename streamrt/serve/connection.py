"""Connections with deadlines: for a request to arrive, and for an answer to be taken."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamrt.serve.logs import log


class Connection(H11Protocol):
    """A connection of uvicorn with two deadlines. All methods run on the event loop.

    The deadline for a request runs from the connection, or from the first byte of the next head, until the head is
    complete. It also runs after an early answer, such as 413, while the rest of the body arrives. That rest is read and
    dropped: closing the connection at once would reset it, and a client that is still sending would lose the answer.
    (While a body is read, `read_body` has a deadline.)

    The deadline for an answer runs from the moment at which the answer first waits for the client to read.
    """

    #: Seconds of each deadline; `connection_within` sets them.
    patience = 60.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has connected: the deadline for its request begins."""
        super().connection_made(transport)
        self._request = _Deadline(self, "the rest of a request did not arrive in time")
        self._answer = _Deadline(self, "the answer was not taken in time")
        self._request.start()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request have arrived."""
        super().data_received(data)
        self._watch_request()

    def pause_writing(self) -> None:
        """An answer waits for the client to read."""
        super().pause_writing()
        self._answer.start()

    def resume_writing(self) -> None:
        """The client has read enough. While more of the answer is to be written, its deadline stays."""
        super().resume_writing()
        if self.cycle.response_complete or not self.cycle.response_started:
            self._answer.stop()

    def on_response_complete(self) -> None:
        """All of an answer is written. The transport may still hold the end of it."""
        if not self.flow.write_paused:
            self._answer.stop()
        super().on_response_complete()
        self._watch_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed: the deadlines end."""
        self._request.stop()
        self._answer.stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """The client broke the protocol. Nothing more is read, and no further answer is sent."""
        if self.cycle is not None and not self.cycle.response_complete:  # its answer would follow this one
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun, or it was the last answer of this connection
            self.transport.close()

    def cut_off(self, reason: str) -> None:
        """End the connection now. Bytes that are not yet sent are lost."""
        log.info("cut off", extra={"fields": {"client": self.client[0] if self.client else "", "reason": reason}})
        self.transport.abort()

    def _watch_request(self) -> None:
        if self._owes():
            self._request.start()
        else:
            self._request.stop()

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

    def start(self) -> None:
        """Start the deadline, unless it runs already."""
        if self._timer is None:
            connection = self._connection
            self._timer = connection.loop.call_later(connection.patience, connection.cut_off, self._reason)

    def stop(self) -> None:
        """Stop the deadline, if it runs."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def connection_within(seconds: float) -> type[Connection]:
    """The class of connections whose two deadlines are ``seconds`` long."""
    return type("Connection", (Connection,), {"patience": seconds})
