"""Structured logs: one JSON object a line, so that nothing a client sends can look like a line of its own."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TextIO

from streamrt.pool.failure import origin, told

#: The server's own events. Fields beside the message go into ``extra={"fields": {...}}``.
log = logging.getLogger("streamrt.serve")

#: Tracebacks that are remembered as logged, those of the last failures, and characters of an error's text in a line.
_REMEMBERED, _TEXT = 64, 1000
_logged: OrderedDict[int, None] = OrderedDict()  # hashes of tracebacks; used by the event loop's thread alone


class JsonFormatter(logging.Formatter):
    """A record as one line: time, level, logger, event, its fields, and a traceback if there is one."""

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
    """Send this package's and uvicorn's logs to ``stream``."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    for name in ("streamrt", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())


def log_failure(error: BaseException) -> None:
    """Log that a request failed: the first time with the traceback, in one line when the same happens again."""
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
