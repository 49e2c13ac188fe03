"""Three instances of `streamrt serve` and an nginx with the configuration of examples/loadbalancer, on free ports."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

from loadbalancer.client import Client, free_ports, wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "loadbalancer"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")

#: Marks of every test of this folder.
MARKS = [
    pytest.mark.extras,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="the extra serve is not installed"),
]


@dataclass
class Instance:
    """A server, which may be killed and started again."""

    folder: Path
    port: int
    budget: int
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        arguments = [str(self.folder), "--port", str(self.port), "--budget", str(self.budget)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streamrt", "serve", *arguments], stdout=log, stderr=log, cwd=self.log.parent
            )
        wait_until(self._ready, f"the server at port {self.port} is ready")

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        client = Client(self.port)
        try:
            return client.request("GET", "/v2/health/ready").status == 200
        finally:
            client.close()

    def kill(self) -> None:
        """Kill it, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop it by SIGTERM, as an operator would."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def metrics(self) -> dict[str, float]:
        """Values of metrics by name and labels."""
        client = Client(self.port)
        text = client.request("GET", "/metrics").body.decode()
        client.close()
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}


@contextmanager
def instances(folder: Path, logs: Path, budget: int, count: int = 3) -> Iterator[list[Instance]]:
    """Servers of one folder."""
    found = [Instance(folder, port, budget, logs / f"{port}.log") for port in free_ports(count)]
    try:
        for instance in found:
            instance.start()
        yield found
    finally:
        for instance in found:
            instance.stop()


@contextmanager
def balancer(servers: list[Instance], edit: Callable[[str], str] = lambda text: text) -> Iterator[int]:
    """nginx in front of ``servers``; yields its port. It runs without privileges, in a folder of its own.

    Its configuration is that of the example, with other ports and the changes that ``edit`` makes.
    """
    assert NGINX
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="streamrt-nginx-") as name:
        folder = Path(name)
        ports = {8000: port} | {8001 + index: server.port for index, server in enumerate(servers)}
        for file in ("nginx.conf", "instances.conf"):
            text = (EXAMPLE / file).read_text()
            text = re.sub(r"127\.0\.0\.1:(\d+)", lambda found: f"127.0.0.1:{ports[int(found[1])]}", text)
            (folder / file).write_text(edit(text) if file == "nginx.conf" else text)
        user = None
        if os.getuid() == 0:
            user = "nobody"
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        command = [NGINX, "-p", f"{folder}/", "-c", str(folder / "nginx.conf")]
        log = folder / "error.log"
        with log.open("wb") as opened:
            process = subprocess.Popen(
                command,
                stdout=opened,
                stderr=opened,
                user=user,
                extra_groups=[] if user else None,
                start_new_session=True,
            )
        try:
            client = Client(port)
            wait_until(lambda: client.request("GET", "/v2/health/live").status == 200, f"nginx: {log.read_text()}", 60)
            client.close()
            yield port
        finally:
            process.terminate()
            process.wait(60)
        wait_until(lambda: not _alive(process.pid), "all of nginx has ended")


def _alive(group: int) -> bool:
    """Whether a process group has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
