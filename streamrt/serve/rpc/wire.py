"""The bytes of protobuf's messages: finding the fields of a message without parsing it. Pure, for any bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from streamrt.serve.refusal import ProtocolError

#: Wire types: a number of varying length, 8 bytes, bytes after their length, and 4 bytes.
_NUMBER, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
#: The most bytes of a number of varying length.
_LONGEST = 10


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message.

    Attributes:
        number: of the field.
        begin: where it begins.
        content: where its content begins, if that is bytes or a message; else None.
        end: where it ends.
    """

    number: int
    begin: int
    content: int | None
    end: int


class Scan:
    """Goes through the fields of a message, and of the messages within.

    Args:
        message: any bytes.
        kind: descriptor of the message that they should be.
        most: the most fields that the message may have, with those of the messages within.

    Attributes:
        found: the number of fields that were found until now.
    """

    def __init__(self, message: bytes, kind: Any, most: int) -> None:
        self._message = message
        self._kind = kind
        self._most = most
        self.found = 0

    def fields(self) -> Iterator[Field]:
        """The fields of the message itself. Each of them has been checked, with the messages within.

        Raises:
            ProtocolError: these bytes are no message, or there are too many fields.
        """
        return self._fields(self._kind, 0, len(self._message))

    def _fields(self, kind: Any, begin: int, end: int) -> Iterator[Field]:
        while begin < end:
            self.found += 1
            if self.found > self._most:
                raise ProtocolError(
                    f"expected at most {self._most} fields, found more: send numbers packed, or in raw_input_contents"
                )
            key, place = self._number(begin, end)
            content = None
            if (wire := key & 7) == _NUMBER:
                _, place = self._number(place, end)
            elif wire == _BYTES:
                size, content = self._number(place, end)
                place = content + size
            elif wire in (_EIGHT, _FOUR):
                place += 8 if wire == _EIGHT else 4
            else:  # groups, which this version of protobuf does not write
                raise no_message(self._kind)
            if place > end or key >> 3 == 0:
                raise no_message(self._kind)
            field = kind.fields_by_number.get(key >> 3)
            if content is not None and field is not None and field.message_type is not None:
                for _ in self._fields(field.message_type, content, place):
                    pass
            yield Field(key >> 3, begin, content, place)
            begin = place

    def _number(self, begin: int, end: int) -> tuple[int, int]:
        """A number of varying length, and where it ends."""
        value = 0
        for index, byte in enumerate(self._message[begin : min(end, begin + _LONGEST)]):
            value |= (byte & 127) << 7 * index
            if byte < 128:
                return value, begin + index + 1
        raise no_message(self._kind)


def no_message(kind: Any) -> ProtocolError:
    """The error for bytes that are no message of the kind with this descriptor."""
    return ProtocolError(f"expected a message {kind.full_name}, found other bytes")


def bytes_field(number: int, size: int) -> bytes:
    """The beginning of a field of ``size`` bytes; its content follows."""
    return _varying(number << 3 | _BYTES) + _varying(size)


def _varying(value: int) -> bytes:
    """A number of varying length."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
