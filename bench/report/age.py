"""Whether the README's rows and chart are of the present code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bench.machine import Kind
from bench.report.headline import Headline

#: The file, in the folder of results, of the commits whose rows the README keeps although the code has changed.
KEPT = "older.tsv"


def kept(results: Path) -> dict[str, str]:
    """By the beginning of a commit, why its rows are kept.

    Raises:
        ValueError: a line has no commit or no reason.
    """
    path = results / KEPT
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        commit, _, reason = line.partition("\t")
        if not commit or not reason:
            raise ValueError(f"{path}: a line has a commit, a tab and a reason, unlike {line!r}")
        found[commit] = reason
    return found


def problems(rows: Iterable[Headline], kept: Mapping[str, str], code: Callable[[Kind], str]) -> list[str]:
    """What is wrong with the README's rows: a sentence each. ``code`` gives the present digest of a kind's code.

    Rows of older code are wrong unless their commit is kept, and so is a kept commit that has no older row.
    """
    older = {row.label: row.record["commit"][:7] for row in rows if row.record.get("code") != code(row.kind)}
    found = [f"{label}: the code has changed since {commit}" for label, commit in older.items() if commit not in kept]
    idle = [commit for commit in kept if commit not in older.values()]
    return found + [f"{commit} is kept, and no row of it is older than the code" for commit in idle]
