"""Writing a weights file chunk by chunk, so that it may be larger than memory. It gets its name when all is on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from streamrt._core import crc32c
from streamrt.errors import FormatError
from streamrt.format import header as _header
from streamrt.format import layout as _layout
from streamrt.format.coding import UNCODED, Coding
from streamrt.format.files import Appender, Buffer, Replacement, progress_bar
from streamrt.graph import Graph

#: Bytes of a checksum block: the smallest range that is read at the disk's full speed.
BLOCK_SIZE = 4 << 20
#: Elements of a chunk of `Source.of`: 4 MiB of float32.
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor to write: a name, its logical shape, and its bytes as a sequence of small arrays.

    ``chunks`` is called once. It yields C-contiguous arrays of any shape, which should have at most 16 MiB: float32, or
    uint8 for every other coding. Their bytes, one array after the other, are the tensor in row-major order. Each array
    is written before the next is made.
    """

    name: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[NDArray[np.float32] | NDArray[np.uint8]]]
    coding: Coding = UNCODED

    @classmethod
    def of(cls, name: str, array: NDArray[np.float32]) -> Self:
        """The tensor ``array``, which is C-contiguous float32. An ``np.memmap`` is read piece by piece."""

        def chunks() -> Iterator[NDArray[np.float32] | NDArray[np.uint8]]:
            flat = array.reshape(-1)
            for first in range(0, flat.size, _CHUNK):
                yield flat[first : first + _CHUNK]

        return cls(name, array.shape, chunks)


@dataclass(frozen=True, slots=True)
class Segment:
    """All parameters that one node is the first to read, in the order of the file."""

    tensors: Sequence[Source]


def write(
    dest: str | os.PathLike[str],
    graph: Graph,
    segments: Sequence[Segment],
    *,
    metadata: Mapping[str, str] | None = None,
    progress: bool = False,
) -> None:
    """Write ``graph`` and its parameters to ``dest``, replacing a file of that name.

    Everything but the chunks is checked before anything is written. The data goes to a temporary file in the folder of
    ``dest``. Once all data is on the disk, it replaces ``dest`` in one step. On an exception the temporary file is
    removed. At most one chunk is in memory, and about 256 MiB of the new file in the page cache.

    Args:
        dest: the file to write.
        graph: the graph of the model.
        segments: the parameters, in the order of the graph's nodes. A segment without tensors is skipped.
        metadata: further strings to keep in the file. Keys may not begin with ``streamrt.``.
        progress: show a bar on stderr.

    Raises:
        FormatError: names, shapes, segments or chunks that do not fit the graph or the format.
        WeightsIOError: the file could not be written.
    """
    extra = dict(metadata or {})
    sources = [list(segment.tensors) for segment in segments if segment.tensors]
    _check(graph, sources, extra)
    graph_text = _header.graph_text(graph)
    named = [[(source.name, *source.coding.stored(source.shape)) for source in segment] for segment in sources]
    layouts = {
        source.name: source.coding.to_json(source.shape)
        for segment in sources
        for source in segment
        if source.coding.is_integer
    }

    def head(block_crcs: Sequence[int]) -> bytes:
        return _header.encode(entries, graph_text, BLOCK_SIZE, block_crcs, layouts, extra, data_offset)

    # The offsets of tensors depend on where the data section begins. The length of the header depends on these offsets.
    # So the header is made longer until it fits. The checksums are not known yet, but their number is.
    length, data_offset = _layout.PAGE_ALIGN, 0
    while length > data_offset:
        data_offset = length
        entries = _layout.lay_out(named, data_offset)
        data_size = entries[-1].end if entries else 0
        blocks = -(-data_size // BLOCK_SIZE)
        if 8 * blocks > _header.MAX_HEADER:
            raise FormatError(f"{data_size} bytes are {blocks} blocks, and their checksums exceed the header's limit")
        length = len(head([0] * blocks))
    by_name = {source.name: source for segment in sources for source in segment}
    with Replacement(os.fsdecode(dest)) as file:
        file.check_space(data_offset + data_size)
        data = _DataSection(file, data_offset)
        with progress_bar(data_size, "writing", progress) as advance:
            for entry in entries:
                for piece in _zeros(entry) if entry.is_padding else _pieces(by_name[entry.name], entry):
                    data.write(piece)
                    advance(len(piece))
        file.write(head(data.finish()), 0)
        file.commit()


def _check(graph: Graph, sources: Sequence[Sequence[Source]], extra: Mapping[str, str]) -> None:
    names: set[str] = set()
    for source in (source for segment in sources for source in segment):
        _header.check_name(source.name)
        if source.name.startswith(_layout.PAD_PREFIX):
            raise FormatError(f"a tensor is named {source.name!r:.80}: {_layout.PAD_PREFIX}* is reserved for padding")
        if source.name in names:
            raise FormatError(f"two tensors are named {source.name!r:.80}")
        names.add(source.name)
        try:
            _layout.byte_size("F32", source.shape)
            _layout.byte_size(*source.coding.stored(source.shape))
        except FormatError as error:
            raise FormatError(f"tensor {source.name!r:.80}: {error}") from None
    graph.check(names)
    _layout.check_groups([[source.name for source in segment] for segment in sources], _layout.group(graph, names))
    for key, value in extra.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise FormatError(f"metadata {key!r:.80}: {value!r:.80} is not a string under a string")
        if key.startswith(_header.KEY_PREFIX):
            raise FormatError(f"metadata key {key!r:.80}: {_header.KEY_PREFIX}* is reserved for the format")


def _zeros(entry: _layout.Entry) -> Iterator[memoryview]:
    yield memoryview(bytes(entry.end - entry.begin))  # less than BLOCK_ALIGN


def _pieces(source: Source, entry: _layout.Entry) -> Iterator[memoryview]:
    """The bytes of a tensor in pieces; `FormatError` unless their number is that of its entry."""
    missing = entry.end - entry.begin
    expected = np.dtype("<f4" if source.coding == UNCODED else "u1")
    for chunk in source.chunks():
        if not isinstance(chunk, np.ndarray) or chunk.dtype != expected or not chunk.flags.c_contiguous:
            raise FormatError(f"tensor {source.name!r:.80}: a chunk is not a C-contiguous array of {expected.name}")
        missing -= chunk.nbytes
        if missing < 0:
            raise FormatError(f"tensor {source.name!r:.80}: chunks hold more than {entry.end - entry.begin} bytes")
        yield chunk.reshape(-1).view(np.uint8).data
    if missing:
        size = entry.end - entry.begin
        raise FormatError(f"tensor {source.name!r:.80}: chunks hold {size - missing} bytes, expected {size}")


class _DataSection:
    """Appends to the data section of a file, and computes the checksums of its blocks."""

    def __init__(self, file: Replacement, offset: int) -> None:
        self._file = Appender(file, offset)
        self._crcs: list[int] = []
        self._crc = 0
        self._in_block = 0

    def write(self, data: Buffer) -> None:
        self._file.write(data)
        view = memoryview(data)
        while view:
            part = view[: BLOCK_SIZE - self._in_block]
            self._crc = crc32c(part, self._crc)
            self._in_block += len(part)
            if self._in_block == BLOCK_SIZE:
                self._end_block()
            view = view[len(part) :]

    def finish(self) -> list[int]:
        """End the last block, and return the checksums of all."""
        if self._in_block:
            self._end_block()
        return self._crcs

    def _end_block(self) -> None:
        self._crcs.append(self._crc)
        self._crc = self._in_block = 0
