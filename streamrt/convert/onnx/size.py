"""How many parts an ONNX model has, counted before anything is made of them.

A message without content takes two bytes of a file and some hundred of memory, and an extent three. So the parts of a
file are counted in its bytes (https://protobuf.dev/programming-guides/encoding), those of a model in memory by the
lengths of its lists, and held against the limits. Values of tensors are no parts: they are the model's own weights.
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
from streamrt.format.layout import MAX_RANK

_VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5
#: Bytes of memory that a message takes, parsed and looked at, by type, and of other types.
_MESSAGE_BYTES = {"NodeProto": 700, "GraphProto": 700, "ValueInfoProto": 700, "FunctionProto": 700, "TensorProto": 400}
_OTHER_BYTES = 250
#: Those of a number in a list, as an object of Python, and of a name beside its letters.
_NUMBER_BYTES, _TEXT_BYTES = 100, 100
#: Those that any field takes on the way to the parser.
_FIELD_BYTES = 64
#: Bytes that the parts of any model may take without counting.
_FREE = 4 << 20
#: Time is looked at each time that so many parts have been counted.
_OFTEN = 4096
#: Messages lie in each other no deeper: the parser of protobuf allows as many.
_MAX_DEPTH = 100
#: Values of tensors.
_VALUES = {
    ("TensorProto", name)
    for name in ("double_data", "float_data", "int32_data", "int64_data", "raw_data", "uint64_data")
}
#: Fields, by type of message, that packing does not need, and leaves out of a file: documentation, metadata, shapes
#: that were inferred, training.
UNUSED = {
    "ModelProto": frozenset((6, 14, 20, 26)),
    "GraphProto": frozenset((10, 13, 14, 16)),
    "NodeProto": frozenset((6, 9, 10)),
}
#: The field that is listed once for each axis.
_AXES = {"TensorProto": 1, "SparseTensorProto": 3, "TensorShapeProto": 1}


class Range(NamedTuple):
    """Bytes of the model's file."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """A type of message: its bytes, by number the fields that count, and the one that is listed once for each axis."""

    nbytes: int
    messages: dict[int, _Kind]
    texts: set[int]
    numbers: set[int]
    names: list[tuple[int, str, bool]]  # of these fields; whether it is a list
    axes: int | None


def check_rank(rank: int, where: str) -> None:
    """Raise `FormatError` if a tensor of the file has more axes than any may have."""
    if rank > MAX_RANK:
        raise FormatError(f"{where} has {rank} axes, expected no more than {MAX_RANK}")


def count_file(data: memoryview) -> None:
    """Hold the parts of a serialised model against the limits in force.

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
            raise ValueError(f"messages lie in each other more than {_MAX_DEPTH} deep")
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
            if axes > MAX_RANK:
                raise FormatError(f"a shape of the ONNX model has more than {MAX_RANK} axes")
    tally.hold()


def count_model(model: ModelProto) -> None:
    """Hold the parts of a model in memory against the limits in force.

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
            if number == kind.axes and len(values) > MAX_RANK:
                raise FormatError(f"a shape of the ONNX model has more than {MAX_RANK} axes")
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
    """Number, whole extent and extent of the value of each field of a message; number 0 for a scalar."""
    at, end = span.offset, span.offset + span.length
    while at < end:
        start = at
        tag = data[at]
        if tag < 0x80:  # as nearly all are
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
            raise ValueError(f"wire type {kind} at byte {start}")
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
    """Of a list without tags, at most: each number has at least one byte, and ends with the first below 128."""
    packed = np.frombuffer(data[span.offset : span.offset + span.length], np.uint8)
    return int(np.count_nonzero(packed < 0x80))


class _Tally:
    """Bytes of memory for parts; raises `LimitError` once they are too many, or counting takes too long."""

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
    """What counts of a type of message."""
    return _describe(message, {})


def _describe(message: Any, known: dict[str, _Kind]) -> _Kind:
    """The same, where ``known`` has the types that this one lies in: they may lie in each other."""
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
