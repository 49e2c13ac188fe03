"""Finds the weights file, and opens it with the memory that the function has."""

from __future__ import annotations

import os
from pathlib import Path

import copying
import room

import streamrt


def open_model() -> streamrt.Model:
    """The model at ``STREAMRT_MODEL``: a file of the image, of a mounted file system, or of ``/tmp``.

    With ``STREAMRT_MODEL_FROM`` the file is first copied from there, unless an earlier process has done so. Weights
    that do not fit in memory are read again by every call, which a local disk does faster than a network.

    Raises:
        streamrt.WeightsIOError: there is no such file, or it cannot be read.
        streamrt.FormatError: it is not a weights file.
        OSError: it cannot be copied.
    """
    path = Path(os.environ.get("STREAMRT_MODEL") or Path(__file__).with_name("model.safetensors"))
    source = os.environ.get("STREAMRT_MODEL_FROM")
    if source and not path.exists():
        copying.copy(Path(source), path)
    return streamrt.Model(path, room.budget())
