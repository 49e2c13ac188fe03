"""Memory, threads and open files of a server that rests: no model is open, no request is in progress."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from model import zoo
from serve.load import anonymous
from serve.process import Server


@dataclass(frozen=True)
class Footprint:
    """What a process holds.

    Attributes:
        threads: their number.
        files: open descriptors.
        mapped: mappings of weights files.
    """

    threads: int
    files: int
    mapped: int

    @classmethod
    def of(cls, process: int) -> Footprint:
        """What a process holds now."""
        folder = Path(f"/proc/{process}")
        threads, files = (sum(1 for _ in (folder / of).iterdir()) for of in ("task", "fd"))
        return cls(threads, files, (folder / "maps").read_text().count(".safetensors"))


def let_go(server: Server, folder: Path) -> None:
    """Make a server close all models: each file gets another time, and so counts as replaced."""
    for path in folder.iterdir():
        os.utime(path)
    server.process.send_signal(signal.SIGHUP)
    zoo.eventually(lambda: server.metric("pool_held_bytes") == 0)
    assert server.metric("request_bytes") == 0
    assert server.metric("queue_length") == 0


def at_rest(server: Server, folder: Path) -> tuple[Footprint, int]:
    """The footprint once it does not change for 0.5 s, and bytes of anonymous memory. Closes all models."""
    let_go(server, folder)
    found = Footprint.of(server.process.pid)
    for _ in range(120):
        time.sleep(0.5)  # more than the patience of the pool's threads in `serve.impatient`
        if found == (found := Footprint.of(server.process.pid)):
            return found, anonymous(server.process.pid)
    raise AssertionError(f"after a minute it still changes: {found}")
