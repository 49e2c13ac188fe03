"""Checksums of the weights as they arrive: every block whose bytes a pass reads is compared with the header's CRC-32C.

A checksum is continued from range to range, because the limits of ranges and blocks differ. Padding between parameters
is zeros by the format, and is not read for this. A block of which a pass needs only some parameters cannot be checked.
A block that is pinned as a whole is checked once.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from streamrt._core import crc32c
from streamrt.errors import WeightsIOError
from streamrt.format import WeightsFile
from streamrt.plan import Plan

#: 64 KiB of zeros, for the checksum of padding. Padding is mostly below 2 MiB, so at most 32 such pieces are added.
_ZEROS = memoryview(bytes(1 << 16))


@dataclass(slots=True)
class _Block:
    """A checksum block of the file.

    Attributes:
        begin: offset of its first byte in the file.
        end: offset of the first byte after it.
        expected: its CRC-32C by the header.
        pieces: how many pieces it arrives in.
        kept: whether all of them are pinned.
        checked: whether it was compared and found right.
        left: pieces that are still to come in this pass.
        value: the CRC-32C of the bytes that have arrived in this pass.
    """

    begin: int
    end: int
    expected: int
    pieces: int = 0
    kept: bool = True
    checked: bool = False
    left: int = 0
    value: int = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes ``begin`` to ``end`` of a block, after ``zeros`` bytes of padding; they arrive with one range."""

    block: _Block
    zeros: int
    begin: int
    end: int


@dataclass(slots=True)
class Verifier:
    """Checks ranges as they arrive under one plan.

    Attributes:
        file: has the checksums.
        plan: has the ranges, in the order in which they arrive.
        data: the bytes of the file. Only ranges that have arrived may be read.
    """

    file: WeightsFile
    plan: Plan
    data: memoryview
    _pieces: list[list[_Piece]] = field(init=False)

    def __post_init__(self) -> None:
        self._pieces = [[] for _ in self.plan.ranges]
        chains: dict[int, list[tuple[int, _Piece]]] = {}
        for index, piece in self._all_pieces():
            chains.setdefault(piece.block.begin, []).append((index, piece))
        parameters = _Parameters(self.file)
        for chain in chains.values():
            block = chain[0][1].block
            brought = sum(parameters.between(piece.begin, piece.end) for _, piece in chain)
            if brought < parameters.between(block.begin, block.end):
                continue  # the other parameters of this block never arrive
            block.pieces = len(chain)
            for index, piece in chain:
                block.kept = block.kept and self.plan.ranges[index].pinned
                self._pieces[index].append(piece)

    @property
    def blocks(self) -> int:
        """The number of blocks of the file that are checked."""
        return len({piece.block.begin for pieces in self._pieces for piece in pieces})

    def arrived(self, index: int) -> None:
        """Check the blocks that range ``index`` of the plan completes; its bytes are in memory.

        Raises:
            WeightsIOError: a block is damaged.
        """
        for piece in self._pieces[index]:
            block = piece.block
            if block.kept and block.checked:
                continue
            if block.left == 0:  # the first of its pieces
                block.left, block.value = block.pieces, 0
            value = _add_zeros(block.value, piece.zeros)
            block.value = crc32c(self.data[piece.begin : piece.end], value)
            block.left -= 1
            if block.left == 0:
                self._compare(block, piece.end)

    def rewind(self) -> None:
        """Begin again at the first range, after a pass that was given up."""
        for pieces in self._pieces:
            for piece in pieces:
                piece.block.left = 0

    def _compare(self, block: _Block, end: int) -> None:
        found = _add_zeros(block.value, block.end - end)
        if found != block.expected:
            reason = (
                f"bytes {block.begin} to {block.end} are damaged: their CRC-32C is {found:08x}, and was "
                f"{block.expected:08x} when they were written: replace the file"
            )
            raise WeightsIOError(errno.EIO, reason, self.file.path)
        block.checked = True

    def _all_pieces(self) -> Iterator[tuple[int, _Piece]]:
        """The pieces of blocks in each range, with the range's index. Bytes that arrive again are left out."""
        file = self.file
        blocks = [
            _Block(begin, min(begin + file.block_size, file.size), expected)
            for begin, expected in zip(
                range(file.data_offset, file.size, file.block_size), file.block_crcs, strict=True
            )
        ]
        reached = file.data_offset
        for index, r in enumerate(self.plan.ranges):
            begin, end = max(r.offset, reached), r.offset + r.length
            while begin < end:
                block = blocks[(begin - file.data_offset) // file.block_size]
                zeros = begin - max(reached, block.begin)
                reached = min(end, block.end)
                yield index, _Piece(block, zeros, begin, reached)
                begin = reached


class _Parameters:
    """Counts bytes of parameters in parts of a file."""

    def __init__(self, file: WeightsFile) -> None:
        tensors = sorted(file.tensors.values(), key=lambda tensor: tensor.offset)
        self._starts = [tensor.offset for tensor in tensors]
        self._sizes = [tensor.nbytes for tensor in tensors]
        self._before = list(accumulate(self._sizes, initial=0))

    def between(self, begin: int, end: int) -> int:
        """Bytes of parameters from ``begin`` to ``end``."""
        return self._below(end) - self._below(begin)

    def _below(self, offset: int) -> int:
        index = bisect_right(self._starts, offset) - 1
        return 0 if index < 0 else self._before[index] + min(offset - self._starts[index], self._sizes[index])


def _add_zeros(value: int, count: int) -> int:
    """The CRC-32C ``value`` continued over ``count`` zeros."""
    while count > 0:
        part = min(count, len(_ZEROS))
        value = crc32c(_ZEROS[:part], value)
        count -= part
    return value
