"""How many threads a call computes with: BLAS's and the kernels' own.

Both are settings of the whole process. While calls with limits of their own overlap, the lowest is in force for all;
the last one to end restores what was set before the first.

A forked child has none of the calls that were in progress: it begins with what was set before the first of them.
"""

from __future__ import annotations

import os
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

_lock = threading.RLock()  # over the two below, and over changing the settings; a signal's handler may fork, or call
_active: dict[object, int] = {}  # limits in force, each by a key of its own
_before: tuple[int, Any] | None = None  # what to restore: the kernels' threads, and BLAS's by its limiter


def limited(count: int | None) -> AbstractContextManager[None]:
    """A context in which no more than ``count`` threads compute; None leaves everything as it is set."""
    return nullcontext() if count is None else _limited(count)


@contextmanager
def _limited(count: int) -> Iterator[None]:
    key = object()
    _enter(key, count)
    try:
        yield
    finally:
        _leave(key)


def check_threads(count: object) -> None:
    """Refuse what cannot be a limit.

    Raises:
        InputError: it is neither None nor an integer from 1 to 256.
    """
    if count is not None and (type(count) is not int or not 1 <= count <= _MOST):
        raise InputError(f"threads: expected an integer from 1 to {_MOST} or None, found {count!r:.80}")


def _enter(key: object, count: int) -> None:
    global _before
    with _lock:
        if not _active:
            _before = _core.threads(), _blas().limit(limits=count, user_api="blas")
            _core.set_threads(count)
        elif count < min(_active.values()):
            _apply(count)
        _active[key] = count


def _leave(key: object) -> None:
    with _lock:
        if _active.pop(key, None) is None:
            return  # in a child that was forked during the call
        if _active:
            _apply(min(_active.values()))
        else:
            _restore()


def _restore() -> None:
    global _before
    if _before is not None:
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


def _reset() -> None:
    """In a forked child: the lock is new, and no limit is in force."""
    global _lock
    _lock = threading.RLock()
    _active.clear()
    _restore()


# The lock is held across a fork, so that settings and counters agree in the child.
os.register_at_fork(before=lambda: _lock.acquire(), after_in_parent=lambda: _lock.release(), after_in_child=_reset)
