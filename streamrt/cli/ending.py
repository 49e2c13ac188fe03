"""How a command ends early: Ctrl-C and SIGTERM raise an exception, so that incomplete files are removed."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

#: The handlers that are replaced. Any other handler was installed on purpose, and stays.
_USUAL: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Terminated(SystemExit):
    """SIGTERM has arrived."""


class Ending:
    """A block in which SIGINT raises `KeyboardInterrupt`, and SIGTERM `Terminated`. In the main thread only.

    Attributes:
        deferred: whether signals raise nothing before `resume`. It is an attribute instead of a method, because no
            signal can arrive while an attribute is being set.
    """

    def __init__(self) -> None:
        self.deferred = False
        self._pending: signal.Signals | None = None
        self._replaced: list[signal.Signals] = []

    def __enter__(self) -> Self:
        self.deferred, self._pending, self._replaced = False, None, []
        if threading.current_thread() is threading.main_thread():
            for number, usual in _USUAL.items():
                if signal.getsignal(number) is usual:
                    self._replaced.append(number)
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Put the handlers back that this object replaced."""
        while self._replaced:
            number = self._replaced.pop()
            signal.signal(number, _USUAL[number])

    def resume(self) -> None:
        """Let signals raise at once again. Raise the signal that arrived while `deferred` was set."""
        self.deferred = False
        if self._pending is not None:
            self._raise(self._pending)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._pending = signal.Signals(number)
        if not self.deferred:
            self._raise(self._pending)

    def _raise(self, number: signal.Signals) -> None:
        self._pending = None
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)


#: For the command that runs in this process.
ENDING = Ending()
