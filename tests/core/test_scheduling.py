"""When the prefetch thread wakes, it takes a processor from other threads. Threads that compute do not."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from core.files import BLOCK, MakeFile

RunPython = Callable[..., CompletedProcess[str]]

SYSTEM_CALL = {"x86_64": 315, "aarch64": 275}.get(platform.machine())  # sched_getattr; sched_setattr is one less
RELEASE = tuple(map(int, platform.release().split(".")[:2]))

#: Prints policy, nice and slice of our threads. A worker sets them before it takes its name, and the prefetch thread
#: before it reads.
PRINT = """
    import ctypes, os, struct, sys
    from pathlib import Path
    import numpy as np
    from streamrt import _core

    path, block, policy, number = sys.argv[1], *map(int, sys.argv[2:])
    system = ctypes.CDLL(None, use_errno=True).syscall
    own = struct.pack("IIQiIQQQ", 48, policy, 0, os.nice(3), 0, 0, 0, 0)
    if system(number - 1, 0, own, 0) != 0:  # musl refuses sched_setscheduler
        raise OSError(ctypes.get_errno(), "sched_setattr")
    _core.set_threads(2)
    mapping = _core.Mapping(path)
    prefetcher = _core.Prefetcher(mapping)
    prefetcher.schedule([(0, block, True)], 0, block)
    prefetcher.wait(0)
    cube = np.zeros((1, 64, 4096), np.float32)
    begun = {}
    for _ in range(10_000):
        if "streamrt-work" in begun:
            break
        _core.unary(cube, cube, _core.ACTIVATIONS["Relu"], 0, 0)
        begun = {(task / "comm").read_text().strip(): int(task.name) for task in Path("/proc/self/task").iterdir()}
    for name in ("streamrt-fetch", "streamrt-work"):
        attributes = ctypes.create_string_buffer(48)
        if system(number, begun[name], attributes, 48, 0) != 0:
            raise OSError(ctypes.get_errno(), "sched_getattr")
        _, found, _, nice, _, slice_, _, _ = struct.unpack("IIQiIQQQ", attributes.raw)
        print(found, nice, slice_)
    prefetcher.close()
    mapping.close()
"""


@pytest.mark.skipif(SYSTEM_CALL is None, reason="the number of the system call sched_getattr is unknown")
@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_IDLE], ids=["usual", "idle"])
def test_policy_nice_and_slice_of_threads(run_python: RunPython, make_file: MakeFile, policy: int) -> None:
    """The prefetch thread has short slices, and workers are batch threads. Both keep nice and an idle policy."""
    done = run_python(PRINT, make_file(BLOCK), BLOCK, policy, SYSTEM_CALL)
    assert done.returncode == 0, done.stderr
    fetch, work = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    usual = policy == os.SCHED_OTHER
    assert fetch[0] == policy
    assert work[0] == (os.SCHED_BATCH if usual else policy)
    if usual:
        assert fetch[1] == work[1] >= 3
        if RELEASE >= (6, 12):
            assert fetch[2] == 100_000 < work[2]


#: Prints how often the prefetch thread went to sleep during 200 passes over an item that is pinned.
SLEEPS = """
    import sys
    from pathlib import Path
    from streamrt import _core

    path, block = sys.argv[1], int(sys.argv[2])
    mapping = _core.Mapping(path)
    prefetcher = _core.Prefetcher(mapping)
    prefetcher.read_across(False)
    prefetcher.schedule([(0, block, True)], 0, block)

    def sleeps():
        for task in Path("/proc/self/task").iterdir():
            if (task / "comm").read_text().strip() == "streamrt-fetch":
                lines = (task / "status").read_text().splitlines()
                return int(next(line for line in lines if line.startswith("voluntary_ctxt_switches")).split()[1])

    def run_passes(count):
        for _ in range(count):
            prefetcher.wait(0)
            prefetcher.done(0)
            prefetcher.finish()

    run_passes(1)
    before = sleeps()
    run_passes(200)
    print(sleeps() - before)
    prefetcher.close()
    mapping.close()
"""


def test_passes_over_pinned_items_wake_no_thread(run_python: RunPython, make_file: MakeFile) -> None:
    """A model of a pool reads no streamed weights between its passes. It has none to read within them, either."""
    done = run_python(SLEEPS, make_file(BLOCK), BLOCK)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20
