"""A command whose stdout or stderr is a terminal."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
import threading


def opened(columns: int = 80) -> tuple[int, int]:
    """The two ends of a terminal of so many columns: the one that reads, and the one for a command."""
    terminal, child = os.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return terminal, child


def on_terminal(*args: object, stream: str, columns: int = 80) -> str:
    """What ``streamrt`` writes to ``stream``, "stdout" or "stderr", that is a terminal of so many columns.

    Lines end with a plain newline. The other stream is no terminal.
    """
    terminal, child = opened(columns)
    written: list[bytes] = []

    def read() -> None:
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # the other end is closed
                return
            written.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    other = "stderr" if stream == "stdout" else "stdout"
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "streamrt", *map(str, args)]
    try:
        done = subprocess.run(command, env=environment, check=False, **{stream: child, other: subprocess.PIPE})
    finally:
        os.close(child)
        reader.join()
        os.close(terminal)
    assert done.returncode == 0
    return b"".join(written).decode().replace("\r\n", "\n")
