"""A connection that waits for no client without end: neither for a request nor for an answer to be taken."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamrt.serve.logs import log


class Connection(H11Protocol):
    """uvicorn's, with two deadlines. All of it runs on the event loop.

    A client owes bytes from the moment it has connected, or begun with the head of another request, until the head is
    there; and the rest of a body that was answered before it had come. (While a body is read, `read_body` has a
    deadline.) An answer must be taken by so many seconds after it first had to wait for its reader.
    """

    #: Seconds for each; see `connection_within`.
    patience = 60.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client may send its first request."""
        super().connection_made(transport)
        self._request = _Deadline(self, "the rest of a request did not come in time")
        self._answer = _Deadline(self, "the answer was not taken in time")
        self._request.start()

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        super().data_received(data)
        self._watch_request()

    def pause_writing(self) -> None:
        """An answer waits for its reader."""
        super().pause_writing()
        self._answer.start()

    def resume_writing(self) -> None:
        """The reader has caught up. The deadline stays until all of the answer is written."""
        super().resume_writing()
        if self.cycle.response_complete or not self.cycle.response_started:
            self._answer.stop()

    def on_response_complete(self) -> None:
        """All of an answer is written, and sent but for what the transport has."""
        if not self.flow.write_paused:
            self._answer.stop()
        super().on_response_complete()
        self._watch_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._request.stop()
        self._answer.stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """The client broke the protocol. Nothing more is read, and what it still waits for is not sent."""
        if self.cycle is not None and not self.cycle.response_complete:  # its answer would come behind this one
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun, or was the last of this connection
            self.transport.close()

    def cut_off(self, reason: str) -> None:
        """End it now, whatever is still to be sent."""
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
    """Cuts a connection off after its patience, unless it is stopped before."""

    def __init__(self, connection: Connection, reason: str) -> None:
        self._connection = connection
        self._reason = reason
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Unless it has been started."""
        if self._timer is None:
            connection = self._connection
            self._timer = connection.loop.call_later(connection.patience, connection.cut_off, self._reason)

    def stop(self) -> None:
        """Whether it was started or not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def connection_within(seconds: float) -> type[Connection]:
    """The class of connections whose clients have so many seconds for each."""
    return type("Connection", (Connection,), {"patience": seconds})
