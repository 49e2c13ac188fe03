"""Bytes of a connection that have arrived and were not parsed, in parts of at most one request."""

from __future__ import annotations

import re

#: The end of a head and of a body in chunks.
_END = b"\r\n\r\n"
#: Blank lines before a head mean nothing.
_BLANK = re.compile(rb"[\r\n]*")
#: What no head has: another first byte than a letter, as TLS has, or a line that ends without a carriage return. If
#: they were not looked for, a client that sends no more would be told only when its time is over.
_WRONG_FIRST = re.compile(rb"[^A-Za-z]")
_WRONG_LINE = re.compile(rb"(?<!\r)\n")
#: The most bytes of a request's head: room for long tokens and cookies, and little memory for each connection.
MAX_HEAD = 64 << 10
TOO_LONG = "The head of the request is too long."


class HeadError(Exception):
    """The bytes before a body are no head, or they are more than `MAX_HEAD`. The text is for the client."""


class Waiting:
    """Bytes in the order in which they arrived.

    A parser makes objects for each request in the bytes that it gets, about a hundred times as large as the shortest
    request. So it must not get requests that wait for the answers before them.
    """

    def __init__(self) -> None:
        self._data = b""
        self._begin = 0  # of the bytes that were not taken
        self._searched = 0  # no end begins before this

    def __len__(self) -> int:
        return len(self._data) - self._begin

    def add(self, data: bytes) -> None:
        """Add bytes behind the others."""
        if len(self):
            self._data = self._data[self._begin :] + data
            self._searched = max(0, self._searched - self._begin)
        else:
            self._data, self._searched = data, 0
        self._begin = 0

    def take(self, left: int | None) -> bytes:
        """The next part; it is empty if more has to arrive first. Blank lines before a head are dropped.

        Args:
            left: bytes that the body still has; 0 before a head, and None in a body without a length.

        Raises:
            HeadError: see there.
        """
        if left == 0:
            self._drop_blank()
            end = self._end_of_head()
        else:
            end = self._end_of_chunks() if left is None else min(len(self._data), self._begin + left)
        part = self._data[self._begin : end]  # no copy if it is all
        self._begin = end
        self._searched = end if part else max(end, len(self._data) - len(_END) + 1)
        if not len(self):
            self._data, self._begin, self._searched = b"", 0, 0
        return part

    def _drop_blank(self) -> None:
        found = _BLANK.match(self._data, self._begin)
        assert found  # it matches nothing, too
        self._begin = found.end()
        self._searched = max(self._searched, self._begin)

    def _end_of_head(self) -> int:
        """Where the next head ends; its begin if it has not arrived as a whole."""
        data, begin = self._data, self._begin
        found = self._find()
        size = (found if found >= 0 else len(data)) - begin
        if size > MAX_HEAD or (found < 0 and size == MAX_HEAD):
            raise HeadError(TOO_LONG)
        if found >= 0:
            return found
        if _WRONG_FIRST.match(data, begin) or _WRONG_LINE.search(data, max(begin, self._searched)):
            raise HeadError("Expected a request of HTTP/1.1.")
        return begin

    def _end_of_chunks(self) -> int:
        """Where a body in chunks may end; if that has not arrived, the end of all that cannot belong to it."""
        found = self._find()
        if found >= 0:
            return found
        kept = next(count for count in (3, 2, 1, 0) if self._data.endswith(_END[:count], self._begin))
        return len(self._data) - kept

    def _find(self) -> int:
        """Behind the next end; -1 if there is none."""
        found = self._data.find(_END, max(self._begin, self._searched))
        return found + len(_END) if found >= 0 else -1
