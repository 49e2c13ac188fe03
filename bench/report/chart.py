"""The README's chart: seconds of a pass against the memory that the process took, a panel for each model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.report.summary import CaseTable, Spread
from bench.ways import US, is_way

_MIB = 1 << 20
#: Colours of middle brightness, without a background, so that they can be read on white and on black.
_TEXT, _US = "#6e7781", "#2f81f7"
_OTHERS = ("#d4752b", "#2da44e", "#a371f7", "#d1477a", "#1b9e9e", "#8a6d1f", "#c0504d", "#5f7fb8")
#: Ticks of the axis of memory, in MiB.
_TICKS = {128: "128 MiB", 256: "256", 512: "512", 1024: "1 GiB", 2048: "2", 4096: "4", 8192: "8"}
#: The least distance between two labels: 7 % of the axis of time, so that labels do not overlap.
_APART = 0.07


@dataclass(frozen=True, slots=True)
class Point:
    """A contender with a budget, or with none.

    Attributes:
        peer: its name.
        says: its label.
        memory: the most bytes that were resident, without the page cache of files that are read and not mapped.
        seconds: of a steady pass.
    """

    peer: str
    says: str
    memory: int
    seconds: Spread


def points(tables: Iterable[CaseTable]) -> Iterator[Point]:
    """Every contender that ended well with one sample and whose memory is known."""
    for table in tables:
        if table.case["batch"] != 1:
            continue
        for row in table.rows:
            seconds, memory = row.spread("steady"), row.memory.get("resident")
            if seconds is None or memory is None:
                continue
            budget = f"{row.budget / _MIB:.0f} MiB" if row.budget else "all in memory"
            cap = f" in {table.case['cap'] / _MIB:.0f} MiB" if table.case["cap"] else ""
            says = budget if row.peer == US else f"{row.peer}, {budget}" if is_way(row.peer) else row.peer + cap
            yield Point(row.peer, says, memory, seconds)


def draw(tables: Iterable[CaseTable], path: Path) -> Path:
    """Write the chart as SVG; returns ``path``.

    Raises:
        ValueError: no contender of any case has both a time and its memory.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    panels = [(list(group), model) for model, group in groupby(tables, lambda table: table.case["model"])]
    panels = [(group, model) for group, model in panels if any(points(group))]
    if not panels:
        raise ValueError("no case has a time and the memory that it took")
    peers = sorted({point.peer for group, _ in panels for point in points(group)} - {US})
    colours = {US: _US} | {peer: _OTHERS[index % len(_OTHERS)] for index, peer in enumerate(peers)}
    style = {"svg.fonttype": "none", "svg.hashsalt": "streamrt", "text.color": _TEXT, "font.size": 11}
    with mpl.rc_context(style):
        figure = Figure(figsize=(5.4 * len(panels), 3.9), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for (group, model), panel in zip(panels, axes, strict=True):
            # Pinned weights are counted with the padding of their granules, so the smallest count is the most exact.
            weights = min((table.weights for table in group if table.weights), default=0)
            _panel(panel, list(points(group)), colours, weights)
            panel.set_title(f"{model}: {weights / (_MIB << 10):.2g} GiB of weights", fontsize=12)
        axes[0].set_ylabel("seconds a pass", color=_TEXT)
        figure.supxlabel("peak of resident memory", color=_TEXT, fontsize=11)
        FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})
    return path


def _panel(axes: Any, found: list[Point], colours: dict[str, str], weights: int) -> None:
    axes.patch.set_visible(False)
    axes.figure.patch.set_visible(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_TEXT)
    axes.tick_params(colors=_TEXT, which="both")
    axes.grid(axis="y", color=_TEXT, alpha=0.25)
    axes.set_xscale("log")
    axes.set_xticks(list(_TICKS), list(_TICKS.values()))
    axes.minorticks_off()
    memory = [point.memory / _MIB for point in found]
    axes.set_xlim(min(100, 0.8 * min(memory)), max(16384, 2 * max(memory)))  # leaves room for labels on the right
    top = 1.25 * max(point.seconds.most for point in found)
    axes.set_ylim(0, top)
    axes.axvline(weights / _MIB, color=_TEXT, linestyle=":", linewidth=1)
    axes.text(weights / _MIB, 0.02 * top, "weights ", ha="right", fontsize=9)

    ours = sorted((point for point in found if point.peer == US), key=lambda point: point.memory)
    axes.plot([p.memory / _MIB for p in ours], [p.seconds.median for p in ours], color=_US, linewidth=1.5)
    for point in found:
        x, spread = point.memory / _MIB, point.seconds
        axes.plot([x, x], [spread.least, spread.most], color=colours[point.peer], linewidth=1)
        axes.plot([x], [spread.median], "o" if point.peer == US else "s", color=colours[point.peer], markersize=7)
    for point in ours:  # a label that is no number is long, and begins below its point
        number = point.says.removesuffix(" MiB")
        centred = number != point.says
        axes.annotate(
            number,
            (point.memory / _MIB, point.seconds.least),
            (0 if centred else -8, -6),
            textcoords="offset points",
            ha="center" if centred else "left",
            va="top",
            color=_US,
            fontsize=9,
        )
    if ours:
        place = ours[0].memory / _MIB, ours[0].seconds.most
        axes.annotate(f"{US}, budgets in MiB", place, (-8, 20), textcoords="offset points", color=_US)
    for point, height in _spread_out([point for point in found if point.peer != US], _APART * top):
        axes.annotate(
            point.says,
            (point.memory / _MIB, point.seconds.median),
            (1.25 * max(p.memory for p in found) / _MIB, height),
            va="center",
            color=colours[point.peer],
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": colours[point.peer], "linewidth": 0.5},
        )


def _spread_out(found: list[Point], apart: float) -> list[tuple[Point, float]]:
    """Heights for labels, in seconds: the height of the point, or more, so that no two are closer than ``apart``."""
    placed: list[tuple[Point, float]] = []
    for point in sorted(found, key=lambda point: point.seconds.median):
        least = placed[-1][1] + apart if placed else 0.0
        placed.append((point, max(point.seconds.median, least)))
    return placed
