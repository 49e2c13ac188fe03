"""The layout of tensors in the data section: laying them out, and checking that a file keeps the rules.

All of this is arithmetic on names and sizes. The specification in `streamrt.format` has the rules.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from streamrt.errors import FormatError
from streamrt.format.coding import SIZES, Coding
from streamrt.graph import Graph

#: The names of padding tensors begin with this.
PAD_PREFIX = "streamrt.pad."
#: Each tensor begins on a multiple of this, bytes: a cache line, and the widest vector register (AVX-512).
TENSOR_ALIGN = 64
#: A page, bytes: the smallest that Linux has on any processor. The data section begins and ends on a multiple of it.
PAGE_ALIGN = 4096
#: A block, bytes: the largest folio of the page cache.
BLOCK_ALIGN = 2 << 20
#: A segment of at least this many bytes is large. In version 1 it begins on a block; before a smaller one that could
#: take over twice its bytes.
LARGE = 1 << 20
#: The most padding before a large segment of version 2, for a boundary larger than a page: 1/128 of the segment. So all
#: such padding stays below 1 %.
_BOUNDARY_SHARE = 128
#: The most bytes that header and padding of version 2 may take for boundaries of pages and blocks: 1 % of the tensors,
#: or 64 KiB if that is more.
_EXCESS_SHARE = 100
_LEAST_EXCESS = 64 << 10
#: The most tensors of a file: 50,000, the most inputs of all nodes, and padding before each.
MAX_TENSORS = 100_000
#: The most dimensions of a tensor of a file: NumPy 1 allows no more. Operators take `streamrt.ops.base.MAX_RANK`.
MAX_DIMS = 32
#: The largest extent, offset and size of a tensor: all fit the signed 64-bit integers of the compiled core.
MAX_BYTES = 2**60


class Entry(NamedTuple):
    """A tensor as the header describes it: bytes ``begin`` to ``end`` of the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def is_padding(self) -> bool:
        """Whether this is padding instead of a parameter."""
        return self.name.startswith(PAD_PREFIX)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A parameter: ``nbytes`` bytes at ``offset`` of the file, row-major.

    ``shape`` is its logical shape. ``dtype``, ``block`` and ``zeros`` are those of its `Coding`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    block: int | None = None
    zeros: bool = False

    @property
    def coding(self) -> Coding:
        """How its elements are stored."""
        return Coding(self.dtype, self.block, self.zeros)


class Group(NamedTuple):
    """The parameters of one segment in any order. ``reader`` describes, for errors, the first node that reads them."""

    reader: str
    names: frozenset[str]


def byte_size(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor; `FormatError` if ``shape`` is not a shape, or too large.

    The product of all extents except zeros must be within the limit, because an array library may multiply them in any
    order.
    """
    if len(shape) > MAX_DIMS:
        raise FormatError(f"{len(shape)} dimensions, more than the {MAX_DIMS} allowed")
    for extent in shape:
        if type(extent) is not int or not 0 <= extent <= MAX_BYTES:
            raise FormatError(f"an extent is {extent!r:.40}, expected an integer from 0 to 2**60")
    if math.prod(extent for extent in shape if extent) * SIZES[dtype] > MAX_BYTES:
        raise FormatError(f"shape {tuple(shape)!s:.80} has more than 2**60 bytes")
    return math.prod(shape) * SIZES[dtype]


def group(graph: Graph, params: Container[str]) -> list[Group]:
    """The segments of a file in the order of nodes: the parameters that each node is the first to read."""
    groups: list[Group] = []
    seen: set[str] = set()

    def add(reader: str, names: Iterable[str]) -> None:
        fresh = frozenset(name for name in names if name in params and name not in seen)
        if fresh:
            seen.update(fresh)
            groups.append(Group(reader, fresh))

    for node in graph.all_nodes:
        add(f"node {node.name!r}", node.inputs)
    return groups


def check_groups(names: Sequence[Sequence[str]], groups: Sequence[Group]) -> None:
    """Raise `FormatError` unless the segments, given by names, are the segments of the graph, in order."""
    for found, expected in zip(names, groups, strict=False):
        if len(found) != len(expected.names) or expected.names != set(found):
            raise FormatError(
                f"tensors {_list(found)} are stored where {_list(sorted(expected.names))} of {expected.reader} "
                "were expected: tensors follow the order in which nodes read them"
            )
    if len(names) > len(groups):
        raise FormatError(f"no node reads the tensors {_list([n for found in names[len(groups) :] for n in found])}")
    if len(names) < len(groups):
        missing = groups[len(names)]
        raise FormatError(f"tensors {_list(sorted(missing.names))} of {missing.reader} are missing")


def lay_out(segments: Iterable[Iterable[tuple[str, str, tuple[int, ...]]]], data_offset: int) -> list[Entry]:
    """The entries of a data section, padding included.

    Segments from some size on begin on pages. Of all such sizes the smallest is taken with which the file is at most
    1 % or 64 KiB larger than its tensors. If no size is large enough for that, tensors only begin on 64 bytes.

    Args:
        segments: the name, dtype and shape of each tensor of each segment, as the header has them.
        data_offset: where the data section begins in the file, bytes.
    """
    parts = [_aligned(segment) for segment in segments]
    extents = [part[-1].end if part else 0 for part in parts]
    tensors = sum(entry.end - entry.begin for part in parts for entry in part)
    most = tensors + max(_LEAST_EXCESS, tensors // _EXCESS_SHARE)
    sizes = sorted(set(extents))
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        if _placed(extents, sizes[middle], data_offset)[-1] <= most:
            high = middle
        else:
            low = middle + 1
    places = _placed(extents, sizes[high] if high < len(sizes) else math.inf, data_offset)

    entries: list[Entry] = []
    end = 0

    def pad_to(begin: int) -> None:
        nonlocal end
        if begin > end:
            entries.append(Entry(f"{PAD_PREFIX}{len(entries)}", "U8", (begin - end,), end, begin))
            end = begin

    for part, place in zip(parts, places[:-1], strict=True):
        start = place - data_offset
        for entry in part:
            pad_to(start + entry.begin)
            end = start + entry.end
            entries.append(entry._replace(begin=start + entry.begin, end=end))
    pad_to(places[-1] - data_offset)
    return entries


def _aligned(segment: Iterable[tuple[str, str, tuple[int, ...]]]) -> list[Entry]:
    """The entries of one segment's tensors, counted from its first byte."""
    entries: list[Entry] = []
    end = 0
    for name, dtype, shape in segment:
        begin = round_up(end, TENSOR_ALIGN)
        end = begin + byte_size(dtype, shape)
        entries.append(Entry(name, dtype, shape, begin, end))
    return entries


def _placed(extents: Sequence[int], paged: float, data_offset: int) -> list[int]:
    """Where each segment begins in the file, and last where the file ends.

    Args:
        extents: bytes of each segment.
        paged: segments of at least this many bytes begin on a page. Large ones begin on the largest power of two, up to
            a block, that costs little padding. So rows of a power of two bytes end where granules end.
        data_offset: where the data section begins in the file, bytes.
    """
    places = []
    end = data_offset
    for extent in extents:
        boundary = TENSOR_ALIGN if extent < paged else PAGE_ALIGN
        if extent >= max(LARGE, paged):
            boundary = BLOCK_ALIGN
            while boundary > PAGE_ALIGN and (round_up(end, boundary) - end) * _BOUNDARY_SHARE > extent:
                boundary //= 2
        places.append(round_up(end, boundary))
        end = places[-1] + extent
    return [*places, round_up(end, PAGE_ALIGN)]


def check_coverage(entries: Sequence[Entry], data_size: int) -> None:
    """Raise `FormatError` unless ``entries``, in their order, cover the data section without hole or overlap."""
    end = 0
    for entry in entries:
        if entry.end > data_size:
            raise FormatError(
                f"tensor {entry.name!r:.80} ends at {entry.end} of the data section, which has {data_size} bytes: "
                "the file was cut short, or its header is wrong"
            )
        if entry.begin != end:
            what = "overlaps the one before" if entry.begin < end else "leaves a hole before it"
            raise FormatError(
                f"tensor {entry.name!r:.80} {what}: it begins at {entry.begin} of the data section, expected {end}"
            )
        end = entry.end
    if end != data_size:
        raise FormatError(f"the tensors cover {end} bytes of the data section, which has {data_size}")


def check_layout(
    entries: Sequence[Entry], groups: Sequence[Group], data_offset: int, data_size: int, version: str
) -> int:
    """Raise `FormatError` unless ``entries`` keep all rules of the layout; `check_coverage` has checked its own.

    Returns the bytes of the largest segment.
    """
    if data_size % PAGE_ALIGN or data_offset % PAGE_ALIGN:
        raise FormatError(
            f"the data section is bytes {data_offset} to {data_offset + data_size}, "
            f"expected both to be multiples of {PAGE_ALIGN}"
        )
    params = [entry for entry in entries if not entry.is_padding]
    for entry in params:
        if entry.begin % TENSOR_ALIGN:
            raise FormatError(
                f"tensor {entry.name!r:.80} begins at {entry.begin} of the data section, "
                f"expected a multiple of {TENSOR_ALIGN}"
            )
    segments: list[Sequence[Entry]] = []
    first = 0
    for expected in groups:
        if first < len(params):
            segments.append(params[first : first + len(expected.names)])
        first += len(expected.names)
    if first < len(params):
        segments.append(params[first:])
    check_groups([[entry.name for entry in segment] for segment in segments], groups)
    largest = end = 0
    for segment, expected in zip(segments, groups, strict=True):
        _check_segment(segment, expected.reader)
        if version == "1":
            _check_boundary(segment, expected.reader, data_offset)
        elif segment[0].begin - end >= BLOCK_ALIGN:
            raise FormatError(
                f"{segment[0].begin - end} bytes of padding lie before the parameters of {expected.reader}, "
                f"expected less than {BLOCK_ALIGN}"
            )
        end = segment[-1].end
        largest = max(largest, end - segment[0].begin)
    if version != "1" and data_size - end >= PAGE_ALIGN:
        raise FormatError(
            f"{data_size - end} bytes of padding lie behind the last parameter, expected less than {PAGE_ALIGN}"
        )
    return largest


def round_up(value: int, step: int) -> int:
    """The smallest multiple of ``step``, a power of two, that is at least ``value``."""
    return (value + step - 1) & -step


def _check_segment(segment: Sequence[Entry], reader: str) -> None:
    """Check the padding inside of one segment."""
    for before, after in pairwise(segment):
        if after.begin - before.end >= TENSOR_ALIGN:
            raise FormatError(
                f"tensors {before.name!r:.80} and {after.name!r:.80} of {reader} lie "
                f"{after.begin - before.end} bytes apart, expected less than {TENSOR_ALIGN}"
            )


def _check_boundary(segment: Sequence[Entry], reader: str, data_offset: int) -> None:
    """Check the boundary on which one segment of version 1 begins."""
    begin, extent = segment[0].begin + data_offset, segment[-1].end - segment[0].begin
    boundary = BLOCK_ALIGN if extent >= LARGE else PAGE_ALIGN
    if begin % boundary:
        raise FormatError(
            f"the parameters of {reader} ({extent} bytes) begin at {begin} of the file, "
            f"expected a multiple of {boundary}"
        )


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(f"{name!r:.80}" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
