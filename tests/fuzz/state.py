"""The state of a hunt after all its runs, a small JSON file."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.hunt import PASSED

#: The most inputs that are kept of one kind of finding; others are only counted.
KEPT = 3


@dataclass
class State:
    """Counts over all runs, and the next case of each seed."""

    hunt: str
    next: dict[str, int] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0  # of wall time
    #: By kind: the count, and the inputs that are kept.
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, hunt: str, path: Path | None) -> State:
        if path is None or not path.exists():
            return cls(hunt)
        state = cls(**json.loads(path.read_text()))
        if state.hunt != hunt:
            raise SystemExit(f"{path} is the state of the hunt {state.hunt!r}, not of {hunt!r}: give another file")
        state.outcomes = Counter(state.outcomes)
        return state

    def save(self, path: Path) -> None:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(vars(self), indent=1) + "\n")
        os.replace(part, path)  # noqa: PTH105 - a run that is killed must not leave half a file

    @property
    def cases(self) -> int:
        return sum(self.outcomes.values())

    def report(self) -> str:
        """Totals over all runs, for people."""
        share = self.outcomes[PASSED] / max(self.cases, 1)
        lines = [
            f"{self.hunt}: {self.cases:,} cases in {self.seconds:,.0f} s of all runs, "
            f"{self.outcomes[PASSED]:,} as far as a pass ({share:.1%})",
            "outcomes: " + ", ".join(f"{name} {count:,}" for name, count in sorted(self.outcomes.items())),
        ]
        for kind, finding in sorted(self.findings.items()):
            lines.append(f"FINDING {kind}: {finding['count']} times, {', '.join(finding['inputs'])}")
        return "\n".join(lines)
