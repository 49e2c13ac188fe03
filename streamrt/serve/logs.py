"""Structured logs: one JSON object a line. A client's text cannot look like another line.

A line is made in the thread that logs, and written in a thread of its own. So a slow or blocked reader of the log
delays no request. Lines wait in a queue of limited size. Lines that find it full are lost; later a line of the log has
their number.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any

from streamrt.pool.failure import origin, told

#: Events of the server. Their fields are passed as ``extra={"fields": {...}}``.
log = logging.getLogger("streamrt.serve")

#: How many logged tracebacks are remembered, so that a failure of every request is logged with one traceback.
_REMEMBERED = 64
#: The most characters of an error's text in a line: two lines of `streamrt.errors.shortened`.
_TEXT = 1000
#: Bytes of lines that wait to be written, beyond which further lines are lost: about 3000 requests.
_WAITING = 1 << 20
#: Bytes of a line that waits, beside its text.
_BESIDE = 100
#: Seconds that lines gather before they are written. A request would pay twice as much for waking the thread that
#: writes as for making its line.
_GATHER = 0.02
#: Seconds that the end of the server waits until all lines are written.
_FLUSH = 3.0
#: Whose lines are written from which level on: None is the level that the user chose. The root stands for the standard
#: library, such as asyncio, which would write to stderr itself.
_LOGGERS = {"streamrt": None, "uvicorn": None, "": "WARNING"}
_logged: OrderedDict[int, None] = OrderedDict()  # hashes of tracebacks; used only in the thread of the event loop

_ENCODER = json.JSONEncoder(default=str)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line: time, level, logger, event, its fields, and its traceback if it has one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, in ASCII."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return _ENCODER.encode(told)


class Log:
    """Where lines go: a queue, and a thread that writes them to a file descriptor.

    Args:
        descriptor: for writing. It may be a pipe that nobody reads.
    """

    def __init__(self, descriptor: int) -> None:
        self.handler = _ToQueue(_Lines(_WAITING))
        self._listener = _Listener(self.handler, descriptor)
        self._listener.start()

    @property
    def lost(self) -> int:
        """Lines that were lost so far."""
        return self.handler.lost

    def close(self) -> None:
        """Write the lines that wait, for at most `_FLUSH` seconds. If the reader is blocked, the rest is lost."""
        ending = threading.Thread(target=self._listener.stop, name="streamrt-serve-log-end", daemon=True)
        ending.start()
        ending.join(_FLUSH)


@contextmanager
def logging_to(descriptor: int, level: str) -> Iterator[Log]:
    """A context in which the logs of this process go to ``descriptor``.

    Args:
        descriptor: for writing.
        level: the least severe messages of streamrt and uvicorn that are logged.
    """
    log = Log(descriptor)
    before = []
    for name, least in _LOGGERS.items():
        logger = logging.getLogger(name)
        before.append((logger, logger.handlers[:], logger.propagate, logger.level))
        logger.handlers[:] = [log.handler]
        logger.propagate = False
        logger.setLevel(least or level.upper())
    try:
        yield log
    finally:
        for logger, handlers, propagate, number in before:
            logger.handlers[:] = handlers
            logger.propagate = propagate
            logger.setLevel(number)
        log.close()


class _Lines(queue.Queue[str | None]):
    """Lines that wait to be written; None is the end. Their size is counted in bytes."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._bytes = 0

    def _qsize(self) -> int:
        return self._bytes

    def _put(self, item: str | None) -> None:
        super()._put(item)
        self._bytes += _length(item)

    def _get(self) -> str | None:
        item = super()._get()
        self._bytes -= _length(item)
        return item


def _length(item: str | None) -> int:
    return _BESIDE + len(item or "")


class _ToQueue(QueueHandler):
    """Makes lines and puts them into the queue. Its lock is held only for that.

    Attributes:
        lost: lines that found the queue full.
    """

    queue: _Lines

    def __init__(self, lines: _Lines) -> None:
        super().__init__(lines)
        self.setFormatter(JsonFormatter())
        self.lost = 0

    def prepare(self, record: logging.LogRecord) -> str:
        """The line of a record. It has no fields, whose memory would not be counted."""
        return self.format(record)

    def enqueue(self, record: Any) -> None:
        """Put a line into the queue."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.lost += 1


class _Listener(QueueListener):
    """The thread that writes.

    It writes to the descriptor without a lock. A thread that is blocked with the lock of `sys.stderr` would make Python
    abort at its end, and `logging.shutdown` would wait for a handler's lock.
    """

    queue: _Lines

    def __init__(self, source: _ToQueue, descriptor: int) -> None:
        super().__init__(source.queue)
        self._source, self._descriptor = source, descriptor
        self._told = 0  # lost lines that the log has told

    def dequeue(self, block: bool) -> Any:
        """The next line. If none is there, this waits for one, and then for others to gather."""
        try:
            return self.queue.get(False)
        except queue.Empty:
            first = self.queue.get(block)
            time.sleep(_GATHER)
            return first

    def enqueue_sentinel(self) -> None:
        """Wait until there is room for the end; `QueueListener` would fail."""
        self._source.queue.put(None)

    def handle(self, record: Any) -> None:
        """Write a line, and before it the number of lines that were lost."""
        lost = self._source.lost - self._told
        if lost:
            self._told += lost
            told = logging.LogRecord(log.name, logging.WARNING, "", 0, "lines of the log were lost", None, None)
            told.fields = {"count": lost}
            self._write(self._source.format(told))
        self._write(record)

    def _write(self, line: str) -> None:
        left = memoryview(f"{line}\n".encode())
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another process made the pipe non-blocking
                select.select([], [self._descriptor], [])
            except OSError:  # nobody can read it any more
                return


def log_failure(error: BaseException) -> None:
    """Log that a request failed. Only the first of several equal failures is logged with its traceback."""
    fields = {"error": told(error)[:_TEXT]}
    text = origin(error).text
    known = hash(text)
    if known not in _logged:
        fields["traceback"] = text
    _logged[known] = None
    _logged.move_to_end(known)
    if len(_logged) > _REMEMBERED:
        _logged.popitem(last=False)
    log.error("failed", extra={"fields": fields})
