"""Turns a status of the C core into an exception."""

import errno as _errno
import os as _os

from streamrt.errors import ModelClosedError, WeightsIOError


cdef object status_error(srt_status status, int error, str path, str subject):
    """The exception for a status other than ``SRT_OK``: ``subject`` says what was being done, and to what.

    ``error`` is the value that errno had right after the C function returned.
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
            f"{subject}: {path} was opened before a fork and cannot be streamed in the child: open it again there"
        )
    if status == SRT_NO_MEMORY:
        return MemoryError(f"{subject}: no memory left for the tables of {path}")
    if status == SRT_WINDOW_FULL:
        return RuntimeError(f"{subject}: the items that are not done fill the window, so it could never come")
    if status == SRT_MISUSE:
        return ValueError(subject)
    return AssertionError(f"{subject}: unexpected status {<int>status}")
