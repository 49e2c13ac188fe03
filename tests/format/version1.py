"""Weights files of version 1, which streamrt reads and no longer writes: for tests of old files.

The package's writer made them like this: a segment of 1 MiB or more begins on a boundary of 2 MiB, a smaller segment on
a boundary of 4096 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from streamrt._core import crc32c
from streamrt.format import Segment, Source, read_header
from streamrt.format.header import encode, graph_text, seal
from streamrt.format.layout import PAD_PREFIX, Entry, byte_size, group, round_up
from streamrt.graph import Graph

TENSOR_ALIGN = 64
SMALL_ALIGN = 4096
LARGE = 1 << 20
LARGE_ALIGN = 2 << 20
BLOCK_SIZE = 4 << 20


def segment_align(extent: int) -> int:
    """The boundary of the file on which a segment of ``extent`` bytes begins."""
    return LARGE_ALIGN if extent >= LARGE else SMALL_ALIGN


def lay_out(segments: Iterable[Iterable[tuple[str, str, tuple[int, ...]]]], data_offset: int) -> list[Entry]:
    """The entries of a data section of version 1; for the arguments see `streamrt.format.layout.lay_out`."""
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
        for name, dtype, shape in segment:
            begin = round_up(extent, TENSOR_ALIGN)
            extent = begin + byte_size(dtype, shape)
            aligned.append(Entry(name, dtype, shape, begin, extent))
        start = round_up(data_offset + end, segment_align(extent)) - data_offset
        for entry in aligned:
            pad_to(start + entry.begin)
            end = start + entry.end
            entries.append(entry._replace(begin=start + entry.begin, end=end))
    pad_to(round_up(end, SMALL_ALIGN))
    return entries


def as_version_1(data: bytes) -> bytes:
    """A file of version 2 that says that it is of version 1. A right checksum of its header stays right."""
    head = 8 + int.from_bytes(data[:8], "little")
    new, old = (b'{"__metadata__":{"streamrt.format":"%d"' % version for version in (2, 1))
    changed = data[:8] + data[8:].replace(new, old, 1)
    right = head <= len(data) and seal(data[:head]) == data[:head]
    return seal(changed[:head]) + changed[head:] if right else changed


def write(
    dest: str | os.PathLike[str],
    graph: Graph,
    segments: Sequence[Segment],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file of version 1, as `streamrt.format.write` writes one of version 2; all of it is in memory."""
    sources = [list(segment.tensors) for segment in segments if segment.tensors]
    arrays = {
        source.name: b"".join(np.ascontiguousarray(chunk).tobytes() for chunk in source.chunks())
        for segment in sources
        for source in segment
    }
    named = [[(source.name, "F32", source.shape) for source in segment] for segment in sources]
    text = graph_text(graph)
    length, data_offset = SMALL_ALIGN, 0
    while length > data_offset:
        data_offset = length
        entries = lay_out(named, data_offset)
        data = b"".join(arrays.get(entry.name, bytes(entry.end - entry.begin)) for entry in entries)
        crcs = [crc32c(data[i : i + BLOCK_SIZE]) for i in range(0, len(data), BLOCK_SIZE)]
        head = encode(entries, text, BLOCK_SIZE, crcs, {}, dict(metadata or {}), data_offset)
        length = len(head)
    Path(dest).write_bytes(as_version_1(head + data))


def convert(source: str | os.PathLike[str], dest: str | os.PathLike[str]) -> None:
    """Write the model of a weights file of any version as version 1."""
    file = read_header(source)
    data = np.memmap(file.path, np.uint8, "r")
    owned = group(file.graph, file.tensors)

    def tensor(name: str) -> Source:
        found = file.tensors[name]
        values = data[found.offset : found.offset + found.nbytes].view("<f4").reshape(found.shape)
        return Source.of(name, np.asarray(values))

    segments = [Segment([tensor(name) for name in file.tensors if name in each.names]) for each in owned]
    write(dest, file.graph, segments, metadata=file.metadata)
