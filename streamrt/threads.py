"""How many threads a call computes with: BLAS's and the kernels' own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController

import streamrt._core as _core
from streamrt.errors import InputError


class Threads:
    """A limit on threads, in force inside ``with threads.limit()``; None leaves everything as it is set.

    Raises:
        InputError: ``count`` is not a positive integer.
    """

    def __init__(self, count: int | None) -> None:
        if count is not None and (type(count) is not int or count < 1):
            raise InputError(f"threads: expected a positive integer or None, found {count!r:.80}")
        self._count = count
        # Finding the BLAS libraries takes milliseconds, so it is done once and not at every call.
        self._blas = None if count is None else ThreadpoolController()

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Apply the limit, and restore what was set before."""
        if self._count is None or self._blas is None:
            yield
            return
        before = _core.threads()
        with self._blas.limit(limits=self._count, user_api="blas"):
            _core.set_threads(self._count)
            try:
                yield
            finally:
                _core.set_threads(before)
