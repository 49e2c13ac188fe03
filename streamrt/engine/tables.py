"""Tables: parameters of which a pass reads single rows from the file, such as embeddings of tokens.

If a budget has no room for all weights, a table is in no range of the plan. Its rows are then read with ``pread``, and
their pages leave the page cache at once. They are advised before, a few at a time, so that the disk has several
requests. A table of a model that is in memory as a whole is an ordinary parameter.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Coded, crc32c
from streamrt.errors import WeightsIOError
from streamrt.format import FileIdentity, Tensor, WeightsFile
from streamrt.ops import Array, traits_of
from streamrt.ops.base import TABLE_AHEAD
from streamrt.plan import PAGE

#: Bytes of a block that are read at once to be compared with its checksum.
_PIECE = 1 << 16


def fits(tensor: Tensor) -> bool:
    """Whether a row is stored in no more bytes than float32 or int64 take, as all rows but few short ones are."""
    return tensor.nbytes <= (8 if tensor.dtype == "I64" else 4) * math.prod(tensor.shape)


class Tables:
    """The tables of an open file, with a descriptor of their own. Not thread-safe: callers have the turn.

    Args:
        file: has the tables.
        verify: compare each block of the file with its checksum when a pass reads a row of it.

    Raises:
        WeightsIOError: the file cannot be opened, or is not the file whose header was read.
    """

    def __init__(self, file: WeightsFile, *, verify: bool) -> None:
        self._fd = -1
        self.by_name: Mapping[str, FileTable] = {}
        names = _names(file)
        if names:
            try:
                self._fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
                status = os.fstat(self._fd)
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)  # no pages beside those of the rows
            except OSError as error:
                self.close()
                raise WeightsIOError(error.errno, error.strerror, file.path) from error
            if FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) != file.identity:
                self.close()
                raise WeightsIOError(f"{file.path}: the file was replaced while it was being opened: open it again")
        self.by_name = {name: FileTable(self._fd, file, file.tensors[name], verify=verify) for name in names}

    def __del__(self) -> None:
        self.close()

    @property
    def read(self) -> int:
        """Bytes of rows that were read since the file was opened."""
        return sum(table.read for table in self.by_name.values())

    def close(self) -> None:
        """Close the descriptor. Closing again does nothing."""
        fd, self._fd = self._fd, -1
        self.by_name = {}
        if fd >= 0:
            os.close(fd)


def _names(file: WeightsFile) -> list[str]:
    """The parameters of which a node may read single rows."""
    found = []
    for node in file.graph.all_nodes:
        table = traits_of(node.op).table
        if table is not None and table + 1 < len(node.inputs):
            name = node.inputs[table]
            if name in file.tensors and file.tensors[name].shape and fits(file.tensors[name]):
                found.append(name)
    return list(dict.fromkeys(found))


class FileTable:
    """A table in a file, of which rows are read.

    Args:
        fd: of the file.
        file: has the checksums.
        tensor: the table.
        verify: as for `Tables`.

    Attributes:
        read: bytes of rows that were read.
    """

    def __init__(self, fd: int, file: WeightsFile, tensor: Tensor, *, verify: bool) -> None:
        self._fd = fd
        self._file = file
        self._tensor = tensor
        self._verify = verify
        self.read = 0
        self._buffer = memoryview(bytearray(_PIECE if verify else 0))
        self._rows = tensor.shape[0]
        self._row_bytes = tensor.nbytes // max(1, self._rows)

    def gather(self, index: NDArray[np.int64], out: Array, scratch: NDArray[np.uint8]) -> None:
        """See `streamrt.ops.Table`."""
        tensor = self._tensor
        checked: set[int] = set()
        if self._verify:
            for begin in (tensor.offset, tensor.offset + tensor.nbytes - 1):
                # The plan's verifier leaves out these blocks, of which a pass does not bring in all weights.
                self._check(begin, begin + 1, checked)
        if tensor.dtype in ("F32", "I64"):
            target, decoder = out.reshape(-1).view(np.uint8).data, None
        else:
            stored = scratch[: TABLE_AHEAD * self._row_bytes]
            shape = (TABLE_AHEAD, *tensor.shape[1:])
            target, decoder = stored.data, Coded(stored.data, tensor.dtype, shape, tensor.block, tensor.zeros)
        size = self._row_bytes
        for begin in range(0, len(index), TABLE_AHEAD):
            rows = (index[begin : begin + TABLE_AHEAD] % self._rows).tolist()
            for row in rows:
                os.posix_fadvise(self._fd, self._offset(row), size, os.POSIX_FADV_WILLNEED)
            for place, row in enumerate(rows, 0 if decoder else begin):
                offset = self._offset(row)
                if self._verify:
                    self._check(offset, offset + size, checked)
                self._read(target[place * size : (place + 1) * size], offset)
                self.read += size
            if decoder:
                decoder.decode(0, len(rows), out[begin : begin + len(rows)])
            for row in rows:
                self._forget(self._offset(row), size)

    def _offset(self, row: int) -> int:
        return self._tensor.offset + row * self._row_bytes

    def _read(self, target: memoryview, offset: int) -> None:
        try:
            while target:
                count = os.preadv(self._fd, [target], offset)
                if count == 0:
                    raise WeightsIOError(errno.EIO, "the file was cut short after it was opened", self._file.path)
                target, offset = target[count:], offset + count
        except OSError as error:
            if isinstance(error, WeightsIOError):
                raise
            raise WeightsIOError(error.errno, error.strerror, self._file.path) from error

    def _forget(self, begin: int, size: int) -> None:
        """Remove the pages of a range from the page cache. Pages that are mapped stay."""
        first = begin // PAGE * PAGE
        os.posix_fadvise(self._fd, first, -(-(begin + size - first) // PAGE) * PAGE, os.POSIX_FADV_DONTNEED)

    def _check(self, begin: int, end: int, checked: set[int]) -> None:
        """Compare the blocks of a range with their checksums, unless they are ``checked``.

        Raises:
            WeightsIOError: a block is damaged.
        """
        file = self._file
        blocks = range(
            (begin - file.data_offset) // file.block_size, (end - 1 - file.data_offset) // file.block_size + 1
        )
        for block in blocks:
            if block in checked:
                continue
            first = file.data_offset + block * file.block_size
            last = min(first + file.block_size, file.size)
            value = 0
            for at in range(first, last, _PIECE):
                piece = self._buffer[: last - at]
                self._read(piece, at)
                value = crc32c(piece, value)
                self._forget(at, len(piece))
            if value != file.block_crcs[block]:
                raise WeightsIOError(
                    errno.EIO,
                    f"bytes {first} to {last} are damaged: their CRC-32C is {value:08x}, and was "
                    f"{file.block_crcs[block]:08x} when they were written: replace the file",
                    file.path,
                )
            checked.add(block)
