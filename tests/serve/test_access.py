"""The token, the limit of bytes that the server holds, and bounded decompression."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from pathlib import Path

import pytest

from streamrt.errors import InputError
from streamrt.serve.access import (
    TOKEN_VARIABLE,
    EncodingError,
    Gate,
    OverloadedError,
    TooMuchError,
    decompress,
    is_authorized,
    read_token,
)

TOKEN = "0123456789abcdef"


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert read_token(None) == TOKEN
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}-of-the-file\n")
    assert read_token(file) == f"{TOKEN}-of-the-file"
    with pytest.raises(OSError, match="missing"):
        read_token(tmp_path / "missing")
    monkeypatch.delenv(TOKEN_VARIABLE)
    with pytest.raises(InputError, match=f"{TOKEN_VARIABLE}: expected a token"):
        read_token(None)


@pytest.mark.parametrize("text", ["", "short", "a" * 15, "a" * 1025, "a" * 5000, "with spaces in the middle", "é" * 20])
def test_texts_that_are_no_tokens(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(InputError, match="token file: expected a token") as refused:
        read_token(file)
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize(
    ("header", "right"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN}", True),
        (None, False),
        ("", False),
        (TOKEN, False),
        ("Bearer", False),
        ("Bearer ", False),
        (f"Basic {TOKEN}", False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Bearer {TOKEN} {TOKEN}", False),
        (f"Bearer {TOKEN.upper()}", False),
        ("Bearer \udcff\u20ac", False),
    ],
)
def test_authorization(header: str | None, right: bool) -> None:
    assert is_authorized(header, TOKEN) is right


def test_the_bytes_of_all_requests_are_bounded() -> None:
    gate = Gate(200 << 10)
    with gate.hold() as first:
        first.add(72 << 10)
        with gate.hold(), pytest.raises(OverloadedError), gate.hold():
            pass
        with pytest.raises(OverloadedError):
            first.add(65 << 10)
        first.add(64 << 10)
        assert first.total == 200 << 10
    with gate.hold() as again:  # all bytes were given back
        again.add(136 << 10)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", " GZIP "])
def test_decompression(encoding: str) -> None:
    body = bytes(range(256)) * 40
    packed = gzip.compress(body) if "gzip" in encoding.lower() else zlib.compress(body)
    assert decompress(packed, encoding, len(body)) == body
    with pytest.raises(TooMuchError, match="at most 10239 bytes"):
        decompress(packed, encoding, len(body) - 1)
    for damaged in (
        packed[:-1],
        packed + b"x",
        packed + packed,
        b"no" + packed,
        b"",
        packed[:20] + bytes([packed[20] ^ 255]) + packed[21:],
    ):
        with pytest.raises(EncodingError, match="the body is not"):
            decompress(damaged, encoding, len(body))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(TooMuchError):
            decompress(bomb, "deflate", 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress", "x" * 999])
def test_other_encodings(encoding: str) -> None:
    with pytest.raises(EncodingError, match="expected gzip, deflate or identity"):
        decompress(b"", encoding, 10)
    assert decompress(b"as it is", "identity", 10) == b"as it is"
