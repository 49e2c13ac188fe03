"""How many threads a call computes with, in BLAS and in the kernels.

Both are settings of the whole process. While calls with different limits overlap, the kernels use the lowest of all,
and BLAS the lowest of those that use it. The call that ends last restores the settings from before the first call. To
look at BLAS's setting takes several microseconds in the middle of a program, so calls that do not use BLAS leave it
alone.

In a forked child no call is in progress. It begins with the settings from before the first call.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import TracebackType
from typing import Any

from threadpoolctl import ThreadpoolController

import streamrt._core as _core
from streamrt.errors import InputError

#: The most threads: the limit of the kernels.
_MOST = 256

_lock = threading.RLock()  # guards the two below and the settings; reentrant: a signal handler may fork or call
_active: set[_Limited] = set()  # limits in force
_before: tuple[int, Any] | None = None  # settings to restore: threads of the kernels, and BLAS's limiter or None


def limited(count: int | None, *, blas: bool = True) -> AbstractContextManager[None]:
    """A context in which at most ``count`` threads compute; None leaves the settings as they are.

    ``blas``: whether the context uses BLAS.
    """
    return nullcontext() if count is None else _Limited(count, blas)


class _Limited:
    """A limit in force, while it is entered."""

    __slots__ = ("blas", "count")

    def __init__(self, count: int, blas: bool) -> None:
        self.count, self.blas = count, blas

    def __enter__(self) -> None:
        global _before
        try:
            with _lock:
                if _before is None:
                    _before = _core.threads(), None
                _active.add(self)
                _apply()
        except BaseException:  # also an interrupt behind any of these lines
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _lock:
            _active.discard(self)  # in a child that was forked during the call it is gone
            if _active:
                _apply()
            else:
                _restore()


def check_threads(count: object) -> None:
    """Check a limit that a caller gave.

    Raises:
        InputError: it is neither None nor an integer from 1 to 256.
    """
    if count is not None and (type(count) is not int or not 1 <= count <= _MOST):
        raise InputError(f"threads: expected an integer from 1 to {_MOST} or None, found {count!r:.80}")


def _restore() -> None:
    global _before
    if _before is not None:
        kernels, blas = _before
        _set_kernels(kernels)
        if blas is not None:
            blas.restore_original_limits()
        _before = None


def _apply() -> None:
    """Set the lowest limits. Once no call in progress uses BLAS, BLAS keeps its last limit until the last call ends."""
    global _before
    counts = [limit.count for limit in _active if limit.blas]
    # to set BLAS's number takes 0.1 ms, so it is compared first
    if counts and any(library.num_threads != min(counts) for library in _blas().lib_controllers):
        limiter = _blas().limit(limits=min(counts))
        if _before is None:  # a signal handler forked meanwhile, and this is the child
            limiter.restore_original_limits()
        elif _before[1] is None:
            _before = _before[0], limiter
    if _active:
        _set_kernels(min(limit.count for limit in _active))


def _set_kernels(count: int) -> None:
    if _core.threads() != count:
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
