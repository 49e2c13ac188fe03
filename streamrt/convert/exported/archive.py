"""The zip archive of a ``.pt2`` file: its members as ranges of the mapped file. Nothing is unpacked or decompressed.

`zipfile` reads the directory at the end of the file. All else is checked here: every member is stored as it is, lies
within the file, and has its checksum when it is read.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection

from streamrt.convert import limits
from streamrt.errors import FormatError, printable
from streamrt.format.files import open_regular
from streamrt.format.header import from_json, utf8
from streamrt.format.parsing import weigh

#: The bytes with which a zip archive begins: a member, or the end of an archive without members.
MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
#: The most bytes of the directory: 60,000 members with names of 20 characters.
_MAX_DIRECTORY = 4 << 20
#: The local header of a member: signature, 22 bytes that the directory has too, lengths of the name and of the rest.
_LOCAL = struct.Struct("<4s22xHH")
_ENCRYPTED, _UTF8 = 0x1, 0x800
#: Bytes of which a checksum is computed at once, before the pages that they took are given back.
_BLOCK = 8 << 20
#: The most marks of a JSON member; the memory that it takes once it is parsed is limited, too.
_MAX_MARKS = 20_000_000


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a zip archive, or its name ends with ``.pt2``. False if it cannot be read."""
    try:
        with open_regular(os.fsdecode(path)) as fd:
            return os.pread(fd, 4, 0) in MAGIC or str(path).endswith(".pt2")
    except (OSError, ValueError):
        return False


class Member:
    """Bytes ``begin`` to ``end`` of the file, with the checksum that they shall have."""

    def __init__(self, begin: int, end: int, crc: int) -> None:
        self.begin = begin
        self.end = end
        self.crc = crc


class Archive:
    """The members of an archive, by their names without the folder that all of them are in.

    Args:
        data: the mapped file.
        where: the name of the file in errors.
        unload: gives back the memory of the pages that were read.

    Raises:
        FormatError: not a zip archive, or one that torch does not write.
    """

    def __init__(self, data: memoryview, where: str, unload: Callable[[], None]) -> None:
        self._data = data
        self.where = where
        self._unload = unload
        try:
            with zipfile.ZipFile(_Bounded(data)) as archive:
                entries = archive.infolist()
        except FormatError:
            raise
        except Exception as error:  # the package raises several unrelated types
            raise self.problem(f"not a zip archive: {type(error).__name__}: {error!s:.200}") from error
        self._members: dict[str, Member] = {}
        for entry in entries:
            limits.current().check_time()
            root, _, name = entry.filename.partition("/")
            if not root or not name or ".." in name.split("/"):
                raise self.problem(f"a member is named {entry.filename!r:.80}, expected a name in a folder")
            if root != entries[0].filename.partition("/")[0]:
                raise self.problem(f"the member {entry.filename!r:.80} is not in the folder of the first member")
            if name in self._members:
                raise self.problem(f"the member {name!r:.80} is there twice")
            self._members[name] = self._member(entry)

    def problem(self, text: str) -> FormatError:
        """The error with this text."""
        return FormatError(f"{self.where}: {text}")

    @property
    def names(self) -> Collection[str]:
        """The names of all members."""
        return self._members.keys()

    def member(self, name: str) -> Member:
        """A member whose checksum is right.

        Raises:
            FormatError: it is missing, or damaged.
        """
        member = self._members.get(name)
        if member is None:
            raise self.problem(f"the member {name!r:.80} is missing")
        crc = 0
        for begin in range(member.begin, member.end, _BLOCK):
            crc = zlib.crc32(self._data[begin : min(begin + _BLOCK, member.end)], crc)
            self._unload()
        if crc != member.crc:
            raise self.problem(f"the member {name!r:.80} is damaged: its checksum is {crc:08x}, not {member.crc:08x}")
        return member

    def read(self, name: str) -> bytes:
        """A copy of the bytes of a member; the limits in force hold."""
        member = self._members.get(name)
        if member is not None:
            with limits.current().at(f"{self.where}: the member {name!r:.80}"):
                limits.current().check_memory(member.end - member.begin)
        member = self.member(name)
        return bytes(self._data[member.begin : member.end])

    def json(self, name: str) -> object:
        """The value of a JSON member; the limits in force hold for the memory that parsing takes."""
        text = self.read(name)
        with limits.current().at(f"{self.where}: the member {name!r:.80}"):
            limits.current().check_memory(weigh(text).total)
        what = f"{self.where}: {name:.80}"
        return from_json(utf8(memoryview(text), what), what, numbers="any", most_marks=_MAX_MARKS)

    def _member(self, entry: zipfile.ZipInfo) -> Member:
        """Where the bytes of a member lie."""
        name = printable(f"{entry.filename!r:.80}")
        if entry.flag_bits & _ENCRYPTED:
            raise self.problem(f"the member {name} is encrypted")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise self.problem(f"the member {name} is compressed, expected stored bytes as torch writes them")
        at = entry.header_offset
        if not 0 <= at <= len(self._data) - _LOCAL.size:
            raise self.problem(f"the member {name} begins at byte {at}, which is not in the file")
        signature, length, extra = _LOCAL.unpack(self._data[at : at + _LOCAL.size])
        begin = at + _LOCAL.size + length + extra
        if signature != MAGIC[0] or begin + entry.file_size > len(self._data):
            raise self.problem(f"the member {name} has {entry.file_size} bytes, which are not in the file")
        coding = "utf-8" if entry.flag_bits & _UTF8 else "cp437"
        if bytes(self._data[at + _LOCAL.size : at + _LOCAL.size + length]) != entry.orig_filename.encode(coding):
            raise self.problem(f"the member {name} has another name where it begins")
        return Member(begin, begin + entry.file_size, entry.CRC)


class _Bounded(io.RawIOBase):
    """The file for `zipfile`, which asks for a directory of any size at once."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        if base + offset < 0:
            raise OSError(f"byte {base + offset} is not in the file")
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else min(self._at + size, len(self._data))
        if end - self._at > _MAX_DIRECTORY:
            raise FormatError(f"the directory of the zip archive is larger than {_MAX_DIRECTORY} bytes")
        found = bytes(self._data[self._at : end])
        self._at = max(self._at, end)
        return found
