"""From an inference request to its answer, in the form of either protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Self

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from streamrt.errors import PoolBusyError
from streamrt.serve.batching import Results, too_late
from streamrt.serve.catalog import ModelSpec
from streamrt.serve.http import model_in, read_body, version_in
from streamrt.serve.jsontext import JsonText, weigh_json
from streamrt.serve.protocol import InferRequest, split_body
from streamrt.serve.service import Service

#: A request with at most 32 KiB of JSON and 1 MiB behind it is parsed on the event loop: 0.2 ms for numbers, and some
#: milliseconds for the worst text. Passing it to a thread and waiting for that thread would take longer.
_SMALL, _SMALL_DATA = 32 << 10, 1 << 20


async def run_model(
    service: Service,
    request: Request,
    parse: Callable[[JsonText, memoryview, ModelSpec], InferRequest],
    encode: Callable[[InferRequest, ModelSpec, Results], Response],
    json_length: int | None = None,
) -> Response:
    """The answer to a request for the model in the path.

    Args:
        service: with the model.
        request: a request whose body has not been read.
        parse: makes tensors from the JSON text of the body and the binary data behind it; runs in a thread if these are
            large, or the header of the model's file has to be read.
        encode: makes an answer from the results; runs in a thread if they are large.
        json_length: bytes of JSON at the start of the body; None if all of it is JSON.

    Raises:
        ClientDisconnect: the client has gone.
        Exception: an error of any step.
    """
    name = model_in(request)
    service.catalog.require(name)

    def read(text: JsonText, data: memoryview) -> tuple[ModelSpec, InferRequest]:
        spec = service.catalog.spec(name, version_in(request))
        return spec, parse(text, data, spec)

    with service.gate.hold() as held:
        body = await read_body(service, request, held, service.settings.max_body, "--max-body")
        head, data = split_body(body, json_length)
        with Watch(request) as watch:
            try:
                text = await _weighed(service, head)
                small = len(head) <= _SMALL and len(data) <= _SMALL_DATA
                if small and (known := service.catalog.known_spec(name, version_in(request))):
                    spec, parsed = known, parse(text, data, known)
                else:
                    async with AsyncExitStack() as stack:
                        async with watch.required():  # another text may be parsed for long
                            await stack.enter_async_context(service.parsing(text.memory))
                        spec, parsed = await service.call(read, text, data)
                del body, head, data, text  # frees the body, unless tensors are views of it
                request.state.id = parsed.id
                outputs = service.check(spec, parsed)
                watch.require()
                queued = service.infer(name, spec, parsed, outputs)
                results = await outcome(queued, service.settings.timeout, watch)
            except WithdrawnError:
                service.metrics.withdrawn()
                raise
        return await service.encode(name, partial(encode, parsed, spec), results)


async def _weighed(service: Service, head: memoryview) -> JsonText:
    limit = service.settings.max_json
    return await service.call(weigh_json, head, limit) if len(head) > _SMALL else weigh_json(head, limit)


async def outcome(results: Future[Results], seconds: float, watch: Watch | None = None) -> Results:
    """The results. The request is given up if its client goes, or if no thread has begun it in time.

    A pass that has begun is finished, whether its client waits or not. Until then the request holds its memory.

    Args:
        results: of a request that was queued.
        seconds: until a thread must have begun it.
        watch: tells whether the client is there. Without it, the task that waits is cancelled when the client goes.
    """
    ended = asyncio.wrap_future(results)
    waiting: set[asyncio.Future[Any]] = {ended, watch.gone} if watch else {ended}
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done() and results.cancel():  # every worker is busy
            if watch:
                watch.require()
            raise PoolBusyError(too_late(seconds))
        await asyncio.wait({ended})
        if watch and watch.gone.done():
            ended.exception()  # so that asyncio does not log it
            raise ClientDisconnect
        return ended.result()
    except asyncio.CancelledError:
        if not results.cancel():
            await asyncio.wait({ended})
            ended.exception()
        raise
    finally:
        ended.cancel()


class WithdrawnError(ClientDisconnect):
    """The client has gone before a pass began with its request, which is not computed."""


class Watch:
    """Watches whether the client of a request is there, from the moment when the request's body was read.

    Attributes:
        gone: is done when the client has gone.
    """

    def __init__(self, request: Request) -> None:
        self.gone = asyncio.ensure_future(_gone(request))

    def require(self) -> None:
        """Raise `WithdrawnError` if the client has gone."""
        if self.gone.done():
            raise WithdrawnError

    @asynccontextmanager
    async def required(self) -> AsyncIterator[None]:
        """A context that ends with `WithdrawnError` as soon as the client goes."""
        self.require()
        try:
            async with asyncio.timeout(None) as scope:
                end = partial(_end, scope)
                self.gone.add_done_callback(end)
                try:
                    yield
                finally:
                    self.gone.remove_done_callback(end)
        except TimeoutError:
            if scope.expired():
                raise WithdrawnError from None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.gone.cancel()


async def _gone(request: Request) -> None:
    """Return when the client disconnects. The body was read, so no other message can arrive."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _end(scope: asyncio.Timeout, gone: asyncio.Future[None]) -> None:
    with suppress(RuntimeError):  # the scope has ended just now
        scope.reschedule(0.0)
