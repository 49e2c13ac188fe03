"""The kernels as a library of C functions: as they are, or changed. The machine's compiler builds it."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.layouts.blocks import Change, changed

_HERE = Path(__file__).parent
_SOURCES = _HERE.parents[1] / "src"
#: As setup.py compiles them.
FLAGS = (*("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-g0", "-w", "-pthread"),)
#: The parts of a file of kernels: see ``src/kernels/simd/bodies.h``.
_PARTS = 4
_FLOATS = ctypes.POINTER(ctypes.c_float)


class Layer(ctypes.Structure):
    """A layer: see ``entry.c``."""

    _fields_ = (
        *((name, _FLOATS) for name in ("x", "w", "bias", "y", "scratch", "block")),
        *((name, ctypes.c_int64) for name in ("n", "channels", "outputs", "size", "kernel", "stride", "winograd")),
        *((name, ctypes.c_int64) for name in ("seats", "seat", "room", "copies", "apart")),
    )


def build(folder: Path, changes: tuple[Change, ...] = ()) -> ctypes.CDLL:
    """Compile the kernels with these changes in an empty ``folder``.

    Raises:
        ValueError: a change does not fit the sources.
        OSError, subprocess.CalledProcessError: there is no compiler, or it fails.
    """
    write(folder, changes)
    sources = sorted(folder.rglob("*.c"), key=lambda path: (path.parent.name != "simd", path))
    units = [(path, part) for path in sources for part in (range(_PARTS) if path.parent.name == "simd" else (None,))]

    def compiled(unit: tuple[Path, int | None]) -> Path:
        path, part = unit
        out = path.with_suffix(f".{part}.o")
        macros = () if part is None else (f"-DPART={part}",)
        _run([*compiler(), *FLAGS, *macros, f"-I{folder}", "-c", "-o", str(out), str(path)])
        return out

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        objects = list(threads.map(compiled, units))
    library = folder / "kernels.so"
    _run([*compiler(), "-shared", "-pthread", "-o", str(library), *map(str, objects), "-lm"])
    return _loaded(library)


def write(folder: Path, changes: tuple[Change, ...]) -> None:
    """Write the sources with these changes.

    Raises:
        ValueError: a change does not fit the sources.
    """
    shutil.copytree(_SOURCES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("bind", "io", "_core.*"))
    shutil.copy(_HERE / "entry.c", folder)
    for header in _HERE.glob("*.h"):
        shutil.copy(header, folder / "kernels" / "simd")
    for file in {change.file for change in changes}:
        path = folder / "kernels" / file
        path.write_text(changed(file, path.read_text(), changes))


def compiler() -> list[str]:
    """The command of the machine's compiler."""
    return shlex.split(os.environ.get("CC") or "cc")


def _run(command: Iterable[str]) -> None:
    subprocess.run(list(command), check=True, capture_output=True, text=True)


def _loaded(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    layer = ctypes.POINTER(Layer)
    library.bench_use.argtypes = (ctypes.c_char_p, ctypes.c_int64)
    library.bench_dense_most.argtypes = (ctypes.c_int64,)
    library.bench_winograd_seat.argtypes = library.bench_conv_sums.argtypes = (layer,)
    library.bench_run.argtypes = (layer, ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(ctypes.c_double))
    library.bench_run.restype = None
    for function in (library.bench_use, library.bench_dense_most, library.bench_winograd_seat, library.bench_conv_sums):
        function.restype = ctypes.c_int64
    return library
