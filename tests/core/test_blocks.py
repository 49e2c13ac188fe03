"""Offsets of blocks in an arena, compared with a search over all offsets at which a block may begin."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrt._core import place_blocks

Block = tuple[int, int, int]

blocks = st.lists(
    st.builds(
        lambda nbytes, first, more: (nbytes, first, first + more),
        st.integers(1, 50),
        st.integers(-5, 15),
        st.integers(0, 6),
    ),
    max_size=40,
)


def searched(items: list[Block], order: list[int]) -> tuple[list[int], int]:
    """As `place_blocks`. A lowest offset is 0 or the end of another block."""
    spans: dict[int, tuple[int, int]] = {}
    for index in order:
        nbytes, first, last = items[index]
        rivals = [span for other, span in spans.items() if items[other][1] <= last and items[other][2] >= first]
        begin = min(
            begin
            for begin in (0, *(end for _, end in rivals))
            if all(begin + nbytes <= start or begin >= end for start, end in rivals)
        )
        spans[index] = begin, begin + nbytes
    offsets = [spans.get(index, (0, 0))[0] for index in range(len(items))]
    return offsets, max((end for _, end in spans.values()), default=0)


@given(blocks, st.randoms(), st.integers(0, 40))
def test_each_block_gets_the_lowest_offset(items: list[Block], random: Random, count: int) -> None:
    order = random.sample(range(len(items)), min(count, len(items)))
    assert place_blocks(items, order) == searched(items, order)


@pytest.mark.parametrize("gap", [0, 1, 255, 256, 257, 511, 512, 599])
def test_a_gap_is_found_among_many_rivals(gap: int) -> None:
    """Rivals are collected in pieces of 256."""
    count = 600
    crowd = [(64, 0, 0 if index == gap else 9) for index in range(count)]
    assert place_blocks([*crowd, (64, 9, 9)], [*range(count + 1)])[0] == [64 * index for index in [*range(count), gap]]
    above = count - 1 if gap == count - 1 else count
    assert place_blocks([*crowd, (65, 9, 9)], [*range(count + 1)]) == (
        [64 * index for index in [*range(count), above]],
        64 * above + 65,
    )


def test_a_block_without_bytes_lies_at_the_beginning() -> None:
    assert place_blocks([(64, 0, 1), (0, 0, 1)], [0, 1]) == ([0, 0], 64)
    assert place_blocks([], []) == ([], 0)


@pytest.mark.parametrize(
    ("items", "order"),
    [
        ([(1, 0, 0)], [1]),
        ([(1, 0, 0)], [0, 0]),
        ([(1, 0, 0), (1, 0, 0)], [0, 0]),
        ([(1, 1, 0)], [0]),
        ([(2**63, 0, 0)], [0]),
        ([(2**62, 0, 0), (2**62, 0, 0)], [0, 1]),
        ([(1, 0)], [0]),
        ([(1, 0, 0, 0)], [0]),
    ],
    ids=["no such block", "more than there are", "twice", "ends before it begins", "bytes", "sum", "pair", "four"],
)
def test_misuse_is_refused(items: list[Block], order: list[int]) -> None:
    with pytest.raises(ValueError, match=r"blocks|unpack"):
        place_blocks(items, order)


@pytest.mark.parametrize(
    ("items", "order"),
    [
        ([(-1, 0, 0)], [0]),
        ([(2**64, 0, 0)], [0]),
        ([(1, 2**31, 2**31)], [0]),
        ([(1, -(2**31) - 1, 0)], [0]),
        ([(1, 0, 0)], [-1]),
        ([(1, 0, 0)], [2**32]),
    ],
)
def test_numbers_out_of_range_are_refused(items: list[Block], order: list[int]) -> None:
    with pytest.raises(OverflowError):
        place_blocks(items, order)
