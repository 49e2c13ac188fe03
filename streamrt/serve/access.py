"""Limits on clients: the token, the bytes that their requests hold, and bounded decompression."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamrt.errors import InputError, StreamrtError

#: Name of the environment variable with the token, for a server without a token file.
TOKEN_VARIABLE = "STREAMRT_SERVE_TOKEN"
#: The fewest and the most characters of a token: enough that it cannot be guessed, and few enough for a header.
_SHORTEST, _LONGEST = 16, 1024
#: Bytes that every request counts for beside its body: its objects and buffers. Answers up to this size do not count.
LEAST_HELD = 64 << 10
#: Refused connections that stay open until their clients have read the answer. Each takes a file descriptor for 1 s.
_LINGERING = 64
#: The content encodings that a body may have, with zlib's window bits for each.
_ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class TooMuchError(StreamrtError):
    """A body is larger than the server accepts."""


class OverloadedError(StreamrtError):
    """Requests and answers hold all the memory that `max_held` allows: try again later."""


class EncodingError(StreamrtError):
    """A body has a content encoding that is not supported."""


def read_token(file: Path | None) -> str:
    """The token for repository and registration calls, from a file or from the environment.

    It is never a command-line argument, because other users of the machine can read arguments.

    Raises:
        InputError: there is no token, or it is too short or too long, or has a character that is not printable ASCII.
        OSError: the token file cannot be read.
    """
    if file is None:
        token, where = os.environ.get(TOKEN_VARIABLE, ""), f"the environment variable {TOKEN_VARIABLE}"
    else:
        with file.open(encoding="utf-8", errors="replace") as opened:
            token, where = opened.read(2 * _LONGEST).strip(), "the token file"
    if not (_SHORTEST <= len(token) <= _LONGEST and token.isascii() and token.isprintable() and " " not in token):
        raise InputError(
            f"{where}: expected a token of {_SHORTEST} to {_LONGEST} printable ASCII characters without spaces, "
            f"found {len(token)} characters"
        )
    return token


def is_authorized(header: str | None, token: str) -> bool:
    """Whether a header ``Authorization`` has the bearer token. Its time does not show how many characters match."""
    scheme, _, given = (header or "").partition(" ")
    digests = [hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (given.strip(), token)]
    return hmac.compare_digest(*digests) and scheme.lower() == "bearer"


class Held:
    """The bytes that one request holds."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.total = 0

    def add(self, count: int) -> None:
        """Hold ``count`` bytes more.

        Raises:
            OverloadedError: there is no room for them.
        """
        self._gate.take(count)
        self.total += count


class Gate:
    """Bounds the bytes of bodies, parsed texts and answers that all requests hold. Any thread may call anything."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._held = 0
        self._answers = 0  # number of answers that clients have not taken yet

    @property
    def held(self) -> int:
        """Bytes that requests hold now."""
        return self._held

    @contextmanager
    def hold(self) -> Iterator[Held]:
        """A context in which a request holds bytes.

        Raises:
            OverloadedError: there is no room for another request.
        """
        held = Held(self)
        held.add(LEAST_HELD)
        try:
            yield held
        finally:
            self.take(-held.total)

    @contextmanager
    def answer(self, count: int) -> Iterator[None]:
        """A context in which an answer of ``count`` bytes is being sent.

        An answer of any size may be sent when no other answer is being sent. So models with answers above the limit can
        be served, too.

        Raises:
            OverloadedError: there is no room for it beside other answers.
        """
        with self._lock:
            if self._answers and self._held + count > self._most:
                raise self._overloaded(count)
            self._held += count
            self._answers += 1
        try:
            yield
        finally:
            with self._lock:
                self._held -= count
                self._answers -= 1

    @contextmanager
    def also(self, count: int) -> Iterator[None]:
        """A context in which ``count`` bytes more are held, even if there is no room for them.

        At most one request at a time does this with many bytes. Other requests find less room meanwhile.
        """
        with self._lock:
            self._held += count
        try:
            yield
        finally:
            self.take(-count)

    def take(self, count: int) -> None:
        """Count ``count`` bytes, a negative number when they are given back. Only `Held` uses it; others use `hold`."""
        with self._lock:
            if count > 0 and self._held + count > self._most:
                raise self._overloaded(count)
            self._held += count

    def _overloaded(self, count: int) -> OverloadedError:
        return OverloadedError(
            f"requests and answers hold {self._held} bytes, and {count} more would exceed {self._most} "
            "(--max-held): try again later"
        )


class Connections:
    """Bounds the number of open connections. All methods run on the event loop; any thread may read the counts.

    Args:
        most: connections that may be open.

    Attributes:
        refused: connections that were refused so far.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.refused = 0
        self._open: set[object] = set()
        self._lingering: set[object] = set()  # refused connections that are read for a moment
        self._told = -math.inf  # when a refusal was logged last

    @property
    def count(self) -> int:
        """Connections that are open now, without refused ones."""
        return len(self._open)

    def enter(self, connection: object) -> bool:
        """Count a new connection; False if it is one too many."""
        if len(self._open) >= self.most:
            self.refused += 1
            return False
        self._open.add(connection)
        return True

    def leave(self, connection: object) -> None:
        """Note that a connection is closed, whether it was counted or refused."""
        self._open.discard(connection)
        self._lingering.discard(connection)

    def linger(self, connection: object) -> bool:
        """Whether a refused connection may stay open until its client has read the answer."""
        if len(self._lingering) >= _LINGERING:
            return False
        self._lingering.add(connection)
        return True

    def is_news(self, now: float) -> bool:
        """Whether a refusal at this time is to be logged. One a second is, so that refusals do not fill the log."""
        if now - self._told < 1.0:
            return False
        self._told = now
        return True


def decompress(body: bytes | bytearray, encoding: str, limit: int) -> bytes | bytearray:
    """``body`` without its content encoding. At most ``limit`` bytes, and one more, are ever decompressed.

    Raises:
        EncodingError: the encoding is not gzip, deflate or identity, or the body is not in it.
        TooMuchError: the decompressed body would be larger than ``limit``.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _ENCODINGS:
        raise EncodingError(f"Content-Encoding: expected {', '.join(_ENCODINGS)} or identity, found {encoding!r:.40}")
    stream = zlib.decompressobj(_ENCODINGS[encoding])
    try:
        found = stream.decompress(body, limit + 1)
    except zlib.error:
        raise EncodingError(f"the body is not in {encoding}, which its Content-Encoding names: send it again") from None
    if len(found) > limit:
        raise TooMuchError(f"expected a body of at most {limit} bytes once decompressed, found more")
    if not stream.eof or stream.unused_data:
        raise EncodingError(f"the body is not one whole stream of {encoding}")
    return found
