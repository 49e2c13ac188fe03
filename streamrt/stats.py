"""What a pass did: bytes, times, and what bound it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from streamrt._core import ItemReport
from streamrt.graph import Node
from streamrt.plan import Plan


@dataclass(frozen=True, slots=True)
class LayerStats:
    """One node's part in a call; times in seconds, sizes in bytes. Bytes that nodes share count for the first of them.

    Attributes:
        name: the node's.
        op: its operator.
        weights: what it has in the file.
        compute: time that it computed.
        stall: time that it waited for its tiles.
        read_seconds: time that the prefetch thread spent on its tiles.
        bytes_read: what the device delivered of them.
    """

    name: str
    op: str
    weights: int
    compute: float
    stall: float
    read_seconds: float
    bytes_read: int


@dataclass(frozen=True, slots=True)
class _Trace:
    """What `PassStats.layers` is added up from, when somebody asks: a call itself has no time for it."""

    reports: Sequence[Sequence[ItemReport]]
    computed: Sequence[float]
    nodes: Sequence[Node]
    plan: Plan

    def layers(self) -> tuple[LayerStats, ...]:
        ranges: list[list[int]] = [[] for _ in self.nodes]
        taken = 0
        for tile in self.plan.tiles:  # in the order of the ranges, which neighbours may share
            ranges[tile.node].extend(range(max(tile.begin, taken), tile.end))
            taken = max(taken, tile.end)
        found = []
        for node, compute, indices in zip(self.nodes, self.computed, ranges, strict=True):
            items = [report[index] for report in self.reports for index in indices]
            found.append(
                LayerStats(
                    name=node.name,
                    op=node.op,
                    weights=sum(self.plan.ranges[index].length for index in indices),
                    compute=compute,
                    stall=sum(item.stall for item in items) * 1e-9,
                    read_seconds=sum(item.read_end - item.read_start for item in items) * 1e-9,
                    bytes_read=sum(item.bytes_read for item in items),
                )
            )
        return tuple(found)


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
    _trace: _Trace = field(repr=False, compare=False)

    @classmethod
    def of(
        cls,
        passes: Sequence[Sequence[ItemReport]],
        seconds: float,
        computed: Sequence[float],
        *,
        samples: int,
        peak_weights: int,
        nodes: Sequence[Node],
        plan: Plan,
    ) -> Self:
        """Add up what the prefetcher reported of each pass of one call; ``computed`` is of each of ``nodes``."""
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
            _trace=_Trace(passes, computed, nodes, plan),
        )

    @property
    def layers(self) -> tuple[LayerStats, ...]:
        """What each node did, in the order of execution."""
        return self._trace.layers()

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
