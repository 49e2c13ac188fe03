"""Runs the cases of a hunt in worker processes, and keeps the findings."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from fuzz.hunt import Hunt
from fuzz.state import KEPT, State
from fuzz.worker import SLOWER, Result, serve

#: Cases handed to a worker at once.
RANGE = 25
_fork = multiprocessing.get_context("fork")
_pipes: list[Connection] = []  # of all workers
Inputs = Callable[[int], bytes]


@dataclass
class Worker:
    """A process, and the range of cases that it runs."""

    hunt: Hunt
    inputs: Inputs
    pending: list[int] = field(default_factory=list)
    done: int = 0

    def __post_init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="streamrt-fuzz-", dir="/dev/shm")
        self.log = tempfile.TemporaryFile(dir="/dev/shm", buffering=0, mode="a+b")  # noqa: SIM115 - closed by `end`
        self.pipe, theirs = _fork.Pipe()
        self.process = _fork.Process(target=self._body, args=(self.pipe, theirs))
        self.process.start()
        _pipes.append(self.pipe)
        theirs.close()
        self.since = time.monotonic()

    def _body(self, ours: Connection, theirs: Connection) -> None:
        for pipe in [ours, *_pipes]:  # a worker sees the end of its pipe only if no other process has it open
            pipe.close()
        serve(self.hunt, self.inputs, theirs, self.log.fileno(), self.folder)

    def give(self, cases: range) -> None:
        self.pending = list(cases)
        self.since = time.monotonic()
        self.pipe.send((cases.start, cases.stop))

    def result(self) -> tuple[int, Result]:
        """The case that has just ended or died, and its result."""
        try:  # a child that a dead worker left behind may hold the other end open
            result = self.pipe.recv() if self.pipe.poll(0) else self._death()
        except (EOFError, ConnectionResetError):
            result = self._death()
        self.since = time.monotonic()
        self.done += 1
        return self.pending.pop(0), result

    def rest(self) -> range | None:
        """The cases of its range that it has not run."""
        return range(self.pending[0], self.pending[-1] + 1) if self.pending else None

    def lives(self) -> bool:
        """Whether the process is alive. A process is killed if a case hangs and its own watchdog did not end it."""
        if self.pending and time.monotonic() - self.since > 2 * self.hunt.seconds * SLOWER + 10:
            self.process.kill()
            self.process.join()
        return self.process.is_alive()

    def _death(self) -> Result:
        self.process.join()
        text = os.pread(self.log.fileno(), 1 << 16, 0).decode(errors="replace")
        code = self.process.exitcode or 0
        if code == -signal.SIGKILL:
            return Result("finding", "killed", text)  # by `lives`, or by the kernel for lack of memory
        if "Timeout (" in text:
            return Result("finding", f"hang {_stack(text)}", text)
        if report := re.search(r"^SUMMARY: (\w+: \S+ .*)$|(runtime error: .*)$", text, re.M):
            return Result("finding", re.sub(r"0x[0-9a-f]+|\d+", "#", report[0]), text)
        died = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return Result("finding", f"{died} {_stack(text)}", text)

    def end(self) -> None:
        """Let the process finish, and remove its files."""
        _pipes.remove(self.pipe)
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _stack(text: str) -> str:
    """The innermost function of the package in the main thread, which faulthandler writes last."""
    current = text.rpartition("Current thread")[2] or text
    frames = re.findall(r'File "(.*)", line \d+ in (\S+)', current.rpartition("most recent call first")[2])
    ours = [frame for frame in frames if "/streamrt/" in frame[0]] or frames
    return f"in {Path(ours[0][0]).name}:{ours[0][1]}" if ours else "somewhere"


def results(hunt: Hunt, inputs: Inputs, cases: range, jobs: int, until: float) -> Iterator[tuple[int, Result]]:
    """Run cases in ``jobs`` processes until the monotonic time ``until``, and yield each with its result.

    A case that hangs or is killed is run again, alone, and only that result counts: a busy machine may be the cause.
    """
    ranges = iter([range(at, min(at + RANGE, cases.stop)) for at in range(cases.start, cases.stop, RANGE)])
    workers: list[Worker] = []
    try:
        while True:
            while len(workers) < jobs and time.monotonic() < until and (task := next(ranges, None)):
                workers.append(Worker(hunt, inputs))
                workers[-1].give(task)
            if not workers:
                return
            ready = wait([worker.pipe for worker in workers], timeout=1)
            for worker in list(workers):
                if worker.pipe not in ready and worker.lives():
                    continue
                case, result = worker.result()
                if result.kind.startswith(("hang", "killed")):
                    result = alone(hunt, inputs, case)
                yield case, result
                dead = not worker.lives()
                if worker.pending and not dead:
                    continue
                task = worker.rest() or (next(ranges, None) if time.monotonic() < until else None)
                if task and not dead and worker.done < hunt.cases:
                    worker.give(task)
                    continue
                workers.remove(worker)
                worker.end()
                if task:
                    workers.append(Worker(hunt, inputs))
                    workers[-1].give(task)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.end()


def alone(hunt: Hunt, inputs: Inputs, case: int) -> Result:
    """Result of a case in a process of its own."""
    worker = Worker(hunt, inputs)
    try:
        worker.give(range(case, case + 1))
        while not worker.pipe.poll(1) and worker.lives():
            pass
        return worker.result()[1]
    finally:
        worker.end()


def keep(state: State, folder: Path, result: Result, name: str, data: bytes | None) -> None:
    """Count a finding. The inputs and reasons of the first few of a kind are saved."""
    finding = state.findings.setdefault(result.kind, {"count": 0, "inputs": []})
    finding["count"] += 1
    if len(finding["inputs"]) < KEPT:
        stem = f"{state.hunt}-{hashlib.sha256(result.kind.encode()).hexdigest()[:8]}-{name}"
        finding["inputs"].append(stem)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}.txt").write_text(f"{result.kind}\n\n{result.detail}\n")
        if data is not None:
            (folder / f"{stem}.bin").write_bytes(data)
