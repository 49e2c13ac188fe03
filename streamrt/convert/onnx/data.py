"""Where the values of ONNX tensors lie, and how they are read one at a time.

They lie in the model's file, in a file beside it (external data), or in a message in memory. The protobuf parser would
hold a whole file in memory. So `load_skeleton` reads the wire format in a mapping of the file. It parses everything
except the ``raw_data`` of large tensors, and returns where that lies.

The file and the files that it names are treated as hostile. External data must be a regular file inside the model's
folder, and every range is checked against the size of its file. The compiled core maps a few files at once. If a mapped
file is cut short, the process survives.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from streamrt._core import Mapping
from streamrt.convert import limits
from streamrt.convert.onnx.infer import first_line
from streamrt.convert.onnx.size import BYTES, UNUSED, Range, check_rank, count_file, fields
from streamrt.convert.weights import AnyArray, Weight, forget_mapped
from streamrt.errors import FormatError, WeightsIOError, printable
from streamrt.format import FileIdentity

#: A tensor with at least 64 KiB of ``raw_data`` is large. Its values are left in the file instead of being parsed.
_LARGE = 64 << 10
#: The most elements of a tensor: the limit of `streamrt.ops.base`.
_MAX_ELEMENTS = 2**40
#: The most files that are mapped at once: each takes a file descriptor, of which a process may have few.
_MAX_OPEN = 16
#: Tensors of fewer bytes than this are copied when they are read, so that their file can be unmapped.
_COPIED = 1 << 20


# Field numbers of onnx.proto: the path to each tensor, and its values.
_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_GRAPH_INITIALIZER = 5
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR = 5
_TENSOR_RAW_DATA = 9


class Skeleton(NamedTuple):
    """A model without its large tensors, and where the file has them.

    ``initializers`` is keyed by index in ``graph.initializer``, ``attributes`` by index of the node and of its
    attribute.
    """

    model: onnx.ModelProto
    initializers: dict[int, Range]
    attributes: dict[tuple[int, int], Range]


def load_skeleton(path: Path, files: SourceFiles) -> Skeleton:
    """Parse an ONNX file without the values of its large tensors.

    Raises:
        FormatError: not an ONNX file, or a file of more parts than the limits allow.
        WeightsIOError: it cannot be read.
    """
    try:
        data = memoryview(files.open(path))
    except FormatError as error:  # an empty file
        raise FormatError(f"{path} is not an ONNX file: {error}") from error
    walk = _Walk(data)
    try:
        count_file(data)
        model = onnx.ModelProto.FromString(walk.model(Range(0, len(data))))
    except FormatError:
        files.check()
        raise
    except Exception as error:  # a broken wire format, or protobuf's own kind of error
        files.check()
        reason = "it is a safetensors file" if _is_safetensors(data) else first_line(error)
        raise FormatError(f"{path} is not an ONNX file: {reason}") from error
    files.check()
    return Skeleton(model, walk.initializers, walk.attributes)


def _is_safetensors(data: memoryview) -> bool:
    """Whether a file that cannot be parsed begins as a safetensors file: a header's length and its opening brace."""
    return len(data) > 8 and int.from_bytes(data[:8], "little") <= len(data) - 8 and data[8] == ord("{")


def check_texts(model: onnx.ModelProto) -> None:
    """Raise `FormatError` unless all names in a model are text. Protobuf returns names that are not text as bytes."""
    if any(not isinstance(text, str) for text in _texts(model)):
        raise FormatError("the ONNX model has a name that is not UTF-8 text")


def check_attributes(nodes: Iterable[NodeProto]) -> None:
    """Raise `FormatError` if an attribute, also in a subgraph, is a tensor with external data.

    The ``onnx`` package would open that file unchecked. Only the value of a ``Constant`` may have external data,
    because `TensorReader` reads it.
    """
    pending = list(nodes)
    while pending:
        node = pending.pop()
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                pending += graph.node
            sparse = (attribute.sparse_tensor, *attribute.sparse_tensors)
            tensors = [*attribute.tensors, *(part for each in sparse for part in (each.values, each.indices))]
            if node.op_type != "Constant" or attribute.name != "value":
                tensors.append(attribute.t)
            if any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors):
                raise FormatError(
                    f"node {node.name or next(iter(node.output), '')!r} ({node.op_type}): the tensor of attribute "
                    f"{attribute.name!r} has external data, expected its values in the model's file"
                )


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    graph = model.graph
    yield from (entry.domain for entry in model.opset_import)
    yield from _texts_of_nodes(graph.node)
    for function in model.functions:
        yield from (function.name, function.domain, function.overload, *function.input, *function.output)
        yield from (*function.attribute, *(entry.domain for entry in function.opset_import))
        yield from _texts_of_nodes(function.node)
    for tensor in graph.initializer:
        yield from _texts_of_tensor(tensor)
    for value in (*graph.input, *graph.output):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)


def _texts_of_nodes(nodes: Iterable[NodeProto]) -> Iterator[object]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, node.overload, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name)
            yield from _texts_of_tensor(attribute.t)


def _texts_of_tensor(tensor: TensorProto) -> Iterator[object]:
    yield tensor.name
    for entry in tensor.external_data:
        yield from (entry.key, entry.value)


class _Walk:
    """Copies a serialised model field by field, without large ``raw_data`` and fields that packing does not need."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._nodes = 0
        self._tensors = 0
        self.initializers: dict[int, Range] = {}
        self.attributes: dict[tuple[int, int], Range] = {}

    def model(self, span: Range) -> bytes:
        out = []
        for number, field, value in fields(self._data, span):
            if number in UNUSED["ModelProto"]:
                continue
            out.append(_message(number, self._graph(value)) if number == _MODEL_GRAPH else self._copy(field))
        return b"".join(out)

    def _graph(self, span: Range) -> bytes:
        out = []
        for number, field, value in fields(self._data, span):
            if number == _GRAPH_INITIALIZER:
                wire, left_out = self._tensor(value)
                if left_out:
                    self.initializers[self._tensors] = left_out
                self._tensors += 1
                out.append(_message(number, wire))
            elif number == _GRAPH_NODE:
                out.append(_message(number, self._node(value)))
                self._nodes += 1
            elif number not in UNUSED["GraphProto"]:
                out.append(self._copy(field))
        return b"".join(out)

    def _node(self, span: Range) -> bytes:
        out = []
        attribute = 0
        for number, field, value in fields(self._data, span):
            if number == _NODE_ATTRIBUTE:
                large = value.length >= _LARGE
                out.append(_message(number, self._attribute(value, attribute)) if large else self._copy(field))
                attribute += 1
            elif number not in UNUSED["NodeProto"]:
                out.append(self._copy(field))
        return b"".join(out)

    def _attribute(self, span: Range, index: int) -> bytes:
        out = []
        for number, field, value in fields(self._data, span):
            if number == _ATTRIBUTE_TENSOR:
                wire, left_out = self._tensor(value)
                if left_out:
                    self.attributes[self._nodes, index] = left_out
                out.append(_message(number, wire))
            else:
                out.append(self._copy(field))
        return b"".join(out)

    def _tensor(self, span: Range) -> tuple[bytes, Range | None]:
        out = []
        left_out = None
        for number, field, value in fields(self._data, span):
            if number == _TENSOR_RAW_DATA and value.length >= _LARGE:
                left_out = value
            else:
                out.append(self._copy(field))
        return b"".join(out), left_out

    def _copy(self, span: Range) -> bytes:
        return bytes(self._data[span.offset : span.offset + span.length])


def _message(number: int, wire: bytes) -> bytes:
    head = bytearray()
    for value in (number << 3 | BYTES, len(wire)):
        while value >= 0x80:
            head.append(value & 0x7F | 0x80)
            value >>= 7
        head.append(value)
    return bytes(head) + wire


class SourceFiles:
    """The files of a model. At most `_MAX_OPEN` are mapped at once. `close` closes them."""

    def __init__(self) -> None:
        self._mappings: dict[str, Mapping] = {}  # by path, the one used last at the end
        self._identities: dict[str, FileIdentity] = {}  # by path, as first opened

    def open(self, path: Path) -> Mapping:
        """The mapping of a regular file. It is unmapped when further files are opened, once no array is a view of it.

        Raises:
            FormatError: it is not a regular file, or empty, or ``path`` is not a valid path.
            WeightsIOError: it cannot be opened, or has changed since it was first opened.
        """
        name = _real(path)
        mapping = self._mappings.pop(name, None)
        if mapping is None:
            _check_regular(name, path)
            if len(self._mappings) >= _MAX_OPEN:
                oldest = self._mappings.pop(next(iter(self._mappings)))
                oldest.check()
                oldest.retire()
            mapping = Mapping(name)
            identity = FileIdentity(*mapping.identity)
            if self._identities.setdefault(name, identity) != identity:
                mapping.close()
                raise _changed(path)
            mapping.read_ahead()
        self._mappings[name] = mapping
        return mapping

    def check(self) -> None:
        """Raise `WeightsIOError` if a file has changed since it was first opened."""
        for name, identity in self._identities.items():
            mapping = self._mappings.get(name)
            if mapping is not None:
                mapping.check()
            elif not identity.is_at(name):
                raise _changed(Path(name))

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(identity.size for identity in self._identities.values())

    def close(self) -> None:
        """Unmap all files, each once no array is a view of it."""
        for mapping in self._mappings.values():
            mapping.retire()
        self._mappings.clear()


def _real(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except ValueError as error:  # a null character, or text that a path cannot have
        raise FormatError(f"{str(path)!r:.200} is no path: {error}") from error


def _check_regular(name: str, path: Path) -> None:
    try:
        status = Path(name).stat()
    except OSError as error:
        raise WeightsIOError(f"cannot open {_shown(path)}: {error.strerror}") from error
    except ValueError as error:
        raise FormatError(f"{str(path)!r:.200} is no path: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{_shown(path)} is not a regular file")
    if not status.st_size:
        raise FormatError(f"{_shown(path)} is empty")


def _shown(path: Path) -> str:
    """A path for an error's text: shortened and printable, since it may come from a hostile file."""
    text = printable(str(path))
    return text if len(text) <= 300 else f"{text[:300]}..."


def _changed(path: Path) -> WeightsIOError:
    return WeightsIOError(f"{_shown(path)} has changed since it was opened: pack it again")


class TensorReader:
    """Makes a `Weight` of a `TensorProto`, wherever its values are.

    Args:
        path: the model's file; None for a model in memory, which can have no external data.
        files: opens the files.
    """

    def __init__(self, path: Path | None, files: SourceFiles) -> None:
        self._path = path
        self._files = files

    def weight(self, tensor: TensorProto, left_out: Range | None = None) -> Weight:
        """The weight. ``left_out`` is the range of the model's file with values that were not parsed.

        Raises:
            FormatError: an unknown type, a wrong shape, or a range that is not in its file.
            WeightsIOError: the file cannot be opened.
        """
        check_rank(len(tensor.dims), f"tensor {tensor.name!r}")
        shape = tuple(tensor.dims)
        if any(dim < 0 for dim in shape) or math.prod(shape) > _MAX_ELEMENTS:
            raise FormatError(f"tensor {tensor.name!r} has shape {shape}, expected 0 to 2**40 elements")
        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        except (KeyError, TypeError, ValueError):
            raise FormatError(f"tensor {tensor.name!r} has an unknown data type {tensor.data_type}") from None
        if tensor.data_location == TensorProto.EXTERNAL:
            return self._external(tensor, shape, dtype)
        if left_out is not None:
            assert self._path is not None
            return self._mapped(
                self._path, tensor.name, left_out.offset, left_out.length, shape, dtype, _sub_byte(tensor)
            )
        array = to_array(tensor)  # now, so that a broken tensor is found before the file is written
        return Weight.of(array) if array.nbytes < _LARGE else Weight(lambda: to_array(tensor), shape, dtype)

    def _external(self, tensor: TensorProto, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Weight:
        where = f"tensor {tensor.name!r}"
        if self._path is None:
            raise FormatError(f"{where} has external data, but the model did not come from a file: pass its path")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = _inside(self._path.parent, entries.get("location", ""), where)
        offset = _count(entries.get("offset", "0"), f"{where}: offset")
        expected = math.prod(shape) * dtype.itemsize
        length = _count(entries["length"], f"{where}: length") if "length" in entries else expected
        return self._mapped(path, tensor.name, offset, length, shape, dtype, _sub_byte(tensor))

    def _mapped(
        self,
        path: Path,
        name: str,
        offset: int,
        length: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        packed: bool,
    ) -> Weight:
        """A weight in bytes ``offset`` to ``offset + length`` of a file, little-endian and row-major."""
        expected = math.prod(shape) * dtype.itemsize
        if dtype.name in ("int4", "uint4"):
            return self._of_4_bits(path, name, offset, length, shape, dtype)
        if packed or length != expected:
            raise FormatError(f"tensor {name!r}: {length} bytes of {dtype} for shape {shape}, expected {expected}")
        little = dtype.newbyteorder("<") if dtype.kind in "fiuc" else dtype
        if not length:
            return Weight.of(np.empty(shape, little))
        size = self._opened(path, name).size
        if offset + length > size:
            raise FormatError(
                f"tensor {name!r}: bytes {offset} to {offset + length} of {_shown(path)}, which has only {size}"
            )

        def load() -> AnyArray:
            array: AnyArray = np.ndarray(shape, little, memoryview(self._opened(path, name)), offset)
            return array.copy() if array.nbytes < _COPIED else array

        return Weight(load, shape, little)

    def _of_4_bits(
        self, path: Path, name: str, offset: int, length: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Weight:
        """As `_mapped`, for integers of 4 bits: two in a byte, the first in the lower half."""
        size = math.prod(shape)
        if length != (size + 1) // 2:
            raise FormatError(
                f"tensor {name!r}: {length} bytes of {dtype} for shape {shape}, expected {(size + 1) // 2}"
            )
        stored = self._mapped(path, name, offset, length, (length,), np.dtype(np.uint8), False)

        def load() -> AnyArray:
            with limits.current().computing():
                limits.current().check_memory(3 * size)
                limits.current().check_time()
                halves = stored.load()
                values = unpacked(halves)[:size].reshape(shape)
                forget_mapped(halves)
                if dtype.name == "int4":
                    values = (values ^ 8).astype(np.int8) - np.int8(8)
                return values.astype(dtype)

        return Weight(load, shape, dtype, computed=True, depth=1)

    def _opened(self, path: Path, name: str) -> Mapping:
        try:
            return self._files.open(path)
        except FormatError as error:
            raise FormatError(f"tensor {name!r}: {error}") from error
        except WeightsIOError as error:
            raise WeightsIOError(f"tensor {name!r}: {error}") from error


def unpacked(stored: AnyArray) -> AnyArray:
    """Integers of 4 bits, two in a byte of ``stored`` along its last axis, the first in the lower half; uint8."""
    out = np.empty((*stored.shape, 2), np.uint8)
    np.bitwise_and(stored, 15, out=out[..., 0])
    np.right_shift(stored, 4, out=out[..., 1])
    return out.reshape(*stored.shape[:-1], -1)


def _sub_byte(tensor: TensorProto) -> bool:
    return tensor.data_type in (
        getattr(TensorProto, name, -1) for name in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2", "STRING")
    )


def to_array(tensor: TensorProto) -> AnyArray:
    """The values of a tensor in memory; `FormatError` if they are missing or do not fit its type and shape."""
    if tensor.data_location == TensorProto.EXTERNAL:  # the onnx package would read any file
        raise FormatError(f"tensor {tensor.name!r} has external data, expected its values in the model's file")
    check_rank(len(tensor.dims), f"tensor {tensor.name!r}")
    try:
        return onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # the package raises several unrelated types
        raise FormatError(f"tensor {tensor.name!r}: {first_line(error)}") from error


def _inside(folder: Path, location: str, where: str) -> Path:
    """The file at ``location``; `FormatError` if it is not inside ``folder``, by its path and after following links."""
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or Path(location).is_absolute() or ".." in parts:
        raise FormatError(f"{where}: external data at {location!r:.200}, expected a path inside the model's folder")
    root = Path(_real(folder))
    try:
        path = Path(_real(root / location))
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error
    if not path.is_relative_to(root):
        raise FormatError(f"{where}: external data at {location!r:.200} leads out of the model's folder by a link")
    return path


def _count(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise FormatError(f"{what} is {text!r:.80}, expected a number")
    return int(text)


def type_name(code: int) -> str:
    """The name of a `TensorProto.DataType`, or its number if it has none."""
    return str(TensorProto.DataType.Name(code)) if code in TensorProto.DataType.values() else str(code)
