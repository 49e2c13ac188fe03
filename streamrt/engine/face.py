"""The calls and questions that a `Model` and a lease of a pool have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from streamrt.engine.engine import Engine
from streamrt.engine.foreign import unwrapped
from streamrt.engine.groups import in_groups
from streamrt.engine.inputs import Feed, Shapes, check_inputs, requested_graph, resolve_shapes
from streamrt.engine.results import Out, check_out
from streamrt.engine.turns import Request
from streamrt.errors import InputError
from streamrt.graph import TensorSpec
from streamrt.host.memory import MemoryUse, anonymous_bytes
from streamrt.plan import Plan
from streamrt.report.stats import PassStats


class Face:
    """Calls of a packed model, and questions about it.

    Args:
        engine: runs the calls.
        permit: called before each; raises `ModelClosedError` if calls are no longer allowed.
    """

    def __init__(self, engine: Engine, permit: Callable[[], None]) -> None:
        self._engine = engine
        self._permit = permit

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, extents and type of every input. An extent that is a name is free; typically it is the batch."""
        return self._engine.file.graph.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, extents and type of every output."""
        return self._engine.file.graph.outputs

    @property
    def checksum(self) -> str:
        """Eight hexadecimal digits; weights files of different content have different digits (`streamrt.format`)."""
        return self._engine.file.checksum

    @property
    def budget(self) -> int | None:
        """The budget in bytes, or None."""
        return self._engine.planner.budget

    @property
    def stats(self) -> PassStats | None:
        """Times and bytes of the last call and the calls that shared its pass; None before the first call."""
        last = self._engine.last_call
        return last.stats() if last else None

    @property
    def plan(self) -> Plan:
        """The plan of the last call. Before the first call it is `plan_for` a batch of one, with the same errors."""
        session = self._engine.session
        return session.prepared.plan if session else self.plan_for()

    def __call__(self, x: Feed, outputs: Sequence[str] | None = None, *, out: Out | None = None) -> Any:
        """Run the model.

        Args:
            x: the input, or a dictionary of inputs by name for a model with several; arrays of the types in `inputs`.
            outputs: names of the tensors to compute, any of the graph; None computes the model's outputs.
                Only the weights that these tensors need are read. Tensors inside the graph are float32 or int64.
            out: arrays for the results, of their shapes and types: one array, or all by name. They share no memory with
                the inputs. After an error their values are undefined. An array may be of another library (h5py): it has
                ``shape`` and ``dtype``, and takes slices. In bands its rows are read and written when they are needed.

        Returns:
            A new array, or a dictionary of new arrays by name when there are several outputs; or those of ``out``.

        Raises:
            InputError: a wrong name, shape or dtype, an output that the graph does not have, or ``out`` does not fit.
            BudgetError: not even one sample fits; its ``minimum`` is the smallest budget that is enough.
            WeightsIOError: the file was cut short, changed, is damaged (``verify="read"``), or could not be read.
            ModelClosedError: the model is closed, or was opened before a fork and is used in the child.
        """
        return self._serve(self._request(x, outputs, out))

    def call_together(self, batches: Sequence[Feed], outputs: Sequence[str] | None = None) -> list[Any | Exception]:
        """Run several calls at once, in as few passes as their shapes allow.

        Calls share a pass if their shapes differ in the batch alone and every sample depends on its own input alone.
        They do so whether weights stream or not. The last bits of a result may then depend on the size of the pass.

        Args:
            batches: inputs, each as for a call.
            outputs: as for a call.

        Returns:
            For each call its result, or the exception that it would raise: no call fails because of another.

        Raises:
            InputError: ``outputs`` has a name that the graph does not compute.
            ModelClosedError: see `__call__`.
        """
        self._permit()
        graph = requested_graph(self._engine.file.graph, outputs)
        asked: list[Request | Exception] = []
        for x in batches:
            try:
                asked.append(Request(graph, check_inputs(x, self.inputs, graph.inputs)))
            except InputError as error:
                asked.append(error)
        errors = iter(self._engine.serve_each([request for request in asked if isinstance(request, Request)]))
        return [request if isinstance(request, Exception) else next(errors) or _unpacked(request) for request in asked]

    def predict(
        self, batches: Iterable[Feed], outputs: Sequence[str] | None = None, *, progress: bool = False
    ) -> Iterator[Any]:
        """Run the model on many batches. One pass serves the number of batches that gives the most samples a second.

        One reading of the weights then serves several batches. Their activations take memory from pinned weights, so
        the planner weighs the two. Batches are taken from ``batches`` as they are needed. They and their results are
        held until the pass has ended: an array must not change before its result is there.

        Args:
            batches: inputs, each as for a call. A batch whose other extents differ begins a new pass.
            outputs: as for a call.
            progress: show a bar on stderr.

        Yields:
            The result of a call, for one batch after the other.

        Raises:
            Exception: any error of a call. Results of the batches before it have been yielded.
        """
        if progress:
            from tqdm import tqdm  # here, as most callers show no bar
        with tqdm(batches, unit="batch") if progress else nullcontext(batches) as bar:
            requests = (self._request(x, outputs) for x in bar)
            for group in in_groups(requests, self._samples_together):
                yield from self._each(group)

    def plan_for(self, shapes: Shapes | None = None, outputs: Sequence[str] | None = None) -> Plan:
        """The plan for inputs of these shapes: one shape, or shapes by name; None is a batch of one.

        Raises:
            InputError: a shape does not fit the model, or ``shapes`` is None and extents besides the batch are free.
            BudgetError: not even one sample fits.
        """
        self._permit()
        with self._engine.hold():
            graph = requested_graph(self._engine.file.graph, outputs)
            return self._engine.prepare(graph, resolve_shapes(shapes, graph.inputs), ask=False).plan

    def min_budget(self, shapes: Shapes | None = None, outputs: Sequence[str] | None = None) -> int:
        """The smallest budget, in bytes, under which inputs of these shapes can run; None is a batch of one.

        A batch that does not fit is divided, so the result seldom depends on the size of the batch.

        Raises:
            InputError: as `plan_for`.
            ModelClosedError: see `__call__`.
        """
        self._permit()
        with self._engine.hold():
            graph = requested_graph(self._engine.file.graph, outputs)
            return self._engine.planner.min_budget(graph, resolve_shapes(shapes, graph.inputs))

    def memory(self) -> MemoryUse:
        """Bytes that the model and the process hold at this moment. Waits for a call in progress."""
        self._permit()
        engine = self._engine
        with engine.hold():
            return MemoryUse(
                budget=self.budget,
                weights=engine.prefetcher.held(),
                workspace=engine.workspace,
                file_resident=engine.mapping.resident(),
                anonymous=anonymous_bytes(),
            )

    def _request(self, x: Feed, outputs: Sequence[str] | None, out: Out | None = None) -> Request:
        self._permit()
        graph = requested_graph(self._engine.file.graph, outputs)
        arrays = check_inputs(x, self.inputs, graph.inputs)
        return Request(graph, arrays, None if out is None else check_out(out, graph.outputs, arrays))

    def _samples_together(self, request: Request) -> int:
        self._permit()
        return self._engine.samples_together(request)

    def _serve(self, request: Request) -> Any:
        """The results of a request, as `__call__` returns them."""
        self._engine.serve([request])
        return _unpacked(request)

    def _each(self, requests: Sequence[Request]) -> Iterator[Any]:
        """The results of several requests, in their order. Results before a failed request come before its error."""
        failure = None
        try:
            self._permit()
            self._engine.serve(requests)
        except Exception as error:
            failure = error
        for request in requests:
            if request.results is None:
                break
            yield _unpacked(request)
        if failure is not None:
            raise failure


def _unpacked(request: Request) -> Any:
    """The only result, or a dictionary of results by name."""
    results = {name: unwrapped(array) for name, array in (request.results or {}).items()}
    return next(iter(results.values())) if len(results) == 1 else results
