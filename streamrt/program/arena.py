"""Arranging blocks of memory with known lifetimes in one arena.

Greedy by size: the largest block comes first. Each block gets the lowest offset at which it overlaps no block that is
alive at the same time. Source: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020,
section 4. If that leaves gaps, a block that ends where the arena ends comes first in a further order, and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrt import _core

#: Every block begins on a multiple of this, bytes: a cache line, and the widest vector (AVX-512).
ALIGNMENT = 64
#: The most further orders that are tried, and the most blocks that are placed in them together: each takes 1 us.
_MOST_ORDERS, _MOST_PLACED = 8, 2**12
#: No further order is tried if the arena has at most this many times the bytes that are in use at once.
_CLOSE = 1.01


@dataclass(frozen=True, slots=True)
class Block:
    """``nbytes`` of memory in use from step ``first`` to step ``last``, both included."""

    nbytes: int
    first: int
    last: int


def arrange(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """The offset of every block in bytes, and the bytes of an arena that holds all; empty blocks lie at 0."""
    order = sorted(
        (i for i, block in enumerate(blocks) if block.nbytes), key=lambda i: (-blocks[i].nbytes, blocks[i].first, i)
    )
    if not order:
        return [0] * len(blocks), 0
    spans = [(align(block.nbytes), block.first, block.last) for block in blocks]
    found = best = _core.place_blocks(spans, order)
    least = alive(blocks, min(block.first for block in blocks), max(block.last for block in blocks) + 1).max()
    for _ in range(min(_MOST_ORDERS, _MOST_PLACED // len(order))):
        if best[1] <= _CLOSE * least:
            break
        offsets, end = found
        order.insert(0, order.pop(next(i for i, b in enumerate(order) if offsets[b] + spans[b][0] == end)))
        found = _core.place_blocks(spans, order)
        best = min(best, found, key=lambda each: each[1])
    return best


def alive(blocks: Iterable[Block], begin: int, end: int) -> NDArray[np.int64]:
    """The bytes of the blocks that are alive at each step from ``begin`` to ``end``, which is behind the last one."""
    changes = np.zeros(end - begin + 1, dtype=np.int64)
    for block in blocks:
        if block.first < end and block.last >= begin:
            changes[max(block.first, begin) - begin] += align(block.nbytes)
            changes[min(block.last + 1, end) - begin] -= align(block.nbytes)
    return np.cumsum(changes[:-1])


def align(nbytes: int) -> int:
    """``nbytes`` rounded up to the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
