"""`tune`: calls of a model under several budgets, until the time is up."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

import numpy as np

from streamrt.engine.inputs import Feed, Given, Shapes, check_inputs, resolve_shapes
from streamrt.engine.prepared import Prepared
from streamrt.errors import InputError
from streamrt.graph import TensorSpec
from streamrt.host.budget import Budget, format_size, parse_budget
from streamrt.host.disk import in_memory
from streamrt.model import Model
from streamrt.ops import Shape
from streamrt.tuning import budgets as choosing
from streamrt.tuning.predict import Speeds, computing_speeds, passes_of, predicted
from streamrt.tuning.result import Tuning, TuningPoint, bound_by, is_from_device, knee_of

#: Budgets that are tried closer to the knee, after the first ones.
_CLOSER = 3
#: Calls that may be needed before calls repeat themselves: the first pins weights, the second shows the disk's speed,
#: the third pins the weights of a better plan. One more is spare.
_WARMING = 4


@dataclass(slots=True)
class _Call:
    """One measured call: seconds, and bytes."""

    seconds: float
    stall: float
    reading: float
    streamed: int
    read: int
    computed: list[float]  # by node, of one pass


@dataclass(slots=True)
class _Run:
    """The calls under one budget that were measured, and the program and plan of the last call."""

    prepared: Prepared
    calls: list[_Call] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median of the calls."""
        return median(call.seconds for call in self.calls)


def tune(
    path: str | os.PathLike[str],
    *,
    inputs: Feed | None = None,
    shapes: Shapes | None = None,
    budgets: Sequence[Budget] | None = None,
    calls: int = 5,
    seconds: float = 60.0,
    within: float = 0.1,
    threads: int | None = None,
    io: str = "auto",
    progress: bool = False,
) -> Tuning:
    """Measure how long a call takes under budgets from the least to all weights, and find the knee.

    The budgets grow by equal factors; then up to three more are tried close to the knee. The knee is the smallest
    budget whose time is within 10 % (``within``) of the best time. Under each budget calls are repeated until they pin
    no more weights, and then measured.

    Weights that stream are taken out of the page cache after each pass, and the first call is not counted. So they come
    from the disk, however much memory the machine has. If they do not (another process has the file mapped, or the
    file system is memory), the result says so (`TuningPoint.bytes_read`, `Tuning.notes`). A virtual machine's host may
    still cache the file.

    Args:
        path: a weights file.
        inputs: as for a call of `Model`; None makes inputs of random numbers, and zeros for integers.
        shapes: of such inputs, as for `Model.plan_for`; None is a batch of one.
        budgets: as `Model` takes them; None chooses them. By default none is larger than the free memory.
        calls: the most calls that are measured under each budget.
        seconds: time after which no further budget is tried. The largest and the smallest are tried anyway. A budget
            that was not tried has a predicted time only.
        within: as above.
        threads: as for `Model`.
        io: as for `Model`.
        progress: show a bar on stderr if that is a terminal.

    Raises:
        InputError: an argument is not one of the values above, or inputs do not fit the model.
        BudgetError: a budget is too small; or without ``budgets`` the free memory is.
        FormatError, WeightsIOError: see `Model`.
    """
    options: dict[str, Any] = {"shapes": shapes, "budgets": budgets, "calls": calls, "within": within}
    with Tuner(path, inputs=inputs, threads=threads, io=io, **options) as tuner:
        tuner.run(seconds, progress=progress)
        return tuner.result()


class Tuner:
    """The measurement of `tune`, whose arguments it takes. Its result is there at any time, also after a Ctrl-C.

    It opens the model, and closes it when its context ends.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        inputs: Feed | None = None,
        shapes: Shapes | None = None,
        budgets: Sequence[Budget] | None = None,
        calls: int = 5,
        within: float = 0.1,
        threads: int | None = None,
        io: str = "auto",
    ) -> None:
        if isinstance(calls, bool) or not isinstance(calls, int) or calls < 1:
            raise InputError(f"calls: expected a whole number above 0, found {calls!r:.40}")
        if not isinstance(within, float | int) or not 0 <= within < 1:
            raise InputError(f"within: expected a share from 0 to 1, such as 0.1, found {within!r:.40}")
        self._path = os.fspath(path)
        self._calls = calls
        self._within = float(within)
        self._model = model = Model(path, None, threads=threads, io=io)
        try:
            self._remote = io == "auto" and model._engine.mapping.io == "pread"
            specs = model.inputs
            if inputs is None:
                self._shapes = resolve_shapes(shapes, specs)
            else:
                arrays = check_inputs(inputs, specs, specs)
                self._shapes = {name: array.shape for name, array in arrays.items()}
            self.everything = model.plan_for(self._shapes).total
            self._given = budgets is not None
            self._free = parse_budget("auto") or 0
            self._runs = {budget: _Run(self._planned(budget)) for budget in self._chosen(budgets)}
            if inputs is None:  # made after planning, which refuses inputs for which a workspace has no room
                inputs = {spec.name: _made(spec, self._shapes[spec.name]) for spec in specs}
            self._inputs = inputs
        except BaseException:
            model.close()
            raise
        self._rates = model._engine.planner.rates  # before anything was measured: computing speeds are relative to them

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model.close()

    def run(self, seconds: float = 60.0, *, progress: bool = False) -> None:
        """Measure all budgets, then some close to the knee, until ``seconds`` have passed.

        Raises:
            InputError: ``seconds`` is below 0, or not a number.
            WeightsIOError: see `Model`.
        """
        if not seconds >= 0:  # NaN, too
            raise InputError(f"seconds: expected a number from 0 on, found {seconds!r:.40}")
        from tqdm import tqdm  # here, as importing it takes as long as importing the rest of this room

        end = time.monotonic() + seconds
        planned = list(self._runs)
        with tqdm(total=len(planned), desc="tuning", unit="budget", disable=None if progress else True) as bar:
            for count, budget in enumerate(planned):
                bar.set_postfix_str(format_size(budget))
                share = max(0.0, end - time.monotonic()) / (len(planned) - count)
                self._measure(budget, share, needed=count < 2)
                bar.update()
            for _ in range(0 if self._given else _CLOSER):
                times = {each: run.seconds for each, run in self._runs.items() if run.calls}
                knee = knee_of(times, self._within)
                further = choosing.closer(list(times), knee) if knee else None
                if further is None or time.monotonic() > end:
                    break
                self._runs[further] = _Run(self._planned(further))
                bar.total = len(self._runs)
                bar.set_postfix_str(format_size(further))
                self._measure(further, end - time.monotonic(), needed=False)
                bar.update()

    def result(self) -> Tuning:
        """The points that are measured until now; those of the other budgets are predicted."""
        points = self._points()
        return Tuning(
            path=self._path,
            weights=sum(tensor.nbytes for tensor in self._model._engine.file.tensors.values()),
            shapes=self._shapes,
            io=self._model._engine.mapping.io,
            disk=self._disk(),
            within=self._within,
            everything=self.everything,
            points=points,
            counted=not self._remote,
            notes=tuple(self._notes(points)),
        )

    def _chosen(self, budgets: Sequence[Budget] | None) -> list[int]:
        """The first budgets, in the order in which they are tried.

        Raises:
            InputError: ``budgets`` are not budgets.
        """
        if budgets is None:
            least = self._model.min_budget(self._shapes)
            # If there is less free memory than the smallest budget, planning says what is needed.
            return choosing.spread(min(least, self._free), min(self.everything, self._free))
        if isinstance(budgets, str) or not budgets:
            raise InputError(f"budgets: expected a list of budgets, found {budgets!r:.80}")
        sizes = sorted({parse_budget(budget) or self.everything for budget in budgets})
        return [sizes[-1], *sizes[:-1]]

    def _planned(self, budget: int) -> Prepared:
        """How a call runs under a budget. Raises `BudgetError` if it cannot."""
        engine = self._model._engine
        return engine.planner.with_budget(budget).prepare(engine.file.graph, self._shapes)

    def _measure(self, budget: int, seconds: float, *, needed: bool) -> None:
        """Measure calls under a budget for some seconds. One call is measured in any case if it is ``needed``."""
        run, engine = self._runs[budget], self._model._engine
        end, last = time.monotonic() + seconds, 0.0
        self._model.set_budget(budget)
        for _ in range(_WARMING + self._calls):
            begin = time.monotonic()
            if begin + last > end and (run.calls or not needed):
                break
            self._model(self._inputs)
            last = time.monotonic() - begin
            stats, session = self._model.stats, engine.session
            assert stats is not None
            assert session is not None
            if session.prepared is not run.prepared:  # the first call with this plan, which pins weights
                run.prepared, run.calls = session.prepared, []
                continue
            assert engine.last_call is not None
            times = (stats.seconds, stats.stall, stats.read_seconds)
            run.calls.append(_Call(*times, stats.bytes_streamed, stats.bytes_read, engine.last_call.trace.computed()))
            if len(run.calls) == self._calls:
                break

    def _speeds(self) -> Speeds:
        """The speeds that calls have shown: of the disk, and of computing, under the largest budget that was measured.

        Of each node the median counts, so that a call that was disturbed counts for nothing.
        """
        disk = self._disk() or self._rates.disk
        run = next((run for _, run in sorted(self._runs.items(), reverse=True) if run.calls), None)
        if run is None:
            return Speeds(disk)
        computed = [median(seconds) for seconds in zip(*(call.computed for call in run.calls), strict=True)]
        passes = passes_of(run.prepared)
        rest = median((call.seconds - call.stall) / passes - sum(call.computed) for call in run.calls)
        nodes = computing_speeds(self._model._engine.file, run.prepared, self._rates, computed)
        return Speeds(disk, nodes, max(0.0, rest))

    def _disk(self) -> float | None:
        """Bytes a second of the disk: the median over the budgets under which weights stream."""
        found = []
        for run in self._runs.values():
            streamed = [call for call in run.calls if call.streamed and call.reading]
            if streamed:
                speed = median(call.streamed / call.reading for call in streamed)
                found.append(run.prepared.plan.disk_speed(speed, self._rates.disk))
        return median(found) if found else None

    def _points(self) -> tuple[TuningPoint, ...]:
        speeds = self._speeds()
        return tuple(self._point(budget, self._runs[budget], speeds) for budget in sorted(self._runs))

    def _point(self, budget: int, run: _Run, speeds: Speeds) -> TuningPoint:
        plan = run.prepared.plan
        seconds = [call.seconds for call in run.calls]

        def middle(values: list[float]) -> float | None:
            return median(values) if values else None

        stall, reading = (middle([getattr(call, what) for call in run.calls]) for what in ("stall", "reading"))
        read = middle([float(call.read) for call in run.calls])
        streamed = plan.streamed_bytes * passes_of(run.prepared)
        bound = None
        if stall is not None and reading is not None and read is not None:
            cold = self._remote or is_from_device(streamed, int(read))
            bound = bound_by(median(seconds), stall, reading, cold)
        return TuningPoint(
            budget=budget,
            predicted=predicted(self._model._engine.file, run.prepared, self._rates, speeds),
            seconds=middle(seconds),
            fastest=min(seconds, default=None),
            slowest=max(seconds, default=None),
            calls=len(seconds),
            stall=stall,
            read_seconds=reading,
            bytes_streamed=streamed,
            bytes_read=None if read is None else int(read),
            pinned=plan.pinned_bytes,
            window=plan.window,
            workspace=plan.workspace,
            micro_batch=plan.micro_batch,
            bound_by=bound,
        )

    def _notes(self, points: Sequence[TuningPoint]) -> list[str]:
        """What a reader has to know about the measured points."""
        notes = []
        streaming = [point for point in points if point.bytes_streamed and point.bytes_read is not None]
        cold = [point for point in streaming if is_from_device(point.bytes_streamed, point.bytes_read or 0)]
        if in_memory(Path(self._path).resolve().parent):
            notes.append("The file lies in memory (tmpfs): no disk was read, and times on a disk are longer.")
        elif self._remote:
            notes.append("The file lies on a network or FUSE file system: whether a server caches it is not known.")
        elif len(cold) < len(streaming):
            notes.append(
                f"Under {len(streaming) - len(cold)} of {len(streaming)} budgets weights came from the page cache, "
                "as when another process has the file mapped: from the disk they take longer."
            )
        elif streaming:
            notes.append(
                "Weights that stream came from the disk, as each pass takes them out of the page cache. The host of a "
                "virtual machine may cache the file."
            )
        if left := sum(point.seconds is None for point in points):
            notes.append(f"{left} of {len(points)} budgets were not measured: their times are predicted only.")
        if not self._given and points[-1].budget < self.everything:
            notes.append(
                f"All weights need {format_size(self.everything)}; the largest budget is the memory that was free."
            )
        return notes


def _made(spec: TensorSpec, shape: Shape) -> Given:
    """An input: random numbers from 0 to 1, or zeros, which are indices of any table, or True."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return np.random.default_rng(0).random(shape, np.float32).astype(dtype, copy=False)
    return np.full(shape, dtype.kind == "b", dtype)
