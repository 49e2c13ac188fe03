"""What the measured processes have in common: models, inputs, pools, counts of bytes, percentiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import streamrt

#: Seconds that a request waits for memory. No request of a benchmark should fail because the machine is busy.
PATIENCE = 300.0


def ones(widths: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """An input of one sample for each width."""
    return {width: np.ones((1, width), np.float32) for width in set(widths)}


def pool_of(paths: Sequence[Path], budget: int, policy: str = "adaptive", **options: Any) -> streamrt.ModelPool:
    """A pool in which each model is registered under its index."""
    import streamrt

    pool = streamrt.ModelPool(budget, policy=policy, timeout=PATIENCE, **options)
    for index, path in enumerate(paths):
        pool.register(str(index), path)
    return pool


@dataclass(frozen=True, slots=True)
class Registered:
    """The models of a pool whose hits are measured.

    Attributes:
        paths: of all models, which are registered under their indices.
        widths: of their inputs.
        models: how many of them are measured; the others are bystanders.
        budget: bytes of the pool.
    """

    paths: Sequence[Path]
    widths: Sequence[int]
    models: int
    budget: int

    def pool(self, **options: Any) -> streamrt.ModelPool:
        """A pool that has been asked for each model once, bystanders included: so it knows the needs of all."""
        pool = pool_of(self.paths, self.budget, **options)
        self.request_each(pool)
        return pool

    def request_each(self, pool: streamrt.ModelPool) -> None:
        """Request each model once."""
        request = self.request(pool)
        for index in range(len(self.paths)):
            request(index)

    def request(self, pool: streamrt.ModelPool) -> Callable[[int], None]:
        """A function that requests the model of an index, and calls it."""
        inputs = ones(self.widths)
        names, widths = [str(index) for index in range(len(self.paths))], self.widths

        def request(index: int) -> None:
            with pool.lease(names[index]) as model:
                model(inputs[widths[index]])

        return request

    @contextmanager
    def alone(self, which: Sequence[int], **options: Any) -> Iterator[Callable[[int], None]]:
        """A function that calls the model of an index, for these models, which are open without a pool meanwhile."""
        import streamrt

        inputs, widths = ones(self.widths), self.widths
        with ExitStack() as stack:
            models = {index: stack.enter_context(streamrt.Model(self.paths[index], None, **options)) for index in which}

            def call(index: int) -> None:
                models[index](inputs[widths[index]])

            yield call

    def by_size(self) -> list[int]:
        """The measured models, the smallest first."""
        return sorted(range(self.models), key=lambda index: self.paths[index].stat().st_size)

    def medium(self, count: int) -> list[int]:
        """The ``count`` measured models whose sizes are nearest to the median."""
        start = (self.models - count) // 2
        return self.by_size()[start : start + count]


def from_device() -> int:
    """Bytes that were read from devices for this process."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def anonymous() -> int:
    """Bytes of this process that no file has."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(int(line[1]) * 1024 for line in lines if line[0] == "RssAnon:")


def percentiles(times: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times, (50, 99))
    return {"p50": float(p50), "p99": float(p99)}
