"""Counts the parts of an ONNX model before it is parsed, and compares the memory that they take with the limits.

A message without content takes two bytes of a file and hundreds of bytes of memory; an extent takes three bytes of the
file. The parts of a file are counted in its bytes (https://protobuf.dev/programming-guides/encoding). The parts of a
model in memory are counted by the lengths of its lists. Values of tensors do not count: they are the model's own
weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto

from streamrt.convert import limits
from streamrt.errors import FormatError
from streamrt.format.layout import MAX_DIMS

#: Wire types of protobuf: how the value of a field is encoded.
_VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5
#: Bytes of memory of a parsed message with the objects for reading it, by type.
_MESSAGE_BYTES = {"NodeProto": 700, "GraphProto": 700, "ValueInfoProto": 700, "FunctionProto": 700, "TensorProto": 400}
#: Bytes of memory of a parsed message of any other type.
_OTHER_BYTES = 250
#: Bytes of memory that a number in a list takes, as an object of Python.
_NUMBER_BYTES = 100
#: Bytes of memory that a name takes, beside its characters.
_TEXT_BYTES = 100
#: Bytes of memory that a field takes while it is copied for the parser.
_FIELD_BYTES = 64
#: Bytes of parts that do not count: every model may have as many.
_FREE = 4 << 20
#: Parts between two comparisons of the time with the limit: few enough to stop in time, many enough to cost nothing.
_OFTEN = 4096
#: The most messages that are nested: the limit of protobuf's parser.
_MAX_DEPTH = 100
#: Fields with the values of tensors, which do not count as parts.
_VALUES = {
    ("TensorProto", name)
    for name in ("double_data", "float_data", "int32_data", "int64_data", "raw_data", "uint64_data")
}
#: Numbers of the fields that packing does not need and does not parse, by type of message: documentation, metadata,
#: inferred shapes, training.
UNUSED = {
    "ModelProto": frozenset((6, 14, 20, 26)),
    "GraphProto": frozenset((10, 13, 14, 16)),
    "NodeProto": frozenset((6, 9, 10)),
}
#: The number of the field that a message has once for each axis.
_AXES = {"TensorProto": 1, "SparseTensorProto": 3, "TensorShapeProto": 1}


class Range(NamedTuple):
    """Bytes of the model's file."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """A type of message: its bytes of memory, the fields that count, by their number, and the field of `_AXES`."""

    nbytes: int
    messages: dict[int, _Kind]
    texts: set[int]
    numbers: set[int]
    names: list[tuple[int, str, bool]]  # number and name of these fields, and whether it is a list
    axes: int | None


def check_rank(rank: int, where: str) -> None:
    """Raise `FormatError` if a tensor of the file has too many axes."""
    if rank > MAX_DIMS:
        raise FormatError(f"{where} has {rank} axes, expected no more than {MAX_DIMS}")


def count_file(data: memoryview) -> None:
    """Compare the memory for the parts of a serialised model with the limits in force.

    Raises:
        ValueError: a broken wire format.
        FormatError: a shape has too many axes.
        LimitError: too many parts.
    """
    tally = _Tally()
    pending = [(Range(0, len(data)), _kind(ModelProto.DESCRIPTOR), 0)]
    while pending:
        span, kind, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(f"messages are nested more than {_MAX_DEPTH} deep")
        axes = 0
        for number, whole, value in fields(data, span):
            if number in kind.messages:
                tally.add(_FIELD_BYTES + kind.messages[number].nbytes)
                axes += number == kind.axes
                if value.length:
                    pending.append((value, kind.messages[number], depth + 1))
            elif number in kind.texts:
                tally.add(_FIELD_BYTES + _TEXT_BYTES + 2 * value.length)
            elif number in kind.numbers:
                count = _numbers(data, value)
                tally.add(_FIELD_BYTES + _NUMBER_BYTES * count)
                axes += count * (number == kind.axes)
            elif not number and kind.numbers and (scalar := _number(data, whole)) in kind.numbers:
                tally.add(_FIELD_BYTES + _NUMBER_BYTES)
                axes += scalar == kind.axes
            else:
                tally.add(_FIELD_BYTES)
            if axes > MAX_DIMS:
                raise FormatError(f"a shape of the ONNX model has more than {MAX_DIMS} axes")
    tally.hold()


def count_model(model: ModelProto) -> None:
    """Compare the memory for the parts of a model in memory with the limits in force.

    Raises:
        FormatError: a shape has too many axes.
        LimitError: too many parts.
    """
    tally = _Tally()
    pending: list[Any] = [model]
    while pending:
        message = pending.pop()
        kind = _kind(message.DESCRIPTOR)
        for number, name, is_list in kind.names:
            if is_list:
                values = getattr(message, name)
            elif message.HasField(name):
                values = [getattr(message, name)]
            else:
                continue
            if not values:
                continue
            if number == kind.axes and len(values) > MAX_DIMS:
                raise FormatError(f"a shape of the ONNX model has more than {MAX_DIMS} axes")
            if number in kind.numbers:
                tally.add(_NUMBER_BYTES * len(values))
            elif number in kind.texts:
                tally.add(_TEXT_BYTES * len(values))
                tally.add(2 * sum(map(len, values)))
            else:
                tally.add(kind.messages[number].nbytes * len(values))
                pending += values
    tally.hold()


def fields(data: memoryview, span: Range) -> Iterator[tuple[int, Range, Range]]:
    """For each field of a message its number, its range and the range of its value; the number is 0 for a scalar."""
    at, end = span.offset, span.offset + span.length
    while at < end:
        start = at
        tag = data[at]
        if tag < 0x80:  # a tag of one byte; nearly all tags are
            at += 1
        else:
            tag, at = _varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        value = at
        if kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == BYTES:
            if at < end and data[at] < 0x80:
                length, value = data[at], at + 1
            else:
                length, value = _varint(data, at, end)
            at = value + length
        else:
            raise ValueError(f"unknown wire type {kind} at byte {start}, expected 0, 1, 2 or 5")
        if at > end:
            raise ValueError(f"a field at byte {start} reaches past the end of its message")
        yield number if kind == BYTES else 0, Range(start, at - start), Range(value, at - value)


def _number(data: memoryview, whole: Range) -> int:
    """The number of a scalar field."""
    return _varint(data, whole.offset, whole.offset + whole.length)[0] >> 3


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a broken number at byte {at}")


def _numbers(data: memoryview, span: Range) -> int:
    """The most numbers in a packed list: each number ends with its first byte below 128."""
    packed = np.frombuffer(data[span.offset : span.offset + span.length], np.uint8)
    return int(np.count_nonzero(packed < 0x80))


class _Tally:
    """Adds up bytes of memory for parts; raises `LimitError` if they are too many, or counting takes too long."""

    def __init__(self) -> None:
        self._nbytes = 0
        self._steps = 0

    def add(self, nbytes: int) -> None:
        self._nbytes += nbytes
        self._steps += 1
        if self._steps % _OFTEN == 0:
            limits.current().check_time()
        if self._nbytes > _FREE:
            with limits.current().at("the nodes, lists and names of the ONNX model"):
                limits.current().check_memory(self._nbytes - _FREE)

    def hold(self) -> None:
        limits.current().hold(max(0, self._nbytes - _FREE))


@cache
def _kind(message: Any) -> _Kind:
    """The `_Kind` of a type of message."""
    return _describe(message, {})


def _describe(message: Any, known: dict[str, _Kind]) -> _Kind:
    """As `_kind`; ``known`` has the types that contain this one, since types may contain each other."""
    if message.name in known:
        return known[message.name]
    kind = known[message.name] = _Kind(
        _MESSAGE_BYTES.get(message.name, _OTHER_BYTES), {}, set(), set(), [], _AXES.get(message.name)
    )
    for field in message.fields:
        if field.number in UNUSED.get(message.name, ()) or (message.name, field.name) in _VALUES:
            continue
        if field.message_type is not None:
            kind.messages[field.number] = _describe(field.message_type, known)
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            kind.texts.add(field.number)
        elif _is_list(field):
            kind.numbers.add(field.number)
        else:
            continue
        kind.names.append((field.number, field.name, _is_list(field)))
    return kind


def _is_list(field: Any) -> bool:
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)
