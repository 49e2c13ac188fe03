"""The thread that compares the folder with the models that are served: on SIGHUP, for the index, from time to time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic

from streamrt.pool.entry import pause_after
from streamrt.pool.failure import anew, strip, told
from streamrt.serve.batching import ShuttingDownError
from streamrt.serve.catalog import Changes
from streamrt.serve.logs import log

#: The most names of models in a line of the log.
_NAMES = 20
#: The most characters of an error's text in a line of the log.
_TEXT = 1000


class Refresher:
    """Runs `Catalog.refresh`, once for all who asked since the last run began.

    While a file of the folder cannot be served, the folder is read again after 0.5 s, and then after pauses that grow
    to 60 s.

    Args:
        refresh: compares the folder with the models that are served.
        interval: seconds between two runs that nobody has asked for; None for none.
    """

    def __init__(self, refresh: Callable[[], Changes], interval: float | None) -> None:
        self._refresh = refresh
        self._interval = interval
        self._failures = 0  # runs in a row that nobody has asked for, and that left something to try again
        self._closed = False
        self._asked: SimpleQueue[Future[None] | None] = SimpleQueue()  # None ends the thread
        self._thread = threading.Thread(target=self._work, name="streamrt-serve-refresher", daemon=True)
        self._thread.start()

    def ask(self) -> Future[None]:
        """Run soon; returns a future that is done when a run that began after this call has ended, or has its error.

        A signal handler may call this at any moment, even while it interrupts this method: `SimpleQueue.put` is
        reentrant.
        """
        done: Future[None] = Future()
        self._asked.put(done)
        if self._closed:
            done.cancel()
        return done

    def close(self) -> None:
        """End the thread after the run in progress. Futures that are not done fail or are cancelled. Idempotent."""
        self._closed = True
        self._asked.put(None)
        self._thread.join()
        with suppress(Empty):
            while True:
                if done := self._asked.get_nowait():
                    done.cancel()

    def _work(self) -> None:
        due = self._due(again=False)
        while True:
            asked: list[Future[None] | None] = []
            with suppress(Empty):
                asked.append(self._asked.get(timeout=None if due is None else max(0.0, due - monotonic())))
                while True:
                    asked.append(self._asked.get_nowait())
            waiting = [done for done in asked if done is not None and done.set_running_or_notify_cancel()]
            if None in asked:
                for done in waiting:
                    done.set_exception(ShuttingDownError("the server is shutting down"))
                return
            if asked:
                self._failures = 0
            due = self._due(again=self._run(waiting))

    def _run(self, asked: Sequence[Future[None]]) -> bool:
        """Compare once. Returns whether something is left to try again."""
        try:
            changes = self._refresh()
        except Exception as error:  # of any type: the folder may be unreadable for a while
            strip(error)
            log.error("the folder cannot be read", extra={"fields": {"error": told(error)}})
            for done in asked:
                done.set_exception(anew(error))
            return True
        _tell(changes)
        for done in asked:
            done.set_result(None)
        return changes.left

    def _due(self, again: bool) -> float | None:
        """Time of the next run if nobody asks, in monotonic seconds. ``again``: something is left to try again."""
        pauses = [] if self._interval is None else [self._interval]
        if again:
            pauses.append(pause_after(self._failures))
            self._failures += 1
        return monotonic() + min(pauses) if pauses else None


def _tell(changes: Changes) -> None:
    """Log the changes."""
    for event, told_of in (("not served", changes.refused), ("not pinned", changes.loose)):
        for name, text in told_of:
            log.error(event, extra={"fields": {"model": name, "error": text[:_TEXT]}})
    fields: dict[str, object] = {}
    for what, names in (("added", changes.added), ("replaced", changes.replaced), ("removed", changes.removed)):
        if names:
            fields |= {what: len(names), f"{what}_models": names[:_NAMES]}
    if fields:
        log.info("the folder has changed", extra={"fields": fields})
