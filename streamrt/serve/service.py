"""The server without HTTP: the pool, what is served from it, who waits, and the threads for what may block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from streamrt.engine.inputs import check_inputs, describe
from streamrt.errors import InputError
from streamrt.pool import ModelPool
from streamrt.serve.access import Gate, OverloadedError
from streamrt.serve.batching import Batcher, QueueFullError, Results
from streamrt.serve.catalog import Catalog, ModelSpec
from streamrt.serve.folder import Folder
from streamrt.serve.metrics import Metrics
from streamrt.serve.protocol import InferRequest
from streamrt.serve.settings import Settings

T = TypeVar("T")

#: Threads that read requests and write answers: few, for each may hold a parsed JSON text, and one interpreter runs.
_READERS = 4
#: Bytes of a parsed text of which there is one at a time: parsing holds the interpreter, so that others gain nothing.
_LARGE = 4 << 20
#: Repository and registration calls that wait for the one thread which they have.
_MAX_CHANGES = 16


class Service:
    """All that the routes use. Methods that are coroutines never block; the others may.

    Attributes:
        draining: the server is ending. It takes no more connections, and says that it is not ready; what comes over
            those that are open is served, so that whoever keeps them, as load balancers do, loses nothing.
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
        self.catalog = Catalog(folder, self.pool)
        self.gate = Gate(settings.max_held)
        self.metrics = Metrics(self.pool.stats, lambda: self.batcher.waiting, lambda: self.gate.held)
        self.batcher = Batcher(
            self.pool,
            workers=settings.workers,
            max_batch=settings.max_batch,
            max_delay=settings.max_delay,
            max_queue=settings.max_queue,
            timeout=settings.timeout,
            observe=self.metrics.batched,
        )
        self._readers = ThreadPoolExecutor(_READERS, "streamrt-serve-reader")
        self._changer = ThreadPoolExecutor(1, "streamrt-serve-changer")
        self._parsing = asyncio.Lock()
        self._changes = 0  # on the event loop only

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """The result of a function that may block for some milliseconds, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *args)

    @asynccontextmanager
    async def parsing(self, count: int) -> AsyncIterator[None]:
        """A context in which a JSON text is parsed, which takes ``count`` bytes; a large one waits for others.

        Raises:
            OverloadedError: others took all the time that there is for waiting.
        """
        large = count > _LARGE
        if large:
            try:
                async with asyncio.timeout(self.settings.timeout):
                    await self._parsing.acquire()
            except TimeoutError:
                raise OverloadedError("other large JSON texts are parsed: send tensors as binary data") from None
        try:
            with self.gate.also(count):
                yield
        finally:
            if large:
                self._parsing.release()

    async def change(self, function: Callable[..., T], *args: object) -> T:
        """The same for one that changes what is served, and may wait for models: one after the other.

        Raises:
            QueueFullError: too many wait already.
        """
        if self._changes >= _MAX_CHANGES:
            raise QueueFullError(f"{self._changes} repository and registration calls wait, and no more may")
        self._changes += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._changer, function, *args)
        finally:
            self._changes -= 1

    def check(self, spec: ModelSpec, request: InferRequest) -> tuple[str, ...]:
        """The names of the outputs that a request wants, in the model's order, if the model can serve it.

        Raises:
            InputError: it cannot: a name, shape or dtype, or more samples than a pass may have.
        """
        check_inputs(request.inputs, spec.inputs, spec.inputs)
        if (samples := spec.samples(request.inputs)) > self.settings.max_batch:
            raise InputError(f"expected at most {self.settings.max_batch} samples in a request, found {samples}")
        names = tuple(output.name for output in spec.outputs)
        if request.outputs is None:
            return names
        wanted = {output.name for output in request.outputs}
        if unknown := wanted.difference(names):
            raise InputError(f"no output is named {sorted(unknown)[:5]}; the model has {describe(spec.outputs)}")
        return tuple(name for name in names if name in wanted)

    def infer(self, name: str, spec: ModelSpec, request: InferRequest, outputs: tuple[str, ...]) -> Future[Results]:
        """The results, by name, of a request that was checked; or what a lease or a call raises.

        Raises:
            QueueFullError, ShuttingDownError: it is not queued.
        """
        return self.batcher.submit(name, request.inputs, outputs, spec.samples(request.inputs), spec.version)

    def unregister(self, name: str) -> None:
        """`Catalog.unregister`."""
        self.catalog.unregister(name)
        self.metrics.forget(name)

    def close(self) -> None:
        """Serve what waits, then give everything back."""
        self.draining = True
        self.batcher.close()
        self._changer.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)
        self.pool.close()
