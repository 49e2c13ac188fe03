"""An engine: an open weights file with all that runs passes over it. `Model` and `pool.Lease` are its faces."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic_ns

import numpy as np

from streamrt._core import Mapping as WeightsMapping
from streamrt._core import Prefetcher
from streamrt.engine.inputs import with_batch
from streamrt.engine.loader import Loader
from streamrt.engine.micro_batch import begins
from streamrt.engine.params import params_of
from streamrt.engine.pass_size import rounded
from streamrt.engine.planner import Planner
from streamrt.engine.prepared import Prepared
from streamrt.engine.results import new_results
from streamrt.engine.session import Session
from streamrt.engine.sessions import Sessions
from streamrt.engine.tables import Tables
from streamrt.engine.transfer import run_pass
from streamrt.engine.turns import Request, Turns
from streamrt.engine.verification import Verifier
from streamrt.errors import BudgetError, ModelClosedError, StreamrtError, WeightsIOError
from streamrt.format import FileIdentity, WeightsFile
from streamrt.graph import Graph
from streamrt.host.rates import remember_disk
from streamrt.host.threads import limited
from streamrt.host.yielding import calling
from streamrt.ops import Shape
from streamrt.report.stats import LastCall, PassStats, Spent
from streamrt.report.trace import Trace

#: Take the disk's speed from a call if the call read over 64 MiB, and over 90 % of its streamed bytes, from the device.
#: Fewer bytes take too short a time to measure, and bytes from the page cache would make the disk look too fast.
_TELLING = 64 << 20
_TELLING_SHARE = 0.9

#: Called with the planner, the smallest budget in its error, the graph, the shapes, and whether to ask for more memory.
#: Returns the planner for later calls, and the program and plan of this call; or None.
Grow = Callable[[Planner, int, Graph, Mapping[str, Shape], bool], tuple[Planner, Prepared] | None]


class Engine:
    """One open weights file. Any thread may call any method, but those below "passes" need the turn (`hold`).

    Args:
        file: its header.
        planner: plans calls of the file under the first budget.
        threads: as for `streamrt.Model`.
        io: how weights are read, as for `Model`.
        verify: compare weights with their checksums as they arrive.
        grow: see `Grow`.
        while_planning: a context manager that is entered for planning and for binding kernels to memory.

    Attributes:
        file: as above.
        planner: plans calls under the present budget.
        turns: which thread runs passes, and for which requests.
        mapping: the file in memory.
        prefetcher: the thread that reads the file.
        last_call: times and bytes of the last call.
        loader: has weights in memory while there is no session, and counts the weights that were brought in.
        lent: whether calls are allowed. False for a model of a pool while there is no lease of it.
        closed: no call is possible any more.

    Raises:
        WeightsIOError: the file cannot be mapped, or is not the file whose header was read.
    """

    def __init__(
        self,
        file: WeightsFile,
        planner: Planner,
        *,
        threads: int | None = None,
        io: str = "auto",
        verify: bool = False,
        grow: Grow | None = None,
        while_planning: AbstractContextManager[object] | None = None,
    ) -> None:
        self.closed = True  # until everything below has succeeded
        self.file = file
        self.planner = planner
        self.turns = Turns()
        self._sessions = Sessions()
        self.last_call: LastCall | None = None
        self._preparing = self._stalled = self._passing = 0  # nanoseconds of all calls; see `spent`
        self.lent = True
        self._pid = os.getpid()
        self._threads = threads
        self._verify = verify
        self._grow = grow
        self._while_planning = while_planning or nullcontext()
        self.mapping = WeightsMapping(file.path, io)
        try:
            if FileIdentity(*self.mapping.identity) != file.identity:
                raise WeightsIOError(f"{file.path}: the file was replaced while it was being opened: open it again")
            self._tables = Tables(file, verify=verify)
            self.prefetcher = Prefetcher(self.mapping)
            self.loader = Loader(self.prefetcher)
        except BaseException:
            self.mapping.close()
            raise
        self._params = params_of(file, np.frombuffer(memoryview(self.mapping), np.uint8))
        self.closed = False

    # ---------------------------------------------------------------- life

    def require_open(self) -> None:
        """Raise unless this process can use the engine. A forked child cannot: it has no prefetch thread.

        Raises:
            ModelClosedError: the engine is closed, or was opened before a fork and is used in the child.
        """
        if os.getpid() != self._pid:
            raise ModelClosedError("this model was opened before a fork: open it again in the child process")
        if self.closed:
            raise ModelClosedError(f"the model {self.file.path!r} is closed: open it again")

    def require_callable(self) -> None:
        """Raise `ModelClosedError` unless the engine is open and calls are allowed."""
        self.require_open()
        if not self.lent:
            raise ModelClosedError("the lease of this model has ended: lease the model again")

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A context in which this thread has the turn, for one operation.

        Raises:
            ModelClosedError: see `require_callable`.
            StreamrtError: this thread has the turn already.
        """
        self.require_callable()
        with self.turns.hold():
            self.require_callable()
            yield

    def close(self) -> None:
        """Wait for a call in progress, then give all memory back. Closing a closed engine does nothing."""
        if self.closed:
            return
        if os.getpid() != self._pid:  # a thread that had the turn at the fork does not exist in the child
            self.closed = True
            return
        # A signal handler may call this in the middle of a call. That call then fails when it waits for weights.
        with nullcontext() if self.turns.is_mine else self.turns.hold():
            if self.closed:
                return
            self.closed = True
            self.loader.count_begun()
            self.prefetcher.close()
            self.drop_sessions()
            self._params = {}
            self._tables.close()
            self.mapping.retire()

    @property
    def spent(self) -> Spent:
        """Seconds that calls took since the file was opened."""
        return Spent(self._preparing * 1e-9, self._stalled * 1e-9, (self._passing - self._stalled) * 1e-9)

    # ---------------------------------------------------------------- requests

    def serve(self, requests: Sequence[Request]) -> None:
        """Return when all requests are served. Raises their first error, as `Turns.serve` does."""
        with calling:
            self.turns.serve(requests, self._most_together, self._run_together)

    def serve_each(self, requests: Sequence[Request]) -> list[Exception | None]:
        """Serve requests of one caller, which share passes even where nothing streams. Returns the error of each."""
        samples = sum(request.samples for request in requests)
        with calling:
            return self.turns.serve_each(
                requests, lambda first: self._most_together(first, samples), self._run_together
            )

    def samples_together(self, request: Request) -> int:
        """How many samples of the shape of ``request`` are best run in one pass."""
        with self.hold():
            return self._most_together(request)

    def _most_together(self, request: Request, resident: int = 0) -> int:
        """As `samples_together`; the caller has the turn.

        Where nothing streams, a shared pass saves no reading. Then the result is the larger of the request's own
        samples and ``resident``, the samples that one caller asked to run together.
        """
        self.require_callable()
        began = monotonic_ns()
        try:
            prepared = self.prepare(request.graph, request.shapes)
            if not (request.samples and prepared.program.batchwise) or prepared.program.bands:
                return request.samples
            if not prepared.plan.streamed_bytes:
                return max(request.samples, resident)
            return self.planner.samples_together(request.graph, request.shapes)
        finally:
            self._preparing += monotonic_ns() - began

    # ---------------------------------------------------------------- passes; the caller has the turn

    def prepare(self, graph: Graph, shapes: Mapping[str, Shape], *, ask: bool = True) -> Prepared:
        """The program and plan of a call. If the budget is too small, ``grow`` may ``ask`` for a larger one."""
        with self._while_planning:
            try:
                return self.planner.prepare(graph, shapes)
            except BudgetError as error:
                found = self._grow(self.planner, error.minimum, graph, shapes, ask) if self._grow else None
                if found is None:
                    raise
                self.planner, prepared = found
                return prepared

    def plan_with(self, planner: Planner) -> None:
        """Plan later calls with ``planner``, which is for another budget."""
        assert self.turns.is_mine
        self.planner = planner

    @property
    def session(self) -> Session | None:
        """The session of the last call; None before the first call, and after `drop_sessions`."""
        return self._sessions.current

    @property
    def workspace(self) -> int:
        """Bytes of the workspace that is held."""
        return self._sessions.workspace

    def activate(self, prepared: Prepared) -> Session:
        """The session of ``prepared``. A session whose workspace it cannot share gives its memory back first."""
        session = self._sessions.find(prepared)
        if session is None:
            try:
                with self._while_planning:
                    session = self._new_session(prepared)
            except BaseException:
                if self._sessions.current is None:
                    self._sessions.drop()  # a workspace without a session
                raise
            self._sessions.add(session)
        return session

    def _new_session(self, prepared: Prepared) -> Session:
        """A new session, without a reference to the one before it, whose workspace may have to go first."""
        sessions, plan = self._sessions, prepared.plan
        scheduled = sessions.has_schedule(plan)
        verifier = None
        if self._verify:
            kept = sessions.current.verifier if sessions.current and scheduled else None
            verifier = kept or Verifier(self.file, plan, memoryview(self.mapping))
        memory = sessions.memory_for(prepared)
        scheduled = scheduled or self.loader.has_begun(prepared)
        return Session(prepared, memory, self._params, self.prefetcher, verifier, self._tables.by_name, scheduled)

    def drop_sessions(self) -> None:
        """Give the workspace back. The prefetcher keeps the schedule of the last session."""
        self._sessions.drop()

    def _run_together(self, requests: Sequence[Request]) -> None:
        """Serve requests of like shapes in one pass over the weights, or in several if the plan divides the batch."""
        self.require_callable()
        began = monotonic_ns()
        graph, shapes = requests[0].graph, requests[0].shapes
        samples = sum(request.samples for request in requests)
        if len(requests) > 1:
            shapes = with_batch(shapes, rounded(samples, requests[0].samples))
        prepared = self.prepare(graph, shapes)
        if len(requests) > 1 and not prepared.program.batchwise:
            raise StreamrtError("these samples cannot be put together")  # `Turns` then runs each request by itself
        session = self.activate(prepared)
        self._preparing += monotonic_ns() - began
        results = new_results(requests, prepared)
        self.mapping.check()
        rows_before = self._tables.read
        errors = np.errstate(all="ignore") if session.interpreted else nullcontext()
        with limited(self._threads, blas=session.interpreted), errors:
            parts = begins(samples, prepared.plan.micro_batch)
            passes = [done for begin in parts for done in run_pass(session, requests, results, begin)]
        self.mapping.check()
        self._stalled += sum(done.items.stall for done in passes)
        self._passing += sum(done.end - done.start for done in passes)
        trace = Trace(passes, session.steps, prepared.program.nodes, prepared.plan, self.file.tensors)
        rows = self._tables.read - rows_before
        extent = samples or next((shape[0] for shape in shapes.values() if shape), 1)
        last = self.last_call = LastCall(trace, self.mapping.io, extent, self.prefetcher.peak(), rows)
        for request, found in zip(requests, results, strict=True):
            request.results = found
        if any(done.items.brought for done in passes):
            self._learn(prepared, trace, last.stats())

    def _learn(self, prepared: Prepared, trace: Trace, stats: PassStats) -> None:
        """Count the weights that a call brought in. Give its times to the planner if they show the disk's speed."""
        self.loader.count(stats)
        telling = stats.bytes_read > max(_TELLING, _TELLING_SHARE * stats.bytes_streamed)
        if telling and not stats.bytes_pinned:
            known = self.planner.rates.disk
            self.planner.learn(prepared, trace.computed(), stats.bytes_read / stats.read_seconds)
            if self.planner.rates.disk != known:
                remember_disk(self.file.identity.device, self.planner.rates.disk)
