"""What a pass did: bytes, times, and what bound it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from streamrt._core import ItemReport
from streamrt.plan import Plan


@dataclass(frozen=True, slots=True)
class PassStats:
    """One call of a model; times in seconds, sizes in bytes.

    Attributes:
        samples: the batch of the call.
        passes: passes over the weights: more than one when the batch was divided into micro-batches.
        seconds: from the first tile to the last.
        stall: the part of it in which computing waited for a tile.
        read_seconds: time that the prefetch thread spent bringing tiles in, most of it while computing went on.
        bytes_streamed: what came in through the window.
        bytes_pinned: what was brought in to stay.
        bytes_read: what the device delivered of these; the rest was in the page cache already.
        peak_weights: the most bytes of weights that were held at any moment.
        workspace: bytes of activations and scratch.
    """

    samples: int
    passes: int
    seconds: float
    stall: float
    read_seconds: float
    bytes_streamed: int
    bytes_pinned: int
    bytes_read: int
    peak_weights: int
    workspace: int

    @classmethod
    def of(
        cls,
        passes: Sequence[Iterable[ItemReport]],
        seconds: float,
        *,
        samples: int,
        peak_weights: int,
        plan: Plan,
    ) -> Self:
        """Add up what the prefetcher reported of each pass of one call."""
        items = [item for report in passes for item in report]
        # An item that was in memory before the pass began brought nothing in.
        brought = [item for item in items if item.read_end > item.read_start]
        return cls(
            samples=samples,
            passes=len(passes),
            seconds=seconds,
            stall=sum(item.stall for item in items) * 1e-9,
            read_seconds=sum(item.read_end - item.read_start for item in items) * 1e-9,
            bytes_streamed=sum(item.length for item in items if not item.pinned),
            bytes_pinned=sum(item.length for item in brought if item.pinned),
            bytes_read=sum(item.bytes_read for item in items),
            peak_weights=peak_weights,
            workspace=plan.workspace,
        )

    @property
    def compute(self) -> float:
        """Seconds in which computing did not wait."""
        return self.seconds - self.stall

    @property
    def overlap(self) -> float:
        """The share of reading that was hidden behind computing, from 0 to 1."""
        if self.read_seconds <= 0:
            return 1.0
        return max(0.0, min(1.0, 1.0 - self.stall / self.read_seconds))

    @property
    def bound_by(self) -> str:
        """``"reading"`` when a pass waited for the file more than it computed, else ``"computing"``."""
        return "reading" if self.stall > self.compute else "computing"

    def __str__(self) -> str:
        mib = 1 << 20
        return (
            f"{self.seconds * 1e3:.1f} ms for {self.samples} samples, bound by {self.bound_by}: "
            f"computed {self.compute * 1e3:.1f} ms, stalled {self.stall * 1e3:.1f} ms, "
            f"{self.overlap:.0%} of reading overlapped; "
            f"streamed {self.bytes_streamed / mib:.1f} MiB, pinned {self.bytes_pinned / mib:.1f} MiB, "
            f"{self.bytes_read / mib:.1f} MiB of it from the device; "
            f"held at most {(self.peak_weights + self.workspace) / mib:.1f} MiB"
        )
