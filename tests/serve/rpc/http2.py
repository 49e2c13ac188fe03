"""Frames of HTTP/2, for clients of gRPC that a library would not be: slow, silent, or wrong."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING = 0, 1, 3, 4, 6
#: The setting with the bytes that the server may send on a stream before the client asks for more.
INITIAL_WINDOW = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(**values: int) -> bytes:
    numbers = {"initial_window": INITIAL_WINDOW}
    return frame(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", numbers[name], value) for name, value in values.items()))


def headers(stream: int, path: str = METHOD) -> bytes:
    """The head of a call, with every name and value as it is."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "test",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    told = b"".join(
        b"\x00" + b"".join(bytes([len(text)]) + text.encode() for text in field) for field in fields.items()
    )
    return frame(_HEADERS, 4, stream, told)


def message(content: bytes, length: int | None = None) -> bytes:
    """A message of gRPC, which may say another length than it has."""
    return b"\x00" + struct.pack(">I", len(content) if length is None else length) + content


def data(stream: int, content: bytes, end: bool = True) -> bytes:
    pieces = [content[begin : begin + 16384] for begin in range(0, len(content), 16384)] or [b""]
    last = len(pieces) - 1
    return b"".join(frame(_DATA, end and index == last, stream, piece) for index, piece in enumerate(pieces))


def reset(stream: int) -> bytes:
    return frame(_RESET, 0, stream, struct.pack(">I", 8))


def connect(address: str, **values: int) -> socket.socket:
    """A connection that has sent its settings."""
    made = silent(address)
    made.sendall(PREFACE + settings(**values) + frame(_SETTINGS, 1, 0))
    return made


def silent(address: str) -> socket.socket:
    """A connection that has sent nothing."""
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def until_closed(connection: socket.socket) -> bytes:
    """All bytes until the server closes the connection."""
    found = bytearray()
    with suppress(ConnectionError):
        while chunk := connection.recv(1 << 16):
            found += chunk
    return bytes(found)
