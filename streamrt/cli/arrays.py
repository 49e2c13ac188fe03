"""Arrays in .npy and .npz files: the inputs and outputs of ``streamrt run``."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt.errors import InputError
from streamrt.format.files import Replacement
from streamrt.ops import Array
from streamrt.report.printable import printable


def load_arrays(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """The arrays of a file by name of the model's input; real numbers of other types are converted to float32.

    A .npy file, or a .npz file with a single array, serves a model with one input under any name.

    Args:
        path: a .npy or .npz file; objects in it are refused, not unpickled.
        names: the model's inputs.

    Raises:
        InputError: the file is none of the two, or its arrays are not numbers.
        OSError: it cannot be read.
    """
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                found = {name: loaded[name] for name in loaded.files}
        else:
            found = {names[0] if len(names) == 1 else "": loaded}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: expected a .npy or .npz file of numbers") from error
    if "" in found:
        raise InputError(f"{path}: one array, but the model has {len(names)} inputs ({_listed(names)}): pass a .npz")
    if len(found) == len(names) == 1:
        found = {names[0]: next(iter(found.values()))}
    return {name: _float32(array, f"{path}: {name!r}") for name, array in found.items()}


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a .npz file with every array under its name, or a .npy file with the only one; complete, or not at all.

    Raises:
        InputError: several arrays for a .npy file, or another ending.
        OSError: the file cannot be written.
    """
    check_output(path, list(arrays))
    with Replacement(os.fspath(path)) as replacement:
        with replacement.stream() as file:
            if path.suffix == ".npz":
                # Not as keywords of np.savez, where an output could be called "file".
                with zipfile.ZipFile(file, "w") as archive:
                    for name, array in arrays.items():
                        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                            np.lib.format.write_array(member, array, allow_pickle=False)
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
        raise InputError(f"{path}: expected a name that ends in .npy or .npz")
    if path.suffix == ".npy" and len(names) != 1:
        raise InputError(f"{path}: the model has {len(names)} outputs ({_listed(names)}): write a .npz file")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names))


def _float32(array: NDArray[Any], what: str) -> Array:
    if array.dtype.kind not in "biuf":
        raise InputError(f"{what}: expected real numbers, found {array.dtype}")
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite
        return np.asarray(array, dtype=np.float32)
