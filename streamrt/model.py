"""`Model`: a packed model, opened within a byte budget and called with arrays."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any, Self

import numpy as np

import streamrt._core as _core
from streamrt._core import Mapping as WeightsMapping
from streamrt._core import Prefetcher, rouse
from streamrt.engine.inputs import Inputs, Result, Shapes, check_inputs, copy_in, copy_out, resolve_shapes, with_batch
from streamrt.engine.prepare import Planner, Prepared, Rates, rounded
from streamrt.engine.session import Session
from streamrt.engine.turns import Request, Turns
from streamrt.engine.verification import Verifier
from streamrt.errors import InputError, ModelClosedError, StreamrtError, WeightsIOError
from streamrt.format import WeightsFile, read_header
from streamrt.format import verify as verify_file
from streamrt.graph import Graph, TensorSpec
from streamrt.host.budget import Budget, parse_budget
from streamrt.host.memory import MemoryUse, anonymous_bytes
from streamrt.host.threads import check_threads, limited
from streamrt.host.yielding import calling
from streamrt.ops import Array, Shape
from streamrt.plan import Plan
from streamrt.report.stats import LastCall, PassStats
from streamrt.report.trace import Trace

#: What the machine is taken to do in a second until passes have told: bytes from the disk and from memory, and
#: operations of one thread. Rather too many of these: `predict` then puts more samples into a pass than it need, which
#: costs little, where too few would cost reading.
_DISK, _MEMORY, _OPERATIONS = 2.5e9, 2e10, 1e11
#: Bytes that a call must have read to tell the speed of the disk; nine tenths of what it brought in besides.
_TELLING = 64 << 20


class Model:
    """A packed model that runs within a budget of memory.

    What fits in the budget stays in memory between calls; the rest is read at every call, tile by tile, by a native
    thread that works ahead of the computation. Any number of threads may call a model: calls that wait while another
    runs, ask for the same outputs and would stream the same weights are served together, in one pass.

    Args:
        path: a weights file that `streamrt.pack` wrote.
        budget: bytes that pinned weights, the window of streamed ones and the workspace may take together:
            an integer, a text such as ``"512MiB"``, a float for a fraction of the memory limit, ``"auto"`` for
            what is free under that limit, or None to keep all weights in memory.
        threads: threads that a call may compute with; None leaves BLAS and the kernels as they are set.
        io: how weights are read: ``"mmap"`` maps the file, ``"pread"`` reads it into memory of the process, and
            ``"auto"`` maps but for files on a network or FUSE file system.
        verify: compare the weights with the checksums of the file: ``"open"`` all of them when it is opened, which
            reads it once more, and ``"read"`` as they arrive, every time that they do. What a call with ``outputs``
            reads of a block of which it does not need everything cannot be compared.
        exact: do without algorithms that are faster but round more, which is Winograd's for convolutions of 3 x 3: its
            results differ from plain sums by about 1e-5 of their size, and infinities spread to their neighbours as
            NaN. They are also left out where the budget has no room for their workspace.

    Raises:
        FormatError: the file is not a weights file, or breaks the format's rules, or is damaged (``verify="open"``).
        WeightsIOError: the file cannot be read.
        InputError: ``budget``, ``threads``, ``io`` or ``verify`` is not of the forms above.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        budget: Budget = "auto",
        *,
        threads: int | None = None,
        io: str = "auto",
        verify: str | None = None,
        exact: bool = False,
    ) -> None:
        self._closed = True  # until everything below has succeeded
        self._pid = os.getpid()
        self._turns = Turns()
        self._threads = check_threads(threads)
        if io not in ("auto", "mmap", "pread"):
            raise InputError(f"io: expected 'auto', 'mmap' or 'pread', found {io!r:.40}")
        if verify not in (None, "open", "read"):
            raise InputError(f"verify: expected 'open', 'read' or None, found {verify!r:.40}")
        self._verify = verify == "read"
        budget_bytes = parse_budget(budget)
        self._file = verify_file(path) if verify == "open" else self._header(path)
        rates = Rates(disk=_DISK, memory=_MEMORY, flops=_OPERATIONS * (self._threads or _core.threads()))
        self._exact = exact
        self._planner = self._planned(budget_bytes, rates)
        self._session: tuple[Prepared, Session] | None = None
        self._last_call: LastCall | None = None
        self._mapping = WeightsMapping(path, io)
        try:
            if self._mapping.identity != self._file.identity:
                raise WeightsIOError(f"{os.fspath(path)}: the file was replaced while it was being opened")
            self._prefetcher = Prefetcher(self._mapping)
        except BaseException:
            self._mapping.close()
            raise
        self._params = {
            tensor.name: np.frombuffer(
                memoryview(self._mapping), dtype="<f4", count=tensor.nbytes // 4, offset=tensor.offset
            ).reshape(tensor.shape)
            for tensor in self._file.tensors.values()
        }
        self._closed = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name and extents of every input, float32; an extent that is a name is free, typically the batch."""
        return self._file.graph.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, extents and type of every output: float32 but for comparisons (bool) and ArgMax (int64)."""
        return self._file.graph.outputs

    @property
    def checksum(self) -> str:
        """Eight hexadecimal digits that tell the content of one weights file from another's (`streamrt.format`)."""
        return self._file.checksum

    @property
    def budget(self) -> int | None:
        """The budget in bytes, or None."""
        return self._planner.budget

    @property
    def stats(self) -> PassStats | None:
        """What the last call did, together with those that shared its pass; None before the first."""
        last = self._last_call
        return last.stats() if last else None

    @property
    def plan(self) -> Plan:
        """The plan of the last call, or before the first the one for a batch of one (see `plan_for` for errors)."""
        session = self._session
        return session[0].plan if session else self.plan_for()

    def __call__(self, x: Array | Inputs, outputs: Sequence[str] | None = None) -> Any:
        """Run the model.

        Args:
            x: the input, or for a model with several a dictionary of them by name; float32 arrays.
            outputs: names of the tensors to compute, any of the graph; None computes the model's outputs.
                Only the weights that they need are read. What is not among the model's outputs is float32.

        Returns:
            A new array, or a dictionary of them by name when there are several.

        Raises:
            InputError: a wrong name, shape or dtype, or an output that the graph does not have.
            BudgetError: not even one sample fits; its ``minimum`` is the smallest budget that would do.
            WeightsIOError: the file was cut short, changed, is damaged (``verify="read"``), or could not be read.
            ModelClosedError: the model is closed, or was opened before a fork and is used in the child.
        """
        return self._serve(self._request(x, outputs))

    def call_together(
        self, batches: Sequence[Array | Inputs], outputs: Sequence[str] | None = None
    ) -> list[Any | Exception]:
        """Run several calls that are there at the same time, in as few passes as their shapes allow.

        Those that differ in the batch alone share a pass, whether weights stream or not, if every sample depends on its
        own input alone. Results may then round in the last bits as the size of the pass, and so the others, have it.

        Args:
            batches: inputs, each as for a call.
            outputs: as for a call.

        Returns:
            For each what its call would return, or the exception that it would raise: no call fails for another.

        Raises:
            InputError: ``outputs``.
            ModelClosedError: see `__call__`.
        """
        self._require_open()
        graph = self._planner.subgraph(outputs)
        asked: list[Request | Exception] = []
        for x in batches:
            try:
                asked.append(Request(graph, check_inputs(x, self.inputs, graph.inputs)))
            except InputError as error:
                asked.append(error)
        requests = [request for request in asked if isinstance(request, Request)]
        samples = sum(request.samples for request in requests)
        with calling:
            errors = iter(
                self._turns.serve_each(requests, lambda first: self._most_together(first, samples), self._run_together)
            )
        return [request if isinstance(request, Exception) else next(errors) or _unpacked(request) for request in asked]

    def predict(
        self, batches: Iterable[Array | Inputs], outputs: Sequence[str] | None = None, *, progress: bool = False
    ) -> Iterator[Any]:
        """Run the model on many batches, as many of them in one pass as make the most of the budget.

        One reading of the weights then serves all of these, at the price of memory for their activations, which
        the plan weighs against that for pinned weights. Batches are taken from ``batches`` as they are needed, and
        held, as their results are, until the pass has ended: an array must not change before its result is there.

        Args:
            batches: inputs, each as for a call; extents besides the batch may differ, but cost a pass of their own.
            outputs: as for a call.
            progress: show a bar on stderr.

        Yields:
            What a call would return, for one batch after the other.

        Raises:
            Exception: what a call raises. Results of the batches before it have been yielded.
        """
        if progress:
            from tqdm import tqdm  # here, as most callers show no bar
        with tqdm(batches, unit="batch") if progress else nullcontext(batches) as bar:
            together: list[Request] = []
            samples = wanted = 0
            source = iter(bar)
            while True:
                try:
                    request = self._request(next(source), outputs)
                except StopIteration:
                    break
                except Exception:
                    yield from self._each(together)
                    raise
                if together and not request.is_like(together[0]):
                    yield from self._each(together)
                    together, samples = [], 0
                if not together:
                    wanted = self._samples_together(request)
                together.append(request)
                samples += request.samples
                if samples + max(1, request.samples) > wanted:
                    yield from self._each(together)
                    together, samples = [], 0
            yield from self._each(together)

    def set_budget(self, budget: Budget) -> None:
        """Change the budget between two calls; memory beyond the new one is given back before this returns.

        ``"auto"`` and a fraction are read anew: what is free now counts, and what the model itself holds.

        Raises:
            InputError: ``budget`` is not of the forms that `Model` takes.
            BudgetError: what was called last does not fit, however it is divided. The budget stays as it was.
            ModelClosedError: see `__call__`.
        """
        with self._opened():
            held = self._session[0].plan.workspace if self._session else 0
            if self._mapping.io == "pread":  # anonymous too, where mapped weights are pages that count as free
                held += self._prefetcher.held()
            planner = self._planner.with_budget(parse_budget(budget, held=held))
            if self._session:
                last = self._session[0]
                self._activate(planner.prepare(last.graph, last.shapes))
            self._planner = planner

    def plan_for(self, shapes: Shapes | None = None, outputs: Sequence[str] | None = None) -> Plan:
        """The plan for inputs of these shapes (by name if there are several); None is a batch of one.

        Raises:
            InputError: a shape that does not fit the model, or None for a model with free extents besides the batch.
            BudgetError: not even one sample fits.
        """
        with self._opened():
            graph = self._planner.subgraph(outputs)
            return self._planner.prepare(graph, resolve_shapes(shapes, graph.inputs)).plan

    def min_budget(self, shapes: Shapes | None = None, outputs: Sequence[str] | None = None) -> int:
        """The smallest budget, in bytes, under which inputs of these shapes can run; None is a batch of one.

        A batch is divided when it has to be, so this seldom depends on its size.
        """
        with self._opened():
            graph = self._planner.subgraph(outputs)
            return self._planner.min_budget(graph, resolve_shapes(shapes, graph.inputs))

    def memory(self) -> MemoryUse:
        """What the model and the process hold at this moment. Waits for a call in progress."""
        with self._opened():
            return MemoryUse(
                budget=self.budget,
                weights=self._prefetcher.held(),
                workspace=self._session[0].plan.workspace if self._session else 0,
                file_resident=self._mapping.resident(),
                anonymous=anonymous_bytes(),
            )

    def close(self) -> None:
        """Wait for a call in progress, then give all memory back. Closing twice is fine."""
        if self._closed:
            return
        if os.getpid() != self._pid:  # it may have been another thread's turn at the fork, and that is not here
            self._closed = True
            return
        # A signal handler that interrupted a call may close too: the call then fails when it waits for weights.
        with nullcontext() if self._turns.is_mine else self._turns.hold():
            if self._closed:
                return
            self._closed = True
            self._prefetcher.close()
            self._session = None
            self._params = {}
            self._mapping.retire()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<streamrt.Model {os.fspath(self._file.path)!r}, budget {self.budget}, {state}>"

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Have the model for one operation."""
        self._require_open()
        with self._turns.hold():
            self._require_open()
            yield

    def _require_open(self) -> None:
        """The fork rule: a child inherits neither the prefetch thread nor turns that would ever end."""
        if os.getpid() != self._pid:
            raise ModelClosedError("this model was opened before a fork: open it again in the child process")
        if self._closed:
            raise ModelClosedError(f"the model {os.fspath(self._file.path)!r} is closed")

    def _header(self, path: str | os.PathLike[str]) -> WeightsFile:
        """What the file says about itself."""
        return read_header(path)

    def _planned(self, budget: int | None, rates: Rates) -> Planner:
        """A planner for the file, whose graph can run."""
        planner = Planner(self._file, budget, rates, exact=self._exact)
        planner.check()
        return planner

    def _request(self, x: Array | Inputs, outputs: Sequence[str] | None) -> Request:
        self._require_open()
        graph = self._planner.subgraph(outputs)
        return Request(graph, check_inputs(x, self.inputs, graph.inputs))

    def _serve(self, request: Request) -> Any:
        """The results of a request, as `__call__` returns them."""
        self._serve_all([request])
        return _unpacked(request)

    def _serve_all(self, requests: Sequence[Request]) -> None:
        with calling:
            self._turns.serve(requests, self._most_together, self._run_together)

    def _each(self, requests: Sequence[Request]) -> Iterator[Any]:
        """The results of several, in their order; those before one that failed come before its error."""
        failure = None
        try:
            self._serve_all(requests)
        except Exception as error:
            failure = error
        for request in requests:
            if request.results is None:
                break
            yield _unpacked(request)
        if failure is not None:
            raise failure

    def _samples_together(self, request: Request) -> int:
        """How many samples like those of ``request`` are best run in one pass."""
        with self._opened():
            return self._most_together(request)

    def _most_together(self, request: Request, resident: int = 0) -> int:
        """The same for who has the turn.

        Where a pass for others would save no reading, the request's own, or as many as are ``resident`` with it.
        """
        self._require_open()
        prepared = self._prepare(request.graph, request.shapes)
        if not (request.samples and prepared.program.batchwise):
            return request.samples
        if not prepared.plan.streamed_bytes:
            return max(request.samples, resident)
        return self._planner.samples_together(request.graph, request.shapes)

    def _run_together(self, requests: Sequence[Request]) -> None:
        """Serve requests that are alike in one pass over the weights, or in micro-batches if the plan says so."""
        self._require_open()
        graph, shapes = requests[0].graph, requests[0].shapes
        samples = sum(request.samples for request in requests)
        if len(requests) > 1:
            shapes = with_batch(shapes, rounded(samples, requests[0].samples))
        prepared = self._prepare(graph, shapes)
        if len(requests) > 1 and not prepared.program.batchwise:
            raise StreamrtError("these samples cannot be put together")  # each is run by itself then
        session = self._activate(prepared)
        results = _results(requests, prepared)
        self._mapping.check()
        passes = []
        with limited(self._threads), np.errstate(all="ignore"):
            for begin in _begins(samples, prepared.plan.micro_batch):
                rouse()  # they are awake when the inputs are copied
                for spec in graph.inputs:
                    copy_in([request.arrays[spec.name] for request in requests], begin, session.tensor(spec.name))
                passes.append(session.run())
                for spec in graph.outputs:
                    copy_out(session.tensor(spec.name), begin, [found[spec.name] for found in results])
        self._mapping.check()
        trace = Trace(passes, session.steps, graph.nodes, prepared.plan)
        extent = samples or next((shape[0] for shape in shapes.values() if shape), 1)
        last = self._last_call = LastCall(trace, self._mapping.io, extent, self._prefetcher.peak())
        for request, found in zip(requests, results, strict=True):
            request.results = found
        if any(done.items.brought for done in passes):
            self._brought(prepared, trace, last.stats())

    def _brought(self, prepared: Prepared, trace: Trace, stats: PassStats) -> None:
        """A pass brought weights into memory: see what that tells of the next one."""
        telling = stats.bytes_read > max(_TELLING, 0.9 * stats.bytes_streamed)
        if telling and not stats.bytes_pinned:
            self._planner.learn(prepared, trace.computed(), stats.bytes_read / stats.read_seconds)

    def _prepare(self, graph: Graph, shapes: Mapping[str, Shape]) -> Prepared:
        """How a call runs, for who has the turn."""
        return self._planner.prepare(graph, shapes)

    def _activate(self, prepared: Prepared) -> Session:
        """The session of ``prepared``; the one before it gives its memory back first."""
        if self._session is None or self._session[0] is not prepared:
            self._session = None
            plan = prepared.plan
            verifier = Verifier(self._file, plan, memoryview(self._mapping)) if self._verify else None
            session = Session(prepared.program, plan, self._params, self._prefetcher, verifier)
            self._session = (prepared, session)
        return self._session[1]


def _unpacked(request: Request) -> Any:
    """An array, or several by name."""
    results = request.results or {}
    return next(iter(results.values())) if len(results) == 1 else results


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
