"""The file of results: one JSON object a line. Each line can be understood by itself."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.scenarios import Case

Record = dict[str, Any]


class Recorder:
    """Writes lines to a scenario's file, each as soon as it is known, so that an interrupted run keeps its results.

    Until the end the file is called ``.partial.jsonl``. It replaces an earlier file only when it is complete.

    Args:
        path: the file, ``.jsonl``.
        shared: the fields of every line: the machine, the versions, the commit.
    """

    def __init__(self, path: Path, shared: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self.partial = path.with_suffix(".partial.jsonl")
        self._file = self.partial.open("w")
        self._shared = dict(shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            self.partial.rename(self._path)

    def write(self, kind: str, *, case: Case | None = None, **fields: object) -> None:
        """Write one line: the kind of measurement, its case, and its fields."""
        line = {"at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "kind": kind}
        if case:
            line |= {"label": case.label, "case": dataclasses.asdict(case)}
        json.dump(line | fields | self._shared, self._file, allow_nan=True)
        self._file.write("\n")
        self._file.flush()


def read(paths: Iterable[Path]) -> list[Record]:
    """All lines of these files, without a last line that was cut short."""
    found = []
    for path in paths:
        for line in path.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return found
