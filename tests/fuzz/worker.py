"""A process that runs cases until it has run enough, or until a case kills it."""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from fuzz.hunt import SANITIZED, Finding, Hunt, check_peak, reset_peak

#: Factor for time limits: a sanitizer may slow a case down by so much.
SLOWER = 20 if SANITIZED else 1
#: Bytes that a file of a case may have. Files of a case lie in memory.
_LARGEST_FILE = 256 << 20


class Result(NamedTuple):
    """The result of a case: its outcome, or the kind and the text of its finding."""

    outcome: str
    kind: str = ""
    detail: str = ""


def rng_of(seed: int, case: int) -> random.Random:
    return random.Random(f"{seed}/{case}")


def outcome_of(hunt: Hunt, make: Callable[[], bytes]) -> Result:
    """Make and check an input in this process."""
    try:
        data = make()
        before = reset_peak() if hunt.memory is not None else 0
        outcome = hunt.check(data)
        if hunt.memory is not None:
            check_peak(before, hunt.memory, "a case")
    except Finding as finding:
        return Result("finding", finding.kind, traceback.format_exc())
    except Exception as error:
        return Result("finding", f"untyped {type(error).__name__} {_place(error)}", traceback.format_exc())
    return Result(outcome)


def _place(error: BaseException) -> str:
    """The innermost function of the package that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/streamrt/" in frame.filename] or frames
    return f"in {Path(ours[-1].filename).name}:{ours[-1].name}"


def serve(hunt: Hunt, inputs: Callable[[int], bytes], tasks: Connection, log: int, folder: str) -> None:
    """Run ranges of cases that arrive, and send the result of each. ``inputs`` makes the input of a case."""
    os.setsid()  # the parent handles interrupts, and lets ranges end
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable(2)
    os.chdir(folder)
    hunt.start()
    if hunt.space is not None and not SANITIZED:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + hunt.space
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            first, end = tasks.recv()
        except EOFError:
            os._exit(0)
        for case in range(first, end):
            os.ftruncate(log, 0)  # if a case dies, the log is about that case alone
            faulthandler.dump_traceback_later(hunt.seconds * SLOWER, exit=True)
            result = outcome_of(hunt, lambda case=case: inputs(case))
            faulthandler.cancel_dump_traceback_later()
            tasks.send(result)
