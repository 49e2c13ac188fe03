"""Between HTTP and the rest: bodies in, within limits, and answers out; an error has its status code here.

No text of an error leaves the server unless it is known to speak of nothing but the request: a model's own errors
speak of files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from streamrt.errors import InputError, ModelTooLargeError, PoolBusyError, UnknownModelError
from streamrt.serve.access import (
    LEAST_HELD,
    EncodingError,
    Held,
    OverloadedError,
    TooMuchError,
    decompress,
    is_authorized,
)
from streamrt.serve.batching import QueueFullError, ReplacedError, ShuttingDownError
from streamrt.serve.catalog import NameTakenError
from streamrt.serve.logs import log, log_failure
from streamrt.serve.metrics import GONE
from streamrt.serve.protocol import ProtocolError, UnrepresentableError
from streamrt.serve.service import Service

#: Seconds after which to try again.
_RETRY_AFTER = "1"
#: Bytes of an answer that are sent as one.
_PART = 256 << 10
#: Errors whose text is for the client, and their status.
_TOLD: dict[type[Exception], int] = {
    ProtocolError: 400,
    InputError: 400,
    UnknownModelError: 404,
    UnrepresentableError: 406,
    NameTakenError: 409,
    TooMuchError: 413,
    EncodingError: 415,
    PoolBusyError: 503,
    QueueFullError: 503,
    OverloadedError: 503,
    ReplacedError: 503,
    ShuttingDownError: 503,
    ModelTooLargeError: 507,
}

Handler = Callable[[Request], Awaitable[Response]]


async def read_body(service: Service, request: Request, held: Held, limit: int) -> bytes | bytearray:
    """The body, decompressed, of at most ``limit`` bytes; it is read no further than that.

    Raises:
        TooMuchError, EncodingError, OverloadedError: see `streamrt.serve.access`.
        HTTPException: 408, it did not come in time.
    """
    seconds = service.settings.body_timeout
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > limit:
        raise TooMuchError(f"expected a body of at most {limit} bytes, found {announced:.20}")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise TooMuchError(f"expected a body of at most {limit} bytes")
                held.add(len(chunk))
                body += chunk
    except TimeoutError:
        late = f"the body did not come within {seconds:g} seconds"
        raise HTTPException(408, late, {"Connection": "close"}) from None
    if encoding := request.headers.get("content-encoding"):
        found = await service.call(decompress, body, encoding, limit)
        held.add(len(found))
        return found
    return body


def model_in(request: Request) -> str:
    """The name of the model in the path."""
    return str(request.path_params["model"])


def version_in(request: Request) -> str | None:
    """The version that the path has of it, or None."""
    return request.path_params.get("version")


class Routes:
    """The table of routes. Errors of their handlers become answers; every request is logged.

    Attributes:
        table: the routes.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.table: list[Route] = []

    def add(self, path: str, method: str, handler: Handler, *, control: bool = False, inference: bool = False) -> None:
        """Lead requests to ``handler``.

        Args:
            path: with a model's name, if there is one, as ``{model}``.
            method: of HTTP.
            handler: answers, or raises.
            control: only for who has the token.
            inference: it is counted.
        """

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            began = time.monotonic()
            request = Request(scope, receive, send)
            with ExitStack() as stack:
                try:
                    if control:
                        self._authorize(request)
                    response = await handler(request)
                    if len(response.body) > LEAST_HELD:
                        stack.enter_context(self._service.gate.answer(len(response.body)))
                except ClientDisconnect:
                    response = Response(status_code=GONE)
                except Exception as error:
                    response = failure(request, error)
                    # Its frames have the request, and futures that have the error: they would stay until collected.
                    error.__traceback__ = error.__context__ = error.__cause__ = None
                name = request.path_params.get("model", "")
                model = name if self._service.catalog.has(name) else ""
                seconds = time.monotonic() - began
                if inference:
                    self._service.metrics.answered(model, response.status_code, seconds)
                _log(request, response.status_code, seconds, model, path)
                await _send(response, scope, receive, send)

        self.table.append(Route(path, _Endpoint(handle), methods=[method]))

    def _authorize(self, request: Request) -> None:
        token = self._service.settings.token
        if token is None:
            raise HTTPException(403, "repository and registration calls are off: see streamrt serve --control")
        if not is_authorized(request.headers.get("authorization"), token):
            raise HTTPException(401, "expected the bearer token", {"WWW-Authenticate": "Bearer"})


class _Endpoint:
    """An application, where a route would take a function for one that returns before its answer is sent."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)


async def _send(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an answer; when this returns, the client has taken it, but for what one part has at most.

    A server takes a message at once, however large, and then waits before the next one until most of it is sent.
    """
    if len(response.body) <= LEAST_HELD:
        await response(scope, receive, send)
        return
    body = response.body
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    for begin in range(0, len(body), _PART):
        await send({"type": "http.response.body", "body": bytes(body[begin : begin + _PART]), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def no_route(request: Request, error: Exception) -> Response:
    """The answer where no route leads: 404, or 405; and to an error outside of all routes: 500."""
    response = failure(request, error)
    _log(request, response.status_code, 0.0, "", "")
    return response


def _log(request: Request, status: int, seconds: float, model: str, route: str) -> None:
    fields = {
        "method": request.method,
        "route": route,
        "model": model,
        "status": status,
        "seconds": round(seconds, 6),
        "client": request.client.host if request.client else "",
        "id": getattr(request.state, "id", None),
    }
    log.info("request", extra={"fields": fields})


def failure(request: Request, error: Exception) -> Response:
    """The answer to a request that ended with ``error``."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        status, kind, text = error.status_code, "HTTPException", error.detail
        headers.update(error.headers or {})
    else:
        kind = type(error).__name__
        status = next((code for known, code in _TOLD.items() if isinstance(error, known)), 500)
        text = str(error) if status != 500 else "the model, or the server, failed: its log has the reason"
        if status == 500:
            log_failure(error)
    if status == 503:
        headers["Retry-After"] = _RETRY_AFTER
    if request.scope["path"].startswith("/v2"):  # not that of its URL, which not every Host makes one
        body: dict[str, object] = {"error": text, "type": kind}
    else:  # as multi-model-server has it
        body = {"code": status, "type": kind, "message": text}
    return JSONResponse(body, status, headers)
