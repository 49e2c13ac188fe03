"""A model as the pool has it: opened, resized, put to rest and closed; what it needs, from the file's header."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import streamrt._core as _core
from streamrt.engine.prepare import Planner, Prepared, Rates
from streamrt.engine.session import Session
from streamrt.errors import BudgetError, ModelClosedError, StreamrtError, WeightsIOError
from streamrt.format import WeightsFile, read_header
from streamrt.graph import Graph
from streamrt.host.budget import Budget
from streamrt.host.yielding import guest
from streamrt.model import _DISK, _MEMORY, _OPERATIONS, Model
from streamrt.ops import Shape
from streamrt.plan import Plan
from streamrt.pool.admission import STEPS, Needs
from streamrt.report.stats import PassStats
from streamrt.report.trace import Trace

#: A window need not be larger than this to be read at full speed, and models of less than twice as much have less.
_WINDOW = 8 << 20
#: Budgets that are tried for a plan that pins no more than it may.
_TRIES = 3
#: Budgets whose plans a model remembers: what it gets of the pool changes between a few.
_REMEMBERED = 4
#: Headers and plans are remembered up to so many tensors, nodes and checksums: some MiB.
_PARTS = 20_000


class Known:
    """What stays known of a file while no model of it is open: its header, and plans for the budgets it had last.

    Reading and planning again would cost more than reading the weights of a small model, and, in Python, hold up
    whoever computes. At most one model has it, and uses it in its turn.
    """

    def __init__(self, file: WeightsFile, rates: Rates) -> None:
        self.file = file
        self._any = Planner(file, None, rates, frugal=True, thorough=False)
        self._any.check()
        self._planners: OrderedDict[int, Planner] = OrderedDict()

    def needs(self) -> Needs:
        """What a model needs, by its header."""
        weights, workspace, least, minimum = self._any.needs()
        spare = workspace + min(least, weights) - minimum
        return Needs(weights, workspace, least, max(least, min(_WINDOW, weights // STEPS)), max(0, spare))

    def planner(self, budget: int) -> Planner:
        """The one for a budget."""
        planner = self._planners.pop(budget, None) or self._any.with_budget(budget)
        self._planners[budget] = planner
        if len(self._planners) > _REMEMBERED:
            self._planners.popitem(last=False)
        return planner

    @property
    def parts(self) -> int:
        """What it takes to remember: some hundred bytes for each."""
        file = self.file
        return (len(file.tensors) + len(file.graph.nodes)) * (1 + len(self._planners)) + len(file.block_crcs)


class PooledModel(Model):
    """A `Model` that belongs to a pool: callable while it is leased, and sized and closed by the pool alone."""

    #: Asks the pool for a budget of so many bytes, in a call that needs it; returns the new budget.
    grow: Callable[[int], int] | None = None

    def __init__(self, known: Known, budget: int, *, threads: int | None, io: str, verify: str | None) -> None:
        self._known = known
        self.give_back: Callable[[Known], None] | None = None  # once it is closed
        self.lent = True
        self.loaded = 0  # bytes brought in since it was opened,
        self.reading = 0.0  # and the seconds that took
        self._last: Prepared | None = None  # what it rests with,
        self._kept: list[tuple[int, int, bool]] = []  # and the ranges of it that are there
        super().__init__(known.file.path, budget, threads=threads, io=io, verify=verify)
        self._prefetcher.read_across(False)  # after this call perhaps others have the memory

    # ---- what the user of a lease must not do

    def set_budget(self, budget: Budget) -> None:
        """Not for a model of a pool.

        Raises:
            StreamrtError: always.
        """
        raise StreamrtError("this model belongs to a pool, which sets its budget")

    def close(self) -> None:
        """Not for a model of a pool: see `ModelPool.unload`.

        Raises:
            StreamrtError: always, unless it is closed.
        """
        if not self._closed:
            raise StreamrtError("this model belongs to a pool, which closes it: call ModelPool.unload")

    def _header(self, path: str | os.PathLike[str]) -> WeightsFile:
        return self._known.file

    def _planned(self, budget: int | None, rates: Rates) -> Planner:
        assert budget is not None
        return self._known.planner(budget)

    def _require_open(self) -> None:
        super()._require_open()
        if not self.lent:
            raise ModelClosedError("the lease of this model has ended")

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.shut()

    # ---- what the pool does

    @property
    def pinned(self) -> int:
        """Bytes of weights that its plan keeps between calls."""
        prepared = self._session[0] if self._session else self._last
        return prepared.plan.pinned_bytes if prepared else 0

    @property
    def complete(self) -> bool:
        """Whether these are all."""
        prepared = self._session[0] if self._session else self._last
        return prepared is not None and not prepared.plan.streamed_bytes

    @property
    def workspace(self) -> int:
        """Bytes of the workspace of its last call; 0 when it rests."""
        return self._session[0].plan.workspace if self._session else 0

    def enlarge(self, budget: int) -> None:
        """Allow it more from its next call on."""
        with self._turns.hold():
            self._planner = self._planner_for(budget)

    def rest(self, most: int | None = None, window: int = 0) -> int:
        """Give the workspace and the window back, and all but ``most`` bytes of the weights.

        Args:
            most: None keeps what is pinned.
            window: the least that it can run with, by which it plans what to keep.

        Returns:
            The bytes of weights that it may keep; 0 when it is not worth keeping.
        """
        with self._turns.hold():
            before = self._session[0] if self._session else self._last
            if before is None:
                return 0
            after = before if most is None else self._smaller(before, most, window)
            if after is None:
                return 0
            if self._session:
                self._kept = _pinned(before.plan)
            same = before.plan.granule == after.plan.granule
            self._kept = _covered(_pinned(after.plan), self._kept, after.plan.granule) if same else []
            self._session, self._last = None, after
            self._prefetcher.schedule(self._kept, 0, after.plan.granule)
            return after.plan.pinned_bytes

    def _smaller(self, before: Prepared, most: int, window: int) -> Prepared | None:
        """The same with at most so many bytes pinned, and the planner to go with it; None when that cannot be had."""
        budget = most + window + before.plan.workspace
        for _ in range(_TRIES):
            planner = self._planner_for(budget)
            try:
                after = planner.prepare(before.graph, before.shapes)
            except BudgetError:
                return None
            if after.plan.pinned_bytes <= most:
                self._planner = planner
                return after
            budget -= after.plan.pinned_bytes - most  # a batch that is divided further has a smaller workspace
        return None

    def preload(self) -> None:
        """Bring in, now, what is pinned.

        Raises:
            WeightsIOError: it cannot be read.
        """
        with self._turns.hold():
            prepared = self._session[0] if self._session else self._last or self._planner.prepare_usual()
            if prepared is None:
                return
            if self._planner.budget != prepared.plan.budget:
                prepared = self._planner.prepare(prepared.graph, prepared.shapes)
            self._session, self._last = None, prepared
            self._kept = items = _pinned(prepared.plan)
            if not items:
                return
            self._prefetcher.schedule(items, 0, prepared.plan.granule)
            try:
                for index in range(len(items)):
                    self._prefetcher.wait(index)
                self._prefetcher.finish()
            except BaseException:
                self._prefetcher.rewind()
                raise
            read = [item for item in self._prefetcher.report() if item.read_end > item.read_start]
            self.loaded += sum(item.length for item in read)
            self.reading += sum(item.read_end - item.read_start for item in read) * 1e-9

    def shut(self) -> None:
        """Close it."""
        super().close()
        if self.give_back is not None:
            give, self.give_back = self.give_back, None
            give(self._known)

    # ---- inside a call

    def _brought(self, prepared: Prepared, trace: Trace, stats: PassStats) -> None:
        super()._brought(prepared, trace, stats)
        self.loaded += stats.bytes_streamed + stats.bytes_pinned
        self.reading += stats.read_seconds

    def _prepare(self, graph: Graph, shapes: Mapping[str, Shape]) -> Prepared:
        with guest:
            try:
                return super()._prepare(graph, shapes)
            except BudgetError as error:
                if self.grow is None:
                    raise
                self._planner = self._planner_for(self.grow(error.minimum))
                return super()._prepare(graph, shapes)

    def _activate(self, prepared: Prepared) -> Session:
        with guest:
            return super()._activate(prepared)

    def _planner_for(self, budget: int) -> Planner:
        return self._known.planner(budget)


def _pinned(plan: Plan) -> list[tuple[int, int, bool]]:
    """The pinned ranges of a plan, as a schedule."""
    return [(r.offset, r.length, True) for r in plan.ranges if r.pinned]


def _covered(
    wanted: list[tuple[int, int, bool]], there: list[tuple[int, int, bool]], granule: int
) -> list[tuple[int, int, bool]]:
    """Those that are ``wanted`` and all of whose granules are ``there``: a model that rests reads nothing."""

    def granules(item: tuple[int, int, bool]) -> range:
        return range(item[0] // granule, -(-(item[0] + item[1]) // granule))

    had = {index for item in there for index in granules(item)}
    return [item for item in wanted if had.issuperset(granules(item))]


class Resident(Protocol):
    """What the pool needs of `PooledModel`; all but the attributes may block."""

    lent: bool
    grow: Callable[[int], int] | None

    @property
    def budget(self) -> int | None: ...  # noqa: D102
    @property
    def loaded(self) -> int: ...  # noqa: D102
    @property
    def reading(self) -> float: ...  # noqa: D102
    @property
    def pinned(self) -> int: ...  # noqa: D102
    @property
    def complete(self) -> bool: ...  # noqa: D102
    @property
    def workspace(self) -> int: ...  # noqa: D102
    def enlarge(self, budget: int) -> None: ...  # noqa: D102
    def rest(self, most: int | None = None, window: int = 0) -> int: ...  # noqa: D102
    def preload(self) -> None: ...  # noqa: D102
    def shut(self) -> None: ...  # noqa: D102


#: What tells a file from another one: as in `streamrt.format.WeightsFile`.
Identity = tuple[int, int, int, int]


class Files(Protocol):
    """Where models come from."""

    def measure(self, path: str) -> tuple[Needs, Identity]:
        """What the model in this file needs."""

    def open(self, path: str, identity: Identity, budget: int) -> Resident:
        """Open it; WeightsIOError (ESTALE) when it is another file by now."""


class WeightsFiles:
    """Weights files, all opened in the same way: the arguments are those of `Model`.

    What is known of them is remembered, within limits.
    """

    def __init__(self, threads: int | None = None, io: str = "auto", verify: str | None = None) -> None:
        self._options = {"threads": threads, "io": io, "verify": verify}
        self._rates = Rates(disk=_DISK, memory=_MEMORY, flops=_OPERATIONS * (threads or _core.threads()))
        self._lock = threading.Lock()  # over what is known
        self._known: OrderedDict[str, Known] = OrderedDict()

    def measure(self, path: str) -> tuple[Needs, Identity]:
        """What the header says.

        Raises:
            FormatError, WeightsIOError: as `Model`.
        """
        known = self._take(path)
        needs = known.needs()
        self._give_back(known)
        return needs, known.file.identity

    def open(self, path: str, identity: Identity, budget: int) -> PooledModel:
        """Open the file.

        Raises:
            FormatError, WeightsIOError: as `Model`; ReplacedError when it is not the one that was measured.
        """
        known = self._take(path)
        if known.file.identity != identity:
            raise ReplacedError(f"{path}: the file was replaced since its header was read")
        model = PooledModel(known, budget, **self._options)  # type: ignore[arg-type]
        model.give_back = self._give_back
        return model

    def _take(self, path: str) -> Known:
        """What is known of a file, for one who is to have it alone."""
        with self._lock:
            known = self._known.pop(path, None)
        return (
            Known(read_header(path), self._rates) if known is None or known.file.identity != _identity(path) else known
        )

    def _give_back(self, known: Known) -> None:
        with self._lock:
            self._known[known.file.path] = known
            while sum(known.parts for known in self._known.values()) > _PARTS:
                self._known.popitem(last=False)


def _identity(path: str) -> Identity | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class ReplacedError(WeightsIOError):
    """The file is another one than was measured: measure it again."""
