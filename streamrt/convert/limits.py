"""Limits of packing: memory and time beyond those of the model's own weights, and the error that names the node.

A small file can ask for any amount of both: by folding, by functions that call functions, by shapes. So code that
computes asks here first, with sizes that it knows from shapes. The innermost `Limits.in_force` of the calling context
gives the limits in force. Outside of every `Limits.in_force`, nothing is limited.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar

from streamrt.errors import InputError, LimitError
from streamrt.host.budget import format_size, parse_size

#: The default of ``max_memory``, bytes. The value is a promise of SECURITY.md.
MAX_MEMORY = 256 << 20
#: The default of ``max_seconds``, seconds of processor time. The value is a promise of SECURITY.md.
MAX_SECONDS = 10
#: The largest ``max_seconds``: 12 days, the largest value of every option that is a time.
MOST_SECONDS = 1_000_000
#: Packing may hold 3 times the bytes of the model's own weights beside ``max_memory``: computing with a weight takes
#: the weight, a temporary and the result.
_COPIES = 3
#: Computed constants in the file may have 8 times ``max_memory``. Computed block by block they take space on the disk,
#: but no memory.
_WRITTEN = 8
#: For each 32 MiB of the model's own weights packing may compute one second longer.
_BYTES_A_SECOND = 32 << 20


class Limits:
    """The limits of one packing, and the memory and time that count against them. Belongs to one thread.

    Args:
        memory: bytes, or a size such as ``"1GiB"``, beyond 3 times the model's own weights.
        seconds: processor time of the thread, beyond one second for each 32 MiB of the model's own weights; at most
            `MOST_SECONDS`.

    Raises:
        InputError: a limit is not a number above 0, or too large.
    """

    def __init__(self, memory: int | str = MAX_MEMORY, seconds: float = MAX_SECONDS) -> None:
        if isinstance(memory, str):
            try:
                memory = parse_size(memory)
            except InputError as error:
                raise InputError(f"max_memory: {error}") from None
        if isinstance(memory, bool) or not isinstance(memory, int) or memory < 1:
            raise InputError(f"max_memory is {_shown(memory)}, expected bytes above 0 or a size such as '1GiB'")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MOST_SECONDS:
            raise InputError(
                f"max_seconds is {_shown(seconds)}, expected a number above 0 and no more than {MOST_SECONDS:,}"
            )
        self._max_memory = memory
        self._max_seconds = seconds
        self._own = 0
        self._held = 0  # bytes
        self._spent = 0.0  # seconds
        self._since: float | None = None  # when `computing` was entered; None outside
        self._where = "the model"

    @property
    def max_memory(self) -> int:
        """Bytes beyond 3 times the model's own weights."""
        return self._max_memory

    @property
    def max_seconds(self) -> float:
        """Seconds beyond one for each 32 MiB of the model's own weights."""
        return self._max_seconds

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Inside the ``with`` statement, let `current` return these limits."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def add_own(self, nbytes: int) -> None:
        """Count ``nbytes`` as weights of the model itself, as float32."""
        self._own += nbytes

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Count the time inside the ``with`` statement."""
        if self._since is not None:
            yield
            return
        self._since = time.thread_time()
        try:
            yield
        finally:
            self._spent += time.thread_time() - self._since
            self._since = None

    @contextlib.contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Let errors inside the ``with`` statement begin with ``where``."""
        outer, self._where = self._where, where
        try:
            yield
        finally:
            self._where = outer

    @contextlib.contextmanager
    def holding(self, nbytes: int) -> Iterator[None]:
        """Count ``nbytes`` as held inside the ``with`` statement; raises as `hold`."""
        self.hold(nbytes)
        try:
            yield
        finally:
            self._held -= nbytes

    def hold(self, nbytes: int) -> None:
        """Count ``nbytes`` as held from now on; raise `LimitError` if that is beyond the limit."""
        self.check_memory(nbytes)
        self._held += nbytes

    def check_memory(self, nbytes: int) -> None:
        """Raise `LimitError` if ``nbytes`` together with the bytes held are beyond the limit."""
        if self._held + nbytes > self._max_memory + _COPIES * self._own:
            raise self._too_large("hold", self._held + nbytes, self._max_memory)

    def check_written(self, nbytes: int) -> None:
        """Raise `LimitError` if ``nbytes`` of weights are too many for the file."""
        if nbytes > _WRITTEN * self._max_memory + _COPIES * self._own:
            raise self._too_large("write constants of", nbytes, _WRITTEN * self._max_memory)

    def _too_large(self, verb: str, nbytes: int, most: int) -> LimitError:
        return LimitError(
            f"{self._where}: packing would {verb} {_size(nbytes)}, more than {_size(most)} beside {_COPIES} times the "
            f"model's own weights of {_size(self._own)}: max_memory= (--max-memory) raises the limit"
        )

    def check_time(self, seconds: float = 0.0) -> None:
        """Raise `LimitError` if computing for ``seconds`` more is beyond the limit."""
        spent = self._spent + (time.thread_time() - self._since if self._since is not None else 0.0)
        if spent + seconds > self._max_seconds + self._own / _BYTES_A_SECOND:
            raise LimitError(
                f"{self._where}: packing would compute for {spent + seconds:.3g} s, more than {self._max_seconds:g} s "
                f"and 1 s for each {_size(_BYTES_A_SECOND)} of the model's own weights of {_size(self._own)}: "
                "max_seconds= (--max-seconds) raises the limit"
            )


_current: ContextVar[Limits | None] = ContextVar("streamrt_limits", default=None)


def current() -> Limits:
    """The limits in force; outside of every `Limits.in_force`, limits that nothing reaches."""
    found = _current.get()
    if found is None:
        found = Limits(2**62)
        found._max_seconds = math.inf
    return found


def _shown(value: object) -> str:
    """The value of an option in at most 40 characters. Python refuses to print integers of thousands of digits."""
    try:
        return f"{value!r:.40}"
    except ValueError:
        return "an integer of thousands of digits"


def _size(nbytes: int) -> str:
    return format_size(nbytes) if nbytes < 2**62 else "over 2**62 B"
