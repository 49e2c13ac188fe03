"""Figures from the lines of a run: values by round, and comparisons of two servers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import truediv
from typing import Any

from bench.record import Record
from bench.report.summary import End, Spread

Values = dict[str, Any]
#: A number of a round; None if the round does not have it.
Figure = Callable[[Values], float | None]
#: Row, form of tensors and connections.
Place = tuple[str, str, int]


@dataclass(slots=True)
class Figures:
    """What was measured.

    Attributes:
        rows: the line that describes each row, by its name.
        runs: by place and server, the values of each round that ended well.
        ended: by place and server, the rounds that ended otherwise.
        missing: why something was not measured, each reason once.
        notes: what is different about a server's form of tensors.
        versions: of the peers.
    """

    rows: dict[str, Record] = field(default_factory=dict)
    runs: dict[Place, dict[str, dict[int, Values]]] = field(default_factory=lambda: defaultdict(dict))
    ended: dict[tuple[Place, str], list[End]] = field(default_factory=lambda: defaultdict(list))
    missing: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def spread(self, place: Place, server: str, figure: Figure) -> Spread | None:
        """A figure of one server, of all rounds that have it."""
        values = self._values(place, server, figure)
        return Spread.of(values.values()) if values else None

    def compared(
        self,
        place: Place,
        servers: tuple[str, str],
        figures: tuple[Figure, Figure],
        compare: Callable[[float, float], float] = truediv,
    ) -> Spread | None:
        """The first server's first figure and the second's second one, compared."""
        pairs = zip(servers, figures, strict=True)
        return Spread.compared(*(self._values(place, server, figure) for server, figure in pairs), compare)

    def _values(self, place: Place, server: str, figure: Figure) -> dict[int, float]:
        """A figure of one server by round."""
        rounds = self.runs.get(place, {}).get(server, {})
        found = {index: figure(values) for index, values in rounds.items()}
        return {index: value for index, value in found.items() if value is not None}


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
    found.ended[place, record["server"]].append(End.of(record))
    if record["status"] == "lacks":
        found.missing[f"{record['server']}, {place[1]}: {record['reason']}"] = None
        return
    about = f"{place[0]}, {place[1]}, {place[2]} connections, {record['server']}"
    found.missing[f"{about}: {record['status']}: {record['reason']}"] = None
