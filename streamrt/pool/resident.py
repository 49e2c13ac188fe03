"""An open model of a pool, which the pool resizes, puts to rest and closes. Its needs come from the file's header."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol

from streamrt.engine.engine import Engine
from streamrt.engine.loader import Item, pinned_items
from streamrt.engine.options import check_options
from streamrt.engine.planner import Planner
from streamrt.engine.prepared import Prepared
from streamrt.engine.programs import Programs
from streamrt.errors import BudgetError, WeightsIOError
from streamrt.format import FileIdentity, WeightsFile, read_header
from streamrt.format import verify as verify_file
from streamrt.host.processors import usable_threads
from streamrt.host.rates import Rates, rates_of
from streamrt.host.yielding import guest
from streamrt.plan import HUGE
from streamrt.pool.admission import STEPS, Needs
from streamrt.pool.growth import Ask, Growth, planned_in_bands
from streamrt.pool.lease import Lease, Term

#: Bytes of a window through which large models stream at full speed: 8 MiB. For a model below 64 MiB the window has 1/8
#: of its weights, which is one step of a grant.
_WINDOW = 8 << 20
#: A model of up to 8 MiB is read as a whole: planning a part of it takes longer than reading the rest, and single pages
#: arrive at 1/3 of the speed of blocks.
_SMALL = 8 << 20
#: How many budgets are tried to find a plan that pins no more weights than the model may keep. Each try makes a plan,
#: which takes milliseconds.
_TRIES = 3
#: How many budgets a model remembers the plans of. The budget of a model changes between a few values.
_REMEMBERED = 4
#: The most tensors, nodes and checksums of remembered headers and plans. Each takes 400 to 600 bytes.
_PARTS = 20_000
#: A file takes as much as 13 of them, beside its own: 8 KiB.
_PARTS_OF_FILE = 13
#: A step of a call in bands takes as much as 4 of them: 1.5 KiB.
_PARTS_OF_STEP = 4
#: The most steps of calls in bands that are remembered with a header: 1.5 MiB.
_STEPS = 1_000


class Known:
    """The header of a file and the plans for its last budgets, which are kept while no model of it is open.

    Parsing and planning again would take longer than reading the weights of a small model. Both are Python code, which
    delays threads that compute. At most one open model uses this object at a time, and only while it has the turn.

    Args:
        file: the header.
        rates: of the machine.

    Raises:
        FormatError: the graph cannot run.
    """

    def __init__(self, file: WeightsFile, rates: Rates) -> None:
        self.file = file
        self._programs = Programs(file, bands=False)
        self._any = Planner(self._programs, None, rates, frugal=True, thorough=False)
        self._any.check()
        self._planners: OrderedDict[int, Planner] = OrderedDict()
        self._found: tuple[int, Needs] | None = None  # the last result of `needs`, which may take seconds

    def needs(self, most: int) -> Needs:
        """The model's needs by its header, those of bands if no others are within ``most`` bytes."""
        if self._found is None or self._found[0] != most:
            self._found = most, self._needs(most)
        return self._found[1]

    def _needs(self, most: int) -> Needs:
        weights, workspace, least, minimum = self._any.needs()
        whole = 0
        if minimum > most:
            whole = workspace
            workspace, least, minimum = self._needs_in_bands(most, weights, least)
        spare = max(0, workspace + min(least, weights) - minimum)
        if weights <= _SMALL:
            return Needs(weights, workspace, least, weights, spare, weights, whole)
        return Needs(weights, workspace, least, max(least, min(_WINDOW, weights // STEPS)), spare, HUGE, whole)

    def _needs_in_bands(self, most: int, weights: int, least: int) -> tuple[int, int, int]:
        """Bytes of the workspace, of the window, and of the budget with which a pass in bands reads no weights twice.

        Without room for that the window is the largest that there is. If nothing fits in ``most`` bytes, the three
        numbers are the least with which a pass works.
        """
        try:
            prepared = planned_in_bands(self.planner, Planner.prepare_usual, 0, most)
        except BudgetError as error:
            return error.minimum - min(least, weights), least, error.minimum
        if prepared is None:  # no sizes are known with which it runs
            return 0, least, least
        plan = prepared.plan
        window = max(least, plan.window) if plan.streamed_bytes else weights
        return plan.workspace, window, plan.workspace + window

    def planner(self, budget: int) -> Planner:
        """The planner for a budget, in bytes."""
        planner = self._planners.pop(budget, None) or self._any.with_budget(budget)
        self._planners[budget] = planner
        if len(self._planners) > _REMEMBERED:
            self._planners.popitem(last=False)
        return planner

    @property
    def parts(self) -> int:
        """Tensors, nodes, steps and checksums that are remembered, those of each budget's plans included.

        What the file takes by itself counts, too.
        """
        file, steps = self.file, self._programs.calls_in_bands.steps * _PARTS_OF_STEP
        nodes = sum(len(case.nodes) for case in file.graph.cases)
        planned = (len(file.tensors) + nodes) * (1 + len(self._planners))
        return _PARTS_OF_FILE + planned + len(file.block_crcs) + steps

    def forget_bands(self) -> None:
        """Forget the calls in bands if they take much memory."""
        if self._programs.calls_in_bands.steps > _STEPS:
            self._programs.calls_in_bands.clear()


class ResidentModel:
    """An open model of a pool. The pool resizes it, puts it to rest and closes it; holders of leases call it.

    Args:
        known: of its file. No other model has it until this model is closed.
        budget: bytes that it may have at first.
        give_back: called with ``known`` when this model is closed.
        threads: as for `Model`.
        io: as for `Model`.
        verify: as for `Model`.

    Attributes:
        engine: runs its passes.

    Raises:
        FormatError, WeightsIOError: as `Model`.
        StaleHeaderError: the file is not the file of ``known``.
    """

    def __init__(
        self,
        known: Known,
        budget: int,
        give_back: Callable[[Known], None],
        *,
        threads: int | None,
        io: str,
        verify: str | None,
    ) -> None:
        self._known = known
        self._growth = Growth(known.planner)
        self._give_back: Callable[[Known], None] | None = give_back
        self._last: Prepared | None = None  # the program and plan with which it rests
        self._kept: list[Item] = []  # the ranges of that plan that are in memory
        file = verify_file(known.file.path) if verify == "open" else known.file
        if file.identity != known.file.identity:
            raise _stale(file.path)
        self.engine = Engine(
            file,
            known.planner(budget),
            threads=threads,
            io=io,
            verify=verify == "read",
            grow=self._growth,
            while_planning=guest,
        )
        self.engine.prefetcher.read_across(False)  # the memory may go to other models after this call
        self._begin()

    def __del__(self) -> None:
        if hasattr(self, "engine"):
            self.shut()

    def lend(self) -> tuple[Lease, Callable[[], None]]:
        """A new lease, and the function that ends it."""
        term = Term(self.engine)
        return Lease(self.engine, term), term.end

    @property
    def grow(self) -> Ask | None:
        """See `Growth`."""
        return self._growth.ask

    @grow.setter
    def grow(self, ask: Ask | None) -> None:
        self._growth.ask = ask

    @property
    def most(self) -> Callable[[], int] | None:
        """See `Growth`."""
        return self._growth.most

    @most.setter
    def most(self, most: Callable[[], int] | None) -> None:
        self._growth.most = most

    @property
    def lent(self) -> bool:
        """Whether there is a lease; set by the pool. Without a lease no call runs, even if it is waiting already."""
        return self.engine.lent

    @lent.setter
    def lent(self, lent: bool) -> None:
        self.engine.lent = lent

    @property
    def budget(self) -> int | None:
        """Bytes that it may hold."""
        return self.engine.planner.budget

    @property
    def loaded(self) -> int:
        """Bytes brought into memory since it was opened."""
        return self.engine.loader.loaded

    @property
    def reading(self) -> float:
        """Seconds that bringing in the bytes of ``loaded`` took."""
        return self.engine.loader.reading

    @property
    def pinned(self) -> int:
        """Bytes of weights that its plan keeps between calls."""
        prepared = self._prepared
        return prepared.plan.pinned_bytes if prepared else 0

    @property
    def complete(self) -> bool:
        """Whether its plan keeps all weights between calls."""
        prepared = self._prepared
        return prepared is not None and not prepared.plan.streamed_bytes

    @property
    def workspace(self) -> int:
        """Bytes of the workspace that it holds; 0 while it rests."""
        return self.engine.workspace

    def enlarge(self, budget: int) -> None:
        """Allow it ``budget`` bytes from its next call on."""
        with self.engine.turns.hold():
            self.engine.plan_with(self._known.planner(budget))
        self._begin()

    def rest(self, most: int | None = None, window: int = 0) -> int:
        """Give the workspace and the window back, and all but ``most`` bytes of the weights.

        Args:
            most: bytes; None keeps all pinned weights.
            window: bytes of the smallest window. The plan for the weights that it keeps has room for it.

        Returns:
            The bytes of weights that it may keep; 0 if it keeps none and should be closed.
        """
        with self.engine.turns.hold():
            before = self._prepared
            if before is None:
                return 0
            after = before if most is None else self._smaller(before, most, window)
            if after is None:
                return 0
            self._kept += self.engine.loader.count_begun()
            if self.engine.session:
                self._kept = pinned_items(before.plan)
            same = before.plan.granule == after.plan.granule
            self._kept = _covered(pinned_items(after.plan), self._kept, after.plan.granule) if same else []
            self._last = after
            self.engine.drop_sessions()
            self.engine.loader.keep_only(self._kept, after.plan.granule)
            return after.plan.pinned_bytes

    def _begin(self) -> None:
        """Read all weights from now on, if there is room for all. A call takes some time until it waits for them."""
        engine = self.engine
        with engine.turns.hold():
            if engine.session:
                return
            try:
                prepared = engine.planner.prepare_usual()
            except BudgetError:  # a call asks for more memory
                return
            if prepared and prepared.plan.pinned_bytes and not prepared.plan.streamed_bytes:
                self._last = prepared
                engine.loader.begin(prepared)

    def preload(self) -> None:
        """Bring the pinned weights into memory now.

        Raises:
            WeightsIOError: they cannot be read.
        """
        engine = self.engine
        with engine.turns.hold():
            prepared = self._prepared
            outdated = prepared is not None and engine.planner.budget != prepared.plan.budget
            if prepared is None or (outdated and prepared.program.bands):
                prepared = engine.planner.prepare_usual()
            elif outdated:
                prepared = engine.planner.prepare(prepared.graph, prepared.shapes)
            if prepared is None:
                return
            self._last = prepared
            self._kept = pinned_items(prepared.plan)
            engine.drop_sessions()
            engine.loader.bring_in(prepared.plan)

    def shut(self) -> None:
        """Close it. Closing a closed model does nothing."""
        self.engine.close()
        give, self._give_back = self._give_back, None
        if give is not None:
            self._known.forget_bands()
            give(self._known)

    @property
    def _prepared(self) -> Prepared | None:
        """The program and plan of its last call, or those with which it rests."""
        session = self.engine.session
        return session.prepared if session else self._last

    def _smaller(self, before: Prepared, most: int, window: int) -> Prepared | None:
        """The program with a plan that pins at most ``most`` bytes; sets its planner. None if no plan is found."""
        if before.program.bands:
            return None  # planning bands again may take longer than reading the weights
        budget = most + window + before.plan.workspace
        for _ in range(_TRIES):
            planner = self._known.planner(budget)
            try:
                after = planner.prepare(before.graph, before.shapes)
            except BudgetError:
                return None
            if after.plan.pinned_bytes <= most:
                self.engine.plan_with(planner)
                return after
            budget -= after.plan.pinned_bytes - most  # the batch was divided further: its workspace became smaller
        return None


def _covered(wanted: list[Item], there: list[Item], granule: int) -> list[Item]:
    """The ranges of ``wanted`` whose granules are all in ``there``: a resting model reads nothing."""

    def granules(item: Item) -> range:
        return range(item[0] // granule, -(-(item[0] + item[1]) // granule))

    had = {index for item in there for index in granules(item)}
    return [item for item in wanted if had.issuperset(granules(item))]


class Resident(Protocol):
    """The part of `ResidentModel` that the pool uses. Methods may block; reading attributes does not."""

    lent: bool
    most: Callable[[], int] | None
    grow: Ask | None

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
    def lend(self) -> tuple[Lease, Callable[[], None]]: ...  # noqa: D102


class Files(Protocol):
    """A source of models; tests have a source without files."""

    def measure(self, path: str, most: int) -> tuple[Needs, FileIdentity]:
        """The needs of the model in this file, if it can have ``most`` bytes, and the identity of the file."""

    def open(self, path: str, identity: FileIdentity, budget: int) -> Resident:
        """Open the model with a budget in bytes. Raises `StaleHeaderError` if the file has another identity by now."""


class WeightsFiles:
    """Weights files, all opened with the same options, which are those of `Model`.

    Headers and plans are remembered, within limits.

    Raises:
        InputError: an option has a value that `Model` does not take.
    """

    def __init__(self, threads: int | None = None, io: str = "auto", verify: str | None = None) -> None:
        check_options(threads, io, verify)
        self._open = partial(ResidentModel, threads=threads, io=io, verify=verify)
        self._threads = threads or usable_threads()
        self._lock = threading.Lock()  # guards the next two lines
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._parts = 0  # of all of them

    def measure(self, path: str, most: int) -> tuple[Needs, FileIdentity]:
        """The model's needs by its header, if it can have ``most`` bytes, and the identity of the file.

        Raises:
            FormatError, WeightsIOError: as `Model`.
        """
        known = self._take(path)
        needs = known.needs(most)
        self._give_back(known)
        return needs, known.file.identity

    def open(self, path: str, identity: FileIdentity, budget: int) -> ResidentModel:
        """Open the file.

        Raises:
            FormatError, WeightsIOError: as `Model`.
            StaleHeaderError: the file has another identity.
        """
        known = self._take(path)
        if known.file.identity != identity:
            raise _stale(path)
        try:
            return self._open(known, budget, self._give_back)
        except WeightsIOError as error:
            if identity.is_at(path):
                raise
            raise _stale(path) from error  # it was replaced while it was being opened

    def _take(self, path: str) -> Known:
        """The `Known` of a file, for the caller alone."""
        with self._lock:
            known = self._known.pop(path, None)
            self._parts -= known.parts if known else 0
        if known is None or not known.file.identity.is_at(path):
            file = read_header(path)
            known = Known(file, rates_of(file.identity.device, self._threads))
        return known

    def _give_back(self, known: Known) -> None:
        with self._lock:
            before = self._known.pop(known.file.path, None)
            self._known[known.file.path] = known
            self._parts += known.parts - (before.parts if before else 0)
            while self._parts > _PARTS:
                self._parts -= self._known.popitem(last=False)[1].parts


class StaleHeaderError(WeightsIOError):
    """The file was replaced since its header was read: read it again."""


def _stale(path: str) -> StaleHeaderError:
    return StaleHeaderError(f"{path}: the file was replaced since its header was read: read it again")
