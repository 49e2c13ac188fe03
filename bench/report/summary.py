"""Makes figures from lines of results: medians and spreads, ratios of contenders, and T* of every case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import truediv
from statistics import median
from typing import Any

from bench.record import Record
from bench.report import tstar
from bench.scenarios.case import ANSWERING
from bench.ways import US, computed_by, computing, is_way


@dataclass(frozen=True, slots=True)
class Spread:
    """The median, the least and the most of some values."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        return cls(median(values), min(values), max(values), len(values))

    @classmethod
    def compared(
        cls,
        mine: Mapping[int, float],
        theirs: Mapping[int, float],
        compare: Callable[[float, float], float] = truediv,
    ) -> Spread | None:
        """Two contenders' values by round, compared: of their medians, with the least and the most of a round.

        None if they have no round in common.
        """
        pairs = [compare(mine[index], theirs[index]) for index in mine if index in theirs]
        if not pairs:
            return None
        return cls(compare(median(mine.values()), median(theirs.values())), min(pairs), max(pairs), len(pairs))


@dataclass(frozen=True, slots=True)
class End:
    """A round that ended badly.

    Attributes:
        round: its number, from 0.
        status: how it ended, as in `Row`.
        reason: why.
        seconds: for how long its process ran; None in lines that do not tell.
        peak: the most bytes charged to its cgroup; None without a cgroup.
    """

    round: int
    status: str
    reason: str
    seconds: float | None = None
    peak: int | None = None

    @classmethod
    def of(cls, record: Record) -> End:
        """That of a line about a round that ended badly."""
        ended = record.get("ended", {})
        return cls(record["round"], record["status"], record["reason"], ended.get("seconds"), ended.get("cgroup_peak"))


@dataclass(slots=True)
class Row:
    """A contender in one case.

    Attributes:
        peer: its name.
        times: by measure, seconds of every round: the median where one process measured several passes.
        moments: pairs of a steady pass's seconds and the disk's bytes a second around it.
        seen: by measure, the fastest and the slowest pass of each round.
        ends: the rounds that ended badly.
        status: ``"ok"`` if a round ended well and no answer was wrong. Else how it ended: ``"killed"``, ``"wrong"``,
            ``"slow"``, ``"skipped"``, ``"error"``.
        reason: why it did not end with ``"ok"``.
        memory: the most bytes, by kind: ``anonymous``, ``file_pages``, ``both``, ``resident``, ``cgroup_peak``, and for
            streamrt ``beyond`` its budget and an interpreter with NumPy. After opening: ``anonymous`` and ``mapped``.
        error: the largest error of its answer, relative to the largest absolute value of the float64 answer.
        arithmetic: the type of the numbers that its products multiply.
        budget: bytes that a way of streamrt had, if it had a budget.
        limits: by measure, T* in seconds; only ways of streamrt have it.
        hops: seconds in which a cache line got from the first processor to the last, just before and after each round;
            where nothing but threads decides the time.
        then: steady passes divided by T* from the disk's speed just before and after each.
    """

    peer: str
    times: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    moments: list[tuple[float, float]] = field(default_factory=list)
    seen: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    ends: list[End] = field(default_factory=list)
    status: str = "ok"
    reason: str = ""
    memory: dict[str, int | None] = field(default_factory=dict)
    error: float | None = None
    arithmetic: str = "float32"
    budget: int | None = None
    limits: dict[str, float] = field(default_factory=dict)
    hops: list[float] = field(default_factory=list)
    then: Spread | None = None

    def spread(self, measure: str) -> Spread | None:
        """The median of the rounds and the spread of all passes; None without a time, or if it did not end well."""
        if self.status != "ok" or not self.times.get(measure):
            return None
        rounds = self.times[measure].values()
        return Spread(median(rounds), min(self.seen[measure]), max(self.seen[measure]), len(rounds))

    def ratio(self, other: Row, measure: str) -> Spread | None:
        """This contender's time divided by the other's, as `Spread.compared` does it."""
        return Spread.compared(self.times.get(measure, {}), other.times.get(measure, {}))


@dataclass(slots=True)
class CaseTable:
    """All contenders in one case with one number of threads.

    Attributes:
        label: of the case.
        case: its fields.
        threads: threads that computed.
        rows: the contenders, the fastest first, and those without a time at the end.
        weights: bytes of weights that streamrt's pass uses.
    """

    label: str
    case: Mapping[str, Any]
    threads: int
    rows: list[Row] = field(default_factory=list)
    weights: int | None = None

    @property
    def budget(self) -> int | None:
        """Bytes that streamrt had, if it had a budget."""
        us = self.row(US)
        return us.budget if us else None

    @property
    def measures(self) -> list[str]:
        return list(self.case["measures"])

    @property
    def limits(self) -> Mapping[str, float]:
        """By measure, T* of streamrt in seconds."""
        us = self.row(US)
        return us.limits if us else {}

    @property
    def then(self) -> Spread | None:
        """As in streamrt's row."""
        us = self.row(US)
        return us.then if us else None

    def row(self, peer: str) -> Row | None:
        return next((row for row in self.rows if row.peer == peer), None)

    def best_peer(self, measure: str | None = None) -> Row | None:
        """The fastest contender that ended well and is not streamrt in another way, in the first measure by default."""
        measure = measure or self.measures[0]
        others = [(spread.median, row) for row in self.rows if (spread := row.spread(measure))]
        peers = [pair for pair in others if not is_way(pair[1].peer)]
        return min(peers, key=lambda pair: pair[0])[1] if peers else None


def tables(records: Iterable[Record]) -> list[CaseTable]:
    """The cases of one scenario in the order in which they were run."""
    records = list(records)
    found: dict[tuple[str, int], CaseTable] = {}
    for record in records:
        if record["kind"] in ("timing", "memory"):
            key = record["label"], record["threads"]
            table = found.setdefault(key, CaseTable(record["label"], record["case"], record["threads"]))
            row = table.row(record["peer"])
            if row is None:
                table.rows.append(row := Row(record["peer"]))
            _add(row, record, table)
    for record in records:
        if record["kind"] == "check":
            for table in found.values():
                same = table.case["model"] == record["model"] and table.case["batch"] == record["batch"]
                if same and table.case["kind"] in ANSWERING:
                    _add_check(table, record)
    for table in found.values():
        measure = table.measures[0]
        table.rows.sort(key=lambda row: s.median if (s := row.spread(measure)) else float("inf"))
        for row in table.rows:
            if is_way(row.peer) and (problem := _problem(table, row.peer, records)):
                of = {"steady": tstar.steady, "first": tstar.first, "to_first_output": tstar.first}
                row.limits = {measure: of[measure](problem) for measure in table.measures if measure in of}
                if row.moments:
                    row.then = Spread.of(
                        seconds / tstar.steady(replace(problem, bandwidth=speed)) for seconds, speed in row.moments
                    )
    return list(found.values())


def limits(records: Iterable[Record]) -> dict[tuple[str, str, int], Spread]:
    """The limits that were measured, by name, model and threads."""
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for record in records:
        if record["kind"] == "limit" and record["status"] == "ok" and record["values"].get("value") is not None:
            found[record["peer"], record["case"]["model"], record["threads"]].append(record["values"]["value"])
    return {key: Spread.of(values) for key, values in found.items()}


def hops(record: Record) -> list[float]:
    """Seconds in which a cache line got from one processor to another around a timed process; empty if not measured."""
    return [seconds for seconds in record.get("hops", []) if seconds is not None]


def resident(records: Iterable[Record]) -> dict[tuple[str, str, int, int], Spread]:
    """Seconds that streamrt computes with every weight in memory, by its way, model, batch and threads."""
    found: dict[tuple[str, str, int, int], list[float]] = defaultdict(list)
    for record in records:
        if record["kind"] == "limit" and record["status"] == "ok" and (way := computed_by(record["peer"])):
            case = record["case"]
            found[way, case["model"], case["batch"], record["threads"]].append(record["values"]["steady"]["median"])
    return {key: Spread.of(values) for key, values in found.items()}


def _speeds(records: Iterable[Record]) -> Iterator[float]:
    """Bytes a second of every disk limit and every pass of streamrt, during which the disk may have been faster."""
    for record in records:
        kind, values = record["kind"], record.get("values")
        if record["status"] != "ok":
            continue
        if kind == "limit" and record["peer"].startswith("disk"):
            yield values["value"]
        elif kind == "timing" and is_way(record["peer"]) and values.get("steady") and "facts" in values:
            yield values["facts"]["bytes_read"] / values["steady"]["median"]


def _add(row: Row, record: Record, table: CaseTable) -> None:
    values = record["values"]
    if record["kind"] == "memory":
        if record["status"] == "ok":
            row.memory = dict(values)
        return
    if record["status"] != "ok":
        end = End.of(record)
        row.ends.append(end)
        if row.status != "wrong" and (not row.times or end.status == "wrong"):
            row.status, row.reason = end.status, end.reason
        return
    if row.status != "wrong":
        row.status, row.reason = "ok", ""
    for measure in table.measures:
        if (value := values[measure]) is not None:
            passes = value if isinstance(value, dict) else {"median": value, "least": value, "most": value}
            row.times[measure][record["round"]] = passes["median"]
            row.seen[measure] += [passes["least"], passes["most"]]
    row.moments += values.get("moments", [])
    row.hops += hops(record)
    if table.case["kind"] not in ANSWERING:
        row.memory = {"anonymous": values["anonymous"], "mapped": values["mapped"]}
    if is_way(row.peer) and (facts := values.get("facts")):
        row.budget = facts.get("budget")
        if row.peer == US:
            table.weights = facts.get("weights")


def _add_check(table: CaseTable, record: Record) -> None:
    """Add the error of a contender's answer, and a row if the contender was not timed because of it."""
    row = table.row(record["peer"])
    if row is None:
        others = table.case.get("alone") and not is_way(record["peer"])
        if record["status"] == "ok" or others:
            return  # the case is not for it
        reason = record["reason"] or f"its answer has an error of {record['error']:.1e}"
        table.rows.append(row := Row(record["peer"], status=record["status"], reason=reason))
    row.error = record["error"]
    row.arithmetic = record.get("arithmetic", row.arithmetic)


def _problem(table: CaseTable, way: str, records: list[Record]) -> tstar.Problem | None:
    """The problem that T* of a way of streamrt in a case solves; None without a budget or limits."""
    case, threads = table.case, table.threads
    fine = [r for r in records if r["status"] == "ok" and r["threads"] == threads]
    same = [r for r in fine if r["kind"] == "limit" and r["case"]["model"] == case["model"]]
    bandwidth = max(_speeds(records), default=None)
    resident = [r["values"] for r in same if r["peer"] == computing(way) and r["case"]["batch"] == case["batch"]]
    ours = [
        r["values"]["facts"]
        for r in fine
        if r["kind"] == "timing" and r["peer"] == way and r["label"] == table.label and case["kind"] == "passes"
    ]
    ours = [facts for facts in ours if facts.get("budget") is not None]  # without a budget nothing streams
    if bandwidth is None or not resident or not ours:
        return None
    # The time of the fastest pass, divided among the layers as in the last pass of the same process.
    quickest = min(resident, key=lambda values: values["steady"]["least"])
    layers = quickest["facts"]["layers"]
    scale = quickest["steady"]["least"] / sum(seconds for _, _, seconds in layers)
    facts = max(ours, key=lambda facts: facts["budget"])
    return tstar.Problem(
        weights=[size for _, size, _ in layers],
        compute=[seconds * scale for _, _, seconds in layers],
        room=facts["budget"] - facts["least_workspace"],
        window=facts["least_window"],
        bandwidth=bandwidth,
    )
