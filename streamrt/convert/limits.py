"""What packing may compute beside a model's own weights: memory and time, and the error that names the node.

A small file can ask for any amount of both: by folding, by functions that call functions, by shapes. Whatever computes
in this package asks here first, with sizes that it knows from shapes. The limits in force are those of the innermost
`Limits.in_force` of the calling context; where there are none, nothing is limited.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar

from streamrt.errors import InputError, LimitError
from streamrt.host.budget import format_size, parse_size

#: The limits that `streamrt.pack` has unless it is told others, in bytes and seconds.
MAX_MEMORY = 256 << 20
MAX_SECONDS = 10
#: Seconds that an option may ask for: no command takes more either.
MOST_SECONDS = 1_000_000
#: Computing with a weight takes it, a temporary and the result: that many times a model's own weights are free.
_COPIES = 3
#: Constants that are computed block by block take no memory, but space and time: so many times the memory is written.
_WRITTEN = 8
#: Bytes of a model's own weights for which packing may compute one second longer.
_BYTES_A_SECOND = 32 << 20


class Limits:
    """The limits of one packing, and what counts against them. Belongs to one thread.

    Args:
        memory: bytes beside the model's own weights, or a size such as ``"1GiB"``.
        seconds: processor time of the thread, beside what the model's own weights take; no more than `MOST_SECONDS`.

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
        self._since: float | None = None  # when the time that counts began; None while none does
        self._where = "the model"

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """For the context of the ``with`` statement."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def add_own(self, nbytes: int) -> None:
        """The model brings so many bytes of weights, as float32."""
        self._own += nbytes

    @contextlib.contextmanager
    def trial(self) -> Iterator[None]:
        """What is held inside is let go of if it fails."""
        held = self._held
        try:
            yield
        except BaseException:
            self._held = held
            raise

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """The time inside counts."""
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
        """Errors inside say that it was ``where``."""
        outer, self._where = self._where, where
        try:
            yield
        finally:
            self._where = outer

    @contextlib.contextmanager
    def holding(self, nbytes: int) -> Iterator[None]:
        """So many bytes are held inside."""
        self.hold(nbytes)
        try:
            yield
        finally:
            self._held -= nbytes

    def hold(self, nbytes: int) -> None:
        """So many bytes are held from now on; raises `LimitError` if they are too many."""
        self.check_memory(nbytes)
        self._held += nbytes

    def check_memory(self, nbytes: int) -> None:
        """Raise `LimitError` if so many bytes, with those held, are too many."""
        if self._held + nbytes > self._max_memory + _COPIES * self._own:
            raise self._too_large("hold", self._held + nbytes, self._max_memory)

    def check_written(self, nbytes: int) -> None:
        """Raise `LimitError` if so many bytes of weights are too many for a file."""
        if nbytes > _WRITTEN * self._max_memory + _COPIES * self._own:
            raise self._too_large("write constants of", nbytes, _WRITTEN * self._max_memory)

    def _too_large(self, verb: str, nbytes: int, most: int) -> LimitError:
        return LimitError(
            f"{self._where}: packing would {verb} {_size(nbytes)}, more than {_size(most)} beside {_COPIES} times the "
            f"model's own weights of {_size(self._own)}: max_memory= (--max-memory) raises the limit"
        )

    def check_time(self, seconds: float = 0.0) -> None:
        """Raise `LimitError` if computing for so long from now on is too long."""
        spent = self._spent + (time.thread_time() - self._since if self._since is not None else 0.0)
        if spent + seconds > self._max_seconds + self._own / _BYTES_A_SECOND:
            raise LimitError(
                f"{self._where}: packing would compute for {spent + seconds:.3g} s, more than {self._max_seconds:g} s "
                f"and one for each {_size(_BYTES_A_SECOND)} of the model's own weights of {_size(self._own)}: "
                "max_seconds= (--max-seconds) raises the limit"
            )


_current: ContextVar[Limits | None] = ContextVar("streamrt_limits", default=None)


def current() -> Limits:
    """The limits in force."""
    found = _current.get()
    if found is None:
        found = Limits(2**62)
        found._max_seconds = math.inf
    return found


def _shown(value: object) -> str:
    """What an option is, briefly; integers of thousands of digits cannot be written."""
    try:
        return f"{value!r:.40}"
    except ValueError:
        return "an integer of thousands of digits"


def _size(nbytes: int) -> str:
    return format_size(nbytes) if nbytes < 2**62 else "over 2**62 B"
