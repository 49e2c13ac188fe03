"""Opening a weights file. It is treated as hostile until every promise of its format has been checked."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from streamrt._core import crc32c
from streamrt.errors import FormatError, printable
from streamrt.format import header as _header
from streamrt.format import layout as _layout
from streamrt.format.files import drop_cache, expect_sequential, open_regular, progress_bar, read_exactly
from streamrt.format.identity import FileIdentity
from streamrt.format.layout import Tensor
from streamrt.graph import Graph


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The content of the header of a weights file.

    Attributes:
        path: the path as it was given.
        size: the size of the file, bytes.
        identity: of the file when its header was read. It tells whether a later opening finds the same file.
        checksum: the header's CRC-32C, eight hexadecimal digits. It covers the checksums of all data, so that different
            contents have different checksums.
        data_offset: where the data section begins in the file, bytes.
        version: of the format, ``"1"`` or ``"2"``.
        huge: whether the file may be read in granules of 2 MiB. A file of version 1 without segments of 1 MiB or more
            is read in pages.
        tensors: the parameters by name without padding, in the order of the file, which is the order of execution.
        graph: the graph. Only its names are checked; operators check attributes and shapes.
        metadata: the keys of ``__metadata__`` that are not the format's own.
        block_size: bytes of a checksum block. Blocks are counted from ``data_offset``.
        block_crcs: the CRC-32C of each block.
    """

    path: str
    size: int
    identity: FileIdentity
    checksum: str
    data_offset: int
    version: str
    huge: bool
    tensors: Mapping[str, Tensor]
    graph: Graph
    metadata: Mapping[str, str]
    block_size: int
    block_crcs: tuple[int, ...]


def read_header(path: str | os.PathLike[str]) -> WeightsFile:
    """Read and check everything but the data.

    It takes memory in proportion to the header, which has at most 8 MiB.

    Raises:
        FormatError: the file breaks the format. The text has the reason, and the value that was expected.
        WeightsIOError: the file is missing, is not a regular file, or could not be read.
    """
    name = os.fsdecode(path)
    with open_regular(name) as fd:
        return read_open(fd, name)


def verify(path: str | os.PathLike[str], progress: bool = False) -> WeightsFile:
    """Read a weights file and compare the checksums of the header and of every block of the data.

    Data that is read leaves the page cache again, unless a model has it mapped.

    Args:
        path: the weights file.
        progress: show a bar on stderr.

    Raises:
        FormatError: the file breaks the format, or blocks are damaged. The text then lists the byte ranges of damaged
            blocks in the file, with the tensors that lie there.
        WeightsIOError: the file is missing, is not a regular file, ends early, or could not be read.
    """
    name = os.fsdecode(path)
    with open_regular(name) as fd:
        file = read_open(fd, name)
        expect_sequential(fd)
        damaged = []
        buffer = memoryview(bytearray(min(file.block_size, file.size - file.data_offset)))
        with progress_bar(file.size - file.data_offset, "verifying", progress) as advance:
            for index, expected in enumerate(file.block_crcs):
                begin = file.data_offset + index * file.block_size
                block = buffer[: file.size - begin]
                read_exactly(fd, name, block, begin)
                drop_cache(fd, begin, len(block))
                if crc32c(block) != expected:
                    damaged.append(index)
                advance(len(block))
        # A large folio can span two blocks, and is only released as a whole.
        drop_cache(fd, 0, 0)
    if damaged:
        raise damage(file, damaged)
    return file


def check_end(file: WeightsFile) -> None:
    """Compare the checksum of the last block of the data, which a file that is still being written usually lacks.

    Raises:
        FormatError: the block is damaged, or not written yet.
        WeightsIOError: the file is missing, is not a regular file, ends early, or could not be read.
    """
    if not file.block_crcs:
        return
    last = len(file.block_crcs) - 1
    begin = file.data_offset + last * file.block_size
    block = memoryview(bytearray(file.size - begin))
    with open_regular(file.path) as fd:
        read_exactly(fd, file.path, block, begin)
    if crc32c(block) != file.block_crcs[last]:
        raise damage(file, [last])


def damage(file: WeightsFile, blocks: list[int]) -> FormatError:
    """The error to raise for damaged checksum blocks, given by their numbers in ascending order."""
    return FormatError(f"{printable(file.path)}: the data is damaged (CRC-32C): {_describe(file, blocks)}")


def read_open(fd: int, path: str) -> WeightsFile:
    """`read_header` of a file that is open already; ``path`` is its name in errors."""
    info = os.fstat(fd)
    try:
        if info.st_size < 8:
            raise FormatError(f"{info.st_size} bytes, too few for a safetensors file")
        length = memoryview(bytearray(8))
        read_exactly(fd, path, length, 0)
        data_offset = 8 + int.from_bytes(length, "little")
        if data_offset > info.st_size:
            raise FormatError(f"the header would end at {data_offset}, but the file has {info.st_size} bytes")
        if data_offset > _header.MAX_HEADER:
            raise FormatError(f"the header would end at {data_offset}, more than the {_header.MAX_HEADER} allowed")
        head = bytearray(data_offset)
        read_exactly(fd, path, memoryview(head), 0)
        drop_cache(fd, 0, data_offset)
        return _parse(path, head, info)
    except FormatError as error:
        raise FormatError(f"{printable(path)}: {error}") from error


def _parse(path: str, head: bytearray, info: os.stat_result) -> WeightsFile:
    metadata, entries = _header.decode(head)
    version = metadata["streamrt.format"]
    data_size = info.st_size - len(head)
    _layout.check_coverage(entries, data_size)  # first, because its error tells that a file was cut short
    block_size, block_crcs = _header.take_blocks(metadata, data_size)
    graph = _header.take_graph(metadata)
    checksum = metadata["streamrt.header_crc32c"]
    params = {entry.name: entry for entry in entries if not entry.is_padding}
    layouts = _header.take_layouts(metadata, params)
    extra = _header.take_extra(metadata)
    graph.check(params)
    largest = _layout.check_layout(entries, _layout.group(graph, params), len(head), data_size, version)
    tensors = {
        name: Tensor(
            *(name, coding.dtype, shape, len(head) + params[name].begin, params[name].end - params[name].begin),
            coding.block,
            coding.zeros,
        )
        for name, (coding, shape) in layouts.items()
    }
    return WeightsFile(
        path=path,
        size=info.st_size,
        identity=FileIdentity.of_status(info),
        checksum=checksum,
        data_offset=len(head),
        version=version,
        huge=version != "1" or largest >= _layout.LARGE,
        tensors=MappingProxyType(tensors),
        graph=graph,
        metadata=MappingProxyType(extra),
        block_size=block_size,
        block_crcs=block_crcs,
    )


def _describe(file: WeightsFile, damaged: list[int]) -> str:
    """The byte ranges and tensors of damaged blocks; neighbouring blocks are one range."""
    runs: list[tuple[int, int]] = []
    for index in damaged:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    tensors = list(file.tensors.values())
    starts = [tensor.offset for tensor in tensors]
    phrases = []
    for first, last in runs:
        begin = file.data_offset + first * file.block_size
        end = min(file.data_offset + last * file.block_size, file.size)
        touched = [
            repr(tensor.name)
            for tensor in tensors[max(bisect_right(starts, begin) - 1, 0) : bisect_right(starts, end - 1)]
            if tensor.offset < end and tensor.offset + tensor.nbytes > begin
        ]
        phrases.append(f"bytes {begin} to {end} ({', '.join(touched) or 'only padding'})")
    return "; ".join(phrases)
