"""`Model`: a packed model, opened within a byte budget and called with arrays."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np

from streamrt._core import Mapping as WeightsMapping
from streamrt._core import Prefetcher
from streamrt.budget import Budget, parse_budget
from streamrt.errors import ModelClosedError, StreamrtError, WeightsIOError
from streamrt.format import read_header
from streamrt.graph import TensorSpec
from streamrt.inputs import Inputs, Shapes, check_inputs, resolve_shapes
from streamrt.memory import MemoryUse, anonymous_bytes
from streamrt.ops import Array
from streamrt.plan import Plan
from streamrt.planning import Planner, Prepared
from streamrt.session import Session
from streamrt.stats import PassStats
from streamrt.threads import check_threads, limited


class Model:
    """A packed model that runs within a budget of memory.

    What fits in the budget stays in memory between calls; the rest is read at every call, tile by tile, by a native
    thread that works ahead of the computation. Calls from several threads take turns.

    Args:
        path: a weights file that `streamrt.pack` wrote.
        budget: bytes that pinned weights, the window of streamed ones and the workspace may take together:
            an integer, a text such as ``"512MiB"``, a float for a fraction of the memory limit, ``"auto"`` for
            what is free under that limit, or None to keep all weights in memory.
        threads: threads that a call may compute with; None leaves BLAS and the kernels as they are set.

    Raises:
        FormatError: the file is not a weights file, or breaks the format's rules.
        WeightsIOError: the file cannot be read.
        InputError: ``budget`` or ``threads`` is not of the forms above.
    """

    def __init__(self, path: str | os.PathLike[str], budget: Budget = "auto", *, threads: int | None = None) -> None:
        self._closed = True  # until everything below has succeeded
        self._pid = os.getpid()
        self._lock = threading.RLock()  # reentrant for close, which a signal handler may call during a call
        self._busy = False
        self._threads = check_threads(threads)
        self._budget = parse_budget(budget)
        self._file = read_header(path)
        self._planner = Planner(self._file, self._budget)
        self._session: tuple[Prepared, Session] | None = None
        self._stats: PassStats | None = None
        self._planner.check()
        self._mapping = WeightsMapping(path)
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
        """Name and extents of every output, float32."""
        return self._file.graph.outputs

    @property
    def budget(self) -> int | None:
        """The budget in bytes, or None."""
        return self._budget

    @property
    def stats(self) -> PassStats | None:
        """What the last call did, or None before the first."""
        return self._stats

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
                Only the weights that they need are read.

        Returns:
            A new array, or a dictionary of them by name when there are several.

        Raises:
            InputError: a wrong name, shape or dtype, or an output that the graph does not have.
            BudgetError: not even one sample fits; its ``minimum`` is the smallest budget that would do.
            WeightsIOError: the file was cut short, changed, or could not be read.
            ModelClosedError: the model is closed, or was opened before a fork and is used in the child.
        """
        with self._opened():
            graph = self._planner.subgraph(outputs)
            arrays = check_inputs(x, self.inputs, graph.inputs)
            prepared = self._planner.prepare(graph, {name: array.shape for name, array in arrays.items()})
            results = self._run(prepared, arrays)
        return next(iter(results.values())) if len(results) == 1 else results

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
                budget=self._budget,
                weights=self._prefetcher.held(),
                workspace=self._session[0].plan.workspace if self._session else 0,
                file_resident=self._mapping.resident(),
                anonymous=anonymous_bytes(),
            )

    def close(self) -> None:
        """Wait for a call in progress, then give all memory back. Closing twice is fine."""
        if self._closed:
            return
        if os.getpid() != self._pid:  # the lock may have been held at the fork, and nobody here would release it
            self._closed = True
            return
        with self._lock:
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
        return f"<streamrt.Model {os.fspath(self._file.path)!r}, budget {self._budget}, {state}>"

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Hold the model for one operation. The fork rule: a child inherits neither the thread nor a usable lock."""
        if os.getpid() != self._pid:
            raise ModelClosedError("this model was opened before a fork: open it again in the child process")
        with self._lock:
            if self._closed:
                raise ModelClosedError(f"the model {os.fspath(self._file.path)!r} is closed")
            # A signal handler can get here, and would compute in the workspace of the call that it interrupts.
            if self._busy:
                raise StreamrtError("this thread is in the middle of a call of this model")
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _run(self, prepared: Prepared, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run all samples, in micro-batches if the plan says so, and collect the outputs."""
        session = self._activate(prepared)
        self._mapping.check()
        part = prepared.plan.micro_batch
        samples = next((array.shape[0] for array in arrays.values() if array.ndim), 1)
        results: dict[str, Array] = {}
        seconds, reports = 0.0, []
        computed = [0.0] * len(prepared.graph.nodes)
        with limited(self._threads), np.errstate(all="ignore"):
            for rows in _parts(samples, part):
                seconds += session.run(
                    {name: array[rows] for name, array in arrays.items()} if part else arrays, computed
                )
                reports.append(self._prefetcher.report())
                for spec in prepared.graph.outputs:
                    found = session.output(spec.name)
                    if not part:
                        results[spec.name] = found.copy()
                        continue
                    if spec.name not in results:
                        results[spec.name] = np.empty((samples, *found.shape[1:]), np.float32)
                    results[spec.name][rows] = found
        self._mapping.check()
        self._stats = PassStats.of(
            reports,
            seconds,
            computed,
            samples=samples,
            peak_weights=self._prefetcher.peak(),
            nodes=prepared.graph.nodes,
            plan=prepared.plan,
        )
        return results

    def _activate(self, prepared: Prepared) -> Session:
        """The session of ``prepared``; the one before it gives its memory back first."""
        if self._session is None or self._session[0] is not prepared:
            self._session = None
            self._session = (prepared, Session(prepared.program, prepared.plan, self._params, self._prefetcher))
        return self._session[1]


def _parts(samples: int, part: int) -> Iterator[slice]:
    """The samples of each micro-batch. The last one overlaps its neighbour, so that all have the planned shape."""
    for start in range(0, samples, part) if part else ():
        start = min(start, samples - part)
        yield slice(start, start + part)
    if not part:
        yield slice(0, samples)
