"""Loops in C, which the machine's compiler builds when they are needed."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory


def loaded(source: Path, *options: str) -> ctypes.CDLL | None:
    """The library of a file in C, built with these options; None if no C compiler builds it."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    with TemporaryDirectory() as folder:
        library = Path(folder) / "loop.so"
        # A GNU standard, because an ISO one keeps GCC from making one instruction of a product and a sum.
        command = [*compiler, "-std=gnu11", "-O2", *options, "-fPIC", "-shared", "-o", library, source]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return ctypes.CDLL(str(library))
