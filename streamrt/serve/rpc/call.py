"""A call: its message, its answer or its error, and its line in the log.

Errors are those of HTTP (`streamrt.serve.http.told`), with the code of gRPC that stands for the status code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from grpc import StatusCode, aio
from starlette.exceptions import HTTPException

from streamrt.serve.access import LEAST_HELD, Held, TooMuchError
from streamrt.serve.http import authorize, told
from streamrt.serve.logs import log
from streamrt.serve.metrics import GONE
from streamrt.serve.refusal import ProtocolError
from streamrt.serve.rpc import peers
from streamrt.serve.rpc.intake import Intake
from streamrt.serve.rpc.messages import SERVICE
from streamrt.serve.service import Service

T = TypeVar("T")

#: The codes of gRPC for status codes of HTTP; INTERNAL for any other.
CODES = {
    200: StatusCode.OK,
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    406: StatusCode.FAILED_PRECONDITION,
    408: StatusCode.DEADLINE_EXCEEDED,
    409: StatusCode.ALREADY_EXISTS,
    413: StatusCode.RESOURCE_EXHAUSTED,
    415: StatusCode.UNIMPLEMENTED,
    429: StatusCode.RESOURCE_EXHAUSTED,
    GONE: StatusCode.CANCELLED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
    507: StatusCode.RESOURCE_EXHAUSTED,
}
#: Milliseconds after which a client may try again, as HTTP's header Retry-After.
_RETRY = (("grpc-retry-pushback-ms", "1000"),)
#: The most bytes of an error's text, and the characters that are kept of a longer one. Clients accept 8 KiB of
#: metadata, where a byte takes up to three.
_MAX_TEXT, _KEPT = 2000, 500
#: Seconds that grpcio takes at most to report that a call has ended, after it has reported that no message comes.
_REPORTED = 1.0


@dataclass(slots=True)
class Call:
    """A call in progress.

    Attributes:
        service: with the models.
        intake: gives room for messages.
        context: of grpcio.
        peer: the address of the client, as grpcio writes it. Later grpcio may not know it any more.
        held: the bytes that the call holds.
        model: the name of the model that it is about, or empty.
        id: of the request, if it has one.
    """

    service: Service
    intake: Intake
    context: Any
    peer: str
    held: Held
    model: str = ""
    id: str | None = None

    async def message(self, limit: int, option: str = "") -> bytes:
        """The message of the client, which is held.

        Args:
            limit: the most bytes of the message.
            option: of the command line that sets the limit, for texts of errors.

        Raises:
            OverloadedError: there is no room for it.
            TooMuchError: it is larger than ``limit``.
            HTTPException: 408, it did not arrive in time.
            ProtocolError: there is none.
            CancelledError: the client has gone, or grpcio has refused the message as too large.
        """
        seconds = self.service.settings.body_timeout
        async with self.intake.room():
            try:
                async with asyncio.timeout(seconds):
                    message = await self.context.read()
            except TimeoutError:
                late = f"expected the whole message within {seconds:g} s (--body-timeout), found less of it"
                raise HTTPException(408, late) from None
            if message is not aio.EOF:
                self.intake.arrived(len(message))
        if message is aio.EOF:
            await asyncio.sleep(_REPORTED)  # a call that grpcio has ended is cancelled meanwhile
            raise ProtocolError("expected a message, found none")
        self.held.add(len(message))
        if len(message) > limit:
            most = f"expected a message of at most {limit} bytes" + (f" ({option})" if option else "")
            raise TooMuchError(f"{most}, found {len(message)}")
        return bytes(message)

    def keep(self, count: int) -> None:
        """Give back all bytes that the call holds, but for ``count`` of them."""
        self.held.add(min(0, count - self.held.total))

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work in a thread. If the client goes, this returns only when the work has ended.

        So the bytes that the work uses are held until then.
        """
        task = asyncio.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            task.exception()  # nobody else asks for it
            raise


#: Makes the answer to a call, as the bytes of a message.
Answer = Callable[[Call], Awaitable[bytes]]


class Face:
    """Makes handlers for grpcio of functions that answer calls.

    Args:
        service: with the models.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        self._intake = Intake(service.gate, self._settings.max_body, self._settings.timeout)

    def handler(
        self, method: str, answer: Answer, *, holds: bool = True, control: bool = False, inference: bool = False
    ) -> Callable[[object, Any], Awaitable[None]]:
        """The handler of a method, for a stream of messages. It takes at most one.

        Args:
            method: its name.
            answer: makes the answer, or raises.
            holds: the call counts towards `max_held`; a call that takes no message need not.
            control: calls need the token.
            inference: calls count as inference requests in the metrics.
        """

        async def handle(messages: object, context: Any) -> None:
            began = time.monotonic()
            call = Call(self._service, self._intake, context, context.peer(), Held(self._service.gate))
            least = LEAST_HELD * holds
            status, text = GONE, ""
            with ExitStack() as stack:
                stack.callback(call.keep, 0)
                try:
                    if control:
                        authorize(self._settings.token, _authorization(context))
                    call.held.add(least)
                    message = [await answer(call)]  # `_send` takes it out, so that no frame of an error holds it
                    call.keep(least)
                    if (size := len(message[0])) > LEAST_HELD:
                        stack.enter_context(self._service.gate.answer(2 * size))  # grpcio copies it
                    status = 200
                except Exception as error:
                    status, _, text = told(error)
                    error.__traceback__ = error.__context__ = error.__cause__ = None  # see `Routes.add`
                    call.keep(least)
                finally:
                    self._report(method, call, status, time.monotonic() - began, inference)
                if status == 200:
                    await self._send(call, message)
                else:
                    await _refuse(context, status, text)

        return handle

    async def _send(self, call: Call, message: list[bytes]) -> None:
        """Send an answer. When this returns, the client has taken all but a few KiB of it.

        If the client takes too long, its connection is closed, with all its calls.
        """

        def cut_off() -> None:
            reason = "the answer was not taken in time"
            log.info("cut off", extra={"fields": {"client": peers.host_of(call.peer), "reason": reason}})
            peers.close(call.peer)

        timer = asyncio.get_running_loop().call_later(self._settings.body_timeout, cut_off)
        try:
            await call.context.write(message.pop())
        except aio.BaseError:
            raise asyncio.CancelledError from None  # the client has gone, and grpcio takes this for the end
        finally:
            timer.cancel()

    def _report(self, method: str, call: Call, status: int, seconds: float, inference: bool) -> None:
        model = call.model if self._service.catalog.has(call.model) else ""
        if inference:
            self._service.metrics.answered(model, status, seconds)
        fields = {
            "method": "gRPC",
            "route": f"/{SERVICE}/{method}",
            "model": model,
            "status": status,
            "code": _code(status).name,
            "seconds": round(seconds, 6),
            "client": peers.host_of(call.peer),
            "id": call.id,
        }
        log.info("request", extra={"fields": fields})


async def _refuse(context: Any, status: int, text: str) -> None:
    """End a call with an error. This raises what grpcio expects."""
    try:
        await context.abort(_code(status), _short(text), _RETRY if status == 503 else ())
    except aio.InternalError:
        raise asyncio.CancelledError from None  # the client has gone


def _code(status: int) -> StatusCode:
    return CODES.get(status, StatusCode.INTERNAL)


def _authorization(context: Any) -> str | None:
    return next((value for key, value in context.invocation_metadata() if key == "authorization"), None)


def _short(text: str) -> str:
    return text if len(text.encode()) <= _MAX_TEXT else f"{text[:_KEPT]}..."
