"""From an inference request to its answer, in the form of either protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from streamrt.errors import PoolBusyError
from streamrt.serve.batching import Results, too_late
from streamrt.serve.catalog import ModelSpec
from streamrt.serve.http import model_in, read_body, version_in
from streamrt.serve.protocol import InferRequest, weigh_json
from streamrt.serve.service import Service

#: For a JSON text of at most 16 KiB the memory of its values is not counted: it is below 1 MiB for each thread.
_SMALL = 16 << 10


async def run_model(
    service: Service,
    request: Request,
    parse: Callable[[bytes | bytearray, ModelSpec], InferRequest],
    encode: Callable[[InferRequest, ModelSpec, Results], Response],
    json_length: int | None = None,
) -> Response:
    """The answer to a request for the model in the path.

    Args:
        service: with the model.
        request: a request whose body has not been read.
        parse: makes tensors from the body; runs in a thread.
        encode: makes an answer from the results; runs in a thread.
        json_length: bytes of JSON at the start of the body; None if all of it is JSON.

    Raises:
        ClientDisconnect: the client has gone.
        Exception: an error of any step.
    """
    name = model_in(request)
    with service.gate.hold() as held:
        spec = await service.call(service.catalog.spec, name, version_in(request))
        body = await read_body(service, request, held, service.settings.max_body, "--max-body")
        text = memoryview(body)[:json_length]
        weight = await service.call(weigh_json, text, service.settings.max_json) if len(text) > _SMALL else 0
        async with service.parsing(weight):
            parsed = await service.call(parse, body, spec)
        del body, text  # frees the body, unless tensors are views of it
        request.state.id = parsed.id
        outputs = service.check(spec, parsed)
        results = await _outcome(request, service.infer(name, spec, parsed, outputs), service.settings.timeout)
        began = monotonic()
        response = await service.call(encode, parsed, spec, results)
        service.metrics.encoded(name, monotonic() - began)
        return response


async def _outcome(request: Request, results: Future[Results], seconds: float) -> Results:
    """The results. The request is given up if the client disconnects, or if no thread has begun it in time."""
    ended = asyncio.wrap_future(results)
    gone = asyncio.ensure_future(_gone(request))
    waiting: set[asyncio.Future[Any]] = {ended, gone}
    try:
        done, _ = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done and results.cancel():  # every worker is busy
            raise PoolBusyError(too_late(seconds))
        if not done:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            raise ClientDisconnect
        return ended.result()
    finally:
        ended.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    """Return when the client disconnects. The body was read, so no other message can arrive."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
