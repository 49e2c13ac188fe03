"""What a child process is asked to do, and how the answer comes back: one JSON object each way."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

#: The largest error that counts as the same answer, relative to the largest absolute value of the reference's.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Job:
    """One task for a fresh process.

    Attributes:
        kind: which of the tasks of `bench.process.child`.
        data: the folder of models.
        peer: a peer's name, or for a limit its name.
        model: a source's name.
        modules: what the peer imports.
        file: what a limit of the disk reads; of passes, what is read between them.
        batches: samples of a call; one, but several whose answers a source is to have.
        threads: threads that may compute.
        budget: of bytes, for peers that know one.
        callers: threads that call at the same time.
        verify: whether streamrt compares weights with their checksums.
        least_passes: passes after the first that are measured at least,
        seconds: and until so many have passed,
        most_passes: but no more than these.
    """

    kind: str
    data: str
    peer: str = ""
    model: str = ""
    modules: tuple[str, ...] = ()
    file: str | None = None
    batches: tuple[int, ...] = ()
    threads: int = 1
    budget: str | None = None
    callers: int = 1
    verify: bool = False
    least_passes: int = 3
    seconds: float = 2.0
    most_passes: int = 200

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        return cls(**fields | {name: tuple(fields[name]) for name in ("batches", "modules")})
