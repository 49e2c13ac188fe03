"""How many threads a call computes with: BLAS's and the kernels' own.

Both are settings of the whole process. While calls with limits of their own overlap, the lowest is in force for all;
the last one to end restores what was set before the first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

import streamrt._core as _core
from streamrt.errors import InputError

#: As many as the kernels can use.
_MOST = 256

_lock = threading.Lock()  # over the two below, and over changing the settings
_active: list[int] = []  # limits in force
_before: tuple[int, Any] | None = None  # what to restore: the kernels' threads, and BLAS's by its limiter


def limited(count: int | None) -> AbstractContextManager[None]:
    """A context in which no more than ``count`` threads compute; None leaves everything as it is set."""
    return nullcontext() if count is None else _limited(count)


@contextmanager
def _limited(count: int) -> Iterator[None]:
    _enter(count)
    try:
        yield
    finally:
        _leave(count)


def check_threads(count: int | None) -> int | None:
    """``count``, if it can be a limit.

    Raises:
        InputError: it is neither None nor an integer from 1 to 256.
    """
    if count is not None and (type(count) is not int or not 1 <= count <= _MOST):
        raise InputError(f"threads: expected an integer from 1 to {_MOST} or None, found {count!r:.80}")
    return count


def _enter(count: int) -> None:
    global _before
    with _lock:
        if not _active:
            _before = _core.threads(), _blas().limit(limits=count, user_api="blas")
            _core.set_threads(count)
        elif count < min(_active):
            _apply(count)
        _active.append(count)


def _leave(count: int) -> None:
    global _before
    with _lock:
        _active.remove(count)
        if _active:
            _apply(min(_active))
        elif _before is not None:
            kernels, blas = _before
            _core.set_threads(kernels)
            blas.restore_original_limits()
            _before = None


def _apply(count: int) -> None:
    _blas().limit(limits=count, user_api="blas")
    _core.set_threads(count)


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of the process. Finding them takes milliseconds, so it is done once."""
    return ThreadpoolController()
