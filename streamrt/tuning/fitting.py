"""`fits`: which batches, with which types of weights, fit into a given memory. Nothing runs, and nothing is packed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from streamrt.convert.codings import recoded
from streamrt.engine.inputs import Shapes, batch_of, resolve_shapes, with_batch
from streamrt.engine.options import check_options
from streamrt.engine.planner import Planner
from streamrt.engine.programs import Programs
from streamrt.errors import BudgetError, InputError
from streamrt.format import Coding, WeightsFile, read_header, stored_as
from streamrt.host.budget import Budget, format_size, parse_budget
from streamrt.host.processors import usable_threads
from streamrt.host.rates import DISK, Rates, measured_speed, rates_of
from streamrt.ops import Shape
from streamrt.report.table import facts, format_seconds, items, table
from streamrt.tuning.predict import passes_of

#: The types of weights that are tried, by the names that `pack` takes.
TYPES = ("float32", "float16", "int8", "int4")
#: The name of weights that are of none of these types, or of several.
AS_PACKED = "as packed"
#: The largest multiple of the batch that is tried. A larger batch seldom gains, and planning it takes longer.
_MOST = 64


@dataclass(frozen=True, slots=True)
class Fit:
    """A batch, and a type of weights.

    Attributes:
        weights: the type, as `pack` takes it; or ``"as packed"``.
        packed: whether the file has its weights so.
        batch: samples of a call.
        size: bytes of all weights.
        minimum: bytes of the smallest budget with which the batch runs undivided.
        fits: whether that is at most the given memory.
        micro_batch: samples of one pass if the batch is divided; 0 if not, or if not even one sample fits.
        predicted: seconds of a call within the given memory, or None if not even one sample fits.
    """

    weights: str
    packed: bool
    batch: int
    size: int
    minimum: int
    fits: bool
    micro_batch: int
    predicted: float | None


@dataclass(frozen=True, slots=True)
class Fits:
    """What fits into a memory of ``memory`` bytes.

    Attributes:
        path: of the weights file.
        memory: bytes.
        shapes: of the inputs with the smallest batch, by name.
        disk: bytes a second of the disk, with which times are predicted.
        disk_measured: whether calls of this process have measured that; else it is assumed.
        rows: by type of weights, then by batch.
    """

    path: str
    memory: int
    shapes: Mapping[str, Shape]
    disk: float
    disk_measured: bool
    rows: tuple[Fit, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; sizes in bytes, times in seconds."""
        return {
            "path": self.path,
            "memory": self.memory,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "disk": self.disk,
            "disk_measured": self.disk_measured,
            "rows": [asdict(row) for row in self.rows],
        }

    def to_text(self, width: int | None = None) -> str:
        """A table, and notes on its numbers; in ``width`` columns where that is possible."""
        shapes = "; ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in self.shapes.items())
        memory = f"{format_size(self.memory)} ({self.memory} bytes)"
        head = facts([("model", self.path), ("memory", memory), ("inputs", shapes)], width)
        titles = ("weights", "size", "batch", "needs", "fits", "predicted", "per sample")
        lines = table([titles, *map(_cells, self.rows)], right=(1, 2, 3, 5, 6))
        speed = "which was measured" if self.disk_measured else "which is assumed, as nothing was measured"
        notes = [
            "The memory is a budget of the model: the interpreter, NumPy and arrays of the caller come on top.",
            f"Times are predicted for a disk of {format_size(round(self.disk))}/s, {speed}.",
        ]
        if any(not row.packed for row in self.rows):
            notes.append(
                "The file has the weights with a star. Sizes of the others are estimates from shapes, and answers "
                "change with them: `streamrt pack MODEL DEST --weights TYPE --compare INPUTS` tells how much."
            )
        return "\n".join([*head, "", *lines, "", *items(notes, width)])

    def __str__(self) -> str:
        return self.to_text()


def fits(
    path: str | os.PathLike[str], memory: Budget, *, shapes: Shapes | None = None, threads: int | None = None
) -> Fits:
    """Which batches of 1, 2, 4 ... samples fit into a memory, with weights of which type. It only plans.

    Sizes of weights are those of the file, or of the file that `pack` would write with ``weights=``. Batches are
    doubled until one does not fit undivided, at most up to 64 times the first.

    Args:
        path: a weights file.
        memory: the budget, as `Model` takes it; not None.
        shapes: of the inputs with the smallest batch, as for `Model.plan_for`; None is a batch of one.
        threads: as for `Model`.

    Raises:
        InputError: an argument is not one of the values above, or a shape does not fit the model.
        FormatError, WeightsIOError: see `Model`.
    """
    check_options(threads, "auto", None)
    budget = parse_budget(memory)
    if budget is None:
        raise InputError("memory: expected bytes, a size such as '512MiB', a fraction or 'auto', found None")
    file = read_header(path)
    rates = rates_of(file.identity.device, threads or usable_threads())
    first = resolve_shapes(shapes, file.graph.inputs)
    rows: list[Fit] = []
    present = {name: tensor.coding for name, tensor in file.tensors.items()}
    codings = {type_: recoded(file, type_) for type_ in TYPES}
    chosen: dict[str, dict[str, Coding]] = {} if present in codings.values() else {AS_PACKED: present}
    for type_, coding in {**chosen, **codings}.items():
        packed = coding == present
        stored = file if packed else stored_as(file, coding)
        rows += _fits_of(stored, type_, packed, first, budget, rates)
    measured = measured_speed(file.identity.device, 0.0)
    return Fits(os.fspath(path), budget, first, measured or DISK, bool(measured), tuple(rows))


def _fits_of(
    file: WeightsFile, type_: str, packed: bool, first: Mapping[str, Shape], budget: int, rates: Rates
) -> list[Fit]:
    """The rows of one type of weights."""
    planner = Planner(Programs(file), budget, rates, thorough=False)
    planner.check()
    graph = file.graph
    batch = batch_of(first, graph.inputs)
    size = sum(tensor.nbytes for tensor in file.tensors.values())
    found = []
    for factor in _factors() if batch else [1]:
        shapes = with_batch(first, batch * factor) if batch else first
        minimum = planner.min_budget(graph, shapes, divided=False)
        try:
            prepared = planner.prepare(graph, shapes)
        except BudgetError:
            part, seconds = 0, None
        else:
            part, seconds = prepared.plan.micro_batch, passes_of(prepared) * prepared.plan.seconds
        found.append(Fit(type_, packed, (batch or 1) * factor, size, minimum, minimum <= budget, part, seconds))
        if minimum > budget:
            break
    return found


def _factors() -> list[int]:
    """1, 2, 4 ... up to the most that is tried."""
    return [1 << power for power in range(_MOST.bit_length())]


def _cells(row: Fit) -> tuple[str, ...]:
    times = ("", "")
    if row.predicted is not None:
        times = (format_seconds(row.predicted), format_seconds(row.predicted / row.batch))
    divided = f"in parts of {row.micro_batch}" if row.micro_batch else "no"
    return (
        f"{row.weights}{' *' * row.packed}",
        format_size(row.size),
        str(row.batch),
        format_size(row.minimum),
        "yes" if row.fits else divided,
        *times,
    )
