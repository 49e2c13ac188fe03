"""Arranging blocks of memory with known lifetimes in one arena.

Greedy by size: the largest block comes first. Each block gets the lowest offset at which it overlaps no block that is
alive at the same time. Source: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020,
section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamrt.host.yielding import give_way

#: Every block begins on a multiple of this, bytes: a cache line, and the widest vector (AVX-512).
ALIGNMENT = 64
#: If more blocks than this are alive at one step, a further block goes above all of them. No gap is searched, because
#: that takes time that grows with the square of their number. Only graphs that are made to be slow have more.
_MANY = 256


@dataclass(frozen=True, slots=True)
class Block:
    """``nbytes`` of memory in use from step ``first`` to step ``last``, both included."""

    nbytes: int
    first: int
    last: int


def arrange(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """The offset of every block in bytes, and the bytes of an arena that holds all; empty blocks lie at 0."""
    offsets = [0] * len(blocks)
    order = sorted(
        (i for i, block in enumerate(blocks) if block.nbytes), key=lambda i: (-blocks[i].nbytes, blocks[i].first, i)
    )
    # Arrays with one entry for each block that has its offset, in the order in which they got them.
    first, last = (np.zeros(len(order), dtype=np.int32) for _ in range(2))
    start, end = (np.zeros(len(order), dtype=np.int64) for _ in range(2))
    crowded = len(order) > _MANY
    # Arrays with one entry for each step from the earliest on: blocks alive, and the end of the highest one. They are
    # kept only if that many blocks could be alive.
    earliest = min((block.first for block in blocks), default=0)
    steps = max((block.last for block in blocks), default=0) - earliest + 1
    alive, top = np.zeros(steps, dtype=np.int32), np.zeros(steps, dtype=np.int64)
    for count, index in enumerate(order):
        give_way()
        block = blocks[index]
        size = align(block.nbytes)
        span = slice(block.first - earliest, block.last - earliest + 1)
        if crowded and alive[span].max() > _MANY:
            offset = top[span].max()
        else:
            rivals = np.flatnonzero((first[:count] <= block.last) & (last[:count] >= block.first))
            rivals = rivals[np.argsort(start[rivals], kind="stable")]
            below = np.concatenate(([0], np.maximum.accumulate(end[rivals])))  # where the gap under each begins
            gaps = np.flatnonzero(start[rivals] - below[:-1] >= size)
            offset = below[gaps[0] if gaps.size else -1]
        first[count], last[count], start[count], end[count] = block.first, block.last, offset, offset + size
        if crowded:
            alive[span] += 1
            np.maximum(top[span], offset + size, out=top[span])
        offsets[index] = int(offset)
    return offsets, int(end.max(initial=0))


def align(nbytes: int) -> int:
    """``nbytes`` rounded up to the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
