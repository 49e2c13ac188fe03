"""Checks of the options that `Model`, pools and other faces take."""

from __future__ import annotations

from streamrt.errors import InputError
from streamrt.host.threads import check_threads


def check_options(threads: object, io: object, verify: object) -> None:
    """Raise `InputError` unless these are values that `Model` takes."""
    check_threads(threads)
    if io not in ("auto", "mmap", "pread"):
        raise InputError(f"io: expected 'auto', 'mmap' or 'pread', found {io!r:.40}")
    if verify not in (None, "open", "read"):
        raise InputError(f"verify: expected 'open', 'read' or None, found {verify!r:.40}")
