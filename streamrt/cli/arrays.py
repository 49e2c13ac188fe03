"""Arrays in .npy and .npz files: the inputs and outputs of ``streamrt run``."""

from __future__ import annotations

import errno
import math
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from streamrt.engine.foreign import Index, Readable
from streamrt.engine.inputs import Given, check_shapes, describe
from streamrt.errors import InputError, printable
from streamrt.format.files import Replacement
from streamrt.graph import TensorSpec
from streamrt.ops import Shape


class _Converted:
    """An array that is read in another floating-point type, so that what is mapped is never converted as a whole."""

    def __init__(self, array: Given, dtype: np.dtype[Any]) -> None:
        self._array, self.shape, self.dtype = array, array.shape, dtype

    def __getitem__(self, index: Index) -> Given:
        return _as_float(self._array[index], self.dtype)


def load_arrays(path: Path, specs: Sequence[TensorSpec], *, by_rows: bool = False) -> dict[str, Given | Readable]:
    """The arrays of a file, in the types of the model's inputs, by their names.

    If the model has one input, the file may be a .npy file, or a .npz file with one array of any name. A .npy file is
    mapped.

    Args:
        path: a .npy or .npz file of real numbers. Python objects are refused: nothing is unpickled.
        specs: the model's inputs. Floating-point inputs take any numbers, integers only integers that fit.
        by_rows: convert mapped numbers to floating-point numbers when they are read, again for each call.

    Raises:
        InputError: the file has another format, or its arrays are not real numbers, or do not fit the input's type. Or
            the names or shapes in a .npz file are not those of inputs.
        OSError: the file cannot be read.
    """
    names = [spec.name for spec in specs]
    types = {spec.name: np.dtype(spec.dtype) for spec in specs}
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                found = _unpacked(loaded, specs)
        else:
            found = {names[0] if len(names) == 1 else "": loaded}
    except InputError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path}: expected a .npy or .npz file of numbers, as numpy.save or numpy.savez writes it"
        ) from error
    if "" in found:
        raise InputError(
            f"{path}: found one array, but the model has {len(names)} inputs ({_listed(names)}): "
            "pass a .npz file with one array for each"
        )
    return {name: _as_type(array, types[name], f"{path}: {name!r}", by_rows) for name, array in found.items()}


def _unpacked(file: np.lib.npyio.NpzFile, specs: Sequence[TensorSpec]) -> dict[str, Given]:
    """The arrays of a .npz file, by the names of inputs.

    Names and shapes are checked before an array is read, because an array may be a thousand times as large as its file.

    Raises:
        InputError: a name or a shape is not that of an input.
        ValueError: a member is no array, or is shorter than its array.
    """
    archive = file.zip
    assert archive is not None  # as it would be in a closed file
    only = specs[0].name if len(specs) == len(file.files) == 1 else None
    members = {only or name: name for name in file.files}
    shapes = {name: _declared_shape(archive, member) for name, member in members.items()}
    if unknown := shapes.keys() - {spec.name for spec in specs}:
        raise InputError(f"no input is named {sorted(unknown)[:5]}; the model has {describe(specs)}")
    check_shapes(shapes, [spec for spec in specs if spec.name in shapes])
    return {name: file[member] for name, member in members.items()}


def _declared_shape(archive: zipfile.ZipFile, name: str) -> Shape:
    """The shape that a member of a .npz file declares."""
    member = archive.getinfo(name if name in archive.namelist() else f"{name}.npy")
    with archive.open(member) as stream:
        plain = np.lib.format.read_magic(stream) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if plain else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    if math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"{name!r} has {member.file_size} bytes, expected an array of {shape}")
    return shape


def save_arrays(path: Path, arrays: Mapping[str, Given]) -> None:
    """Write a .npz file with every array under its name, or a .npy file with the only array.

    The file appears when it is complete.

    Raises:
        InputError: several arrays for a .npy file, or another ending.
        OSError: the file cannot be written.
    """
    check_output(path, list(arrays))
    with Replacement(os.fspath(path)) as replacement:
        with replacement.stream() as file:
            if path.suffix == ".npz":
                _write_npz(file, arrays)
            else:
                np.save(file, next(iter(arrays.values())), allow_pickle=False)
        replacement.commit()


def check_output(path: Path, names: Sequence[str]) -> None:
    """Check, before any work is done, that `save_arrays` can write arrays of these names to ``path``.

    Raises:
        InputError: several arrays for a .npy file, or another ending.
        OSError: the folder does not exist.
    """
    if path.suffix not in (".npy", ".npz"):
        raise InputError(f"{path}: expected the name of a file that ends in .npy or .npz")
    if path.suffix == ".npy" and len(names) != 1:
        raise InputError(
            f"{path}: a .npy file has one array, but the model has {len(names)} outputs ({_listed(names)}): "
            "write a .npz file"
        )
    check_folder(path)


def check_folder(path: Path) -> None:
    """Check, before any work is done, that a file can be written at ``path``.

    Raises:
        OSError: its folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"the folder {str(path.parent)!r} does not exist", str(path))


def _write_npz(file: IO[bytes], arrays: Mapping[str, Given]) -> None:
    """Write a .npz file. `np.savez` takes names as keywords, and would take an output named "file" for its argument."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names))


def _as_float(array: Given, dtype: np.dtype[Any]) -> Given:
    with np.errstate(over="ignore"):  # numbers that are too large for the type become infinite
        return np.asarray(array, dtype)


def _as_type(array: Given, dtype: np.dtype[Any], what: str, by_rows: bool) -> Given | Readable:
    if array.dtype.kind not in "biuf":
        raise InputError(f"{what}: expected real numbers, found {array.dtype}")
    if dtype.kind == "f":
        later = by_rows and isinstance(array, np.memmap) and array.dtype != dtype
        return _Converted(array, dtype) if later else _as_float(array, dtype)
    if array.dtype.kind not in ("b" if dtype.kind == "b" else "biu"):
        raise InputError(f"{what}: the model's input is {dtype}, found {array.dtype}")
    if dtype.kind != "b" and array.dtype.kind != "b" and array.size:
        limits = np.iinfo(dtype)
        least, most = int(array.min()), int(array.max())
        if least < limits.min or most > limits.max:
            raise InputError(
                f"{what}: the model's input is {dtype}, from {limits.min} to {limits.max}; found {least} to {most}"
            )
    return np.asarray(array, dtype)
