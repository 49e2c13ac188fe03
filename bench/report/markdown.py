"""The report's tables, as Markdown."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from bench.record import Record
from bench.report import coded, summary
from bench.report.headline import Headline
from bench.report.summary import CaseTable, End, Row, Spread
from bench.scenarios import SCENARIOS
from bench.ways import US

_BEGIN, _END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
_MEASURES = {
    "steady": "steady pass",
    "first": "first pass",
    "opening": "opening",
    "to_first_output": "start to first output",
    "seconds": "time",
}
_MEMORY = {
    "anonymous": "anonymous",
    "file_pages": "file pages",
    "mapped": "mapped files",
    "both": "both at once",
    "resident": "resident",
    "beyond": "beyond the budget",
    "cgroup_peak": "cgroup peak",
}
_MIB = 1 << 20


def report(
    measured: Mapping[str, list[Record]],
    tables: Mapping[str, list[CaseTable]],
    pictures: Collection[str],
    others: Collection[Record] = (),
) -> str:
    """The report: method, machine, limits, and every row of every case.

    ``pictures`` are the names of files beside the report. Tables of ``others`` are made elsewhere. If not everything is
    of one machine and commit, each scenario names its own.
    """
    everything = [record for records in (*measured.values(), others) for record in records]
    parts = ["# Results", _PREFACE, circumstances(everything), "## All cases", overview(tables)]
    if beside := openings(tables):
        parts += ["## Opening and first passes", beside]
    several = are_several(everything)
    for name, found in tables.items():
        scenario = SCENARIOS[name]
        parts += [f"## {scenario.title}: `{name}`", scenario.says]
        parts += origins(measured[name]) if several else []
        if any(record["quick"] for record in measured[name]):
            parts.append("**A quick run: smaller models than those named, one round, to see that everything works.**")
        for says, picture in ((scenario.title, f"{name}.png"), ("Time against memory", f"{name}-memory.svg")):
            parts += [f"![{says}]({picture})"] if picture in pictures else []
        parts += _limits(measured[name])
        parts += skipped(measured[name])
        if scenario.coded and found:
            parts += [_CODED, grid(*coded.comparison(found))]
        for table in found:
            budget = f", streamrt's budget {table.budget / _MIB:.0f} MiB" if table.budget else ""
            threads = f"{table.threads} thread{'s' * (table.threads > 1)}"
            parts += [f"### {table.label}, {threads}{budget}", _case(table, errors=scenario.coded)]
    return "\n\n".join(parts) + "\n"


def headlines(rows: Iterable[Headline], older: Collection[str] = ()) -> str:
    """The README's rows, each with its spread and commit, and below them date and machine of each commit.

    ``older`` are the beginnings of commits since which the code has changed.
    """
    lines, commits = [], defaultdict(dict)
    for row in rows:
        commit = row.record["commit"][:7]
        age = f" of {row.record['at'][:10]}{', older than the code' * (commit in older)}"
        for machine in machines([row.record]):
            commits[machine][f"`{commit}`{age}"] = None
        lines.append(
            [
                row.label,
                span(row.ours, seconds) if row.ours else row.status,
                f"{row.peer}: {span(row.theirs, seconds)}" if row.theirs else "-",
                span(row.ratio, "{:.2f}".format),
                f"`{commit}`",
            ]
        )
    header = ["lower is better", "streamrt", "fastest peer", "streamrt ÷ peer", "commit"]
    says = "A cell is the median over the rounds, with the fastest and the slowest pass in brackets. "
    says += "A ratio is that of the two medians, with the least and the most of a round. "
    says += " ".join(f"{', '.join(of)}: {machine}" for machine, of in commits.items())
    return f"{grid(header, lines)}\n\n{textwrap.fill(says, 120)}"


def overview(tables: Mapping[str, list[CaseTable]]) -> str:
    """A row for each case, with the most threads: streamrt, the fastest peer, T*, and contenders that failed."""
    uneven = any(table.then for found in tables.values() for table in found)
    lines = []
    for title, table in _compared(tables):
        measure = table.measures[0]
        us, best = table.row(US), table.best_peer()
        mine = us.spread(measure) if us else None
        theirs = best.spread(measure) if best else None
        fallen = [f"{row.peer} {outcome(row)}" for row in table.rows if row.status != "ok"]
        lines.append(
            [
                title,
                seconds(mine.median) if mine else us.status if us else "-",
                f"{seconds(theirs.median)} ({best.peer})" if best and theirs else "-",
                span(us.ratio(best, measure) if us and best else None, "{:.2f}".format),
                f"{mine.median / limit:.2f}" if mine and (limit := table.limits.get(measure)) else "-",
                *([f"{table.then.median:.2f}" if table.then else "-"] if uneven else []),
                ", ".join(fallen) or "-",
            ]
        )
    header = [
        "",
        "streamrt",
        "fastest peer",
        "streamrt / peer",
        "streamrt / T*",
        *(["/ T* of the moment"] if uneven else []),
        "without an answer",
    ]
    return grid(header, lines)


def openings(tables: Mapping[str, list[CaseTable]]) -> str:
    """A row for each other time of each case, with the most threads; empty if no case has one."""
    lines = []
    for title, table in _compared(tables):
        for measure in table.measures[1:]:
            us, best = table.row(US), table.best_peer(measure)
            if us and best and (ratio := us.ratio(best, measure)):
                lines.append(
                    [
                        title,
                        _MEASURES[measure],
                        span(us.spread(measure), seconds),
                        f"{span(best.spread(measure), seconds)} ({best.peer})",
                        span(ratio, "{:.2f}".format),
                    ]
                )
    return grid(["", "time of", "streamrt", "fastest peer in it", "streamrt / peer"], lines) if lines else ""


def _compared(tables: Mapping[str, list[CaseTable]]) -> Iterator[tuple[str, CaseTable]]:
    """The cases whose times are compared, each with a title: those with the most threads of their scenario."""
    for name, found in tables.items():
        most = max((table.threads for table in found), default=0)
        for table in found:
            if table.threads == most and not SCENARIOS[name].memory and not SCENARIOS[name].coded:
                yield f"{SCENARIOS[name].title}: {table.label}", table


def replace_table(readme: Path, table: str) -> None:
    """Put ``table`` between the marks of ``readme``.

    Raises:
        ValueError: it lacks a mark.
    """
    before, begin, rest = readme.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{readme} has no lines {_BEGIN} and {_END}")
    readme.write_text(f"{before}{begin}\n{table}\n{end}{after}")


def signed(value: float) -> str:
    """A difference of times, in seconds."""
    return f"-{seconds(-value)}" if value < 0 else seconds(value)


def nanoseconds(values: Collection[float]) -> str:
    """The median of some seconds, in nanoseconds, with the least and the most; ``-`` without values."""
    return span(Spread.of(values), lambda value: f"{value * 1e9:.0f}") if values else "-"


def seconds(value: float) -> str:
    """A text with three significant digits, in s, ms or us."""
    if value >= 0.9995:
        return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
    return f"{value * 1e3:.3g} ms" if value >= 0.9995e-3 else f"{value * 1e6:.3g} us"


_PREFACE = """\
Generated by `python -m bench report` from the `.jsonl` files beside it. Every variant ran in a fresh process, in turn
with the others, round after round. Times compare within one table only; lower is better. A cell is the median over the
rounds (of medians, where a process measured several passes), with the fastest and the slowest pass in brackets.
"÷ streamrt" is the ratio of the two medians, with the least and the most of a round in brackets. Answers were compared
with float64 before anything was timed, and again after every timed run. "killed" means that the kernel killed the
process because no memory was left, after these seconds and with these bytes in its cgroup. "slow" means that it was
ended after these seconds because it took too long. If other rounds ended well, the table has their times, and below
it says which rounds did not.

Memory was sampled in separate processes, which were not timed. "anonymous" is the most anonymous memory of the process,
and "file pages" the most bytes of its weights in the page cache. "both at once" is their largest sum. "resident" is the
peak that the kernel counts (`VmHWM`): anonymous memory and mapped pages of all files, libraries included. "beyond the
budget" is both at once, less streamrt's budget and an interpreter that has imported NumPy; it includes the caller's
arrays. "cgroup peak" is the kernel's own count.

"core to core" is the time in which a cache line gets from the first processor to the last, just before and just after
the contender's rounds. If contenders met other times there, so did their threads: do not compare them closely.

T* assumes streamrt's kernels, streamrt's budget, and the best disk speed that any method reached in the scenario: it is
the shortest time that any plan could then take. It is the optimum of a linear program (`bench/report/tstar.py`). A peer
may use the whole cap, and its own kernels. T* of the moment takes the speed of the disk just before and after the pass.
On an uneven disk it tells how well reading and computing overlap. Before every cold run each page of the weights was
dropped from the page cache, and the kernel was asked whether any was left."""


_CODED = """\
A cell of a case is the contender's median time of a steady pass divided by that of streamrt with float32 weights. The
error is the largest of all cases, relative to the largest absolute value of the float64 answer. "computes in" is the
type of the numbers that products multiply."""


def circumstances(records: Collection[Record]) -> str:
    """Machines, versions and the commit. Of records that were not measured together, each scenario names its commit."""
    versions = {}
    for record in records:
        versions[", ".join(f"{name} {version}" for name, version in sorted(record["versions"].items())) + "."] = None
    commit = "Each section names its machine and its commit." if are_several(records) else _commits(records)
    return "\n\n".join([*machines(records), *versions, commit])


def are_several(records: Iterable[Record]) -> bool:
    """Whether ``records`` come from more than one machine, or from more than one commit."""
    return len({(*machines([record]), record["commit"]) for record in records}) > 1


def origins(records: Collection[Record]) -> list[str]:
    """A description of each machine that ``records`` come from, with the commits that it measured."""
    return [
        f"{machine} {_commits([record for record in records if machine in machines([record])])}"
        for machine in machines(records)
    ]


def _commits(records: Iterable[Record]) -> str:
    commits = {}
    for record in records:
        same = "" if record["checkout_installed"] else ", another streamrt installed"
        commits[f"`{record['commit']}`{same}, {record['at'][:10]}"] = None
    return f"Commit {'; '.join(commits)}."


def machines(records: Iterable[Record]) -> list[str]:
    """A description of each machine that ``records`` come from."""
    found = {}
    for record in records:
        machine = record["machine"]
        host = " A virtual machine: its host may cache files that it does not." if machine["virtual"] else ""
        ahead = f", {kib} KiB read ahead" if (kib := machine.get("read_ahead_kb")) is not None else ""
        swap = f" {machine['swap'] / (1 << 30):.0f} GiB of swap." if machine["swap"] else ""
        text = (
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory'] / (1 << 30):.0f} GiB, "
            f"Linux {machine['kernel']}, {machine['filesystem']}{ahead}, Python {machine['python']}.{swap}{host}"
        )
        found[text] = None
    return list(found)


def _limits(records: list[Record]) -> list[str]:
    lines = []
    files = {record["case"]["model"]: f"{record['file']}, a file of its own" for record in records if "file" in record}
    for (name, model, threads), spread in summary.limits(records).items():
        unit = "GFLOP/s" if name in ("sgemm", "fma", "fma avx2") else "GB/s"
        figures = f"{spread.median / 1e9:.2f} ({spread.least / 1e9:.2f} - {spread.most / 1e9:.2f}) {unit}"
        of = files.get(model, f"{model}'s file") if name.startswith("disk") else ""
        lines.append([name, of, str(threads), figures])
    for (way, model, batch, threads), spread in summary.resident(records).items():
        of = f"{way}, {model}, batch {batch}, all weights in memory"
        lines.append(["compute", of, str(threads), span(spread, seconds)])
    return [grid(["limit", "of", "threads", "median (least - most)"], lines)] if lines else []


def skipped(records: list[Record]) -> list[str]:
    found = dict.fromkeys(f"{record['peer']}: {record['reason']}" for record in records if record["kind"] == "skip")
    return ["Not measured: " + "; ".join(found) + "."] if found else []


def _case(table: CaseTable, *, errors: bool = False) -> str:
    """A row for each contender, the fastest first; with ``errors``, of its answers and what it computes in."""
    us = table.row(US)
    memory = [name for name in _MEMORY if any(row.memory.get(name) is not None for row in table.rows)]
    header = ["contender"]
    for measure in table.measures:
        header += [_MEASURES[measure], "÷ streamrt", *(["÷ T*"] if measure in table.limits else [])]
    header += [f"{_MEMORY[name]}, MiB" for name in memory]
    apart = any(row.hops for row in table.rows)
    header += ["core to core, ns"] if apart else []
    header += ["error", "computes in"] if errors else []
    lines = []
    for row in table.rows:
        line = [row.peer]
        for measure in table.measures:
            line += _times(row, us, measure, (row.limits or table.limits).get(measure))
        for name in memory:
            value = row.memory.get(name)
            line.append("-" if value is None else f"{value / _MIB:.0f}")
        if apart:
            line.append(nanoseconds(row.hops))
        if errors:
            line += ["-" if row.error is None else f"{row.error:.1e}", row.arithmetic]
        lines.append(line)
    for row in sorted(table.rows, key=lambda row: row.peer):
        name = "T*" if row.peer == US else f"T* of {row.peer}"
        for measure, limit in row.limits.items():
            shown = (seconds(limit) if column == _MEASURES[measure] else "" for column in header[1:])
            lines.append([f"{name}, {_MEASURES[measure]}", *shown])
    notes = "".join(f"\n\n{row.peer}: {row.reason}." for row in table.rows if row.status not in ("ok", "killed"))
    for row in table.rows:
        if row.status == "ok" and row.ends:
            bad = [f"round {end.round + 1}, {ended(end)}{f': {end.reason}' * bool(end.reason)}" for end in row.ends]
            notes += f"\n\n{row.peer}: without {'; '.join(bad)}."
    for row in table.rows:
        if row.then:
            notes += f"\n\n{row.peer}'s steady pass ÷ T* of the moment: {span(row.then, '{:.2f}'.format)}."
    return grid(header, lines) + notes


def _times(row: Row, us: Row | None, measure: str, limit: float | None) -> list[str]:
    spread = row.spread(measure)
    empty = ["-"] * (2 if limit else 1)
    if not spread:
        return [outcome(row), *empty]
    ratio = row.ratio(us, measure) if us else None
    cells = [span(spread, seconds), span(ratio, "{:.2f}".format)]
    return [*cells, f"{spread.median / limit:.2f}"] if limit else cells


def outcome(row: Row) -> str:
    """How a contender without a time ended, and after how much."""
    last = [end for end in row.ends if end.status == row.status]
    return ended(last[-1]) if last else row.status


def ended(end: End) -> str:
    """A status; for a process that was ended, after how many seconds, and with how many bytes if it was for memory."""
    if end.status not in ("killed", "slow") or end.seconds is None:
        return end.status
    memory = f" with {end.peak / _MIB:.0f} MiB" if end.status == "killed" and end.peak is not None else ""
    return f"{end.status} after {seconds(end.seconds)}{memory}"


def span(spread: Spread | None, text: Callable[[float], str]) -> str:
    """A median, and the least and the most where there are several values; ``-`` without values."""
    if spread is None:
        return "-"
    if spread.count == 1:
        return text(spread.median)
    return f"{text(spread.median)} ({text(spread.least)} - {text(spread.most)})"


def grid(header: list[str], lines: list[list[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rule = line(["---", *["---:"] * (len(header) - 1)])
    return "\n".join([line(header), rule, *map(line, lines)])
