"""When the prefetch thread wakes, it takes a processor from other threads. Threads that compute do not."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from core.files import BLOCK, MakeFile

RunPython = Callable[..., CompletedProcess[str]]

SYSTEM_CALL = {"x86_64": 315, "aarch64": 275}.get(platform.machine())  # sched_getattr
RELEASE = tuple(map(int, platform.release().split(".")[:2]))

#: Prints policy, nice and slice: of the thread that reads, and of the thread that computes in a pass that waits for
#: weights and then in a pass that does not. The reading thread has its settings before its name. The computing thread
#: has them at the latest when it has begun a job of the pass.
PRINT = """
    import ctypes, os, struct, sys
    from pathlib import Path
    import numpy as np
    from streamrt import _core

    path, block, policy, number = sys.argv[1], *map(int, sys.argv[2:])
    os.nice(3)
    os.sched_setscheduler(0, policy, os.sched_param(0))
    _core.set_threads(2)
    mapping = _core.Mapping(path)
    prefetcher = _core.Prefetcher(mapping)
    prefetcher.schedule([(0, block, True)], 0, block)
    prefetcher.wait(0)
    cube = np.zeros((1, 64, 4096), np.float32)

    def settings(name):
        tasks = {(task / "comm").read_text().strip(): int(task.name) for task in Path("/proc/self/task").iterdir()}
        attributes = ctypes.create_string_buffer(48)
        if ctypes.CDLL(None, use_errno=True).syscall(number, tasks.get(name, -1), attributes, 48, 0) != 0:
            return None
        _, policy, _, nice, _, slice_, _, _ = struct.unpack("IIQiIQQQ", attributes.raw)
        return policy, nice, slice_

    print(*settings("streamrt-fetch"))
    for waits, expected in ((True, os.SCHED_BATCH), (False, os.SCHED_OTHER)):
        with _core.Pass(waits):
            for _ in range(10_000):
                _core.unary(cube, cube, _core.ACTIVATIONS["Relu"], 0, 0)
                found = settings("streamrt-work")
                if found and found[0] == (expected if policy == os.SCHED_OTHER else policy):
                    break
        print(*found)
    prefetcher.close()
    mapping.close()
"""


@pytest.mark.skipif(SYSTEM_CALL is None, reason="the number of the system call sched_getattr is unknown")
@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_IDLE], ids=["usual", "idle"])
def test_policy_nice_and_slice_of_threads(run_python: RunPython, make_file: MakeFile, policy: int) -> None:
    """The prefetch thread has short slices. Workers are batch threads while a pass waits for weights.

    All keep nice and an idle policy.
    """
    done = run_python(PRINT, make_file(BLOCK), BLOCK, policy, SYSTEM_CALL)
    assert done.returncode == 0, done.stderr
    fetch, waiting, resident = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    usual = policy == os.SCHED_OTHER
    assert fetch[0] == resident[0] == policy
    assert waiting[0] == (os.SCHED_BATCH if usual else policy)
    if usual:
        assert fetch[1] == waiting[1] == resident[1] >= 3
        if RELEASE >= (6, 12):
            assert fetch[2] == 100_000 < waiting[2]
            assert resident[2] > 100_000
