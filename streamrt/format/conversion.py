"""A weights file into another file: one of the present version, or plain safetensors.

The source is read once, in the order of the file, a checksum block at a time. A block is compared with its checksum
before any of its bytes is used.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt._core import crc32c
from streamrt.errors import WeightsIOError
from streamrt.format import header as _header
from streamrt.format import layout as _layout
from streamrt.format.coding import UNCODED, Coding, values
from streamrt.format.encoding import encoded
from streamrt.format.files import (
    Appender,
    Replacement,
    drop_cache,
    expect_sequential,
    open_regular,
    progress_bar,
    read_exactly,
)
from streamrt.format.layout import Tensor
from streamrt.format.reader import WeightsFile, damage, read_open
from streamrt.format.writer import Segment, Source, write
from streamrt.graph import Graph

#: The most bytes of a piece of a tensor: progress is shown after each.
_CHUNK = 4 << 20
#: A multiple of this, bytes, is the length of a safetensors header with its length field.
_HEADER_ALIGN = 8


def is_weights_file(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as a weights file of any version. False if it cannot be read."""
    begin = bytearray(128)
    with contextlib.suppress(WeightsIOError, OSError), open_regular(os.fsdecode(path)) as fd:
        return _header.is_header(begin[: os.preadv(fd, [begin], 0)])
    return False


def repack(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    choose: Callable[[WeightsFile], Mapping[str, Coding]] | None = None,
    change: Callable[[WeightsFile], Graph] | None = None,
    progress: bool = False,
) -> None:
    """Write the model of a weights file of any version to ``dest``, in the present version.

    Names, graph and metadata stay the same, and so do all values, bit for bit, unless ``choose`` stores them in another
    way. At most a checksum block and a chunk are in memory, and a row of integers. ``dest`` may be ``source``. The new
    file has the permissions of the file that it replaces, or 0666 less the umask. A link is replaced, not followed.

    Args:
        source: the weights file.
        dest: the file to write. It appears when it is complete, and replaces a file of that name.
        choose: says how to store the tensors; those that it leaves out stay as they are.
        change: gives the graph of the new file, whose nodes read the same tensors.
        progress: show a bar on stderr.

    Raises:
        FormatError: the source breaks the format, or is damaged. The text then names the first damaged block and the
            tensors that lie there; `streamrt.verify` lists all. Nothing has been written.
        WeightsIOError: the source cannot be read, or ``dest`` cannot be written.
    """
    name = os.fsdecode(source)
    with _opened(name) as fd:
        file = read_open(fd, name)
        chosen = choose(file) if choose else {}
        graph = change(file) if change else file.graph
        data = _Data(fd, file)
        segments = [
            Segment([_source(data, t, chosen.get(t.name, t.coding)) for t in tensors])
            for tensors in _segments(file, graph)
        ]
        write(dest, graph, segments, metadata=file.metadata, progress=progress)


def stored_as(file: WeightsFile, codings: Mapping[str, Coding]) -> WeightsFile:
    """The header that `repack` would write if tensors were stored as ``codings``, without checksums.

    The header is taken to be as long as that of ``file``. If it takes another number of pages, all offsets differ by
    these pages.
    """
    segments = [
        [(tensor.name, *codings[tensor.name].stored(tensor.shape)) for tensor in tensors]
        for tensors in _segments(file, file.graph)
    ]
    entries = _layout.lay_out(segments, file.data_offset)
    tensors = {}
    for entry in entries:
        if not entry.is_padding:
            place = file.data_offset + entry.begin, entry.end - entry.begin
            coding, shape = codings[entry.name], file.tensors[entry.name].shape
            tensors[entry.name] = Tensor(entry.name, coding.dtype, shape, *place, coding.block, coding.zeros)
    size = file.data_offset + (entries[-1].end if entries else 0)
    return replace(file, size=size, version="2", huge=True, tensors=tensors, checksum="", block_crcs=())


def unpack(source: str | os.PathLike[str], dest: str | os.PathLike[str], *, progress: bool = False) -> None:
    """Write the tensors of a weights file as plain safetensors, without its graph.

    The tensors have their names, logical shapes and values, in the order of the file. Floats keep their type, and
    integers with scales become float32. Padding and streamrt's own metadata are left out; other metadata stays. At most
    a checksum block, a chunk and a row of integers are in memory.
    ``dest`` may be ``source``. The new file has the permissions of the file that it replaces, or 0666 less the umask.
    A link is replaced, not followed.

    Args:
        source: the weights file, of any version.
        dest: the file to write. It appears when it is complete, and replaces a file of that name.
        progress: show a bar on stderr.

    Raises:
        FormatError: the source breaks the format, or is damaged. The text then names the first damaged block and the
            tensors that lie there; `streamrt.verify` lists all. Nothing has been written.
        WeightsIOError: the source cannot be read, or ``dest`` cannot be written.
    """
    name = os.fsdecode(source)
    with _opened(name) as fd:
        file = read_open(fd, name)
        data = _Data(fd, file)
        head = _plain_header(file)
        total = sum(_plain_size(tensor) for tensor in file.tensors.values())
        with Replacement(os.fsdecode(dest)) as replacement:
            replacement.check_space(len(head) + total)
            out = Appender(replacement, 0)
            out.write(head)
            with progress_bar(total, "unpacking", progress) as advance:
                for tensor in file.tensors.values():
                    for piece in _plain_pieces(data, tensor):
                        out.write(piece)
                        advance(len(piece))
            replacement.commit()


@contextlib.contextmanager
def _opened(name: str) -> Iterator[int]:
    """The descriptor of a source, whose pages leave the page cache at the end.

    A large folio can span two blocks. It leaves the page cache only as a whole, so dropping both blocks keeps it.
    """
    with open_regular(name) as fd:
        try:
            yield fd
        finally:
            drop_cache(fd, 0, 0)


def _segments(file: WeightsFile, graph: Graph) -> list[list[Tensor]]:
    """The tensors of each segment of a file for ``graph``, in the order of ``file``."""
    place = {tensor: index for index, tensor in enumerate(file.tensors)}
    return [
        [file.tensors[tensor] for tensor in sorted(each.names, key=place.__getitem__)]
        for each in _layout.group(graph, file.tensors)
    ]


class _Data:
    """Reads the tensors of a weights file in the order of the file, and checks each block that they lie in."""

    def __init__(self, fd: int, file: WeightsFile) -> None:
        expect_sequential(fd)
        self._fd = fd
        self._file = file
        self._block = -1  # the number of the block in the buffer
        self._buffer = memoryview(bytearray(min(file.block_size, file.size - file.data_offset)))

    def pieces(self, tensor: Tensor) -> Iterator[memoryview]:
        """The bytes of a tensor. A piece is valid until the next is taken."""
        file = self._file
        begin, end = tensor.offset - file.data_offset, tensor.offset - file.data_offset + tensor.nbytes
        while begin < end:
            index, first = divmod(begin, file.block_size)
            last = min(file.block_size, first + min(_CHUNK, end - begin))
            yield self._checked(index)[first:last]
            begin += last - first

    def _checked(self, index: int) -> memoryview:
        """The bytes of a block."""
        file = self._file
        begin = file.data_offset + index * file.block_size
        block = self._buffer[: file.size - begin]
        if index != self._block:
            self._block = -1
            read_exactly(self._fd, file.path, block, begin)
            drop_cache(self._fd, begin, len(block))
            if crc32c(block) != file.block_crcs[index]:
                raise damage(file, [index])
            self._block = index
        return block


def _source(data: _Data, tensor: Tensor, coding: Coding) -> Source:
    return Source(tensor.name, tensor.shape, partial(_chunks, data, tensor, coding), coding)


def _chunks(data: _Data, tensor: Tensor, coding: Coding) -> Iterator[NDArray[np.float32] | NDArray[np.uint8]]:
    if coding != tensor.coding:
        found = values(tensor.coding, tensor.shape, data.pieces(tensor))
        yield from encoded(coding, tensor.name, tensor.shape, found)
        return
    for piece in data.pieces(tensor):
        yield np.frombuffer(piece, "<f4" if coding == UNCODED else np.uint8)


def _plain_size(tensor: Tensor) -> int:
    """Bytes of a tensor in plain safetensors."""
    return 4 * math.prod(tensor.shape) if tensor.coding.is_integer else tensor.nbytes


def _plain_pieces(data: _Data, tensor: Tensor) -> Iterator[memoryview]:
    if not tensor.coding.is_integer:
        yield from data.pieces(tensor)
        return
    for array in values(tensor.coding, tensor.shape, data.pieces(tensor)):
        yield array.view(np.uint8).data


def _plain_header(file: WeightsFile) -> bytes:
    """The length field and the header of a safetensors file with the tensors of ``file``, without padding."""
    header: dict[str, Any] = {_header.METADATA: dict(file.metadata)} if file.metadata else {}
    end = 0
    for name, tensor in file.tensors.items():
        begin, end = end, end + _plain_size(tensor)
        dtype = "F32" if tensor.coding.is_integer else tensor.dtype
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = _header.to_json(header)
    size = _layout.round_up(len(text), _HEADER_ALIGN)
    return size.to_bytes(8, "little") + text.ljust(size)
