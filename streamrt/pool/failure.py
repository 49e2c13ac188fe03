"""Errors that are kept, without frames.

A traceback keeps every frame that it went through, with all variables. So a kept error would keep the arrays of the
call that raised it. If one object is raised several times, its traceback grows each time. So a kept error is stripped,
and raised as a new object each time.
"""

from __future__ import annotations

import copy
import traceback
from typing import TypeVar

from streamrt.errors import StreamrtError

E = TypeVar("E", bound=BaseException)

#: The characters at the end of a traceback that are kept, about 200 lines. The end has the innermost frames and the
#: text of the error.
_LONGEST = 16_000


class Origin(Exception):  # noqa: N818 -- a cause of errors, which is never raised itself
    """The cause of a kept error: the text of the traceback with which it was first raised."""

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'

    @property
    def text(self) -> str:
        """The traceback, with those of the errors that caused it."""
        return str(self.args[0])


def told(error: BaseException) -> str:
    """Type and text of any error, even of an error whose ``__str__`` raises."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # raised by the error's own __str__
        return f"{type(error).__name__}: no text"


def origin(error: BaseException) -> Origin:
    """The `Origin` of ``error``; made of its traceback if it has none."""
    if isinstance(error.__cause__, Origin):
        return error.__cause__
    return Origin("".join(traceback.format_exception(error))[-_LONGEST:])


def strip(error: E) -> E:
    """Remove the frames of ``error``, and make its `Origin` its only cause; returns ``error``."""
    error.__cause__ = origin(error)
    error.__traceback__ = error.__context__ = None
    return error


def anew(error: BaseException) -> BaseException:
    """A new error of the same type and text, without frames, and with the same `Origin`.

    An error that cannot be copied becomes a `StreamrtError` that names its type.
    """
    try:
        new = copy.copy(error)
        same = type(new) is type(error) and str(new) == str(error)
    except Exception:  # raised by the error's own __reduce__, __init__ or __str__
        same = False
    if not same:
        new = StreamrtError(told(error))
    if hasattr(error, "__notes__"):
        new.__notes__ = [*error.__notes__]  # a list that `add_note` changes
    new.__cause__ = origin(error)
    return new
