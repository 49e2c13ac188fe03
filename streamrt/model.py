"""`Model`: a packed model, opened within a byte budget and called with arrays."""

from __future__ import annotations

import os
import warnings
from types import TracebackType
from typing import Self

from streamrt.engine.engine import Engine
from streamrt.engine.face import Face
from streamrt.engine.options import check_options
from streamrt.engine.planner import Planner
from streamrt.engine.programs import Programs
from streamrt.format import read_header
from streamrt.format import verify as verify_file
from streamrt.host.budget import Budget, parse_budget
from streamrt.host.processors import usable_threads
from streamrt.host.rates import rates_of


class Model(Face):
    """A packed model that runs within a budget of memory.

    Weights that fit in the budget stay in memory between calls. The others are read at every call, tile by tile, by a
    native thread that reads ahead of the computation. Any number of threads may call a model. If weights stream, calls
    that wait for the same outputs with the same shape per sample share one pass.

    Args:
        path: a weights file that `streamrt.pack` wrote.
        budget: bytes that pinned weights, the window of streamed weights and the workspace may take together:
            an integer, or a text such as ``"512MiB"``. A float is a fraction of the memory limit, and ``"auto"`` is
            the memory that is free under that limit. None keeps all weights in memory.
        threads: threads that a call may compute with. None: all that the cgroup's quota allows, in BLAS as it is set.
        io: how weights are read. ``"mmap"`` maps the file. ``"pread"`` reads it into memory of the process. ``"auto"``
            is ``"pread"`` for files on a network or FUSE file system, and ``"mmap"`` for others.
        verify: when to compare weights with the checksums of the file. ``"open"`` reads and compares the whole file
            when it is opened. ``"read"`` compares weights each time that they arrive in memory, except for a block
            that a call with ``outputs`` reads only in part.
        exact: compute 3 x 3 convolutions without Winograd's algorithm, which is faster and rounds more. Its results
            differ from plain sums by about 1e-5 of their size, and infinities spread to their neighbours as NaN. It is
            never used if the budget has no room for its workspace.

    Raises:
        FormatError: the file is not a weights file, or breaks the format's rules, or is damaged (``verify="open"``).
        WeightsIOError: the file cannot be read.
        InputError: ``budget``, ``threads``, ``io`` or ``verify`` is not one of the values above.
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
        check_options(threads, io, verify)
        budget_bytes = parse_budget(budget)
        file = verify_file(path) if verify == "open" else read_header(path)
        rates = rates_of(file.identity.device, threads or usable_threads())
        planner = Planner(Programs(file, exact=exact), budget_bytes, rates)
        planner.check()
        engine = Engine(file, planner, threads=threads, io=io, verify=verify == "read")
        super().__init__(engine, engine.require_open)

    def set_budget(self, budget: Budget) -> None:
        """Change the budget between two calls. Memory beyond the new budget is given back before this returns.

        ``"auto"`` and a fraction are computed anew. Memory that the model itself holds counts as free for ``"auto"``.

        Raises:
            InputError: ``budget`` is not a value that `Model` takes.
            BudgetError: not even one sample of the last call's shapes fits. The budget stays as it was.
            ModelClosedError: see `__call__`.
        """
        engine = self._engine
        with engine.hold():
            last = engine.session.prepared if engine.session else None
            held = engine.workspace
            if engine.mapping.io == "pread":  # these weights are anonymous memory; mapped weights count as free
                held += engine.prefetcher.held()
            planner = engine.planner.with_budget(parse_budget(budget, held=held))
            if last:
                prepared = planner.prepare(last.graph, last.shapes)
                engine.drop_sessions()  # those of the planner before are never found again
                engine.activate(prepared)
            engine.plan_with(planner)

    def close(self) -> None:
        """Wait for a call in progress, then give all memory back. Closing a closed model does nothing."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine and not engine.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._engine.closed else "open"
        return f"<streamrt.Model {self._engine.file.path!r}, budget {self.budget}, {state}>"
