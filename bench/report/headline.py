"""The README's rows: a time of streamrt beside that of the fastest peer, and a line of its measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.machine import Kind
from bench.record import Record
from bench.report.summary import CaseTable, Spread
from bench.scenarios import SCENARIOS
from bench.ways import US

#: The rows of the pool and of the server: set, type of weights and trace; row, form of tensors and connections.
_POOL = ("small", "float32", "zipf 0.9")
_SERVER = ("resnet50", "binary", 8)


@dataclass(frozen=True, slots=True)
class Headline:
    """A row.

    Attributes:
        label: what was measured.
        ours: streamrt's time, in seconds; None if it has none.
        status: how streamrt's runs ended.
        peer: the fastest peer; empty if none has a time.
        theirs: its time.
        ratio: of the two times.
        record: a line of its measurements.
        kind: what was measured, which tells whose code decides its time.
    """

    label: str
    ours: Spread | None
    status: str
    peer: str
    theirs: Spread | None
    ratio: Spread | None
    record: Record
    kind: Kind


def of_scenarios(measured: Mapping[str, list[Record]], tables: Mapping[str, list[CaseTable]]) -> Iterator[Headline]:
    """The rows of scenarios that were measured, each with the most threads."""
    for name, found in tables.items():
        for label in SCENARIOS[name].headlines:
            if of_case := [table for table in found if table.label == label]:
                table = max(of_case, key=lambda table: table.threads)
                record = next(record for record in measured[name] if record.get("label") == label)
                yield _of_table(f"{SCENARIOS[name].title}: {label}", table, record)


def _of_table(label: str, table: CaseTable, record: Record) -> Headline:
    us, best, measure = table.row(US), table.best_peer(), table.measures[0]
    return Headline(
        label,
        us.spread(measure) if us else None,
        us.status if us else "-",
        best.peer if best else "",
        best.spread(measure) if best else None,
        us.ratio(best, measure) if us and best else None,
        record,
        "models",
    )


def of_pools(records: list[Record]) -> Iterator[Headline]:
    """The row of a pool: the time of a trace, beside an LRU of whole models."""
    from bench.pool.contenders import DEFAULT, WHOLE  # here, because they import this package
    from bench.pool.figures import figures

    name, weights, trace = _POOL
    for found in figures(records):
        ratio = found.ratio(weights, trace, (DEFAULT, WHOLE), "seconds")
        if found.name == name and ratio:
            described = found.described
            requests = f"{described['requests']} requests"
            label = f"Many models under one budget: {described['models']} {name} models, {trace}, {requests}"
            ours, theirs = (found.spread(weights, trace, each, "seconds") for each in (DEFAULT, WHOLE))
            yield Headline(label, ours, "ok", "LRU of whole models", theirs, ratio, described, "pool")


def of_servers(records: list[Record]) -> Iterator[Headline]:
    """The row of a server: the median time of a request, beside the fastest other server."""
    from bench.serve.figures import Values, figures  # here, because it imports this package
    from bench.serve.rows import FLOOR
    from bench.serve.servers import LACKS

    def p50(values: Values) -> float:
        return float(values["p50"])

    found, (row, wire, connections) = figures(records), _SERVER
    servers = [server for server in found.runs.get(_SERVER, {}) if (server, wire) not in LACKS and server != FLOOR]
    times = {server: found.spread(_SERVER, server, p50) for server in servers}
    ours = times.pop(US, None)
    peers = {server: time for server, time in times.items() if time}
    if peers and ours:
        peer = min(peers, key=lambda server: peers[server].median)
        label = f"A server: {row}, {wire} tensors, {connections} connections, median of requests"
        compared = found.compared(_SERVER, (US, peer), (p50, p50))
        yield Headline(label, ours, "ok", peer, peers[peer], compared, found.rows[row], "server")
