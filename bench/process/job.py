"""The task of a child process. It is sent to the child as a JSON object, and the answer is another."""

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
        kind: the name of a task of `bench.process.child`.
        data: the folder of models.
        peer: a peer's name, or a limit's.
        model: a source's name.
        modules: modules that the peer imports.
        file: the file that a limit of the disk reads, or that is read between passes; or what a client is told.
        batches: samples of a call; the kind ``"source"`` makes answers for several, every other kind has one.
        threads: threads that may compute.
        budget: bytes, as streamrt takes them; other peers have no budget.
        callers: threads that call at the same time.
        verify: whether streamrt compares weights with their checksums.
        cap: bytes of the memory cgroup that the process runs in.
        least_passes: the fewest passes after the first that are timed.
        seconds: passes are timed until together they have taken this long.
        most_passes: the most passes that are timed.
        weights: the type of the weights of a pool's models.
        sizes: the number of a pool's models, and the least and the most bytes of one (`bench.pool.models.sizes`); or
            the bytes of the disk's file.
        registered: models that are registered with a pool.
        environ: environment variables of the process, with their values.
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
    cap: int | None = None
    least_passes: int = 3
    seconds: float = 2.0
    most_passes: int = 200
    weights: str = "float32"
    sizes: tuple[int, ...] = ()
    registered: int = 0
    environ: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        return cls(**fields | {name: tuple(fields[name]) for name in ("batches", "modules", "sizes", "environ")})
