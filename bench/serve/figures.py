"""Figures from the lines of a run: values by round, and comparisons of two servers of the same round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.record import Record
from bench.report.summary import Spread

Values = dict[str, Any]
#: Row, form of tensors and connections.
Place = tuple[str, str, int]


@dataclass(slots=True)
class Figures:
    """What was measured.

    Attributes:
        rows: the line that describes each row, by its name.
        runs: by place and server, the values of each round that ended well.
        ended: by place and server, how a round ended otherwise.
        missing: why something was not measured, each reason once.
        notes: what is different about a server's form of tensors.
        versions: of the peers.
    """

    rows: dict[str, Record] = field(default_factory=dict)
    runs: dict[Place, dict[str, dict[int, Values]]] = field(default_factory=lambda: defaultdict(dict))
    ended: dict[tuple[Place, str], str] = field(default_factory=dict)
    missing: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def spread(self, place: Place, server: str, figure: Callable[[Values], float | None]) -> Spread | None:
        """A figure of one server, of all rounds that have it."""
        found = [figure(values) for values in self._rounds(place, server).values()]
        return _spread(value for value in found if value is not None)

    def compared(
        self, place: Place, servers: tuple[str, str], compare: Callable[[Values, Values], float | None]
    ) -> Spread | None:
        """A comparison of two servers, round by round."""
        mine, theirs = (self._rounds(place, server) for server in servers)
        found = [compare(mine[at], theirs[at]) for at in mine if at in theirs]
        return _spread(value for value in found if value is not None)

    def _rounds(self, place: Place, server: str) -> dict[int, Values]:
        return self.runs.get(place, {}).get(server, {})


def figures(records: Iterable[Record]) -> Figures:
    """The figures of a run."""
    found = Figures()
    for record in records:
        kind = record["kind"]
        if kind == "row" and record["status"] == "ok":
            found.rows[record["row"]] = record
        elif kind == "row":
            found.missing[f"{record['row']}: {record['reason']}"] = None
        elif kind == "skip":
            found.missing[f"{record['server']}: {record['reason']}"] = None
        elif kind == "note":
            found.notes.append(f"{record['server']}, {record['wire']}: {record['note']}")
        elif kind == "environment":
            wanted = (record["server"], "onnxruntime", "uvicorn")
            packages = record["packages"]
            found.versions[record["server"]] = ", ".join(f"{name} {packages.get(name, '?')}" for name in wanted)
        elif kind == "timing":
            _add(found, record)
    return found


def _add(found: Figures, record: Record) -> None:
    place = record["row"], record["wire"], record["connections"]
    rounds = found.runs[place].setdefault(record["server"], {})
    if record["status"] == "ok":
        rounds[record["round"]] = record["values"]
        return
    found.ended[place, record["server"]] = record["status"]
    if record["status"] == "lacks":
        found.missing[f"{record['server']}, {place[1]}: {record['reason']}"] = None
        return
    about = f"{place[0]}, {place[1]}, {place[2]} connections, {record['server']}"
    found.missing[f"{about}: {record['status']}: {record['reason']}"] = None


def _spread(values: Iterable[float]) -> Spread | None:
    found = list(values)
    return Spread.of(found) if found else None
