"""Placing blocks of memory with known lifetimes in one arena.

Greedy by size: the largest block first, each at the lowest offset that no block alive at the same time
overlaps (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamrt.courtesy import give_way

#: Every block begins on a cache line, which is also the widest vector.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Block:
    """``nbytes`` of memory in use from step ``first`` to step ``last``, both included."""

    nbytes: int
    first: int
    last: int


def place(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """The offset of every block, and the bytes of an arena that holds them all."""
    first = np.array([b.first for b in blocks], dtype=np.int64)
    last = np.array([b.last for b in blocks], dtype=np.int64)
    start = np.zeros(len(blocks), dtype=np.int64)
    end = np.zeros(len(blocks), dtype=np.int64)
    placed = np.zeros(len(blocks), dtype=bool)
    for index in sorted(range(len(blocks)), key=lambda i: (-blocks[i].nbytes, blocks[i].first, i)):
        give_way()
        size = align(blocks[index].nbytes)
        rivals = np.flatnonzero(placed & (first <= last[index]) & (last >= first[index]))
        rivals = rivals[np.argsort(start[rivals], kind="stable")]
        below = np.concatenate(([0], np.maximum.accumulate(end[rivals])))  # where the gap under each begins
        gaps = np.flatnonzero(start[rivals] - below[:-1] >= size)
        offset = below[gaps[0] if gaps.size else -1]
        start[index], end[index], placed[index] = offset, offset + size, True
    return [int(offset) for offset in start], int(end.max(initial=0))


def align(nbytes: int) -> int:
    """``nbytes`` rounded up to the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
