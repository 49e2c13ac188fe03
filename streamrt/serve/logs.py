"""Structured logs: one JSON object a line. A client's text cannot look like another line."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TextIO

from streamrt.pool.failure import origin, told

#: Events of the server. Their fields are passed as ``extra={"fields": {...}}``.
log = logging.getLogger("streamrt.serve")

#: How many logged tracebacks are remembered, so that a failure of every request is logged with one traceback.
_REMEMBERED = 64
#: The most characters of an error's text in a line: two lines of `streamrt.errors.shortened`.
_TEXT = 1000
_logged: OrderedDict[int, None] = OrderedDict()  # hashes of tracebacks; used only in the thread of the event loop


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
        return json.dumps(told, default=str)


def set_up(stream: TextIO, level: str) -> None:
    """Send the logs of streamrt and of uvicorn to ``stream``."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    for name in ("streamrt", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())


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
