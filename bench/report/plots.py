"""One picture a scenario: a line for each case, a mark with its spread for each contender, a bar for T*."""

from __future__ import annotations

from pathlib import Path

from bench.report.summary import CaseTable
from bench.scenarios import Scenario
from bench.ways import US

_MARKS = "osD^v<>Phpd*X"


def draw(scenario: Scenario, tables: list[CaseTable], path: Path) -> Path:
    """Write the picture of the scenario's first measure, seconds on a logarithmic axis; returns ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measure = tables[0].measures[0]
    names = list(dict.fromkeys(row.peer for table in tables for row in table.rows if row.spread(measure)))
    names.sort(key=lambda name: (name != US, name))
    colours = {name: "black" if name == US else f"C{index % 10}" for index, name in enumerate(names)}
    several = len({table.threads for table in tables}) > 1
    figure = Figure(figsize=(10, 2.0 + 0.6 * len(tables)), layout="constrained")
    axes = figure.add_subplot()
    for line, table in enumerate(tables):
        for place, name in enumerate(names):
            row = table.row(name)
            spread = row.spread(measure) if row else None
            if not spread:
                continue
            height = line + 0.5 * (place / max(1, len(names) - 1) - 0.5)  # so that marks do not hide each other
            error = [[spread.median - spread.least], [spread.most - spread.median]]
            axes.errorbar(
                [spread.median],
                [height],
                xerr=error,
                marker=_MARKS[place % len(_MARKS)],
                markersize=5,
                capsize=2,
                color=colours[name],
            )
        if limit := table.limits.get(measure):
            axes.plot([limit, limit], [line - 0.35, line + 0.35], color="red", linewidth=2)
    for place, name in enumerate(names):
        axes.plot([], [], marker=_MARKS[place % len(_MARKS)], linestyle="", color=colours[name], label=name)
    if any(measure in table.limits for table in tables):
        axes.plot([], [], color="red", linewidth=2, label="T*")
    axes.set_yticks(range(len(tables)), [_label(table, measure, several) for table in tables], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("seconds; the mark is the median, the line from least to most")
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.set_title(scenario.title)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
    return path


def _label(table: CaseTable, measure: str, several: bool) -> str:
    """The case, and the contenders that were killed in it."""
    threads = f", {table.threads} threads" if several else ""
    killed = [row.peer for row in table.rows if row.status == "killed" and not row.spread(measure)]
    return f"{table.label}{threads}" + "".join(f"\nkilled: {', '.join(part)}" for part in _in_threes(killed))


def _in_threes(names: list[str]) -> list[list[str]]:
    return [names[at : at + 3] for at in range(0, len(names), 3)]
