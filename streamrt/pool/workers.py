"""Threads that wait for work. Starting a thread for each load takes as long as reading 100 KiB."""

from __future__ import annotations

import _thread
import os
import threading
from collections import deque
from collections.abc import Callable

#: Seconds that a thread waits for more work before it ends: 10 s, so that a pool that is not used has no threads.
_PATIENCE = 10.0


class Workers:
    """Runs functions, each in a thread that runs nothing else meanwhile. Any thread may use it.

    A function that raises ends its thread, and Python prints the error.

    Args:
        patience: seconds that a thread waits for more work before it ends.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._pid = os.getpid()
        self._idle: deque[_Worker] = deque()  # the last to become idle at the end; each operation on it is one step

    def run(self, work: Callable[[], None]) -> None:
        """Run ``work`` in a thread that waits for work, or in a new one. Does not wait until it runs.

        Raises:
            RuntimeError: no thread can be started.
        """
        if os.getpid() != self._pid:  # after a fork the threads do not exist
            self._pid, self._idle = os.getpid(), deque()
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker()
            worker.give(work)
            # Unlike `threading.Thread.start` this does not wait until the thread runs: the caller may have a lock. A
            # thread keeps its arguments until it ends, and work refers to a model, which may be closed before.
            try:
                _thread.start_new_thread(self._serve, (worker,))
            except MemoryError as error:
                raise RuntimeError("there is no memory for a new thread") from error
        else:
            worker.give(work)

    def _serve(self, worker: _Worker) -> None:
        while True:
            work = worker.take(self._patience)
            if work is None:
                try:
                    self._idle.remove(worker)
                except ValueError:  # it was taken out of the line at this moment, to be given work
                    work = worker.take(None)
                else:
                    return
            assert work is not None
            work()
            del work  # it refers to a model, which may be closed while this thread waits
            self._idle.append(worker)


class _Worker:
    """The place where a waiting thread gets its work."""

    def __init__(self) -> None:
        self._nothing = threading.Lock()  # taken while there is no work: half of the instructions of a semaphore
        self._nothing.acquire()
        self._work: Callable[[], None] | None = None

    def give(self, work: Callable[[], None]) -> None:
        self._work = work
        self._nothing.release()

    def take(self, patience: float | None) -> Callable[[], None] | None:
        """The work that was given; None after ``patience`` seconds."""
        if not self._nothing.acquire(timeout=-1 if patience is None else patience):
            return None
        work, self._work = self._work, None
        return work
