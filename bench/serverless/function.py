"""Runs a job as a function of AWS Lambda: under Lambda's runtime client, in a process of its own.

The interface that the client asks for events is the local copy of examples/serverless, in this process. So memory and
processor time of the sender are not the function's.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from bench.models import source
from bench.peers import Array, peers
from bench.process import figures
from bench.process.cgroup import Cgroup
from bench.process.job import Job
from bench.process.spawn import SAMPLING, Outcome, environment
from bench.scenarios.case import MIB, SERVERLESS, Case

#: The variable by which Lambda tells a function its memory, in MB.
MEMORY = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"
_EXAMPLE = Path(__file__).parents[2] / "examples" / "serverless"


def told(case: Case) -> tuple[tuple[str, str], ...]:
    """The environment variables by which Lambda tells a function of this case its memory; none for other cases."""
    return ((MEMORY, str(case.cap // MIB)),) if case.kind == SERVERLESS and case.cap else ()


@cache
def local() -> ModuleType:
    """The local copy of Lambda's interface. It has only the standard library."""
    spec = importlib.util.spec_from_file_location("bench.serverless.local", _EXAMPLE / "local.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def run(job: Job, *, group: Cgroup, limit: float, sampler: Callable[[int], None] | None = None) -> Outcome:
    """Start a function in ``group``, and give it the same event again and again, for at most ``limit`` seconds.

    Its values are those of the job ``"passes"``, where a pass is an event with its answer. The first event waits from
    the start on. Opening ends when the client asks for it.
    """
    kills = group.kills()
    with tempfile.TemporaryFile() as log, local().Interface() as interface:
        folder, environ = _function(job, interface)
        start = time.monotonic()
        with _process(folder, environ, job.threads, group, log) as process:
            try:
                with _sampled(sampler, process.pid):
                    return Outcome("ok", _passes(job, interface, process, start, start + limit))
            except local().SlowError:
                return Outcome("slow", reason=f"given up after {limit:.0f} s", seconds=limit)
            except local().FunctionError as error:
                if process.poll() == -signal.SIGKILL and group.kills() > kills:
                    seconds = time.monotonic() - start
                    return Outcome("killed", reason="killed because no memory was left", seconds=seconds)
                return Outcome("error", reason=_last_line(log) or str(error))


def _passes(
    job: Job, interface: Any, process: subprocess.Popen[bytes], start: float, deadline: float
) -> dict[str, Any]:
    """The times of the start, which was at ``start``, of the first answer and of the warm ones.

    Raises:
        FunctionError: the function has ended, or answered with an error.
    """
    (batch,) = job.batches
    model = source(job.model, Path(job.data))
    event = _event(model.input(batch))

    def invoke() -> Any:
        answer = interface.invoke(event, process, deadline - time.monotonic())
        if answer.failed:
            raise local().FunctionError(answer.value["errorMessage"])
        return answer

    first = invoke()
    error = figures.error(job, batch, _array(first.value))
    times: list[float] = []
    while len(times) < job.least_passes or (sum(times) < job.seconds and len(times) < job.most_passes):
        answer = invoke()
        times.append(answer.seconds)
        error = max(error, figures.error(job, batch, _array(answer.value)))
    return {
        "opening": interface.started - start,
        "first": first.ended - interface.started,
        "to_first_output": first.ended - start,
        "steady": figures.distribution(times) if times else None,
        "error": error,
    }


def _function(job: Job, interface: Any) -> tuple[Path, dict[str, str]]:
    """The folder of the peer's function, and its environment."""
    function = peers()[job.peer].function
    assert function
    data = Path(job.data)
    folder, own = function(source(job.model, data), data / job.model / job.peer.replace(" ", "-"), job.threads)
    of_job = dict(job.environ)
    given = local().environment(interface, int(of_job[MEMORY]), folder)
    return folder, environment(job.threads) | given | own | of_job


@contextlib.contextmanager
def _process(
    folder: Path, environ: dict[str, str], threads: int, group: Cgroup, log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """The function's process, in ``group`` from its first instruction on. It is killed at the end."""
    enter = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.procs)]
    with subprocess.Popen(
        [*enter, *local().command()],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=folder,
        start_new_session=True,
    ) as process:
        try:
            # As many processors as threads, as for other jobs. The interpreter has no other threads yet.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[:threads])
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _sampled(sampler: Callable[[int], None] | None, pid: int) -> Iterator[None]:
    """Call ``sampler`` again and again meanwhile, in a thread."""
    if sampler is None:
        yield
        return
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLING):
            sampler(pid)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _event(x: Array) -> bytes:
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "base64": base64.b64encode(x).decode()}
    return json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()


def _array(answer: dict[str, Any]) -> Array:
    (told,) = answer["outputs"]
    return np.frombuffer(base64.b64decode(told["base64"]), np.float32).reshape(told["shape"])


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
