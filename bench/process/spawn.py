"""Runs a job in a fresh process and returns how it ended: with an answer, killed for memory, too slow, or an error."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.process import pagecache
from bench.process.cgroup import Cgroup
from bench.process.job import Job

_CHILD = Path(__file__).with_name("child.py")
#: Prefixes of environment variables that change how contenders compute. Children do not get them.
_FOREIGN = (
    "ATEN_", "DNNL_", "GOMP_", "KMP_", "LD_PRELOAD", "MALLOC_", "MKL_", "OMP_", "ONEDNN_", "OPENBLAS_", "ORT_", "OV_",
    "PYTHON", "STREAMRT_ISA", "STREAMRT_TEST_", "TORCH_",
)  # fmt: skip
SAMPLING = 0.01  # seconds between two samples of a child's memory


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child ended.

    Attributes:
        status: ``"ok"``, ``"killed"`` (no memory was left), ``"slow"`` (it took too long) or ``"error"``.
        values: the child's measurements, if it ended well.
        reason: why it ended otherwise.
        seconds: for how long it ran.
    """

    status: str
    values: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    seconds: float = field(default=0.0, compare=False)


class MemorySampler:
    """The most memory that a child held, sampled from outside every 10 ms."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self.most = {"anonymous": 0, "file_pages": 0, "both": 0, "resident": 0}

    def __call__(self, pid: int) -> None:
        with contextlib.suppress(OSError, ValueError):  # it may end at any moment
            anonymous, resident = memory_of(pid)
            pages = pagecache.cached_bytes(self._files)
            seen = {"anonymous": anonymous, "file_pages": pages, "both": anonymous + pages, "resident": resident}
            for name, value in seen.items():
                self.most[name] = max(self.most[name], value)


def memory_of(pid: int | str) -> tuple[int, int]:
    """Bytes of a process in RAM: its anonymous memory now, and the most that was ever resident, mapped files included.

    Raises:
        OSError: the process does not exist any more.
        ValueError: it is ending.
    """
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    found = {name: value.split()[0] for name, _, value in lines if name in ("RssAnon", "VmHWM")}
    if len(found) < 2:
        raise ValueError("the process has no memory")
    return int(found["RssAnon"]) * 1024, int(found["VmHWM"]) * 1024


def run(
    job: Job,
    *,
    group: Cgroup | None = None,
    limit: float = 900,
    sampler: Callable[[int], None] | None = None,
    python: Path | None = None,
) -> Outcome:
    """Run ``job`` in a new interpreter, in ``group`` from its first instruction on, for at most ``limit`` seconds.

    ``python`` is the interpreter of another environment; None is the interpreter of this process.
    """
    read, write = os.pipe()
    command = [str(python or sys.executable), "-P", str(_CHILD), str(write), job.to_json()]
    if group:  # a shell enters the group and becomes the interpreter, so that its start is charged to the group
        command = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.procs), *command]
    kills = _kills(group)
    with os.fdopen(read, "rb") as answer:
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            env=environment(job.threads) | dict(job.environ) | {"STREAMRT_BENCH_SPAWNED": repr(start)},
            pass_fds=[write],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
        os.close(write)
        try:
            text, errors, slow = _attend(process, answer.fileno(), start + limit, sampler)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            seconds = time.monotonic() - start
            assert process.stderr
            process.stderr.close()
    if slow:
        return Outcome("slow", reason=f"given up after {limit:.0f} s", seconds=seconds)
    if process.returncode == 0 and text:
        return Outcome("ok", json.loads(text), seconds=seconds)
    if process.returncode == -signal.SIGKILL and _kills(group) > kills:
        return Outcome("killed", reason="killed because no memory was left", seconds=seconds)
    if process.returncode < 0:
        return Outcome("error", reason=f"ended by {signal.Signals(-process.returncode).name}", seconds=seconds)
    lines = errors.decode(errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"ended with status {process.returncode}"
    return Outcome("error", reason=reason, seconds=seconds)


def _kills(group: Cgroup | None) -> int:
    """How many processes the kernel has killed because no memory was left: of a group, or of the machine."""
    if group:
        return group.kills()
    counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counts.get("oom_kill", 0))


def _attend(
    process: subprocess.Popen[bytes], answer: int, deadline: float, sampler: Callable[[int], None] | None
) -> tuple[bytes, bytes, bool]:
    """Read from the child until it ends: its answer, its standard error, and whether it took too long."""
    assert process.stderr
    said = {answer: bytearray(), process.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as selector:
        for descriptor in said:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            if time.monotonic() > deadline:
                return b"", b"", True
            if sampler:
                sampler(process.pid)
            for key, _ in selector.select(SAMPLING if sampler else 1.0):
                if part := os.read(key.fd, 1 << 16):
                    said[key.fd] += part
                else:
                    selector.unregister(key.fd)
    process.wait()
    answered, complained = said.values()
    return bytes(answered), bytes(complained[-20000:]), False


def environment(threads: int) -> dict[str, str]:
    """A child's environment: all BLAS libraries get ``threads``, and no `_FOREIGN` variable is passed on."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(threads)
    return environment
