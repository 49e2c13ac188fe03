"""The curve of a `Tuning`: bars of text, and a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from streamrt.errors import printable
from streamrt.host.budget import format_size
from streamrt.report.picture import figure_class, save
from streamrt.report.table import format_seconds, table
from streamrt.tuning.result import Tuning, TuningPoint

#: Columns of the bars' text if the width is not limited.
_USUAL_WIDTH = 80
#: The fewest characters of the longest bar.
_LEAST_BAR = 10
_KNEE = "  <- knee"
#: Colours of `streamrt.report.picture`: computing for what was measured, waiting for what was predicted.
_MEASURED, _PREDICTED = "#4c78a8", "#e45756"


def bars(tuning: Tuning, width: int | None = None) -> list[str]:
    """A bar for each budget: # for the measured time, and | where the predicted time ends."""
    points, knee = tuning.points, tuning.knee
    starts = table([(format_size(point.budget),) for point in points], right=(0,))
    times = [format_seconds(point.predicted if point.seconds is None else point.seconds) for point in points]
    # Beside a bar: its budget, a space, the place for a | behind the longest bar, a space, its time, and the knee.
    edge = max(map(len, starts)) + 3 + max(map(len, times)) + len(_KNEE)
    length = max(_LEAST_BAR, (_USUAL_WIDTH if width is None else width) - edge)
    longest = max(max(point.predicted, point.seconds or 0.0) for point in points) or 1.0
    lines = [
        f"{start} {_bar(point, longest, length)} {time}{_KNEE * (point == knee)}"
        for start, point, time in zip(starts, points, times, strict=True)
    ]
    return [*lines, "# measured, | predicted"]


def plot(tuning: Tuning, path: str | os.PathLike[str]) -> None:
    """Draw the curve into an image file: see `Tuning.plot`."""
    figure = figure_class(path)(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    points, knee = tuning.points, tuning.knee
    measured = [(point, point.seconds) for point in points if point.seconds is not None]
    axes.plot(
        [point.budget for point in points],
        [point.predicted * 1e3 for point in points],
        color=_PREDICTED,
        linestyle="--",
        marker=".",
        label="predicted",
    )
    spread = [[(t - (p.fastest or t)) * 1e3 for p, t in measured], [((p.slowest or t) - t) * 1e3 for p, t in measured]]
    axes.errorbar(
        [point.budget for point, _ in measured],
        [seconds * 1e3 for _, seconds in measured],
        yerr=spread,
        color=_MEASURED,
        marker="o",
        capsize=3,
        label="measured: median, fastest and slowest",
    )
    if knee is not None:
        label = f"knee: {format_size(knee.budget)}"
        axes.axvline(knee.budget, color="black", linewidth=0.8, linestyle=":", label=label)
    axes.set_xscale("log", base=2)
    budgets = _apart([point.budget for point in points])
    axes.set_xticks(budgets, [format_size(budget) for budget in budgets], rotation=30, fontsize="small")
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("budget")
    axes.set_ylabel("ms of a call")
    name = printable(Path(tuning.path).name)
    figure.suptitle(f"{name}: {format_size(tuning.weights)} of weights", fontsize="medium", parse_math=False)
    axes.legend(frameon=False)
    save(figure, path)


def _bar(point: TuningPoint, longest: float, length: int) -> str:
    """``length + 1`` characters."""
    cells = [" "] * (length + 1)
    cells[: round((point.seconds or 0.0) / longest * length)] = "#" * round((point.seconds or 0.0) / longest * length)
    cells[round(point.predicted / longest * length)] = "|"
    return "".join(cells)


def _apart(budgets: Sequence[int]) -> list[int]:
    """Those of ascending ``budgets``, and the last, whose labels do not overlap: 5 % of the axis is between them."""
    least = (budgets[-1] / budgets[0]) ** 0.05
    found = list(budgets[-1:])
    for budget in reversed(budgets[:-1]):
        if budget * least <= found[-1]:
            found.append(budget)
    return found
