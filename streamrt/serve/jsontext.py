"""JSON texts of requests and answers. A text may be hostile: its memory is bounded before it is parsed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import orjson

from streamrt.format.marks import count_bytes
from streamrt.format.parsing import weigh
from streamrt.serve.refusal import ProtocolError

#: Bytes that the values of a JSON text may take once parsed: 12 for each byte of `max_json`, and 1 MiB. Flat lists of
#: numbers take at most 12 bytes for each byte.
_VALUES, _MORE_VALUES = 12, 1 << 20
#: Levels of objects and lists in a request whose objects are not too deep: the request, its tensors, a tensor, the
#: tensor's parameters, a value.
_LEVELS = 5

#: Names of JSON's kinds of values, by the Python type of the parsed value.
KINDS: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True, slots=True)
class JsonText:
    """A text that may be parsed: see `weigh_json`.

    Attributes:
        content: the text, which may be no JSON.
        memory: the most bytes that parsing it takes, beside the body that it came with.
    """

    content: bytes
    memory: int


def weigh_json(text: bytes | bytearray | memoryview, limit: int) -> JsonText:
    """A copy of a text, if parsing it takes no more memory than a text of ``limit`` bytes may take.

    The values of the text may take 12 times ``limit`` and 1 MiB. That is enough for flat lists of any numbers. Many
    short lists, objects or strings would take up to 40 times the memory of the text.

    Raises:
        ProtocolError: the text is longer than ``limit``, or its values would take more memory than that.
    """
    if len(text) > limit:
        raise ProtocolError(
            f"expected at most {limit} bytes of JSON (--max-json), found {len(text)}: send tensors as binary data"
        )
    weight = weigh(content := bytes(text))
    if weight.values > (most := _VALUES * limit + _MORE_VALUES):
        raise ProtocolError(
            f"expected JSON whose values take at most {most} bytes once parsed ({_VALUES} times --max-json, and "
            f"{_MORE_VALUES}), found {weight.values}: send tensors as binary data, or in a flat list"
        )
    return JsonText(content, weight.total)


def parse_json(text: JsonText) -> Any:
    """The value of a JSON text.

    Raises:
        ProtocolError: the text is not JSON, or nested too deeply, or an object has a key twice. NaN and infinities are
            not JSON.
    """
    try:
        found = orjson.loads(text.content)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"expected JSON: {error!s:.200}") from None
    # Of two values with one key orjson keeps one. A key has a colon behind it, so that the text has more colons then
    # than what was kept of it. Colons that are escaped in the text, or that lie deeper, need a closer look.
    (colons,) = count_bytes(text.content, b":")
    if b"\\" in text.content or colons != _colons(found, _LEVELS):
        del found
        found = _with_different_keys(text.content)
    return found


def dump_json(value: Any) -> bytes:
    """The text of a value, which may hold arrays of numbers.

    An array must be contiguous and finite. Its numbers have as many digits as tell them apart in its type.
    """
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def kind_of(found: Any) -> str:
    """JSON's name for the kind of a parsed value."""
    return KINDS[type(found)]


def _colons(value: Any, levels: int) -> int:
    """The colons that a value has in a text without escapes, down to a level, if no list has anything but objects."""
    if type(value) is str:
        return value.count(":")
    if levels and type(value) is dict:
        return sum(key.count(":") + 1 + _colons(item, levels - 1) for key, item in value.items())
    if levels and type(value) is list and value and type(value[0]) is dict:
        return sum(_colons(item, levels - 1) for item in value)
    return 0


def _with_different_keys(text: bytes) -> Any:
    """The value of a text that is JSON, by a parser that sees every key."""
    try:
        return json.loads(str(text, "utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise ProtocolError("expected JSON: it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ProtocolError("expected JSON objects with different keys, found a key twice")
    return found
