"""A server in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

TOKEN = "a-token-of-the-tests-0123456789"


class Server:
    """``streamrt serve`` in a process. A thread reads its log as it is written, and keeps it.

    Args:
        folder: with the models.
        options: of the command line.
        token: for control calls; None allows none.
        procs: the file of a cgroup that the process enters.
        environment: more variables.
        program: arguments of Python that stand for ``streamrt``.

    Attributes:
        reading: while it is cleared, nobody reads the log.
    """

    def __init__(
        self,
        folder: Path,
        *options: object,
        token: str | None = None,
        procs: Path | None = None,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "streamrt"),
    ) -> None:
        command = [sys.executable, *program, "serve", str(folder), "--port", "0", *map(str, options)]
        if token is not None:
            command.append("--control")
        if procs is not None:  # the process enters the cgroup of this file before it imports anything
            command = ["sh", "-c", f'echo $$ > "{procs}" && exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            command,
            env=os.environ | ({"STREAMRT_SERVE_TOKEN": token} if token else {}) | dict(environment or {}),
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, Any]] = []
        self.reading = threading.Event()
        self.reading.set()
        self._last = "listening for gRPC" if "--grpc-port" in command else "listening"
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._listening.wait(60)
        self.address = self._listens("listening")
        self.grpc_address = self._listens("listening for gRPC") if "--grpc-port" in command else ""

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": "not JSON", "line": line})
            if self.log[-1].get("event") == self._last:
                self._listening.set()
            self.reading.wait()
        self._listening.set()

    def _listens(self, event: str) -> str:
        ports = [line["port"] for line in self.log if line.get("event") == event]
        assert ports, self.log
        return f"127.0.0.1:{ports[0]}"

    def ask(
        self,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of an answer. A request with a body is a POST."""
        data = body.encode() if isinstance(body, str) else body
        request = urllib.request.Request(f"http://{self.address}{path}", data, dict(headers or {}), method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def connect(self) -> socket.socket:
        """A new connection."""
        host, port = self.address.split(":")
        return socket.create_connection((host, int(port)), timeout=60)

    def metric(self, name: str) -> float:
        """The value of a metric, by its name without ``streamrt_`` and with its labels."""
        wanted = f"streamrt_{name} "
        (line,) = [line for line in self.ask("/metrics")[2].decode().splitlines() if line.startswith(wanted)]
        return float(line.rpartition(" ")[2])

    def events(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log about this event."""
        return [line for line in self.log if line.get("event") == event]

    def stop(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit code."""
        self.process.terminate()
        return self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """The exit code must be 0, unless the test has already failed."""
        if self.process.poll() is None and kind is not None:
            self.process.kill()
        code = self.stop()
        assert kind is not None or code == 0, self.log[-5:]

    def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.reading.set()
            self._reader.join()
            assert self.process.stderr
            self.process.stderr.close()
