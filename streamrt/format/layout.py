"""The layout of tensors in the data section: laying them out, and checking that a file keeps the rules.

All of this is arithmetic on names and sizes. The specification in `streamrt.format` has the rules.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from streamrt.errors import FormatError
from streamrt.graph import Graph

#: The names of padding tensors begin with this.
PAD_PREFIX = "streamrt.pad."
#: Types of elements by the names that safetensors gives them. Only padding is U8.
DTYPES: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}
#: Each tensor begins on a multiple of this, bytes: a cache line, and the widest vector register (AVX-512).
TENSOR_ALIGN = 64
#: Each segment begins on a multiple of this, bytes: the smallest page that Linux has on any processor.
SMALL_ALIGN = 4096
#: A segment of at least this many bytes is large: it begins on a multiple of `LARGE_ALIGN`. Before a smaller segment
#: the padding could be over twice as large as the segment.
LARGE = 1 << 20
#: Each large segment begins on a multiple of this, bytes: the largest folio of the page cache.
LARGE_ALIGN = 2 << 20
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
    """A parameter: ``nbytes`` bytes at ``offset`` of the file, row-major. ``dtype`` is ``"F32"``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """``dtype`` as NumPy's type, little-endian."""
        return DTYPES[self.dtype]


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
    if math.prod(extent for extent in shape if extent) * DTYPES[dtype].itemsize > MAX_BYTES:
        raise FormatError(f"shape {tuple(shape)!s:.80} has more than 2**60 bytes")
    return math.prod(shape) * DTYPES[dtype].itemsize


def group(graph: Graph, params: Container[str]) -> list[Group]:
    """The segments of a file in the order of nodes: the parameters that each node is the first to read."""
    groups: list[Group] = []
    seen: set[str] = set()

    def add(reader: str, names: Iterable[str]) -> None:
        fresh = frozenset(name for name in names if name in params and name not in seen)
        if fresh:
            seen.update(fresh)
            groups.append(Group(reader, fresh))

    for node in graph.nodes:
        add(f"node {node.name!r}", node.inputs)
    add("the graph's outputs", (spec.name for spec in graph.outputs))
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


def lay_out(segments: Iterable[Iterable[tuple[str, tuple[int, ...]]]], data_offset: int) -> list[Entry]:
    """The entries of a data section, padding included.

    Args:
        segments: the name and shape of each tensor of each segment; tensors are float32.
        data_offset: where the data section begins in the file, bytes.
    """
    entries: list[Entry] = []
    end = 0

    def pad_to(begin: int) -> None:
        nonlocal end
        if begin > end:
            entries.append(Entry(f"{PAD_PREFIX}{len(entries)}", "U8", (begin - end,), end, begin))
            end = begin

    for segment in segments:
        aligned: list[Entry] = []
        extent = 0
        for name, shape in segment:
            begin = round_up(extent, TENSOR_ALIGN)
            extent = begin + byte_size("F32", shape)
            aligned.append(Entry(name, "F32", shape, begin, extent))
        start = round_up(data_offset + end, segment_align(extent)) - data_offset
        for entry in aligned:
            pad_to(start + entry.begin)
            end = start + entry.end
            entries.append(entry._replace(begin=start + entry.begin, end=end))
    pad_to(round_up(end, SMALL_ALIGN))
    return entries


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


def check_layout(entries: Sequence[Entry], groups: Sequence[Group], data_offset: int, data_size: int) -> int:
    """Raise `FormatError` unless ``entries`` keep all rules of the layout; `check_coverage` has checked its own.

    Returns the bytes of the largest segment.
    """
    if data_size % SMALL_ALIGN or data_offset % SMALL_ALIGN:
        raise FormatError(
            f"the data section is bytes {data_offset} to {data_offset + data_size}, "
            f"expected both to be multiples of {SMALL_ALIGN}"
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
    return max(
        (
            _check_segment(segment, expected.reader, data_offset)
            for segment, expected in zip(segments, groups, strict=True)
        ),
        default=0,
    )


def segment_align(extent: int) -> int:
    """The boundary of the file on which a segment of ``extent`` bytes begins."""
    return LARGE_ALIGN if extent >= LARGE else SMALL_ALIGN


def round_up(value: int, step: int) -> int:
    """The smallest multiple of ``step``, a power of two, that is at least ``value``."""
    return (value + step - 1) & -step


def _check_segment(segment: Sequence[Entry], reader: str, data_offset: int) -> int:
    """Check the boundaries of one segment, for `check_layout`; returns its bytes."""
    for before, after in pairwise(segment):
        if after.begin - before.end >= TENSOR_ALIGN:
            raise FormatError(
                f"tensors {before.name!r:.80} and {after.name!r:.80} of {reader} lie "
                f"{after.begin - before.end} bytes apart, expected less than {TENSOR_ALIGN}"
            )
    begin, extent = segment[0].begin + data_offset, segment[-1].end - segment[0].begin
    if begin % segment_align(extent):
        raise FormatError(
            f"the parameters of {reader} ({extent} bytes) begin at {begin} of the file, "
            f"expected a multiple of {segment_align(extent)}"
        )
    return extent


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(f"{name!r:.80}" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
