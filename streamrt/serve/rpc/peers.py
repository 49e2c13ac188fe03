"""Closing the connection of a client. grpcio has no call for it, and keeps an answer that a client does not take."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from urllib.parse import unquote

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def host_of(peer: str) -> str:
    """The address of a client, without its port.

    Args:
        peer: as grpcio writes it, such as ``ipv4:127.0.0.1:4711`` or ``ipv6:%5B::1%5D:4711``.
    """
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def close(peer: str) -> int:
    """Shut down the connections of this process to a client; returns their number, which is 1 or 0.

    Args:
        peer: see `host_of`.
    """
    wanted = _address(host_of(peer)), int(peer.rpartition(":")[2])
    closed = 0
    for file in list(Path("/proc/self/fd").iterdir()):
        if (connection := _duplicate(int(file.name))) is None:
            continue
        with connection:
            try:
                host, port = connection.getpeername()[:2]
                if (_address(host), port) == wanted:
                    connection.shutdown(socket.SHUT_RDWR)
                    closed += 1
            except (OSError, ValueError):  # it has no other end, or that is no network address
                continue
    return closed


def _duplicate(number: int) -> socket.socket | None:
    """A duplicate of a socket, which stays this socket whatever other threads close and open; None for other files."""
    try:
        copy = os.dup(number)
    except OSError:  # it was closed meanwhile
        return None
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None


def _address(host: str) -> _Address:
    """The address. Sockets for both versions of IP give an address of version 4 as one of version 6."""
    found = ipaddress.ip_address(host)
    return getattr(found, "ipv4_mapped", None) or found
