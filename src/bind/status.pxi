"""The exception for a status of the C core."""

import errno as _errno
import os as _os

from streamrt.errors import ModelClosedError, WeightsIOError


cdef object status_error(srt_status status, int error, str path, str subject):
    """The exception for a status other than ``SRT_OK``. Its text begins with ``subject``: the action and its object.

    ``error`` is the value of errno right after the C function returned.
    """
    if status == SRT_SYSTEM:
        return WeightsIOError(error, f"{subject}: {_os.strerror(error)}", path)
    if status == SRT_TRUNCATED:
        return WeightsIOError(_errno.EIO, f"{subject}: the file is truncated", path)
    if status == SRT_CHANGED:
        return WeightsIOError(_errno.ESTALE, f"{subject}: the file was modified while it was open", path)
    if status == SRT_STOPPED:
        return ModelClosedError(f"{subject}: {path} was closed")
    if status == SRT_FORKED:
        return ModelClosedError(
            f"{subject}: {path} was opened before a fork, and a child cannot stream it: open it again in the child"
        )
    if status == SRT_NO_MEMORY:
        return MemoryError(f"{subject}: no memory for the tables of {path}")
    if status == SRT_WINDOW_FULL:
        return RuntimeError(
            f"{subject}: the items that are not done fill the window, so that it can never be read: "
            f"call done for them, or use a larger window"
        )
    if status == SRT_MISUSE:
        return ValueError(subject)
    return AssertionError(f"{subject}: unexpected status {<int>status}")
