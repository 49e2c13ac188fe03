"""What the planner takes and gives."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass

#: The two granules, in bytes: a page of this machine, and a block as the core reads it in one go.
PAGE = mmap.PAGESIZE
HUGE = 2 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of the file."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class NodeWeights:
    """What one node reads of the file, and how long it computes.

    Attributes:
        whole: read at once, by the node's first tile.
        tiled: read row by row; each extent holds ``rows`` rows of equal length.
        rows: rows of the node's output.
        row_step: a cut between tiles falls on a multiple of this row.
        seconds: that computing all rows takes with the weights in memory, as far as is known.
        call_rows: a tile that streams, of some rows, takes as long as so many more.
    """

    whole: tuple[Extent, ...] = ()
    tiled: tuple[Extent, ...] = ()
    rows: int = 1
    row_step: int = 1
    seconds: float = 0.0
    call_rows: int = 0


@dataclass(frozen=True, slots=True)
class Range:
    """A piece of the file that is brought in and released as one."""

    offset: int
    length: int
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    """One step of a pass: rows ``first`` to ``last`` of a node, which need ``ranges[begin:end]`` of the plan."""

    node: int
    first: int
    last: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a pass runs within a budget; ``pinned_bytes + window + workspace <= budget``.

    Attributes:
        tiles: in the order of execution.
        ranges: in the order in which the tiles need them.
        granule: bytes in which memory is populated, released and counted.
        window: bytes that streamed ranges may hold at any moment.
        workspace: bytes of activations and scratch.
        pinned_bytes: what the pinned ranges hold.
        streamed_bytes: what one pass reads through the window, without the padding that whole granules bring along.
        micro_batch: samples that one pass over the weights serves; 0 when the batch is not divided.
        budget: the limit, or None.
        seconds: that a pass should take once what is pinned is there, as far as speeds are known.
        overhead: seconds of processing that a byte of ranges of this size takes, beside the disk's.
        share: of the speed that this makes, what so small a window leaves.
    """

    tiles: tuple[Tile, ...]
    ranges: tuple[Range, ...]
    granule: int
    window: int
    workspace: int
    pinned_bytes: int
    streamed_bytes: int
    budget: int | None
    micro_batch: int = 0
    seconds: float = 0.0
    overhead: float = 0.0
    share: float = 1.0

    @property
    def total(self) -> int:
        """Bytes that the model may hold under this plan."""
        return self.pinned_bytes + self.window + self.workspace

    def speed(self, disk: float) -> float:
        """Bytes a second at which ranges come from a disk that delivers ``disk`` when it is asked for large ones."""
        return self.share * read_rate(disk, self.overhead)

    def disk_speed(self, speed: float, known: float) -> float:
        """The inverse of `speed`: what ranges that came at ``speed`` tell of a disk that was taken for ``known``.

        Where the disk's part of the time is less than half, they tell no more than that it is not slower than they.
        """
        byte = self.share / speed
        squared = byte**2 - self.overhead**2
        return 1 / math.sqrt(squared) if squared >= (byte / 2) ** 2 else max(known, 1 / byte)


def read_rate(disk: float, overhead: float) -> float:
    """Bytes a second, if a byte takes ``overhead`` seconds beside those of a disk of ``disk`` bytes a second.

    The two overlap in part: as the root of the sum of their squares (measured: docs/design.md).
    """
    return disk / math.hypot(1, disk * overhead)  # exactly the disk's where nothing comes on top
