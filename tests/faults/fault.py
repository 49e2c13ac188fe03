"""A planted fault, and the folders of tests that should catch the faults of a room."""

from __future__ import annotations

import re
from dataclasses import dataclass

KERNELS = ("tests/kernels", "tests/ops")
PLAN = ("tests/plan", "tests/end_to_end", "tests/model")
ENGINE = ("tests/end_to_end", "tests/model")
FORMAT = ("tests/format",)
POOL = ("tests/pool",)
SERVE = ("tests/serve",)
TUNING = ("tests/tuning",)
CLI = ("tests/cli",)
RPC = ("tests/serve/rpc",)
CORE = ("tests/core", "tests/end_to_end")


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: unique, for ``--only``.
        room: the part of the package that has the fault, for ``--room``.
        file: its path from the top folder of the checkout.
        before: text that is in the file exactly once.
        after: text that takes its place.
        why: what goes wrong.
        tests: folders in which it should be caught; they run first.
        seen_with: the instruction set that the fault is for, if it is in code of all; else ``file`` tells.
    """

    name: str
    room: str
    file: str
    before: str
    after: str
    why: str
    tests: tuple[str, ...]
    seen_with: str = ""

    @property
    def isa(self) -> str | None:
        """The instruction set without which no test can see the fault."""
        found = re.search(r"/vec_(\w+)\.h$", self.file)
        return self.seen_with or (found and found[1])
