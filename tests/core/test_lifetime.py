"""The prefetch thread survives, blocks and crashes nothing: signals, closing, exit, fork, and many prefetchers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from core.files import BLOCK, PAGE, MakeFile, until
from processes import descriptors, threads
from streamrt._core import Mapping, Prefetcher
from streamrt.host.memory import anonymous_bytes

RunPython = Callable[..., subprocess.CompletedProcess[str]]
SlowReads = Callable[[float], dict[str, str]]

PREAMBLE = """
import os, signal, sys, threading
from streamrt._core import Mapping, Prefetcher
from streamrt.errors import ModelClosedError, WeightsIOError
BLOCK = 2 << 20
mapping = Mapping(sys.argv[1])
prefetcher = Prefetcher(mapping)
items = [(at, BLOCK, False) for at in range(0, mapping.size, BLOCK)]
prefetcher.schedule(items, mapping.size, BLOCK)
"""
SIZE = 6 * BLOCK
SLOW = 8 * BLOCK  # bytes per second: 0.125 s for a block


def succeeds(result: subprocess.CompletedProcess[str]) -> None:
    assert (result.returncode, result.stdout) == (0, "good\n"), result.stderr


def test_ctrl_c_ends_a_wait_and_the_prefetcher_goes_on(
    make_file: MakeFile, run_python: RunPython, slow_reads: SlowReads
) -> None:
    code = PREAMBLE + (
        """
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    prefetcher.wait(5)
except KeyboardInterrupt:
    prefetcher.rewind()
    for i in range(2):
        prefetcher.wait(i)
        prefetcher.done(i)
    with memoryview(mapping) as view:
        assert view[1] == 1
    prefetcher.close()
    mapping.close()
    print("good")
"""
    )
    succeeds(run_python(code, make_file(SIZE), **slow_reads(SLOW)))


def test_closing_wakes_a_thread_that_waits(make_file: MakeFile, run_python: RunPython, slow_reads: SlowReads) -> None:
    code = PREAMBLE + (
        """
waiting = threading.Event()
def close():
    waiting.wait()
    prefetcher.close()
closers = [threading.Thread(target=close) for _ in range(3)]
for closer in closers:
    closer.start()
prefetcher.wait(0)
waiting.set()
try:
    prefetcher.wait(5)
except ModelClosedError:
    for closer in closers:
        closer.join()
    mapping.close()
    print("good")
"""
    )
    succeeds(run_python(code, make_file(SIZE), **slow_reads(SLOW)))


@pytest.mark.parametrize("leave", ["", "sys.exit()", "prefetcher.cycle = None", "del mapping", "raise SystemExit(0)"])
def test_the_interpreter_exits_with_a_live_prefetcher(
    make_file: MakeFile, run_python: RunPython, slow_reads: SlowReads, leave: str
) -> None:
    if "cycle" in leave:  # the collector frees the objects of a cycle at the very end, in any order
        leave = "class Holder: pass\nholder = Holder()\nholder.self, holder.all = holder, (mapping, prefetcher)"
    code = PREAMBLE + f"print('good', flush=True)\n{leave}\n"
    succeeds(run_python(code, make_file(SIZE), **slow_reads(SLOW)))


def test_a_thread_that_waits_does_not_keep_the_interpreter_from_exiting(
    make_file: MakeFile, run_python: RunPython, slow_reads: SlowReads
) -> None:
    code = PREAMBLE + (
        """
threading.Thread(target=prefetcher.wait, args=(5,), daemon=True).start()
prefetcher.wait(0)
print("good", flush=True)
"""
    )
    succeeds(run_python(code, make_file(SIZE), **slow_reads(SLOW)))


IN_CHILD = """
child = os.fork()
if child:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    prefetcher.rewind()
    for i in range(len(items)):
        prefetcher.wait(i)
    prefetcher.close()
    mapping.close()
    print("good" if code == 0 else f"child: {code}")
    sys.exit()
"""


def test_a_forked_child_gets_errors_and_can_open_its_own(
    make_file: MakeFile, run_python: RunPython, slow_reads: SlowReads
) -> None:
    code = (
        PREAMBLE
        + "prefetcher.wait(0)\n"
        + IN_CHILD
        + (
            """
calls = [
    lambda: prefetcher.schedule(items, BLOCK, BLOCK), lambda: prefetcher.wait(0), lambda: prefetcher.done(0),
    prefetcher.finish, prefetcher.rewind, prefetcher.held, prefetcher.peak, prefetcher.report,
]
for call in calls:
    try:
        call()
    except ModelClosedError as error:
        assert "before a fork" in str(error)
    else:
        os._exit(1)
mapping.check()
with memoryview(mapping) as view:
    assert view[3] == 3
prefetcher.close()
prefetcher.close()
mapping.close()
with Mapping(sys.argv[1]) as mapping, Prefetcher(mapping) as fresh:
    fresh.schedule(items, BLOCK, BLOCK)
    fresh.wait(0)
    with memoryview(mapping) as view:
        assert view[4] == 4
del prefetcher
os._exit(0)
"""
        )
    )
    succeeds(run_python(code, make_file(SIZE), **slow_reads(SLOW)))


def test_a_forked_child_may_just_end(make_file: MakeFile, run_python: RunPython, slow_reads: SlowReads) -> None:
    code = PREAMBLE + IN_CHILD + "sys.exit()\n"
    succeeds(run_python(code, make_file(SIZE), **slow_reads(SLOW)))


def test_a_forked_child_keeps_the_guard(make_file: MakeFile, run_python: RunPython) -> None:
    code = (
        PREAMBLE
        + IN_CHILD.replace("prefetcher.wait(i)", "pass")
        + (
            """
os.truncate(sys.argv[1], 1)
with memoryview(mapping) as view:
    assert view[10_000] == 0
try:
    mapping.check()
except WeightsIOError:
    os._exit(0)
os._exit(1)
"""
        )
    )
    succeeds(run_python(code, make_file(SIZE)))


def test_a_fork_while_other_threads_open_and_close(make_file: MakeFile, run_python: RunPython) -> None:
    """The guard's lock must not stay locked in the child."""
    code = PREAMBLE + (
        """
over = False
def churn():
    while not over:
        Mapping(sys.argv[1]).close()
threads = [threading.Thread(target=churn) for _ in range(3)]
for thread in threads:
    thread.start()
codes = []
for _ in range(100):
    child = os.fork()
    if child == 0:
        Mapping(sys.argv[1]).close()
        os._exit(0)
    codes.append(os.waitpid(child, 0)[1])
over = True
for thread in threads:
    thread.join()
prefetcher.close()
mapping.close()
print("good" if codes == [0] * 100 else codes)
"""
    )
    succeeds(run_python(code, make_file(SIZE)))


#: The allocators of sanitizers keep freed memory, to detect code that still uses it.
SANITIZED = "san.so" in os.environ.get("LD_PRELOAD", "")
#: Bytes that 1000 prefetchers may leave in memory: half a page each, less than a forgotten page or thread's stack each.
#: The bound is not 0, because the heap grows a little, and the kernel counts pages in batches.
LEFT = 2 << 20


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_thousand_prefetchers_leave_nothing_behind(make_file: MakeFile, io: str) -> None:
    path = make_file(8 * PAGE)
    items = [(at, PAGE, at < 2 * PAGE) for at in range(0, 8 * PAGE, PAGE)]

    def cycle(used: bool) -> None:
        with Mapping(path, io) as mapping, Prefetcher(mapping) as prefetcher:
            prefetcher.schedule(items, 3 * PAGE, PAGE)
            if used:
                prefetcher.wait(0)

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(path))

    for i in range(20):
        cycle(i % 2 == 0)
    files, tasks, maps, held = descriptors(), threads(), mapped(), anonymous_bytes()
    for i in range(1000):
        cycle(i % 2 == 0)
    assert descriptors() <= files
    assert mapped() == maps
    until(lambda: threads() <= tasks)  # the kernel lists a thread for a moment after it was joined
    assert anonymous_bytes() - held < LEFT or SANITIZED


FORGOTTEN = """
import os, sys, warnings
from pathlib import Path
from streamrt._core import Mapping, Prefetcher
warnings.simplefilter("error")
descriptors = len(os.listdir("/proc/self/fd"))
mapping = Mapping(sys.argv[1])
prefetcher = Prefetcher(mapping)
prefetcher.schedule([(0, 4096, False)], 4096, os.sysconf("SC_PAGESIZE"))
prefetcher.wait(0)
del prefetcher
del mapping
print(Path("/proc/self/maps").read_text().count(sys.argv[1]), len(os.listdir("/proc/self/fd")) - descriptors)
"""


def test_objects_that_are_forgotten_are_freed_even_if_warnings_are_errors(
    make_file: MakeFile, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_python(FORGOTTEN, make_file(SIZE))
    assert done.stdout == "0 0\n", done.stderr
    assert all(f"ResourceWarning: unclosed <{name} of" in done.stderr for name in ("Mapping", "Prefetcher"))
