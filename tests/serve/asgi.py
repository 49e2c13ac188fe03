"""The application in this process, called without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from streamrt.serve.app import make_app
from streamrt.serve.service import Service

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def ask(
    service: Service, path: str, body: bytes = b"", headers: dict[str, str] | None = None, send: Send | None = None
) -> tuple[int, bytes]:
    """Status and body of the answer to a POST, or to a GET if ``body`` is missing.

    Args:
        service: the service whose application is called.
        path: with a query, if any.
        body: of the request.
        headers: of the request.
        send: gets every message of the answer, and may wait before it returns.
    """
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST" if body else "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    del body
    gone = asyncio.Event()
    answer: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def take(message: dict[str, Any]) -> None:
        if send is not None:
            await send(message)
        answer.append(message)

    await make_app(service)(scope, receive, take)  # type: ignore[arg-type]
    return answer[0]["status"], b"".join(message.get("body", b"") for message in answer[1:])
