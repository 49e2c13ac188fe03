"""The ASGI application: all routes over one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from streamrt.serve.http import Routes, no_route
from streamrt.serve.mms import MultiModelServer
from streamrt.serve.page import Page
from streamrt.serve.service import Service
from streamrt.serve.v2 import OpenInference


def make_app(service: Service, drained: Callable[[], Awaitable[None]] | None = None) -> Starlette:
    """The application that serves ``service``, and closes it when the application shuts down, after ``drained``."""

    async def metrics(request: Request) -> Response:
        text = await service.call(service.metrics.text, request.query_params.getlist("name[]"))
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if drained is not None:
                await drained()
            await asyncio.to_thread(service.close)

    routes = Routes(service)
    OpenInference(service).add_to(routes)
    MultiModelServer(service).add_to(routes)
    routes.add("/metrics", "GET", metrics)
    if service.settings.page:
        Page().add_to(routes)
    handlers = {HTTPException: no_route, Exception: no_route}
    app = Starlette(routes=routes.table, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app
