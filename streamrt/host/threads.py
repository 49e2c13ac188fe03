"""How many threads a call computes with, in BLAS and in the kernels.

Both are settings of the whole process. While calls with different limits overlap, the lowest limit is in force for all
of them. The call that ends last restores the settings from before the first call.

In a forked child no call is in progress. It begins with the settings from before the first call.
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

#: The most threads: the limit of the kernels.
_MOST = 256

_lock = threading.RLock()  # guards the two below and the settings; reentrant: a signal handler may fork or call
_active: dict[object, int] = {}  # limits in force; each call has a key of its own
_before: tuple[int, Any] | None = None  # settings to restore: threads of the kernels, and BLAS's limiter or None


def limited(count: int | None) -> AbstractContextManager[None]:
    """A context in which at most ``count`` threads compute; None leaves the settings as they are."""
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
    """Check a limit that a caller gave.

    Raises:
        InputError: it is neither None nor an integer from 1 to 256.
    """
    if count is not None and (type(count) is not int or not 1 <= count <= _MOST):
        raise InputError(f"threads: expected an integer from 1 to {_MOST} or None, found {count!r:.80}")


def _enter(key: object, count: int) -> None:
    global _before
    with _lock:
        if not _active:
            _before = _core.threads(), None
            _apply(count)
        elif count < min(_active.values()):
            _apply(count)
        _active[key] = count


def _leave(key: object) -> None:
    with _lock:
        if _active.pop(key, None) is None:
            return  # this is a child that was forked during the call
        if _active:
            _apply(min(_active.values()))
        else:
            _restore()


def _restore() -> None:
    global _before
    if _before is not None:
        kernels, blas = _before
        _core.set_threads(kernels)
        if blas is not None:
            blas.restore_original_limits()
        _before = None


def _apply(count: int) -> None:
    global _before
    assert _before is not None
    kernels, blas = _before
    if any(library.num_threads != count for library in _blas().lib_controllers):  # else setting them would take 0.1 ms
        limiter = _blas().limit(limits=count)
        _before = kernels, limiter if blas is None else blas
    _core.set_threads(count)


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of the process. They are searched once, because that takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def _reset() -> None:
    """In a forked child, make a new lock and restore the settings: no limit is in force there."""
    global _lock
    _lock = threading.RLock()
    _active.clear()
    _restore()


# The lock is held across a fork, so that settings and counters agree in the child.
os.register_at_fork(before=lambda: _lock.acquire(), after_in_parent=lambda: _lock.release(), after_in_child=_reset)
