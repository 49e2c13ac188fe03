"""A server in processes of its own: started in a session and a memory cgroup, waited for, weighed, and ended."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.process.cgroup import Cgroup
from bench.process.spawn import environment
from bench.serve.servers import Start

_ERROR = re.compile(r"[\w.]*(Error|Exception|Stop): ")  # the last line of a traceback
_GRACE = 10.0  # seconds from SIGTERM to SIGKILL


class NotServingError(RuntimeError):
    """The server did not start, or has ended; the text has the reason."""


class KilledError(NotServingError):
    """The kernel killed a process of the server because its cgroup had no memory left.

    Attributes:
        seconds: from the start of the server until this was noticed.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("killed because no memory was left")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready.

    Attributes:
        port: on loopback.
        session: of its processes.
    """

    port: int
    session: int

    def memory(self) -> int:
        """Bytes in RAM of all its processes; pages that several share are counted once (PSS)."""
        return sum(_pss(pid) for pid in processes(self.session))


def free_port() -> int:
    """A port that nothing listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def serving(start: Start, port: int, *, group: Cgroup | None, threads: int, limit: float) -> Iterator[Server]:
    """Start a server, yield it when it is ready, and end all its processes.

    Raises:
        NotServingError: it was not ready within ``limit`` seconds, or ended.
        KilledError: the kernel killed one of its processes, before or while it was used.
    """
    command = start.command
    if group:  # a shell enters the group and becomes the server
        command = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.procs), *command]
    watch = _Watch(group)
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command,
            env=environment(threads) | start.environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,  # MLServer writes into it
            start_new_session=True,
        )
        try:
            _await(start, port, process, log, watch, time.monotonic() + limit)
            try:
                yield Server(port, process.pid)
            except (OSError, ValueError) as error:
                watch.check()
                raise NotServingError(f"{error}; {_last(log)}") from error
            watch.check()
        finally:
            _end(process)


def processes(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                # After the name, which may have spaces and brackets: state, parent, group, session.
                state, _, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(of) == session and state != "Z":
                    found.append(int(entry.name))
    return found


def metrics(port: int, path: str) -> dict[str, float]:
    """The values of a page of metrics without labels, by name.

    Raises:
        OSError: the server does not answer.
    """
    status, text = _get(port, path)
    if status != 200:
        raise ConnectionError(f"{path} answers with {status}")
    pairs = (line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs if name and "{" not in name}


def _await(
    start: Start,
    port: int,
    process: subprocess.Popen[bytes],
    log: IO[bytes],
    watch: _Watch,
    deadline: float,
) -> None:
    waiting = list(start.ready)
    while waiting:
        ended = process.poll() is not None
        watch.check()  # after the question whether it has ended: the group counts a kill before that
        if ended:
            raise NotServingError(f"it ended with status {process.returncode}: {_last(log)}")
        if time.monotonic() > deadline:
            raise NotServingError(f"it was not ready in time: {_last(log)}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _get(port, waiting[0])[0] == 200:
                del waiting[0]
                continue
        time.sleep(0.05)


class _Watch:
    """Looks for kills in the cgroup of a server from now on, if it has one."""

    def __init__(self, group: Cgroup | None) -> None:
        self._group, self._since = group, time.monotonic()
        self._kills = group.kills() if group else 0

    def check(self) -> None:
        """Raise `KilledError` if the kernel has killed a process."""
        if self._group and self._group.kills() > self._kills:
            raise KilledError(time.monotonic() - self._since)


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _last(log: IO[bytes]) -> str:
    """The last line that a server wrote, or the last that names an error."""
    # The server writes at the end of the same file.
    log.seek(max(0, os.fstat(log.fileno()).st_size - 4000))
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line.strip())]
    return (errors or lines)[-1].strip() if lines else "it wrote nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End every process of the session. Workers may outlive their parent, so all are asked by their own id."""
    for sign, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(sign)
        until = time.monotonic() + patience
        while time.monotonic() < until and processes(process.pid):
            process.poll()
            if process.returncode is not None:
                for pid in processes(process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, sign)
            time.sleep(0.02)
        if not processes(process.pid):
            break
    process.wait(_GRACE)


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):  # it may end at any moment
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
