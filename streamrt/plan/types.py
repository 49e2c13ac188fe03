"""The words of plans: the arguments of `make_plan`, and the plan that it returns."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import NamedTuple

#: Bytes of the smaller granule: a page of this machine.
PAGE = mmap.PAGESIZE
#: Bytes of the larger granule: the largest folio of the page cache, in which the kernel reads and releases a block.
HUGE = 2 << 20

# A plan has thousands of extents, ranges and tiles. A named tuple is made in half of the time of a frozen class.


class Extent(NamedTuple):
    """Bytes of the file: ``length`` bytes from ``offset`` on."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class NodeWeights:
    """The extents of one node's parameters, and how long it computes. A node that runs in bands has several of these.

    Attributes:
        whole: extents that the node's first tile reads as a whole.
        tiled: extents that are read by rows, in each pass over them; each has ``rows / passes`` rows of equal length.
        indexed: extents of tables, of which a pass reads single rows without the plan unless everything is pinned.
        rows: rows that the node computes in all passes.
        row_step: tiles are cut at multiples of this row.
        seconds: time to compute all rows with the weights in memory, measured or estimated.
        call_rows: the cost of one kernel call, in rows. Each streamed tile counts as this many rows more.
        passes: how often the rows of ``tiled`` are read, one time after the other.
        section: the number of the section, from 1 on, of which the node computes some rows; 0 if there is none. Others
            of the section read the same extents. These are read anew each time, in ranges that are alike, so that
            pinning one pins all; or once, and stay until the end of the section.
    """

    whole: tuple[Extent, ...] = ()
    tiled: tuple[Extent, ...] = ()
    rows: int = 1
    row_step: int = 1
    seconds: float = 0.0
    call_rows: int = 0
    indexed: tuple[Extent, ...] = ()
    passes: int = 1
    section: int = 0

    def repeats(self, held: float) -> bool:
        """Whether the weights are too large to be held, in ``held`` bytes, from one pass over them to the next."""
        return self.passes > 1 and sum(e.length for e in self.tiled) > held

    @property
    def read(self) -> int:
        """Bytes that the node reads if nothing stays in memory between its passes."""
        return sum(e.length for e in self.whole) + self.passes * sum(e.length for e in self.tiled)


class Range(NamedTuple):
    """Bytes of the file that are brought in and released as one."""

    offset: int
    length: int
    pinned: bool = False


class Tile(NamedTuple):
    """One step of a pass: rows ``first`` to ``last`` of a node, which need ``ranges[begin:end]`` of the plan.

    If nodes run in bands, ``node`` is the number of a step: see `Plan.node_of`.
    """

    node: int
    first: int
    last: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Bands:
    """Nodes that run together, a band of rows at a time.

    Attributes:
        first, last: their indices; ``last`` is the node behind them.
        count: the number of bands.
        nbytes: the part of the workspace that holds rows of the tensors between them, and scratch memory.
        strips: the number of strips of columns, each of which has all bands; 1 if a band has whole rows.
    """

    first: int
    last: int
    count: int
    nbytes: int
    strips: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """How a pass runs within a budget; ``pinned_bytes + window + workspace <= budget``.

    Attributes:
        tiles: in the order of execution.
        ranges: in the order in which the tiles need them.
        granule: bytes in which memory is populated, released and counted.
        window: bytes that streamed ranges may hold at any moment.
        workspace: bytes of activations and scratch.
        pinned_bytes: bytes that the pinned ranges hold.
        streamed_bytes: bytes that one pass reads through the window, without the padding in its granules.
        budget: the limit, or None.
        micro_batch: samples that one pass over the weights serves; 0 when the batch is not divided.
        seconds: simulated time of a pass with all pinned ranges in memory, by the speeds that are known.
        overhead: seconds of processing for each byte of ranges of this size, beside those of the disk.
        share: the part of the reading speed that is left with so small a window, from 0 to 1.
        by_index: whether rows of tables are read one by one, and no range has a table (``NodeWeights.indexed``).
        bands: the nodes that run in bands, because whole activations do not fit in the budget, or a pass is faster.
        nodes: if there are any, the node of each step of a round.
        rounds: how often a pass runs all ``tiles``. Each time it needs the ``ranges`` in this order.
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
    by_index: bool = False
    bands: tuple[Bands, ...] = ()
    nodes: tuple[int, ...] = ()
    rounds: int = 1

    def node_of(self, tile: Tile) -> int:
        """The index of the node that a tile computes."""
        return self.nodes[tile.node] if self.nodes else tile.node

    @property
    def total(self) -> int:
        """Bytes that the model may hold under this plan."""
        return self.pinned_bytes + self.window + self.workspace

    def speed(self, disk: float) -> float:
        """Bytes a second at which ranges arrive from a disk that delivers ``disk`` bytes a second of large ranges."""
        return self.share * read_rate(disk, self.overhead)

    def disk_speed(self, speed: float, known: float) -> float:
        """The inverse of `speed`: bytes a second of a disk whose ranges arrived at ``speed``.

        If the disk took under half of the time, ``speed`` tells only that the disk is no slower than that. Then the
        result is the larger of ``speed`` and ``known``, the speed assumed before.
        """
        byte = self.share / speed
        squared = byte**2 - self.overhead**2
        return 1 / math.sqrt(squared) if squared >= (byte / 2) ** 2 else max(known, 1 / byte)


def read_rate(disk: float, overhead: float) -> float:
    """Bytes a second, if a byte takes ``overhead`` seconds of processing and ``1 / disk`` seconds of the disk.

    The two overlap in part: together they take the root of the sum of their squares (docs/measurements.md).
    """
    return disk / math.hypot(1, disk * overhead)  # written so that without overhead it is exactly ``disk``
