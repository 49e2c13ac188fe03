"""The weights of a ``.pt2`` file: where each tensor lies in the file, checked against the file's bytes.

The file has the raw bytes of each storage as a member, and describes tensors by extents, strides and an offset in it.
Pickled tensors and objects are refused: reading a pickle can run code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike
from onnx import TensorProto, helper

from streamrt.convert import limits
from streamrt.convert.exported.archive import Archive
from streamrt.convert.exported.program import ADVICE
from streamrt.convert.exported.schema import Fields, numbers
from streamrt.convert.onnx.data import SourceFiles
from streamrt.convert.weights import AnyArray, Weight
from streamrt.errors import FormatError
from streamrt.format.layout import MAX_DIMS

#: NumPy's types by the numbers that torch's schema has for types.
DTYPES: dict[int, DTypeLike] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float16,
    7: np.float32,
    8: np.float64,
    12: np.bool_,
    13: helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16),
}
#: The folder of parameters and buffers, and that of constants and buffers that are not saved with a module.
_FOLDERS = {"data/weights": "weights", "data/constants": "constants"}
_STRIDED = 7
#: The most elements of a tensor: the limit of `streamrt.ops.base`.
_MAX_ELEMENTS = 2**40
#: Tensors of fewer bytes than this are copied when they are read, so that their file can be unmapped.
_COPIED = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in the file: a number of `DTYPES`, extents, strides in elements, and its first byte in the file."""

    dtype: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def weight(self, path: Path, files: SourceFiles) -> Weight:
        """The tensor, to be read when it is needed."""
        dtype = np.dtype(DTYPES[self.dtype])
        if not math.prod(self.shape):
            return Weight.of(np.empty(self.shape, dtype))
        strides = tuple(stride * dtype.itemsize for stride in self.strides)

        def load() -> AnyArray:
            stored = np.dtype(np.uint8) if dtype.kind == "b" else dtype
            array: AnyArray = np.ndarray(self.shape, stored, memoryview(files.open(path)), self.offset, strides)
            if dtype.kind == "b":
                limits.current().check_memory(math.prod(self.shape))
                return np.not_equal(array, 0)  # NumPy expects no other bytes than 0 and 1
            return array.copy() if math.prod(self.shape) * dtype.itemsize < _COPIED else array

        return Weight(load, self.shape, dtype)


def read_tensors(archive: Archive, model: str, names: Sequence[str]) -> list[StoredTensor]:
    """Where the tensors of these names lie.

    Raises:
        FormatError: a tensor is missing, pickled, of another type, or not within its bytes.
    """
    entries: dict[str, tuple[str, object]] = {}
    for folder, kind in _FOLDERS.items():
        name = f"{folder}/{model}_{kind}_config.json"
        config = archive.json(name)
        if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
            raise archive.problem(f"the member {name!r:.80} has no object 'config'")
        for tensor, entry in config["config"].items():
            entries.setdefault(tensor, (folder, entry))
    members: dict[str, tuple[int, int]] = {}
    found = []
    for name in names:
        limits.current().check_time()
        if name not in entries:
            raise archive.problem(f"the weight {name!r:.80} is not in the file")
        folder, entry = entries[name]
        payload = Fields(entry, "payload", f"{archive.where}: weight {name!r:.80}")
        if payload.get("use_pickle") is not False:
            raise archive.problem(f"the weight {name!r:.80} is pickled, and reading a pickle can run code; {ADVICE}")
        member = f"{folder}/{payload.text('path_name')}"
        if member not in members:
            at = archive.member(member)
            members[member] = at.begin, at.end
        found.append(_stored(Fields(payload.get("tensor_meta"), "tensor", payload.where), *members[member]))
    return found


def _stored(tensor: Fields, begin: int, end: int) -> StoredTensor:
    """A tensor whose storage has the bytes from ``begin`` to ``end`` of the file."""
    code = tensor.count("dtype")
    if code not in DTYPES or tensor.get("layout") != _STRIDED:
        raise FormatError(
            f"{tensor.where} has type {code} and layout {tensor.get('layout')!r:.20}, expected a type of "
            f"{list(DTYPES)} and layout {_STRIDED}"
        )
    shape, strides = (numbers(tensor.list(key), tensor.where) for key in ("sizes", "strides"))
    (offset,) = numbers([tensor.get("storage_offset")], tensor.where)
    if len(shape) != len(strides) or len(shape) > MAX_DIMS or math.prod(shape) > _MAX_ELEMENTS:
        raise FormatError(f"{tensor.where} has shape {shape} and strides {strides}, expected up to 2**40 elements")
    size = np.dtype(DTYPES[code]).itemsize
    last = offset + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and (last + 1) * size > end - begin:
        raise FormatError(
            f"{tensor.where} reaches to byte {(last + 1) * size} of its storage, which has only {end - begin}"
        )
    return StoredTensor(code, shape, strides, begin + offset * size if math.prod(shape) else begin)
