"""An engine: a weights file that is open, and all that runs passes over it. `Model` and `pool.Lease` are its faces."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from streamrt._core import Mapping as WeightsMapping
from streamrt._core import Prefetcher, rouse
from streamrt.engine.inputs import Result, copy_in, copy_out, with_batch
from streamrt.engine.pass_size import rounded
from streamrt.engine.planner import Planner, Prepared
from streamrt.engine.session import Session
from streamrt.engine.turns import Request, Turns
from streamrt.engine.verification import Verifier
from streamrt.errors import BudgetError, InputError, ModelClosedError, StreamrtError, WeightsIOError
from streamrt.format import FileIdentity, WeightsFile
from streamrt.graph import Graph
from streamrt.host.rates import remember_disk
from streamrt.host.threads import check_threads, limited
from streamrt.host.yielding import calling
from streamrt.ops import Shape
from streamrt.report.stats import LastCall, PassStats
from streamrt.report.trace import Trace

#: Bytes that a call must have read to tell the speed of the disk; nine tenths of what it brought in besides.
_TELLING = 64 << 20


def check_options(threads: object, io: object, verify: object) -> None:
    """Raise `InputError` unless these are what `Model` takes."""
    check_threads(threads)
    if io not in ("auto", "mmap", "pread"):
        raise InputError(f"io: expected 'auto', 'mmap' or 'pread', found {io!r:.40}")
    if verify not in (None, "open", "read"):
        raise InputError(f"verify: expected 'open', 'read' or None, found {verify!r:.40}")


class Engine:
    """One weights file, open. Any thread may call anything; what says so needs the turn (`hold`).

    Args:
        file: what its header says.
        planner: of the file, for the budget to begin with.
        threads: threads that a call may compute with; None leaves BLAS and the kernels as they are set.
        io: how weights are read, as for `Model`.
        verify: compare weights with their checksums as they arrive.
        grow: asked in a call that needs a larger budget, with the least in bytes; returns the planner for what it gets,
            or None if there is nobody to ask.
        while_planning: entered whenever something is planned or bound.

    Attributes:
        file: as above.
        planner: as above, for the budget of now; whoever sets it has the turn.
        turns: whose turn it is.
        mapping: the file in memory.
        prefetcher: the thread that reads it.
        session: what was called last, with its workspace; None before the first call, and at rest.
        last_call: what that did.
        loaded: bytes brought in since the file was opened,
        reading: and the seconds that took.
        lent: whether anybody may call; False for a model of a pool of which nobody has a lease.
        closed: nothing can be called any more.

    Raises:
        WeightsIOError: the file cannot be mapped, or is not the one that the header is of.
    """

    def __init__(
        self,
        file: WeightsFile,
        planner: Planner,
        *,
        threads: int | None = None,
        io: str = "auto",
        verify: bool = False,
        grow: Callable[[int], Planner | None] | None = None,
        while_planning: AbstractContextManager[object] | None = None,
    ) -> None:
        self.closed = True  # until everything below has succeeded
        self.file = file
        self.planner = planner
        self.turns = Turns()
        self.session: Session | None = None
        self.last_call: LastCall | None = None
        self.loaded, self.reading = 0, 0.0
        self.lent = True
        self._pid = os.getpid()
        self._threads = threads
        self._verify = verify
        self._grow = grow
        self._while_planning = while_planning or nullcontext()
        self.mapping = WeightsMapping(file.path, io)
        try:
            if FileIdentity(*self.mapping.identity) != file.identity:
                raise WeightsIOError(f"{file.path}: the file was replaced while it was being opened")
            self.prefetcher = Prefetcher(self.mapping)
        except BaseException:
            self.mapping.close()
            raise
        self._params = {
            tensor.name: np.frombuffer(
                memoryview(self.mapping), tensor.numpy_dtype, math.prod(tensor.shape), tensor.offset
            ).reshape(tensor.shape)
            for tensor in file.tensors.values()
        }
        self.closed = False

    # ---------------------------------------------------------------- life

    def require_open(self) -> None:
        """The fork rule: a child inherits neither the prefetch thread nor turns that would ever end.

        Raises:
            ModelClosedError: the engine is closed, or was opened before a fork and is used in the child.
        """
        if os.getpid() != self._pid:
            raise ModelClosedError("this model was opened before a fork: open it again in the child process")
        if self.closed:
            raise ModelClosedError(f"the model {self.file.path!r} is closed")

    def require_callable(self) -> None:
        """Raise `ModelClosedError` unless calls may run now: it is open, and somebody may call."""
        self.require_open()
        if not self.lent:
            raise ModelClosedError("the lease of this model has ended")

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Have the turn for one operation.

        Raises:
            ModelClosedError: see `require_callable`.
            StreamrtError: it is this thread's turn already.
        """
        self.require_callable()
        with self.turns.hold():
            self.require_callable()
            yield

    def close(self) -> None:
        """Wait for a call in progress, then give all memory back. Closing twice is fine."""
        if self.closed:
            return
        if os.getpid() != self._pid:  # it may have been another thread's turn at the fork, and that is not here
            self.closed = True
            return
        # A signal handler that interrupted a call may close too: the call then fails when it waits for weights.
        with nullcontext() if self.turns.is_mine else self.turns.hold():
            if self.closed:
                return
            self.closed = True
            self.prefetcher.close()
            self.session = None
            self._params = {}
            self.mapping.retire()

    # ---------------------------------------------------------------- requests

    def serve(self, requests: Sequence[Request]) -> None:
        """Return when all are served; raises the first error of theirs, as `Turns.serve` does."""
        with calling:
            self.turns.serve(requests, self._most_together, self._run_together)

    def serve_each(self, requests: Sequence[Request]) -> list[Exception | None]:
        """Serve requests that are there at the same time, and so share passes even where nothing streams."""
        samples = sum(request.samples for request in requests)
        with calling:
            return self.turns.serve_each(
                requests, lambda first: self._most_together(first, samples), self._run_together
            )

    def samples_together(self, request: Request) -> int:
        """How many samples like those of ``request`` are best run in one pass."""
        with self.hold():
            return self._most_together(request)

    def _most_together(self, request: Request, resident: int = 0) -> int:
        """As above; the caller has the turn.

        Where a pass for others would save no reading, the request's own, or as many as are ``resident`` with it.
        """
        self.require_callable()
        prepared = self.prepare(request.graph, request.shapes)
        if not (request.samples and prepared.program.batchwise):
            return request.samples
        if not prepared.plan.streamed_bytes:
            return max(request.samples, resident)
        return self.planner.samples_together(request.graph, request.shapes)

    # ---------------------------------------------------------------- passes, for whoever has the turn

    def prepare(self, graph: Graph, shapes: Mapping[str, Shape]) -> Prepared:
        """How a call runs; a larger budget is asked for if there is somebody to ask."""
        with self._while_planning:
            try:
                return self.planner.prepare(graph, shapes)
            except BudgetError as error:
                larger = self._grow(error.minimum) if self._grow else None
                if larger is None:
                    raise
                self.planner = larger
                return self.planner.prepare(graph, shapes)

    def activate(self, prepared: Prepared) -> Session:
        """The session of ``prepared``; the one before it gives its memory back first."""
        if self.session is None or self.session.prepared is not prepared:
            self.session = None
            with self._while_planning:
                verifier = Verifier(self.file, prepared.plan, memoryview(self.mapping)) if self._verify else None
                self.session = Session(prepared, self._params, self.prefetcher, verifier)
        return self.session

    def keep_only(self, items: Sequence[tuple[int, int, bool]], granule: int) -> None:
        """Give up the session with its workspace and window, and all weights but ``items`` of them, pinned ones."""
        self.session = None
        self.prefetcher.schedule(list(items), 0, granule)

    def bring_in(self, items: Sequence[tuple[int, int, bool]], granule: int) -> None:
        """`keep_only`, and read what of ``items`` is not there.

        Raises:
            WeightsIOError: it cannot be read.
        """
        self.keep_only(items, granule)
        prefetcher = self.prefetcher
        try:
            for index in range(len(items)):
                prefetcher.wait(index)
            prefetcher.finish()
        except BaseException:
            prefetcher.rewind()
            raise
        read = [item for item in prefetcher.report() if item.read_end > item.read_start]
        self.loaded += sum(item.length for item in read)
        self.reading += sum(item.read_end - item.read_start for item in read) * 1e-9

    def _run_together(self, requests: Sequence[Request]) -> None:
        """Serve requests that are alike in one pass over the weights, or in micro-batches if the plan says so."""
        self.require_callable()
        graph, shapes = requests[0].graph, requests[0].shapes
        samples = sum(request.samples for request in requests)
        if len(requests) > 1:
            shapes = with_batch(shapes, rounded(samples, requests[0].samples))
        prepared = self.prepare(graph, shapes)
        if len(requests) > 1 and not prepared.program.batchwise:
            raise StreamrtError("these samples cannot be put together")  # each is run by itself then
        session = self.activate(prepared)
        results = _results(requests, prepared)
        self.mapping.check()
        passes = []
        with limited(self._threads), np.errstate(all="ignore"):
            for begin in _begins(samples, prepared.plan.micro_batch):
                rouse()  # they are awake when the inputs are copied
                for spec in graph.inputs:
                    copy_in([request.arrays[spec.name] for request in requests], begin, session.tensor(spec.name))
                passes.append(session.run())
                for spec in graph.outputs:
                    copy_out(session.tensor(spec.name), begin, [found[spec.name] for found in results])
        self.mapping.check()
        trace = Trace(passes, session.steps, graph.nodes, prepared.plan)
        extent = samples or next((shape[0] for shape in shapes.values() if shape), 1)
        last = self.last_call = LastCall(trace, self.mapping.io, extent, self.prefetcher.peak())
        for request, found in zip(requests, results, strict=True):
            request.results = found
        if any(done.items.brought for done in passes):
            self._brought(prepared, trace, last.stats())

    def _brought(self, prepared: Prepared, trace: Trace, stats: PassStats) -> None:
        """A pass brought weights into memory: see what that tells of the next one."""
        self.loaded += stats.bytes_streamed + stats.bytes_pinned
        self.reading += stats.read_seconds
        telling = stats.bytes_read > max(_TELLING, 0.9 * stats.bytes_streamed)
        if telling and not stats.bytes_pinned:
            known = self.planner.rates.disk
            self.planner.learn(prepared, trace.computed(), stats.bytes_read / stats.read_seconds)
            if self.planner.rates.disk != known:
                remember_disk(self.file.identity.device, self.planner.rates.disk)


def _results(requests: Sequence[Request], prepared: Prepared) -> list[dict[str, Result]]:
    """New arrays for what each request asks for. Its first axis is the batch wherever that can be divided."""
    found = [(spec, prepared.program.shapes[spec.name]) for spec in prepared.graph.outputs]
    divided = len(requests) > 1 or prepared.plan.micro_batch
    return [
        {spec.name: np.empty((request.samples, *shape[1:]) if divided else shape, spec.dtype) for spec, shape in found}
        for request in requests
    ]


def _begins(samples: int, part: int) -> list[int]:
    """Where each micro-batch begins. The last one overlaps its neighbour, so that all have the planned shape."""
    return [min(start, samples - part) for start in range(0, samples, part)] if part else [0]
