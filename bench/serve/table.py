"""The tables of the servers' benchmark as Markdown, from the lines of results and nothing else."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable
from operator import itemgetter

from bench.record import Record
from bench.report.markdown import ended, grid, seconds, signed, span
from bench.serve.bars import MEASURES, Bar, bars, of_batches, part
from bench.serve.figures import Figures, Place, figures
from bench.serve.rows import FLOOR
from bench.serve.servers import SERVERS, US

_MIB = 1 << 20
_SAYS = """\
A cell is the median over the rounds, and in brackets the least and the most. Every measurement is a fresh server and a
fresh client on loopback; each connection has one request of one sample at a time. Times are the client's. Memory is
that of all processes of the server after the run, shared pages counted once (PSS). "÷ model" divides by the samples a
second of the model called directly, in batches of the size that formed. "client" is the client's processor time as a
share of the time: near 100 % the client is the limit. The forms "binary" and "json" go over HTTP; "grpc" has raw
contents and another client, so compare it with itself only. Several models are asked for by Zipf's law; streamrt's
budget is a third of their weights, and the peers have none. Where servers are capped, each is in a memory cgroup of
the budget and 400 MiB. The peers' batches have at most a sample of each connection, and 32, and wait for at most 10
ms; with several models MLServer does not batch. Each server's processes have one arena of the C library's allocator. A
p99 with a star is from fewer than 100 answers in some round, so it is the slowest of them."""
#: The fewest answers of which the 99th percentile is not the slowest.
_ENOUGH = 100
_PLACE = ("row", "form", "connections")
_NAMES = {"rate": "a second", "p50": "p50", "p99": "p99", "memory": "MiB"}
_BARS = """\
A ratio divides the median of streamrt's rounds by the peer's, and in brackets are the least and the most of a round.
The part of the model's own speed in batches is judged where the model alone takes 20 ms a sample or more. A bar is met
by default where the kernel killed the peer in each round because no memory was left. Such bars are counted apart."""


def report(records: Iterable[Record]) -> str:
    """The tables of a run.

    Raises:
        ValueError: nothing was measured.
    """
    records = list(records)
    found = figures(records)
    if not any(rounds for servers in found.runs.values() for rounds in servers.values()):
        raise ValueError("no run of a server ended well")
    parts = ["## Servers", textwrap.fill(_SAYS, 120)]
    if any(record["quick"] for record in records):
        parts.append("**A quick run: small networks and short stretches, to see that everything works.**")
    for row, described in found.rows.items():
        parts += [f"### {row}", _described(described), _times(found, row)]
    parts += _verdicts(bars(found))
    versions = [f"{server}: {text}" for server, text in found.versions.items()]
    for title, lines in (("Versions", versions), ("Different", found.notes), ("Not measured", list(found.missing))):
        if lines:
            parts.append(f"{title}: {'; '.join(lines)}.")
    return "\n\n".join(parts)


def _described(row: Record) -> str:
    models = f"{row['models']} models" if row["models"] > 1 else "One model"
    budget = f", streamrt's budget {row['budget'] / _MIB:.0f} MiB" if row["budget"] else ""
    return f"{models}, {row['weights'] / _MIB:.0f} MiB of weights{budget}."


def _times(found: Figures, row: str) -> str:
    header = ["server", "form", "connections", "a second", "p50", "p99", "MiB", "batch", "÷ model", "client"]
    lines = []
    for place, servers in found.runs.items():
        if place[0] == row:
            lines += [_line(found, place, server) for server in (*SERVERS, FLOOR) if server in servers]
    return grid(header, lines)


def _line(found: Figures, place: Place, server: str) -> list[str]:
    _, wire, connections = place
    about = [server, wire, str(connections)]
    if not found.runs[place][server]:
        return [*about, ended(found.ended[place, server][-1]), *[""] * 6]
    if server == FLOOR:
        rate = found.spread(place, FLOOR, of_batches)
        call = found.spread(place, FLOOR, itemgetter("call"))
        return [*about, span(rate, _rate), span(call, seconds), *[""] * 5]
    cells = [
        span(found.spread(place, server, lambda values, name=name: values.get(name)), text)
        for name, text in (("rate", _rate), ("p50", seconds), ("p99", seconds), ("memory", _mebibytes))
    ]
    fewest = found.spread(place, server, itemgetter("count"))
    if fewest and fewest.least < _ENOUGH:
        cells[2] += " *"
    batch = span(found.spread(place, server, lambda values: values.get("batch")), "{:.1f}".format)
    ratio = part(found, place) if server == US else None
    client = span(found.spread(place, server, itemgetter("client")), "{:.0%}".format)
    return [*about, *cells, batch, span(ratio, "{:.2f}".format), client]


def _verdicts(every: list[Bar]) -> list[str]:
    count = Counter(bar.verdict for bar in every)
    counts = (f"{count[verdict]} {verdict}" for verdict in ("missed", "not judged", "not measured"))
    says = f"{_BARS} {count['met']} are met, {count['killed']} met because the peer was killed, {', '.join(counts)}."
    by: dict[tuple[Place, str], list[Bar]] = {}
    for bar in every:
        by.setdefault((bar.place, bar.peer), []).append(bar)
    ahead = [[*_about(place), peer, *map(_cell, of)] for (place, peer), of in by.items() if peer]
    over = [[*_about(bar.place), bar.name, _cell(bar)] for bar in every if not bar.peer]
    parts = ["### Bars of servers", textwrap.fill(says, 120)]
    if ahead:
        parts.append(
            grid([*_PLACE, "÷", *(f"{_NAMES[name]} {_limit(more)}" for name, more in MEASURES.items())], ahead)
        )
    return [*parts, grid([*_PLACE, "bar", ""], over)] if over else parts


def _about(place: Place) -> list[str]:
    return [place[0], place[1], str(place[2])]


def _limit(more: bool) -> str:
    return "≥ 1" if more else "≤ 1"


def _cell(bar: Bar) -> str:
    """What was measured and the verdict; the limit, too, where the model itself gives it."""
    if bar.verdict in ("killed", "not measured"):
        return ", ".join(dict.fromkeys(end.status for end in bar.ends)) or bar.verdict
    text = signed if bar.unit == "s" else "{:.2f}".format
    limit = "" if bar.peer else f" {'≥' if bar.least else '≤'} {text(bar.limit)}"
    measured = span(bar.measured, text)
    if bar.verdict == "not judged":
        return f"{measured}, not judged: {bar.unless}"
    return f"{measured}{limit} {f'**{bar.verdict}**' if bar.verdict == 'missed' else bar.verdict}"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _mebibytes(value: float) -> str:
    return f"{value / _MIB:.0f}"
