"""Figures from the lines of one set of models: times by round, and comparisons of two contenders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import sub
from typing import Any

from bench.record import Record
from bench.report.summary import Spread

Rounds = dict[int, dict[str, Any]]
#: Weights, trace and contender of a run.
Key = tuple[str, str, str]
#: Name and registered models of a row about hits.
RowKey = tuple[str, int]


@dataclass(slots=True)
class Figures:
    """What was measured with one set of models.

    Attributes:
        described: the line that describes the set.
        runs: by run, the values of each round that ended well.
        rows: the same of the rows about hits.
        simulated: by weights and trace, the bytes that each contender would load.
        missing: why something was not measured, each reason once.
    """

    described: Record
    runs: dict[Key, Rounds] = field(default_factory=lambda: defaultdict(dict))
    rows: dict[RowKey, Rounds] = field(default_factory=lambda: defaultdict(dict))
    simulated: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    missing: dict[str, None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.described["set"])

    @property
    def weights(self) -> list[str]:
        """The types of weights, in the order in which they were measured."""
        return list(dict.fromkeys(weights for weights, _ in self.simulated))

    @property
    def traces(self) -> list[str]:
        return list(dict.fromkeys(trace for _, trace in self.simulated))

    def spread(self, weights: str, trace: str, contender: str, measure: str) -> Spread | None:
        """A contender's values of all rounds."""
        return _spread(self._values(weights, trace, contender, measure).values())

    def ratio(self, weights: str, trace: str, contenders: tuple[str, str], measure: str) -> Spread | None:
        """The first contender's value divided by the second's."""
        return Spread.compared(*(self._values(weights, trace, contender, measure) for contender in contenders))

    def difference(self, weights: str, trace: str, contenders: tuple[str, str], measure: str) -> Spread | None:
        """The first contender's value less the second's."""
        return Spread.compared(*(self._values(weights, trace, contender, measure) for contender in contenders), sub)

    def between(self, weights: tuple[str, str], trace: str, contender: str) -> Spread | None:
        """A contender's time with the first type of weights divided by that with the second."""
        return Spread.compared(*(self._values(each, trace, contender, "seconds") for each in weights))

    def row(self, key: RowKey, figure: Callable[[dict[str, Any]], float]) -> Spread | None:
        """A figure of a row about hits, of all rounds."""
        return _spread(figure(values) for values in self.rows.get(key, {}).values())

    def _values(self, weights: str, trace: str, contender: str, measure: str) -> dict[int, float]:
        """A contender's values by round."""
        rounds = self.runs.get((weights, trace, contender), {})
        return {index: values[measure] for index, values in rounds.items()}


def figures(records: Iterable[Record]) -> list[Figures]:
    """The figures of each set of models, in the order in which they were measured."""
    found: dict[str, Figures] = {}
    for record in records:
        if record["kind"] == "set":
            found[record["set"]] = Figures(record)
            continue
        of = found[record["set"]]
        if record["kind"] == "simulated":
            of.simulated[record["weights"], record["trace"]] = record["loaded"]
        elif record["kind"] == "skip":
            of.missing[f"{record['peer']}, {record['weights']}: {record['reason']}"] = None
        elif record["kind"] == "timing":
            key = record["weights"], record["trace"], record["peer"]
            _add(of, of.runs, key, record)
        elif record["kind"] == "hits":
            row = record["row"], record["registered"]
            _add(of, of.rows, row, record)
    return list(found.values())


def _add(of: Figures, to: dict[Any, Rounds], key: tuple[str | int, ...], record: Record) -> None:
    """Add a round. What never ended well has no rounds, and its reason is told."""
    rounds = to[key]
    if record["status"] == "ok":
        rounds[record["round"]] = record["values"]
    else:
        of.missing[f"{', '.join(map(str, key))}: {record['status']}: {record['reason']}"] = None


def _spread(values: Iterable[float]) -> Spread | None:
    found = list(values)
    return Spread.of(found) if found else None
