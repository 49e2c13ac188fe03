"""The bytes of the header: JSON text and back, with its checksum.

`decode` is the first to read the text of a hostile file. Its result has the right types and plausible sizes. Parsing
takes up to 107 bytes and 2 us for each mark of JSON; keys of one large object take the most. `_MAX_MARKS` limits both
before anything is parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streamrt._core import crc32c
from streamrt.errors import FormatError
from streamrt.format.coding import INTEGERS, SINGLES, SIZES, Coding
from streamrt.format.layout import MAX_BYTES, MAX_TENSORS, PAD_PREFIX, PAGE_ALIGN, Entry, byte_size, round_up
from streamrt.format.marks import count_marks
from streamrt.graph import Graph
from streamrt.host.yielding import give_way

#: The version of the format that is written.
VERSION = "2"
#: The versions that are read.
_READ = ("1", "2")
#: Keys of ``__metadata__`` that begin with this are the format's own.
KEY_PREFIX = "streamrt."
#: The only key of the header that is not a tensor's name.
METADATA = "__metadata__"
#: The most bytes of the length field and the header together. 8 MiB are enough for 10,000 nodes with two tensors each
#: and names of 60 characters. They are also enough for the block checksums of a file of 1 TiB, which take 2 MiB.
MAX_HEADER = 8 << 20
#: The most marks of a JSON text: braces, brackets, colons and commas, also within strings. 10,000 nodes with two
#: tensors each have 550,000.
_MAX_MARKS = 800_000
#: The most bytes of a tensor's name; a name in the graph may have as many characters.
MAX_NAME = 1024
#: The layout of a tensor whose bytes are its elements in row-major order. The key of layouts need not name it.
PLAIN = "plain"
#: The most characters of a layout's name.
_MAX_LAYOUT = 64

_LAYOUTS = "streamrt.layouts"
_PREFIX = b'{"__metadata__":{"streamrt.format":"%b","streamrt.header_crc32c":"'
#: The digits of the header's checksum. Every version that is read has one character.
_CRC = slice(8 + len(_PREFIX % b"0"), 8 + len(_PREFIX % b"0") + 8)
_ANY_VERSION = re.compile(rb'\{"__metadata__":\{"streamrt\.format":"([0-9A-Za-z.]{1,16})"')
_DIGITS = re.compile(r"[0-9a-f]*")
#: The most digits of an integer: 2**63 has 19. Python takes long to convert much longer numbers.
_MAX_DIGITS = 19


def encode(
    entries: Iterable[Entry],
    graph: str,
    block_size: int,
    block_crcs: Sequence[int],
    layouts: Mapping[str, object],
    extra: Mapping[str, str],
    least: int,
) -> bytes:
    """The first bytes of a file, up to the data section.

    The data section begins on a page boundary, at ``least`` bytes or later. The length depends on the number of
    ``block_crcs``, not on their values.
    """
    metadata = {
        "streamrt.format": VERSION,
        "streamrt.header_crc32c": "0" * 8,
        "streamrt.block_size": str(block_size),
        "streamrt.block_crc32c": "".join(f"{crc:08x}" for crc in block_crcs),
        "streamrt.graph": graph,
        **({_LAYOUTS: to_json(layouts).decode()} if layouts else {}),
        **dict(sorted(extra.items())),
    }
    header: dict[str, Any] = {METADATA: metadata}
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    text = to_json(header)
    _check_marks(text.decode(), "the header")
    size = max(least, round_up(8 + len(text), PAGE_ALIGN))
    if size > MAX_HEADER:
        raise FormatError(f"the header would take {size} bytes, more than the {MAX_HEADER} allowed")
    return seal((size - 8).to_bytes(8, "little") + text.ljust(size - 8))


def is_header(begin: bytes | bytearray) -> bool:
    """Whether a file that begins like this is a weights file of any version; 128 bytes are enough to tell."""
    return _ANY_VERSION.match(begin, 8) is not None


def seal(head: bytes) -> bytes:
    """``head``, which is the length field and the header, with its right checksum."""
    return head[: _CRC.start] + b"%08x" % _checksum(head) + head[_CRC.stop :]


def decode(head: bytearray) -> tuple[dict[str, str], list[Entry]]:
    """Read the length field and the header: ``__metadata__``, and the tensors in the order of the header.

    Raises:
        FormatError: a checksum, a type or a size is wrong. The layout of the tensors is not checked here.
    """
    _check_identity(head)
    if head[_CRC] != b"%08x" % _checksum(head):
        raise FormatError(
            f"the header is damaged: its CRC-32C is {_checksum(head):08x}, expected {head[_CRC].decode('latin-1')!r}"
        )
    header = from_json(utf8(memoryview(head)[8:], "the header"), "the header", numbers="integers")
    if not isinstance(header, dict):
        raise FormatError(f"the header is a {type(header).__name__}, expected a JSON object")
    metadata = header.pop(METADATA, None)
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{METADATA} is not an object of strings")
    if len(header) > MAX_TENSORS:
        raise FormatError(f"{len(header)} tensors, more than the {MAX_TENSORS} allowed")
    return metadata, [_entry(name, value) for name, value in header.items()]


def take_blocks(metadata: dict[str, str], data_size: int) -> tuple[int, tuple[int, ...]]:
    """Remove from ``metadata`` the size and the checksums of the blocks of ``data_size`` bytes, and return them."""
    text = _take(metadata, "streamrt.block_size")
    block_size = int(text) if re.fullmatch("[1-9][0-9]{3,7}", text) else 0
    if not 4096 <= block_size <= 2**26 or block_size & (block_size - 1):
        raise FormatError(f"streamrt.block_size is {text!r:.40}, expected a power of two from 4096 to 2**26")
    digits = _take(metadata, "streamrt.block_crc32c")
    count = -(-data_size // block_size)
    if len(digits) != 8 * count or not _DIGITS.fullmatch(digits):
        raise FormatError(
            f"streamrt.block_crc32c has {len(digits)} characters, expected 8 hexadecimal digits "
            f"for each of {count} blocks"
        )
    return block_size, tuple(int(digits[i : i + 8], 16) for i in range(0, len(digits), 8))


def take_graph(metadata: dict[str, str]) -> Graph:
    """Remove the graph from ``metadata`` and return it. Whether its names are defined is not checked here."""
    return Graph.from_json(from_json(_take(metadata, "streamrt.graph"), "streamrt.graph", numbers="any"))


def take_layouts(metadata: dict[str, str], tensors: Mapping[str, Entry]) -> dict[str, tuple[Coding, tuple[int, ...]]]:
    """Remove the layouts of ``tensors`` from ``metadata``: the coding and the logical shape of each tensor.

    Raises:
        FormatError: a layout is unknown, or does not fit its tensor; or a tensor is U8 and has no layout.
    """
    plain = {dtype: Coding(dtype) for dtype in SIZES}
    found = {name: (plain[entry.dtype], entry.shape) for name, entry in tensors.items()}
    if _LAYOUTS in metadata:
        if metadata["streamrt.format"] == "1":
            return found  # `take_extra` refuses the key
        layouts = from_json(metadata.pop(_LAYOUTS), _LAYOUTS, numbers="integers")
        if not isinstance(layouts, dict):
            raise FormatError(f"{_LAYOUTS} is a {type(layouts).__name__}, expected a JSON object")
        for name, value in layouts.items():
            give_way()
            try:
                found[name] = _layout_of(tensors[name], value)
            except KeyError:
                raise FormatError(f"{_LAYOUTS} names {name!r:.80}, expected the name of a parameter") from None
            except FormatError as error:
                raise FormatError(f"{_LAYOUTS}: tensor {name!r:.80}: {error}") from None
    floats = ("F32",) if metadata["streamrt.format"] == "1" else SINGLES
    for name, (coding, shape) in found.items():
        if coding is plain["F32"]:
            continue
        if coding.dtype not in (*floats, *INTEGERS):
            raise FormatError(
                f"tensor {name!r:.80}: dtype {coding.dtype} without a layout, expected {' or '.join(floats)}"
            )
        try:
            coding.stored(shape)
            byte_size("F32", shape)  # what is computed with is float32
        except FormatError as error:
            raise FormatError(f"tensor {name!r:.80}: {error}") from None
    return found


def _layout_of(entry: Entry, value: object) -> tuple[Coding, tuple[int, ...]]:
    if not isinstance(value, dict) or not value.keys() >= {"layout", "shape"}:
        raise FormatError("expected an object of layout and shape")
    layout, shape = value["layout"], value["shape"]
    if not isinstance(layout, str) or not 0 < len(layout) <= _MAX_LAYOUT:
        raise FormatError(f"the layout is {layout!r:.80}, expected a name of 1 to {_MAX_LAYOUT} characters")
    if not isinstance(shape, list):
        raise FormatError(f"shape is a {type(shape).__name__}, expected a list")
    byte_size("F32", shape)
    logical = tuple(shape)
    if layout in INTEGERS:
        coding = Coding.from_json(value)
        if (entry.dtype, entry.shape) != coding.stored(logical):
            raise FormatError(
                f"it is {entry.dtype} of shape {list(entry.shape)!s:.80}, expected {coding.stored(logical)!s:.80} for "
                f"{layout} of logical shape {shape!s:.80}"
            )
        return coding, logical
    if layout != PLAIN:
        known = ", ".join(map(repr, (PLAIN, *INTEGERS)))
        raise FormatError(
            f"its layout {layout!r} is not known to this streamrt, which reads only {known}: a newer streamrt is needed"
        )
    if value.keys() != {"layout", "shape"}:
        raise FormatError("expected an object of layout and shape")
    if logical != entry.shape:
        raise FormatError(f"its logical shape is {shape!r:.80}, expected that of a plain tensor, {list(entry.shape)}")
    return Coding(entry.dtype), logical


def take_extra(metadata: dict[str, str]) -> dict[str, str]:
    """The keys of ``metadata`` that are not the format's own."""
    version = _take(metadata, "streamrt.format")
    _take(metadata, "streamrt.header_crc32c")
    for key, value in metadata.items():
        if key.startswith(KEY_PREFIX):
            raise FormatError(f"unknown key {key!r:.80} in {METADATA}: version {version} of the format has no such key")
        utf8_size(key + value, METADATA)
    return metadata


def graph_text(graph: Graph) -> str:
    """The graph as the file holds it; `FormatError` if `take_graph` would refuse it."""
    text = to_json(graph.to_json()).decode()
    Graph.from_json(from_json(text, "the graph", numbers="any"))
    return text


def to_json(value: object) -> bytes:
    """Compact JSON in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    utf8_size(text, "a name")
    return text.encode()


def from_json(text: str, what: str, *, numbers: str, most_marks: int = _MAX_MARKS) -> object:
    """Parse JSON with unique keys.

    Args:
        text: the JSON text.
        what: the name of the text in errors.
        numbers: ``"integers"``, or ``"any"`` to allow floats and infinities, too.
        most_marks: the most braces, brackets, colons and commas.

    Raises:
        FormatError: it is not JSON of this kind, has more marks than ``most_marks`` or an integer of over 19 digits.
    """

    def integer(digits: str) -> int:
        if len(digits.lstrip("-")) > _MAX_DIGITS:
            raise FormatError(f"{what} holds a number of {len(digits)} digits, more than the {_MAX_DIGITS} allowed")
        return int(digits)

    def real(digits: str) -> float:
        if numbers == "integers":
            raise FormatError(f"{what} holds the number {digits[:40]}, expected only integers")
        if digits == "NaN":
            raise FormatError(f"{what} holds NaN, expected numbers")
        return float(digits)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        give_way()
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise FormatError(f"{what} holds the key {key!r:.80} twice")
            result[key] = value
        return result

    _check_marks(text, what, most_marks)
    try:
        return json.loads(text, object_pairs_hook=unique, parse_int=integer, parse_float=real, parse_constant=real)
    except FormatError:
        raise
    except RecursionError:
        raise FormatError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise FormatError(f"{what} is not JSON: {error}") from None


def utf8(data: memoryview, what: str) -> str:
    """Decode UTF-8; `FormatError` if a byte is wrong."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from None


def utf8_size(text: str, what: str) -> int:
    """Bytes of ``text`` in UTF-8; `FormatError` if it has a lone surrogate, which is not Unicode text."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise FormatError(f"{what} holds a lone surrogate and is not Unicode text") from None


def check_name(name: str) -> None:
    """Raise `FormatError` unless ``name`` can be the name of a tensor."""
    if not 0 < utf8_size(name, "a tensor's name") <= MAX_NAME or name == METADATA:
        raise FormatError(f"a tensor is named {name!r:.80}, expected 1 to {MAX_NAME} bytes other than {METADATA}")


def _check_marks(text: str, what: str, most: int = _MAX_MARKS) -> None:
    marks = count_marks(text).total
    if marks > most:
        raise FormatError(f"{what} holds {marks} braces, brackets, colons and commas, more than {most} allowed")


def _check_identity(head: bytearray) -> None:
    if not head.startswith(b"{", 8):
        raise FormatError(f"not a safetensors file: the header begins with {bytes(head[8:16])!r}, expected '{{'")
    version = _ANY_VERSION.match(head, 8)
    if version is None:
        raise FormatError(
            "not a weights file of streamrt: safetensors files hold tensors but no graph. "
            "Make one with streamrt.pack from the model itself"
        )
    if version[1].decode() not in _READ:
        raise FormatError(
            f"format version {version[1].decode()}; this streamrt reads only versions {' and '.join(_READ)}: pack the "
            "model again, or use the version of streamrt that wrote the file"
        )
    prefix = _PREFIX % version[1]
    if not head.startswith(prefix, 8) or len(head) < _CRC.stop:
        raise FormatError(f"the header does not begin with {prefix.decode()!r}")


def _checksum(head: bytes | bytearray) -> int:
    checksum: int = crc32c(memoryview(head)[_CRC.stop :], crc32c(b"0" * 8, crc32c(head[: _CRC.start])))
    return checksum


def _entry(name: str, value: object) -> Entry:
    give_way()
    check_name(name)
    try:
        if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
            raise FormatError("expected an object of dtype, shape and data_offsets")
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        expected = ("U8",) if name.startswith(PAD_PREFIX) else (*SINGLES, "U8")
        if dtype not in expected:
            raise FormatError(f"dtype {dtype!r:.40}, expected {' or '.join(expected)}")
        if not isinstance(shape, list):
            raise FormatError(f"shape is a {type(shape).__name__}, expected a list")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_offset(o) for o in offsets):
            raise FormatError(f"data_offsets is {offsets!r:.40}, expected two integers from 0 to 2**60")
        begin, end = offsets
        if end - begin != byte_size(dtype, shape):
            raise FormatError(
                f"data_offsets [{begin}, {end}] hold {end - begin} bytes, "
                f"expected {byte_size(dtype, shape)} for shape {shape!r:.80}"
            )
        if name.startswith(PAD_PREFIX) and len(shape) != 1:
            raise FormatError(f"{len(shape)} dimensions, expected 1 of padding")
    except FormatError as error:
        raise FormatError(f"tensor {name!r:.80}: {error}") from None
    return Entry(name, dtype, tuple(shape), begin, end)


def _is_offset(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_BYTES


def _take(metadata: dict[str, str], key: str) -> str:
    try:
        return metadata.pop(key)
    except KeyError:
        raise FormatError(f"{METADATA} lacks {key!r}") from None
