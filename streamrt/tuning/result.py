"""What `tune` returns: the points of the curve, and the knee."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from streamrt.host.budget import format_size
from streamrt.ops import Shape
from streamrt.report.table import facts, format_seconds, items, table

#: Computing binds if it waits for less than 10 % of a pass.
_WAITS = 0.1
#: The disk binds if it reads for over 80 % of a pass in which computing waits. Between two ranges the thread that reads
#: is woken up and releases memory, so that it never reads for all of the time.
_READS = 0.8
#: Bytes come from the device if the kernel counts 90 % of them there.
_FROM_DEVICE = 0.9


@dataclass(frozen=True, slots=True)
class TuningPoint:
    """Calls under one budget. Times are seconds of one call, sizes are bytes.

    What was measured is None if there was no time for this budget. The plan is the one with which calls ran last.

    Attributes:
        budget: as above.
        predicted: simulated by the plan, with the speeds that were measured (`Tuning.disk`, and each layer's time).
        seconds: median of the measured calls.
        fastest: of them.
        slowest: of them.
        calls: how many were measured.
        stall: the part of ``seconds`` in which computing waited for weights; median.
        read_seconds: time in which weights were read, mostly while others were computed with; median.
        bytes_streamed: weights that a call reads, since they do not stay in memory.
        bytes_read: bytes that a device delivered, as the kernel counts them; median. The rest of ``bytes_streamed``
            was in the page cache, or came over a network.
        pinned: weights that stay in memory.
        window: memory for the others.
        workspace: activations and scratch.
        micro_batch: samples of one pass, if the batch is divided; else 0.
        bound_by: what more of would make a call shorter: ``"computing"``, ``"disk"``, ``"page cache"`` (weights did not
            come from a device, so that a real disk may take longer), or ``"window"`` (reading and computing waited for
            each other, because more could not be read ahead).
    """

    budget: int
    predicted: float
    seconds: float | None
    fastest: float | None
    slowest: float | None
    calls: int
    stall: float | None
    read_seconds: float | None
    bytes_streamed: int
    bytes_read: int | None
    pinned: int
    window: int
    workspace: int
    micro_batch: int
    bound_by: str | None


@dataclass(frozen=True, slots=True)
class Tuning:
    """How long calls of a model take under several budgets.

    Attributes:
        path: of the weights file.
        weights: bytes of all weights.
        shapes: of the inputs, by name.
        io: how weights were read, ``"mmap"`` or ``"pread"``.
        disk: bytes a second at which large ranges arrived, or None if no budget was measured under which weights
            stream. Predictions then take the speed that is assumed for any disk.
        within: the share of the best time by which the knee may be slower.
        everything: the smallest budget that keeps all weights in memory.
        points: by growing budgets. The first is the smallest budget that works, unless budgets were given.
        counted: False if reads cannot be counted, as on a network file system.
        notes: sentences about the measurement that a reader has to know.
    """

    path: str
    weights: int
    shapes: Mapping[str, Shape]
    io: str
    disk: float | None
    within: float
    everything: int
    points: tuple[TuningPoint, ...]
    counted: bool
    notes: tuple[str, ...]

    @property
    def knee(self) -> TuningPoint | None:
        """The point of the smallest budget whose time is at most ``1 + within`` times the best time.

        None if fewer than two budgets were measured.
        """
        times = {point.budget: point.seconds for point in self.points if point.seconds is not None}
        budget = knee_of(times, self.within)
        return next((point for point in self.points if point.budget == budget), None)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; sizes in bytes, times in seconds."""
        knee = self.knee
        return {
            "path": self.path,
            "weights": self.weights,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "io": self.io,
            "disk": self.disk,
            "within": self.within,
            "everything": self.everything,
            "knee": knee and knee.budget,
            "points": [asdict(point) for point in self.points],
            "counted": self.counted,
            "notes": list(self.notes),
        }

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the measured and the predicted times over the budgets into an image file (.png, .svg, .pdf).

        Raises:
            ImportError: matplotlib is not installed (the extra ``plot``).
            InputError: matplotlib does not know the ending.
            OSError: the file cannot be written.
        """
        from streamrt.tuning.drawing import plot

        plot(self, path)

    def to_text(self, width: int | None = None) -> str:
        """A table, bars, the knee, and notes; in ``width`` columns where that is possible."""
        from streamrt.tuning.drawing import bars

        head = [("model", f"{self.path}: {format_size(self.weights)} of weights"), ("inputs", _shapes(self))]
        rows, curve = _table(self.points, width), bars(self, width)
        return "\n".join(
            [*facts(head, width), "", *rows, "", *curve, "", *items([_knee_text(self), *self.notes], width)]
        )

    def __str__(self) -> str:
        return self.to_text()


def knee_of(times: Mapping[int, float], within: float) -> int | None:
    """The smallest budget whose time is at most ``1 + within`` times the best time, of measured times by budget.

    Every larger budget gains less than that, and smaller ones cost more. None for fewer than two budgets.
    """
    if len(times) < 2:
        return None
    best = min(times.values())
    return min(budget for budget, seconds in times.items() if seconds <= best * (1 + within))


def bound_by(seconds: float, stall: float, reading: float, from_device: bool) -> str:
    """What binds a call: see `TuningPoint.bound_by`. The arguments are seconds, and where the weights came from."""
    if stall < _WAITS * seconds:
        return "computing"
    if reading < _READS * seconds:
        return "window"
    return "disk" if from_device else "page cache"


def is_from_device(streamed: int, read: int) -> bool:
    """Whether a device delivered the bytes that a call streamed."""
    return read >= _FROM_DEVICE * streamed


#: The columns of the table: a name, the cell of a point, and a rank. If the terminal is too narrow, the columns of the
#: largest rank are left out.
_COLUMNS = (
    ("budget", 0),
    ("time", 0),
    ("fastest - slowest", 2),
    ("predicted", 0),
    ("reads", 0),
    ("from disk", 1),
    ("stall", 2),
    ("pinned", 3),
    ("window", 3),
    ("bound by", 0),
)


def _table(points: Sequence[TuningPoint], width: int | None) -> list[str]:
    rows = [tuple(name for name, _ in _COLUMNS), *map(_cells, points)]
    for most in sorted({rank for _, rank in _COLUMNS}, reverse=True):
        chosen = [index for index, (_, rank) in enumerate(_COLUMNS) if rank <= most]
        lines = table([[row[index] for index in chosen] for row in rows], right=range(len(chosen) - 1))
        if width is None or max(map(len, lines)) <= width:
            break
    return lines


def _cells(point: TuningPoint) -> tuple[str, ...]:
    streams, read = point.bytes_streamed, point.bytes_read
    times = (point.fastest, point.slowest)
    return (
        format_size(point.budget),
        "-" if point.seconds is None else format_seconds(point.seconds),
        " - ".join("" if seconds is None else format_seconds(seconds) for seconds in times).strip(" -"),
        format_seconds(point.predicted),
        format_size(streams),
        "" if read is None or not streams else f"{min(1.0, read / streams):.0%}",
        "" if point.stall is None else format_seconds(point.stall),
        format_size(point.pinned),
        format_size(point.window),
        point.bound_by or "not measured",
    )


def _shapes(tuning: Tuning) -> str:
    return "; ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in tuning.shapes.items())


def _knee_text(tuning: Tuning) -> str:
    knee = tuning.knee
    if knee is None or knee.seconds is None:
        return "There is no knee: fewer than two budgets were measured."
    return (
        f"The knee is {format_size(knee.budget)} ({knee.budget} bytes): {format_seconds(knee.seconds)}, "
        f"at most {tuning.within:.0%} slower than the best."
    )
