"""The table of a scenario whose contenders store weights in different types: speed, memory and error at one glance."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.summary import CaseTable, Row
from bench.ways import US, is_way

_MIB = 1 << 20


def comparison(tables: Sequence[CaseTable]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: a line for each contender, with its time divided by streamrt's with float32 in each case."""
    several = len({table.threads for table in tables}) > 1
    cases = [f"{table.label}, {table.threads} threads" if several else table.label for table in tables]
    header = ["contender", "computes in", "largest error", "most resident, MiB", "most in the cgroup, MiB", *cases]
    names = list(dict.fromkeys(row.peer for table in tables for row in table.rows))
    names.sort(key=lambda name: (not is_way(name), name))
    return header, [_line(name, tables) for name in names]


def _line(name: str, tables: Sequence[CaseTable]) -> list[str]:
    pairs = [(table, table.row(name)) for table in tables]
    rows = [row for _, row in pairs if row]
    errors = [row.error for row in rows if row.error is not None]
    ratios = [_ratio(table, row) if row else "" for table, row in pairs]
    error = f"{max(errors):.1e}" if errors else "-"
    return [name, rows[0].arithmetic, error, _most(rows, "resident"), _most(rows, "cgroup_peak"), *ratios]


def _ratio(table: CaseTable, row: Row) -> str:
    if row.status != "ok":
        return row.status
    us = table.row(US)
    ratio = row.ratio(us, table.measures[0]) if us else None
    return f"{ratio.median:.2f}" if ratio else "-"


def _most(rows: Sequence[Row], kind: str) -> str:
    known = [value for row in rows if (value := row.memory.get(kind)) is not None]
    return f"{max(known) / _MIB:.0f}" if known else "-"
