"""Makes figures from lines of results: medians over the rounds of every layer, and of the whole pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

from bench.layers.matching import Owners, matched, owners
from bench.record import Record
from bench.ways import US


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The seconds of a pass: medians over the rounds of each process's quartiles."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, rounds: Sequence[Mapping[str, float]]) -> Self | None:
        """None without a round."""
        if not rounds:
            return None
        return cls(*(median(steady[name] for steady in rounds) for name in ("lower", "median", "upper")))


@dataclass(frozen=True, slots=True)
class Times:
    """The seconds of a contender with a number of threads: medians over the rounds.

    Attributes:
        layers: by the index of the layer; without layers for which it has no node.
        other: of nodes that belong to no layer.
        between: of a pass, outside all nodes.
        profiled: of a pass while its nodes are timed.
        plain: of a pass in a process that times no nodes; None if that was not measured.
    """

    layers: Mapping[int, float]
    other: float
    between: float
    profiled: Quartiles
    plain: Quartiles | None

    @property
    def inside(self) -> float:
        """The sum over all nodes."""
        return sum(self.layers.values()) + self.other


def contenders(records: Iterable[Record], layers: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], Times]:
    """The contenders whose nodes were timed, by name and threads, in the order in which they were measured."""
    rounds: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["kind"] == "timing" and record["status"] == "ok":
            rounds[record["peer"], record["threads"]][record["case"]["kind"]].append(record["values"])
    ours: Owners = {layer["name"]: (index, True) for index, layer in enumerate(layers)}
    theirs = owners(layers)
    found = {}
    for (peer, threads), of_kind in rounds.items():
        if not (profiles := of_kind["profile"]):
            continue
        nodes = [matched(values["nodes"], ours if peer == US else theirs) for values in profiles]
        profiled = Quartiles.of([values["steady"] for values in profiles])
        assert profiled
        found[peer, threads] = Times(
            layers={index: median(seconds[index] for seconds, _ in nodes) for index in nodes[0][0]},
            other=median(other for _, other in nodes),
            between=median(values["between"] for values in profiles),
            profiled=profiled,
            plain=Quartiles.of([values["steady"] for values in of_kind["passes"]]),
        )
    return found


def peaks(records: Iterable[Record], limit: str = "fma") -> dict[int, float]:
    """The peak of the multiply-add units in operations a second, by threads: the most of all rounds."""
    found: dict[int, float] = {}
    for record in records:
        if record["kind"] == "limit" and record["peer"] == limit and (value := record["values"].get("value")):
            found[record["threads"]] = max(value, found.get(record["threads"], 0.0))
    return found
