"""Who may do what, and how much of it at once: the token, the bytes that are held, and bounded decompression."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamrt.errors import InputError, StreamrtError

#: The environment variable that has the token, unless a file has it.
TOKEN_VARIABLE = "STREAMRT_SERVE_TOKEN"
_SHORTEST, _LONGEST = 16, 1024
#: What a request counts for at least, however small its body: what it takes in objects and buffers.
LEAST_HELD = 64 << 10
#: zlib's window bits for each encoding that a body may have.
_ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class TooMuchError(StreamrtError):
    """A body is larger than the server takes."""


class OverloadedError(StreamrtError):
    """The bodies of requests in progress take all the memory that there is for them: try again later."""


class EncodingError(StreamrtError):
    """A body has a content encoding that is not supported."""


def read_token(file: Path | None) -> str:
    """The token for repository and registration calls, from a file or from the environment; never from arguments.

    Raises:
        InputError: there is none, or it is too short to be one.
        OSError: the file cannot be read.
    """
    if file is None:
        token, where = os.environ.get(TOKEN_VARIABLE, ""), f"the environment variable {TOKEN_VARIABLE}"
    else:
        with file.open(encoding="utf-8", errors="replace") as opened:
            token, where = opened.read(2 * _LONGEST).strip(), "the token file"
    if not (_SHORTEST <= len(token) <= _LONGEST and token.isascii() and token.isprintable() and " " not in token):
        raise InputError(f"{where}: expected a token of {_SHORTEST} to {_LONGEST} printable ASCII characters")
    return token


def is_authorized(header: str | None, token: str) -> bool:
    """Whether a header ``Authorization`` has the bearer token; takes the same time whatever it has."""
    scheme, _, given = (header or "").partition(" ")
    digests = [hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (given.strip(), token)]
    return hmac.compare_digest(*digests) and scheme.lower() == "bearer"


class Held:
    """The bytes that one request holds."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.total = 0

    def add(self, count: int) -> None:
        """Hold ``count`` more.

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
        self._answers = 0  # on their way

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
        """A context in which an answer of ``count`` bytes is on its way.

        One is let through however large it is, or a model whose answers are larger than the limit could not be served.

        Raises:
            OverloadedError: there is no room for it beside others.
        """
        with self._lock:
            if self._answers and self._held + count > self._most:
                raise OverloadedError("answers that clients have not taken yet hold all the memory that there is")
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
        """A context in which ``count`` bytes more are held, whether there is room for them or not.

        For what one request at a time has: others find less room meanwhile.
        """
        with self._lock:
            self._held += count
        try:
            yield
        finally:
            self.take(-count)

    def take(self, count: int) -> None:
        """Count bytes; use `hold`."""
        with self._lock:
            if count > 0 and self._held + count > self._most:
                raise OverloadedError("requests in progress hold all the memory that there is for them")
            self._held += count


def decompress(body: bytes | bytearray, encoding: str, limit: int) -> bytes | bytearray:
    """``body`` without its content encoding; never more than ``limit`` bytes of it are made.

    Raises:
        EncodingError: the encoding is none of gzip, deflate and identity, or the body is not in it.
        TooMuchError: it would be larger.
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
        raise EncodingError(f"the body is not in {encoding}") from None
    if len(found) > limit:
        raise TooMuchError(f"expected a body of at most {limit} bytes, decompressed")
    if not stream.eof or stream.unused_data:
        raise EncodingError(f"the body is not one whole stream of {encoding}")
    return found
