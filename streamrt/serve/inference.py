"""From a request to its answer, whatever form the two have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from streamrt.errors import PoolBusyError
from streamrt.serve.batching import Results
from streamrt.serve.catalog import ModelSpec
from streamrt.serve.http import model_in, read_body, version_in
from streamrt.serve.protocol import InferRequest, weigh_json
from streamrt.serve.service import Service

#: Bytes of JSON of which what they take once parsed is not counted: less than a MiB, in as many threads as parse.
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
        service: that has it.
        request: whose body was not read.
        parse: makes tensors of the body; in a thread.
        encode: makes an answer of the results; in a thread.
        json_length: bytes of JSON that the body begins with; None if it is all JSON.

    Raises:
        Exception: what any of these raises, and `ClientDisconnect` when nobody waits for the answer any more.
    """
    name = model_in(request)
    with service.gate.hold() as held:
        spec = await service.call(service.catalog.spec, name, version_in(request))
        body = await read_body(service, request, held, service.settings.max_body)
        text = memoryview(body)[:json_length]
        weight = await service.call(weigh_json, text, service.settings.max_json) if len(text) > _SMALL else 0
        async with service.parsing(weight):
            parsed = await service.call(parse, body, spec)
        del body, text  # unless tensors lie in it
        request.state.id = parsed.id
        outputs = service.check(spec, parsed)
        results = await _outcome(request, service.infer(name, spec, parsed, outputs), service.settings.timeout)
        return await service.call(encode, parsed, spec, results)


async def _outcome(request: Request, results: Future[Results], seconds: float) -> Results:
    """The results; given up when the client goes, and when nobody has begun with them in time."""
    ended = asyncio.wrap_future(results)
    gone = asyncio.ensure_future(_gone(request))
    waiting: set[asyncio.Future[Any]] = {ended, gone}
    try:
        done, _ = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done and results.cancel():  # every worker is busy
            raise PoolBusyError("the model was not to be had in time")
        if not done:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            raise ClientDisconnect
        return ended.result()
    finally:
        ended.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    """Returns when the client goes. The body was read, so that nothing else is left to be told."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
