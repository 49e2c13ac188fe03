"""The server without HTTP: the pool, the models that are served, the queues, and threads for calls that block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from time import monotonic
from typing import TypeVar

import numpy as np

from streamrt.engine.inputs import check_inputs, describe
from streamrt.errors import InputError
from streamrt.pool import ModelPool
from streamrt.pool.failure import told
from streamrt.serve.access import Connections, Gate, OverloadedError
from streamrt.serve.batching import Batcher, QueueFullError, Results
from streamrt.serve.catalog import Catalog, ModelSpec
from streamrt.serve.folder import Folder
from streamrt.serve.logs import log
from streamrt.serve.metrics import Metrics
from streamrt.serve.protocol import DATATYPES, InferRequest
from streamrt.serve.refreshing import Refresher
from streamrt.serve.settings import Settings

T = TypeVar("T")

#: Threads that parse requests and encode answers. They are few, because each may hold a parsed JSON text, and only one
#: thread at a time runs Python.
_READERS = 4
#: A JSON text that takes more than 4 MiB once parsed is parsed alone: parsing holds the interpreter's lock anyway.
_LARGE = 4 << 20
#: Results of at most 16 KiB are encoded on the event loop: passing them to a thread and waiting for it takes longer.
_SMALL = 16 << 10
#: The most repository and registration calls that wait for their one thread. Few clients make such calls.
_MAX_CHANGES = 16


class Service:
    """Everything that the routes use. Coroutines do not block, but for a `stat` of a file; other methods may.

    Attributes:
        draining: whether the server is ending. It then accepts no more connections, and reports that it is not ready.
            Requests over open connections are served, so that load balancers, which keep connections, lose no request.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.draining = False
        folder = Folder(settings.folder)
        self.pool = ModelPool(
            settings.budget,
            policy=settings.policy,
            timeout=settings.timeout,
            threads=settings.threads,
            io=settings.io,
            verify=settings.verify,
        )
        self.catalog = Catalog(folder, self.pool, self._drain)
        self.gate = Gate(settings.max_held)
        self.metrics = Metrics(self.pool, self.catalog.has, lambda: self.batcher.waiting, lambda: self.gate.held)
        self.connections = Connections(settings.max_connections)
        self.metrics.tell("connections", "Open connections of HTTP.", lambda: self.connections.count)
        self.metrics.tell(
            "refused_connections",
            "Connections of HTTP beyond the limit.",
            lambda: self.connections.refused,
            counter=True,
        )
        self.batcher = Batcher(
            self.pool,
            workers=settings.workers,
            max_batch=settings.max_batch,
            max_delay=settings.max_delay,
            max_queue=settings.max_queue,
            timeout=settings.timeout,
            observe=self.metrics.passed,
        )
        self.refresher = Refresher(self.catalog.refresh, settings.rescan)
        self._readers = ThreadPoolExecutor(_READERS, "streamrt-serve-reader")
        self._changer = ThreadPoolExecutor(1, "streamrt-serve-changer")
        self._parsing = asyncio.Lock()
        self._changes = 0  # calls of `change` that have not ended; used on the event loop only

    def start(self) -> int:
        """Serve every model of the folder, and pin those that the settings name; returns the number of models.

        Raises:
            UnknownModelError: the folder has no model of a name that is to be pinned.
            PinError, FormatError, WeightsIOError: such a model cannot be pinned.
        """
        count = self.catalog.register_all()
        for name in self.settings.pin:
            self.catalog.pin(name).add_done_callback(_log_failure)
        return count

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in a thread that may block for some milliseconds; returns its result."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *args)

    async def encode(self, name: str, make: Callable[[Results], T], results: Results) -> T:
        """The answer that ``make`` makes of the results of the model ``name``; its time goes to the metrics."""
        began = monotonic()
        if sum(result.nbytes for result in results.values()) <= _SMALL:
            answer = make(results)
        else:
            answer = await self.call(make, results)
        self.metrics.encoded(name, monotonic() - began)
        return answer

    @asynccontextmanager
    async def parsing(self, count: int) -> AsyncIterator[None]:
        """A context in which a JSON text is parsed, which takes ``count`` bytes. One large text is parsed at a time.

        Raises:
            OverloadedError: other large texts were parsed for the whole `timeout`.
        """
        large = count > _LARGE
        if large:
            try:
                async with asyncio.timeout(self.settings.timeout):
                    await self._parsing.acquire()
            except TimeoutError:
                text = f"other large JSON texts were parsed for {self.settings.timeout:g} s (--timeout)"
                raise OverloadedError(f"{text}: try again later, or send tensors as binary data") from None
        try:
            with self.gate.also(count):
                yield
        finally:
            if large:
                self._parsing.release()

    async def change(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in a thread that changes which models are served, and may wait for them; returns its result.

        These functions run one after the other.

        Raises:
            QueueFullError: too many of them wait.
        """
        if self._changes >= _MAX_CHANGES:
            raise QueueFullError(
                f"{self._changes} repository and registration calls wait, which is the limit: try again later"
            )
        self._changes += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._changer, function, *args)
        finally:
            self._changes -= 1

    def check(self, spec: ModelSpec, request: InferRequest) -> tuple[str, ...]:
        """Check a request against a model.

        Returns:
            The names of the outputs that the request wants, in the order of the model.

        Raises:
            InputError: a name, a shape or a dtype is wrong, or there are more samples than a pass may have.
        """
        for tensor in spec.inputs:
            array = request.inputs.get(tensor.name)
            if isinstance(array, np.ndarray) and array.dtype.name in DATATYPES.keys() - {tensor.dtype}:
                expected, found = DATATYPES[tensor.dtype], DATATYPES[array.dtype.name]
                raise InputError(f"input {tensor.name!r}: expected datatype {expected}, found {found}")
        check_inputs(request.inputs, spec.inputs, spec.inputs)
        if (samples := spec.samples(request.inputs)) > self.settings.max_batch:
            raise InputError(
                f"expected at most {self.settings.max_batch} samples in a request (--max-batch), found {samples}: "
                "send several requests"
            )
        names = tuple(output.name for output in spec.outputs)
        if request.outputs is None:
            return names
        wanted = {output.name for output in request.outputs}
        if unknown := wanted.difference(names):
            raise InputError(f"no output is named {sorted(unknown)[:5]}; the model has {describe(spec.outputs)}")
        return tuple(name for name in names if name in wanted)

    def infer(self, name: str, spec: ModelSpec, request: InferRequest, outputs: tuple[str, ...]) -> Future[Results]:
        """Queue a request that was checked.

        Returns:
            The results by name, or the error of a lease or a call.

        Raises:
            QueueFullError, ShuttingDownError: the request is not queued.
        """
        return self.batcher.submit(name, request.inputs, outputs, spec.samples(request.inputs), spec.version)

    def _drain(self, name: str) -> None:
        """Wait for the requests for a model that is no longer served, and drop its metrics."""
        self.batcher.drain(name)
        self.metrics.forget(name)

    def close(self) -> None:
        """Serve the requests that wait, then end all threads and close the pool."""
        self.draining = True
        self.refresher.close()
        self.batcher.close()
        self._changer.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)
        self.pool.close()


def _log_failure(loaded: Future[None]) -> None:
    if error := loaded.exception():
        log.error("a pinned model was not loaded", extra={"fields": {"error": told(error)}})
