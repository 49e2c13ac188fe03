"""HTTP: reading bodies within limits, sending answers, and the status code of each error.

The text of an error is sent only if it is about the request alone. Errors of a model name files of the server. They are
logged, and the client gets a general text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
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
from streamrt.serve.refusal import ProtocolError, UnrepresentableError
from streamrt.serve.service import Service

#: Seconds after which a client may try again: 1, the smallest value above 0 that the header Retry-After can have.
_RETRY_AFTER = "1"
#: Bytes of an answer that are sent at once. The transport may hold this many for a client that does not read.
_PART = 256 << 10
#: Errors whose text is sent to the client, with their status codes.
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


async def read_body(service: Service, request: Request, held: Held, limit: int, option: str = "") -> bytes | bytearray:
    """The decompressed body. No more than ``limit`` bytes of it are kept.

    Args:
        service: has the deadline.
        request: a request whose body has not been read.
        held: counts the bytes of the body.
        limit: the most bytes of the body, compressed and decompressed.
        option: of the command line that sets the limit, for texts of errors.

    Raises:
        TooMuchError, EncodingError, OverloadedError: see `streamrt.serve.access`.
        HTTPException: 408, the body did not arrive in time.
    """
    most = f"expected a body of at most {limit} bytes" + (f" ({option})" if option else "")
    seconds = service.settings.body_timeout
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > limit:
        raise TooMuchError(f"{most}, found Content-Length {announced:.20}")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise TooMuchError(f"{most}, found more")
                held.add(len(chunk))
                body += chunk
    except TimeoutError:
        late = f"expected the whole body within {seconds:g} s (--body-timeout), found {len(body)} bytes of it"
        raise HTTPException(408, late, {"Connection": "close"}) from None
    if encoding := request.headers.get("content-encoding"):
        found = await service.call(decompress, body, encoding, limit)
        held.add(len(found))
        return found
    return body


def model_in(request: Request) -> str:
    """The name of the model in the path of ``request``."""
    return str(request.path_params["model"])


def version_in(request: Request) -> str | None:
    """The version of the model in the path of ``request``, or None."""
    return request.path_params.get("version")


class Routes:
    """The table of routes. Errors of handlers become answers, and every request is logged.

    Attributes:
        table: the routes.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.table: list[Route] = []

    def add(self, path: str, method: str, handler: Handler, *, control: bool = False, inference: bool = False) -> None:
        """Send requests for a path and a method to ``handler``.

        Args:
            path: the path, with ``{model}`` in the place of a model's name.
            method: the HTTP method.
            handler: makes the answer, or raises.
            control: requests need the token.
            inference: requests count as inference requests in the metrics.
        """

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            began = time.monotonic()
            request = Request(scope, receive, send)
            with ExitStack() as stack:
                try:
                    if control:
                        authorize(self._service.settings.token, request.headers.get("authorization"))
                    response = await handler(request)
                    if len(response.body) > LEAST_HELD:
                        stack.enter_context(self._service.gate.answer(len(response.body)))
                except ClientDisconnect:
                    response = Response(status_code=GONE)
                except Exception as error:
                    response = failure(request, error)
                    # Its frames hold the request, and futures that hold the error. That cycle would live for long.
                    error.__traceback__ = error.__context__ = error.__cause__ = None
                name = request.path_params.get("model", "")
                model = name if self._service.catalog.has(name) else ""
                seconds = time.monotonic() - began
                if inference:
                    self._service.metrics.answered(model, response.status_code, seconds)
                _log(request, response.status_code, seconds, model, path)
                await _send(response, scope, receive, send)

        self.table.append(Route(path, _Endpoint(handle), methods=[method]))


def authorize(token: str | None, header: str | None) -> None:
    """Check that a client may make control calls.

    Args:
        token: of the server; None if it allows no such calls.
        header: ``Authorization`` of the request, if any.

    Raises:
        HTTPException: 403 or 401, it may not.
    """
    if token is None:
        raise HTTPException(
            403, "repository and registration calls are off: start the server with --control and a token"
        )
    if not is_authorized(header, token):
        found = "none" if header is None else "another one"
        text = f"expected the bearer token of the server (Authorization: Bearer TOKEN), found {found}"
        raise HTTPException(401, text, {"WWW-Authenticate": "Bearer"})


class _Endpoint:
    """An ASGI application. It is a class because a route treats a plain function as a handler of another form."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)


async def _send(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an answer. When this returns, the client has taken all but at most one part of it.

    The server accepts a message of any size at once. It waits before the next one until most of it has been sent.
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
    """The answer for a path without a route, 404 or 405, and for an error outside of all routes, 500."""
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


def told(error: Exception) -> tuple[int, str, str]:
    """The status code of an error, and its name and its text for the client.

    An error of the server or a model is logged, and gets a general text.
    """
    if isinstance(error, HTTPException):
        return error.status_code, "HTTPException", error.detail
    status = next((code for known, code in _TOLD.items() if isinstance(error, known)), 500)
    if status == 500:
        log_failure(error)
        return status, type(error).__name__, "the model or the server failed: the server's log has the reason"
    return status, type(error).__name__, str(error)


def failure(request: Request, error: Exception) -> Response:
    """The answer to a request that ended with ``error``."""
    headers: dict[str, str] = {}
    status, kind, text = told(error)
    if isinstance(error, HTTPException):
        headers.update(error.headers or {})
        if status == 404:
            text += ": expected /ping, /metrics, /v2, or a path below /v2, /predictions or /models"
        elif status == 405:  # the router names the methods of one route; other routes have the same path
            headers["Allow"] = ", ".join(_methods(request))
            text += f": expected {headers['Allow']}, found {request.method!r:.40}"
    if status == 503:
        headers["Retry-After"] = _RETRY_AFTER
    if request.scope["path"].startswith("/v2"):  # request.url would raise for an invalid Host header
        body: dict[str, object] = {"error": text, "type": kind}
    else:  # the form of multi-model-server
        body = {"code": status, "type": kind, "message": text}
    return JSONResponse(body, status, headers)


def _methods(request: Request) -> list[str]:
    """The methods that the path of ``request`` allows, sorted."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in route.methods or ()})
